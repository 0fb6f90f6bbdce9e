"""The report: one self-contained HTML page about all runs in a folder."""

from analysis.report.page import render_page

__all__ = ["render_page"]
