"""Sheet: a table of texts, rendered for a terminal, as Markdown or HTML."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any

import pandas as pd

MINUS = re.compile(r"(?<![\w.)\]-])-(?=[\d.])")  # the sign of a number
# a whole number with an exponent; names of runs have hexadecimal digits
POWER = re.compile(r"(?<![\w.])(?<![\w.)\]-]-)(\d+(?:\.\d+)?)e(-?)\+?0*(\d+)(?!\w)")
UNBROKEN = re.compile(r" ± |\[[^\]]*\]")  # where lines of narrow tables do not break
_BOLD, _PLAIN = "\033[1m", "\033[0m"


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


def leave_out_constants(sheet: Sheet, numbers: bool = True) -> Sheet:
    """Return the sheet without the columns in which all rows are equal; a note has their values.

    Columns with bold cells remain, and the method or another one that names the row.

    Args:
        numbers: leave out columns of numbers, too, not only those that name the row.
    """
    cells, bold = sheet.cells, sheet.bold
    constant = [
        name
        for name in cells.columns[: None if numbers else sheet.labels]
        if len(cells) > 1 and cells[name].nunique() == 1 and not bold[name].any()
    ]
    names = [name for name in cells.columns[: sheet.labels] if name]
    if names and set(names) <= set(constant):
        constant.remove("method" if "method" in names else names[-1])
    # the column of Sign-In and HAM has no name
    values = [f"{name} {cells[name].iloc[0]}".lstrip() for name in constant if cells[name].iloc[0]]
    return replace(
        sheet,
        cells=cells.drop(columns=constant),
        bold=bold.drop(columns=constant),
        labels=sum(name not in constant for name in cells.columns[: sheet.labels]),
        notes=[*sheet.notes, *([f"in all rows: {', '.join(values)}"] if values else [])],
    )


def to_text(sheet: Sheet, colour: bool = False, width: int = 0) -> str:
    """Return the sheet for a terminal, with bold cells in bold or between asterisks.

    Args:
        width: of the terminal in characters. A wider table is cut into several below each other,
            each with the columns that name the row, and longer lines are wrapped. 0: neither.
    """
    mark = "" if colour else "**"
    columns = [
        [name, *(f"{mark}{c}{mark}" if b else c for c, b in zip(cells, bold, strict=True))]
        for name, cells, bold in zip(
            sheet.cells.columns, _columns(sheet.cells), _columns(sheet.bold), strict=True
        )
    ]
    parts = _blocks([max(map(len, column)) for column in columns], sheet.labels, width)
    blocks = [_block(sheet, columns, part, colour) for part in parts]
    notes = [_wrap(note, width) for note in sheet.notes]
    return "\n".join([_wrap(sheet.title, width), "\n\n".join(blocks), *notes])


def _wrap(text: str, width: int) -> str:
    """Return a text in lines of a width, unless it has a command to copy."""
    if not width or ": signbench " in text:
        return text
    return textwrap.fill(
        text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def _blocks(widths: Sequence[int], labels: int, width: int) -> list[list[int]]:
    """Return the columns of each block of a table, such that the blocks fit into a width."""
    names, blocks = list(range(labels)), [list(range(labels))]
    for i in range(labels, len(widths)):
        fits = sum(widths[j] + 2 for j in [*blocks[-1], i]) - 2 <= width
        if width and not fits and len(blocks[-1]) > labels:
            blocks.append(list(names))
        blocks[-1].append(i)
    return blocks


def _block(sheet: Sheet, columns: list[list[str]], part: list[int], colour: bool) -> str:
    """Return the lines of some columns."""
    lines = []
    for row in range(len(sheet.cells) + 1):
        cells = []
        for i in part:
            width = max(map(len, columns[i]))
            text = columns[i][row]
            text = text.ljust(width) if i < sheet.labels else text.rjust(width)
            bold = colour and row and sheet.bold.iat[row - 1, i]
            cells.append(f"{_BOLD}{text}{_PLAIN}" if bold else text)
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _columns(frame: pd.DataFrame) -> list[list[Any]]:
    return [frame.iloc[:, i].tolist() for i in range(frame.shape[1])]


def to_markdown(sheet: Sheet) -> str:
    """Return the sheet as a pipe table."""

    def text(cell: str, bold: bool = False) -> str:
        escaped = re.sub(r"[*|]", r"\\\g<0>", cell)
        return f"**{escaped}**" if bold else escaped

    rows = [list(map(text, *row)) for row in _rows(sheet)]
    n = len(sheet.cells.columns)
    rule = ["---" if i < sheet.labels else "---:" for i in range(n)]
    table = [list(map(text, sheet.cells.columns)), rule, *rows]
    lines = ["| " + " | ".join(cells) + " |" for cells in table]
    return "\n\n".join([text(sheet.title), "\n".join(lines), *map(text, sheet.notes)])


def to_html(sheet: Sheet) -> str:
    """Return the sheet as a table element with a caption."""

    def cell(tag: str, text: str, column: int, bold: bool = False) -> str:
        kind = "" if column < sheet.labels else ' class="number"'
        value = f' data-value="{escape(text)}"' if POWER.search(text) else ""
        inner = POWER.sub(r"\1 × 10<sup>\2\3</sup>", MINUS.sub("−", escape(text)))
        inner = UNBROKEN.sub(lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), inner)
        inner = f"<b>{inner}</b>" if bold else inner
        return f"<{tag}{kind}{value}>{inner}</{tag}>"

    head = "".join(cell("th", name, i) for i, name in enumerate(sheet.cells.columns))
    body = "".join(
        "<tr>"
        + "".join(cell("td", t, i, b) for i, (t, b) in enumerate(zip(row, bold, strict=True)))
        + "</tr>\n"
        for row, bold in _rows(sheet)
    )
    notes = "".join(f"<p class='note'>{escape(note)}</p>" for note in sheet.notes)
    return (
        f"<div class='scroll'><table><caption><span>{escape(sheet.title)}</span></caption>"
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>{notes}"
    )


def _rows(sheet: Sheet) -> Iterator[tuple[list[str], list[bool]]]:
    """Yield each row's texts, and which of them are bold."""
    yield from zip(sheet.cells.to_numpy().tolist(), sheet.bold.to_numpy().tolist(), strict=True)
