"""Sheet: a table of texts, rendered for a terminal, as Markdown, LaTeX (booktabs) or HTML."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape

import pandas as pd

_BOLD, _PLAIN = "\033[1m", "\033[0m"
_TEX = str.maketrans(
    {**{c: "\\" + c for c in "&%$#_{}"}, "\\": r"\textbackslash{}", "~": r"\textasciitilde{}"}
    | {"^": r"\textasciicircum{}", "±": r"$\pm$", "⊙": r"$\odot$", "†": r"$^\dagger$", "—": "--"}
    | {"<": "$<$", ">": "$>$", "−": "$-$", "…": r"\ldots{}", "×": r"$\times$"}
)


@dataclass
class Sheet:
    """A table of texts.

    Attributes:
        cells: texts.
        bold: of the same shape, True where a cell is bold.
        labels: number of columns that name the row. The others are right-aligned.
        notes: lines below the table.
    """

    title: str
    cells: pd.DataFrame
    bold: pd.DataFrame
    labels: int = 1
    notes: Sequence[str] = field(default_factory=list)


def render(sheet: Sheet, form: str, colour: bool = False) -> str:
    """Return the sheet as text, markdown, latex or html.

    Args:
        colour: whether text goes to a terminal that shows bold.
    """
    if form == "text":
        return to_text(sheet, colour)
    return {"markdown": to_markdown, "latex": to_latex, "html": to_html}[form](sheet)


def to_text(sheet: Sheet, colour: bool = False) -> str:
    """Return the sheet for a terminal, with bold cells in bold or between asterisks."""
    mark = "" if colour else "**"
    shown = [list(sheet.cells.columns)]
    for texts, bold in _rows(sheet):
        shown.append(
            [f"{mark}{cell}{mark}" if b else cell for cell, b in zip(texts, bold, strict=True)]
        )
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    lines = []
    for i, row in enumerate(shown):
        cells = [
            cell.ljust(width) if j < sheet.labels else cell.rjust(width)
            for j, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        if colour and i:
            bolds = sheet.bold.to_numpy()[i - 1]
            cells = [f"{_BOLD}{c}{_PLAIN}" if b else c for c, b in zip(cells, bolds, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([sheet.title, *lines, *sheet.notes])


def to_markdown(sheet: Sheet) -> str:
    """Return the sheet as a pipe table."""
    rows = [
        [
            f"**{cell}**" if b else cell.replace("|", r"\|")
            for cell, b in zip(row, bold, strict=True)
        ]
        for row, bold in _rows(sheet)
    ]
    n = len(sheet.cells.columns)
    rule = ["---" if i < sheet.labels else "---:" for i in range(n)]
    table = [list(sheet.cells.columns), rule, *rows]
    lines = ["| " + " | ".join(cells) + " |" for cells in table]
    return "\n\n".join([sheet.title, "\n".join(lines), *sheet.notes])


def to_latex(sheet: Sheet) -> str:
    """Return the sheet as a table for the package booktabs, with all texts escaped."""
    escaped = sheet.cells.map(lambda text: text.translate(_TEX))
    escaped.columns = [name.translate(_TEX) for name in sheet.cells.columns]
    bold = sheet.bold.set_axis(escaped.columns, axis=1)
    styler = escaped.style.hide(axis="index")
    styler = styler.apply(lambda _: bold.map(lambda b: "font-weight: bold" if b else ""), axis=None)
    form = "l" * sheet.labels + "r" * (len(escaped.columns) - sheet.labels)
    body = styler.to_latex(hrules=True, convert_css=True, column_format=form)
    notes = "".join(f"\n\\\\ \\footnotesize {note.translate(_TEX)}" for note in sheet.notes)
    return (
        f"\\begin{{table}}\n\\centering\n\\caption{{{sheet.title.translate(_TEX)}}}\n{body.rstrip()}"
        f"{notes}\n\\end{{table}}\n"
    )


def to_html(sheet: Sheet) -> str:
    """Return the sheet as a table element with a caption."""

    def cell(tag: str, text: str, column: int, bold: bool = False) -> str:
        kind = "" if column < sheet.labels else ' class="number"'
        inner = f"<b>{escape(text)}</b>" if bold else escape(text)
        return f"<{tag}{kind}>{inner}</{tag}>"

    head = "".join(cell("th", name, i) for i, name in enumerate(sheet.cells.columns))
    body = "".join(
        "<tr>"
        + "".join(cell("td", t, i, b) for i, (t, b) in enumerate(zip(row, bold, strict=True)))
        + "</tr>\n"
        for row, bold in _rows(sheet)
    )
    notes = "".join(f"<p class='note'>{escape(note)}</p>" for note in sheet.notes)
    return (
        f"<div class='scroll'><table><caption>{escape(sheet.title)}</caption>"
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>{notes}"
    )


def _rows(sheet: Sheet) -> Iterator[tuple[list[str], list[bool]]]:
    """Yield each row's texts, and which of them are bold."""
    yield from zip(sheet.cells.to_numpy().tolist(), sheet.bold.to_numpy().tolist(), strict=True)
