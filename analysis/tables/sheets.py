"""Tables as people read them: for a terminal, as Markdown, LaTeX (booktabs) and HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

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
        cells: every cell a text; all columns from `labels` on are right-aligned.
        bold: True where a cell is, of the same shape.
        labels: how many columns name the row.
        notes: lines below it.
    """

    title: str
    cells: pd.DataFrame
    bold: pd.DataFrame
    labels: int = 1
    notes: Sequence[str] = field(default_factory=list)


def render(sheet: Sheet, form: str, colour: bool = False) -> str:
    """As text, markdown, latex or html."""
    return {"text": to_text, "markdown": to_markdown, "latex": to_latex, "html": to_html}[form](
        sheet, *([colour] if form == "text" else [])
    )


def to_text(sheet: Sheet, colour: bool = False) -> str:
    """For a terminal: bold where it knows it, between asterisks where not."""
    mark = "" if colour else "**"
    shown = [list(sheet.cells.columns)]
    for texts, bold in zip(sheet.cells.to_numpy(), sheet.bold.to_numpy(), strict=True):
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
    """A pipe table."""
    rows = [
        [
            f"**{cell}**" if b else cell.replace("|", r"\|")
            for cell, b in zip(row, bold, strict=True)
        ]
        for row, bold in zip(sheet.cells.to_numpy(), sheet.bold.to_numpy(), strict=True)
    ]
    n = len(sheet.cells.columns)
    rule = ["---" if i < sheet.labels else "---:" for i in range(n)]
    table = [list(sheet.cells.columns), rule, *rows]
    lines = ["| " + " | ".join(cells) + " |" for cells in table]
    return "\n\n".join([sheet.title, "\n".join(lines), *sheet.notes])


def to_latex(sheet: Sheet) -> str:
    """A table that compiles as it is, with the package booktabs; names are escaped."""
    escaped = sheet.cells.map(lambda text: text.translate(_TEX))
    escaped.columns = [name.translate(_TEX) for name in sheet.cells.columns]
    style = escaped.style.hide(axis="index")
    bold = sheet.bold.set_axis(escaped.columns, axis=1)
    style = style.apply(lambda _: bold.map(lambda b: "font-weight: bold" if b else ""), axis=None)
    form = "l" * sheet.labels + "r" * (len(escaped.columns) - sheet.labels)
    body = style.to_latex(hrules=True, convert_css=True, column_format=form)
    notes = "".join(f"\n\\\\ \\footnotesize {note.translate(_TEX)}" for note in sheet.notes)
    return (
        f"\\begin{{table}}\n\\centering\n\\caption{{{sheet.title.translate(_TEX)}}}\n{body.rstrip()}"
        f"{notes}\n\\end{{table}}\n"
    )


def to_html(sheet: Sheet) -> str:
    """A table element with a caption; cells of numbers carry them for sorting."""
    from html import escape

    def cell(tag: str, text: str, column: int, bold: bool = False) -> str:
        kind = "" if column < sheet.labels else ' class="number"'
        inner = f"<b>{escape(text)}</b>" if bold else escape(text)
        return f"<{tag}{kind}>{inner}</{tag}>"

    head = "".join(cell("th", name, i) for i, name in enumerate(sheet.cells.columns))
    body = "".join(
        "<tr>"
        + "".join(cell("td", t, i, b) for i, (t, b) in enumerate(zip(row, bold, strict=True)))
        + "</tr>\n"
        for row, bold in zip(sheet.cells.to_numpy(), sheet.bold.to_numpy(), strict=True)
    )
    notes = "".join(f"<p class='note'>{escape(note)}</p>" for note in sheet.notes)
    return (
        f"<div class='scroll'><table><caption>{escape(sheet.title)}</caption>"
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>{notes}"
    )


def write(table: pd.DataFrame, sheets: Sequence[Sheet], folder: Path, name: str) -> list[Path]:
    """Writes NAME.csv, the numbers, and NAME.tex, the sheets. Returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    csv, tex = folder / f"{name}.csv", folder / f"{name}.tex"
    table.to_csv(csv, index=False, float_format="%.6g")
    tex.write_text("\n".join(map(to_latex, sheets)))
    return [csv, tex]
