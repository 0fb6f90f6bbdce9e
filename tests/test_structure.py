"""The checks of LaTeX and HTML find errors."""

from __future__ import annotations

import pytest
from structure import Page, check_latex

TABLE = r"""\begin{table}
\centering
\caption{A \& B}
\begin{tabular}{lr}
\toprule
a & b \\
\midrule
x\_y & \bfseries 1 $\pm$ 2 \\
\bottomrule
\end{tabular}
\end{table}
"""


def test_a_good_table_passes():
    assert check_latex(TABLE + TABLE) == 2


@pytest.mark.parametrize(
    "change, cause",
    [
        (("x\\_y", "x_y"), "not escaped"),
        (("\\&", "%"), "not escaped"),
        (("a & b", "a"), "1 cells in 2 columns"),
        (("a & b", "a & b & c"), "3 cells in 2 columns"),
        (("2 \\\\", "2"), "a row does not end"),
        (("\\midrule\n", ""), "toprule"),
        (("\\end{table}", ""), "never ended"),
        (("\\end{table}", "\\end{tabel}"), "ends nothing"),
        (("$\\pm$", "$\\pm"), "mathematics does not end"),
        (("$\\pm$", "±"), "not ASCII"),
        (("$\\pm$", "\\plusminus"), "unknown commands"),
        (("B}", "B"), "never closed"),
        (("B}", "B}}"), "closes nothing"),
    ],
)
def test_a_broken_table_is_found(change, cause):
    broken = TABLE.replace(*change)
    assert broken != TABLE
    with pytest.raises(AssertionError, match=cause):
        check_latex(broken)


def test_a_page_is_read():
    page = Page(
        "<h2>Runs</h2><style>a { background: url(x.png) }</style><img src='y.png'>"
        "<table><caption>T</caption><tr><th>a</th></tr><tr><td><b>1</b></td></tr></table>"
    )
    assert page.texts["h2"] == ["Runs"]
    assert page.tables == [("T", ["a"], [["1"]])]
    assert page.links == ["y.png", "x.png"]


@pytest.mark.parametrize("html", ["<p><b></p></b>", "<p>", "</p>"])
def test_a_broken_page_is_found(html):
    with pytest.raises(AssertionError, match="close"):
        Page(html)
