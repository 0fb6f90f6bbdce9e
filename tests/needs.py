"""Marks that skip tests if this machine lacks a tool, with the reason."""

from __future__ import annotations

import importlib.util
import shutil
import sysconfig
from pathlib import Path

import pytest
import slurm_cluster
import torch

from launch.data.sources import DEBIAN_FASHION_MNIST

HEADER = Path(sysconfig.get_path("include")) / "Python.h"


def _needs(what: str, is_there: bool, packages: str) -> pytest.MarkDecorator:
    reason = f"no {what} on this machine (apt install {packages})"
    return pytest.mark.skipif(not is_there, reason=reason)


def needs_library(name: str) -> pytest.MarkDecorator:
    """Return a mark that skips a test without a library that the extra `test` does not have."""
    there = importlib.util.find_spec(name) is not None
    return pytest.mark.skipif(not there, reason=f"{name} is not installed: it is optional")


def _has(program: str) -> bool:
    return shutil.which(program) is not None


needs_browser = _needs("chromium", _has("chromium"), "chromium")
needs_compiler = _needs("C++ compiler", _has("g++") and HEADER.exists(), "g++ python3-dev")
needs_fashion_mnist = _needs(
    "Fashion-MNIST", DEBIAN_FASHION_MNIST.is_dir(), "dataset-fashion-mnist"
)
needs_git = _needs("git", _has("git"), "git")
needs_latex = _needs("pdflatex", _has("pdflatex"), "texlive-latex-recommended")
needs_muon = pytest.mark.skipif(
    not hasattr(torch.optim, "Muon"), reason="no torch.optim.Muon: it is new in torch 2.9"
)
needs_slurm = _needs("Slurm", slurm_cluster.is_installed(), "slurm-wlm")


def on_gpu(*values: object) -> object:
    """Return a test parameter that needs a GPU, marked so that `pytest -m gpu` selects it."""
    there = torch.cuda.is_available()
    marks = [pytest.mark.gpu, pytest.mark.skipif(not there, reason="no GPU on this machine")]
    return pytest.param(*values, marks=marks)
