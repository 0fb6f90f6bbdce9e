"""LaTeX of a sheet: floats that fit a page of one or two columns.

They need the packages booktabs and graphicx, and rotating if a table is wider than a page.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import zip_longest

from analysis.tables.sheet import MINUS, POWER, Sheet

COLUMN, TEXT = 234.0, 487.0  # ICML's column and text, in points
ROWS, LANDSCAPE_ROWS = 48, 30  # on a page
_CHARACTER, _GAP = 4.7, 12.0  # widths of a character in \small, and of the space between columns
_SMALLEST = 0.75  # a table that would shrink further to fit the text's width is rotated
_ESCAPES = str.maketrans(
    {**{c: "\\" + c for c in "&%$#_{}"}, "\\": r"\textbackslash{}", "~": r"\textasciitilde{}"}
    | {"^": r"\textasciicircum{}", "±": r"$\pm$", "⊙": r"$\odot$", "—": "--"}
    | {"†": r"$^\dagger$", "‡": r"$^\ddagger$"}
    | {"<": "$<$", ">": "$>$", "−": "$-$", "…": r"\ldots{}", "×": r"$\times$", "→": r"$\to$"}
    | {"θ": r"$\theta$", "₂": "$_2$"}
)
_NUMBER = re.compile(r"([+-]?)(\d+)((?:\.\d+)?)((?:e[+-]?\d+)?)([†‡*]*)")


def to_latex(sheet: Sheet) -> str:
    """Return the sheet as one or more floats, with all texts escaped and numbers aligned.

    A sheet takes a column if it fits, else both columns. It is scaled down to their width if it is
    up to a third wider, and rotated if it is wider than that. Long sheets continue on more pages.
    """
    width = _width(sheet)
    turned = width * _SMALLEST > TEXT
    kind = "sidewaystable*" if turned else "table*" if width > COLUMN else "table"
    rows = [
        _line(cells, bold) for cells, bold in zip(_align_cells(sheet), _bold(sheet), strict=True)
    ]
    most = LANDSCAPE_ROWS if turned else ROWS
    parts = -(-len(rows) // most) or 1
    length = -(-len(rows) // parts)
    return "".join(
        _float(sheet, kind, rows[i * length : (i + 1) * length], i == 0, i == parts - 1)
        for i in range(parts)
    )


def preamble(text: str) -> str:
    """Return a comment that names the packages that tables need."""
    packages = "booktabs,graphicx" + (",rotating" if "sidewaystable" in text else "")
    return f"% \\usepackage{{{packages}}}\n"


def escape(text: str) -> str:
    """Return a text for LaTeX: special characters escaped, minus signs, powers of ten."""
    text = MINUS.sub("−", text)
    text = POWER.sub(lambda m: f"{m[1]}×10^{'−' if m[2] else ''}{m[3]}", text)
    text = text.translate(_ESCAPES).replace("--", "-{}-")
    power = r"\$\\times\$10\\textasciicircum\{\}(\$-\$)?(\d+)"
    return re.sub(power, lambda m: rf"$\times 10^{{{'-' if m[1] else ''}{m[2]}}}$", text)


def _float(sheet: Sheet, kind: str, rows: Sequence[str], first: bool, last: bool) -> str:
    form = "l" * sheet.labels + "r" * (len(sheet.cells.columns) - sheet.labels)
    head = " & ".join(escape(name) for name in sheet.cells.columns)
    caption = escape(sheet.title) if first else "Continued."
    notes = [rf"\parbox{{\linewidth}}{{\footnotesize {escape(note)}}}" for note in sheet.notes]
    lines = [
        rf"\begin{{{kind}}}",
        r"\centering\small",
        *([] if first else [r"\addtocounter{table}{-1}"]),
        rf"\caption{{{caption}}}",
        r"\resizebox{\ifdim\width>\linewidth \linewidth\else \width\fi}{!}{%",
        rf"\begin{{tabular}}{{{form}}}",
        r"\toprule",
        rf"{head} \\",
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}}",
        *(["\\par\\smallskip", "\\par\n".join(notes)] if notes and last else []),
        rf"\end{{{kind}}}",
    ]
    return "\n".join(lines) + "\n"


def _width(sheet: Sheet) -> float:
    """Return the approximate natural width in points."""
    widths = [max(map(len, [name, *sheet.cells[name]])) for name in sheet.cells.columns]
    return _CHARACTER * sum(widths) + _GAP * len(widths)


def _bold(sheet: Sheet) -> list[list[bool]]:
    return sheet.bold.to_numpy().tolist()


def _line(cells: Sequence[str], bold: Sequence[bool]) -> str:
    shown = [rf"\bfseries {c}" if b else c for c, b in zip(cells, bold, strict=True)]
    return " & ".join(shown) + r" \\"


def _align_cells(sheet: Sheet) -> list[tuple[str, ...]]:
    """Return the rows of escaped cells, with the numbers of each right-aligned column aligned."""
    columns = [list(sheet.cells[name]) for name in sheet.cells.columns]
    done = [
        list(map(escape, texts)) if i < sheet.labels else align(texts)
        for i, texts in enumerate(columns)
    ]
    return list(zip(*done, strict=True))


def align(texts: Sequence[str]) -> list[str]:
    r"""Return cells for LaTeX in which the numbers at each place are below each other.

    Narrower numbers are padded with \phantom, and so are cells with fewer numbers than others.
    Texts that do not begin with a number are only escaped.
    """
    split = [_NUMBER.split(text) for text in texts]  # groups in between
    numbers = [parts if len(parts) > 1 and not parts[0] else [] for parts in split]
    widest = [max(found, key=len) for found in zip_longest(*numbers, fillvalue="")]
    return [
        _pad(parts, widest) if parts else escape(text)
        for parts, text in zip(numbers, texts, strict=True)
    ]


def _pad(parts: Sequence[str], widest: Sequence[str]) -> str:
    """Return the parts of a cell, each padded to the width of the widest one at its place."""
    out, bracket = "", ""
    for i in range(1, len(parts), 6):
        sign, digits, decimals, power, marks, between = parts[i : i + 6]
        own, wide = parts[i : i + 5], widest[i : i + 5]
        missing = [w[len(o) :] for o, w in zip(own, wide, strict=True)]
        out += _phantom(missing[0] + missing[1]) + bracket
        out += escape(sign + digits + decimals + power) + _phantom(missing[2] + missing[3])
        out += escape(marks) + _phantom(missing[4])
        bracket = between[-1:] if between.endswith(("(", "[")) else ""  # stays at its number
        out += escape(between.removesuffix(bracket))
    end = widest[len(parts) - 1][len(parts[-1]) :]
    return out + bracket + _phantom(end + "".join(widest[len(parts) :]))


def _phantom(text: str) -> str:
    return rf"\phantom{{{escape(text)}}}" if text else ""
