"""From run folders to tables, figures and the report. Imports neither torch nor training code."""
