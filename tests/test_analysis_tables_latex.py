"""LaTeX of tables: aligned numbers, escaping, and floats that fit pages of one and two columns."""

from __future__ import annotations

import re
import subprocess

import pandas as pd
import pytest
from needs import needs_latex
from structure import check_latex
from synthetic_runs import FEW, MANY, write_runs

from analysis.tables import make_table
from analysis.tables.latex import align, escape, to_latex
from analysis.tables.sheet import Sheet, leave_out_constants, to_html

pytestmark = pytest.mark.xdist_group("tables in LaTeX")  # the tests share their runs

PAGE = r"""\documentclass[10pt%s]{article}
\usepackage[T1]{fontenc}
\usepackage{booktabs,graphicx,rotating}
\setlength{\textwidth}{6.75in} \setlength{\textheight}{9in} \setlength{\columnsep}{0.25in}
\setlength{\oddsidemargin}{-0.125in} \setlength{\topmargin}{-0.5in}
\begin{document}
%s
\end{document}
"""
ODD = Sheet(
    r"100 % of \ { } ~ ^ _ # $ & are <fine> -- or not",
    pd.DataFrame({"a_b": ["± ⊙ † —", "m → w"], "c": ["−1…", "3.3e+11"]}),
    pd.DataFrame({"a_b": [False, False], "c": [True, False]}),
)


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("3.3e+11", r"3.3$\times 10^{11}$"),
        ("lr=1e-05", r"lr=1$\times 10^{-5}$"),
        ("-3.3e+11", r"$-$3.3$\times 10^{11}$"),
        ("digits-random-s0.9-seed0-a3e41b22", "digits-random-s0.9-seed0-a3e41b22"),
        ("digits-random-s0.9-seed0-12345e67", "digits-random-s0.9-seed0-12345e67"),
        ("-0.11 [-0.35, +0.13]", r"$-$0.11 [$-$0.35, +0.13]"),
        ("Sign-In, t-test, 2025-01-02", "Sign-In, t-test, 2025-01-02"),
        ("--recipe digits", "-{}-recipe digits"),
        ("5 % & more", r"5 \% \& more"),
        ("to T₂, of θ", r"to T$_2$, of $\theta$"),
    ],
)
def test_minus_signs_powers_and_special_characters(text, latex):
    assert escape(text) == latex


def test_names_of_runs_are_no_powers_in_html():
    texts = [
        "digits-random-s0.9-seed0-a3e41b22",
        "x-s0.9-12345e67",
        "3.3e+11",
        "-1e-05",
        "lr=1e-05",
    ]
    cells = pd.DataFrame({"a": texts})
    html = to_html(Sheet("", cells, cells != cells))
    shown = re.findall(r"<td[^>]*>(.*?)</td>", html)
    powers = ["3.3 × 10<sup>11</sup>", "−1 × 10<sup>-5</sup>", "lr=1 × 10<sup>-5</sup>"]
    assert shown == [*texts[:2], *powers] and html.count("data-value") == 3


def test_numbers_of_a_column_are_aligned():
    texts = ["98.27 ± 0.39", "7.34 ± 11.95†", "90.00", "missing", ""]
    cells = align(texts)
    assert cells[0] == r"98.27 $\pm$ \phantom{1}0.39\phantom{$^\dagger$}"
    assert cells[1] == r"\phantom{8}7.34 $\pm$ 11.95$^\dagger$"
    assert cells[2] == r"90.00\phantom{ $\pm$ 11.39$^\dagger$}"  # as wide as 11.95
    assert cells[3:] == ["missing", ""]
    gains = align(["+0.67 [-0.58, +1.91]", "-12.50 [-13.20, -0.09]"])
    assert gains[0] == r"\phantom{2}+0.67 \phantom{3}[$-$0.58, +1.91]"
    assert align(["1e+06 (100%)", "1.1e+05 (9%)"])[0].startswith(r"1$\times 10^{6}$\phantom{.1}")


def test_constant_columns_become_a_note():
    cells = pd.DataFrame(
        {
            "recipe": ["digits", "digits"],
            "method": ["a", "b"],
            "": ["", ""],
            "accuracy": ["1", "1"],
            "seeds": ["3", "3"],
        }
    )
    bold = pd.DataFrame(False, index=cells.index, columns=cells.columns)
    bold.loc[0, "accuracy"] = True
    sheet = leave_out_constants(Sheet("t", cells, bold, labels=3, notes=["n"]))
    assert list(sheet.cells) == list(sheet.bold) == ["method", "accuracy"]
    assert sheet.labels == 1 and sheet.notes == ["n", "in all rows: recipe digits, seeds 3"]
    one = leave_out_constants(Sheet("t", cells[:1], bold[:1], labels=3))
    assert len(one.cells.columns) == 5  # a single row remains as it is
    alike = cells.assign(method="a")
    for rules in (["", ""], ["", "Sign-In"]):  # rows keep a name
        sheet = leave_out_constants(Sheet("t", alike.assign(**{"": rules}), bold, labels=3))
        assert sheet.cells.columns[0] == "method" and sheet.labels == len(set(rules))


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Return LaTeX of narrow, wide and long comparisons, and of the paper's tables."""
    folder = tmp_path_factory.mktemp("tables")
    few = write_runs(folder / "few", FEW)
    many = write_runs(folder / "many", MANY, (0.8, 0.9, 0.95, 0.98))
    paper = [make_table(number, few).render("latex") for number in ("1", "3", "9", "11")]
    compared = [make_table("compare", runs).render("latex") for runs in (few, many)]
    return [*paper, *compared, to_latex(ODD)]


def test_the_form_follows_from_the_size(tables):
    assert check_latex("\n".join(tables)) >= 12
    *_, few, many, odd = tables
    assert "\\begin{table}\n" in odd and "sideways" not in few
    assert "rotating" in many.splitlines()[0] and "rotating" not in few.splitlines()[0]
    bodies = re.findall(r"\\midrule\n(.*?)\\bottomrule", many, flags=re.S)
    assert max(body.count("\\\\") for body in bodies) <= 48
    captions = re.findall(r"\\caption{(.*)}", many)
    numbered = [caption for caption in captions if caption != "Continued."]
    assert len(numbered) == len(set(numbered)) == 2
    assert many.count("Continued.") == many.count("\\addtocounter{table}{-1}") > 0
    assert "e+" not in many and "\\times 10^{11}" in many


@needs_latex
@pytest.mark.parametrize("columns", ["", ",twocolumn"], ids=["one column", "two columns"])
def test_tables_fit_the_page(tables, tmp_path, columns):
    (tmp_path / "page.tex").write_text(PAGE % (columns, "\n".join(tables)))
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"],
        cwd=tmp_path,
        capture_output=True,
    )
    log = done.stdout.decode(errors="replace")
    assert done.returncode == 0, log[-2000:]
    excess = [float(points) for points in re.findall(r"Overfull \\[hv]box \(([\d.]+)pt", log)]
    assert all(points <= 1 for points in excess), excess
    assert "Float too large" not in log and "Too many unprocessed floats" not in log
