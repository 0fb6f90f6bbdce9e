"""Checks of LaTeX tables and HTML pages that need neither LaTeX nor a browser."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

COMMANDS = {
    *("begin", "end", "centering", "caption", "footnotesize", "bfseries"),
    *("toprule", "midrule", "bottomrule"),
    *("pm", "odot", "dagger", "times", "ldots", "to", "phantom", "theta"),
    *("small", "par", "smallskip", "parbox", "resizebox", "ifdim", "width", "linewidth"),
    *("else", "fi", "addtocounter"),
    *("textbackslash", "textasciitilde", "textasciicircum"),
}
LINKS = ("src", "href", "srcset", "action", "data")
VOID = {"meta", "link", "img", "source", "br", "hr", "input"}


def check_latex(text: str) -> int:
    """Check tables: environments, braces, columns, booktabs' rules, escaping.

    Returns:
        The number of tables.

    Raises:
        AssertionError: LaTeX would fail, or the table would be wrong. The message names the cause.
    """
    assert text.isascii(), f"not ASCII: {sorted({c for c in text if not c.isascii()})}"
    text = re.sub(r"^% .*\n", "", text, flags=re.M)
    unknown = set(re.findall(r"\\([A-Za-z]+)", text)) - COMMANDS
    assert not unknown, f"unknown commands: {unknown}"
    _check_environments(text)
    _check_characters(text)
    bodies = re.findall(r"\\begin{tabular}{([lr]+)}\n(.*?)\\end{tabular}", text, flags=re.S)
    floats = re.findall(r"\\begin{(?:sideways)?table\*?}", text)
    assert len(bodies) == len(floats) == text.count("\\caption{")
    for form, body in bodies:
        _check_tabular(len(form), body)
    return len(bodies)


def _check_environments(text: str) -> None:
    open_ones: list[str] = []
    for kind, name in re.findall(r"\\(begin|end){([\w*]+)}", text):
        if kind == "begin":
            open_ones.append(name)
        else:
            assert open_ones and open_ones.pop() == name, f"\\end{{{name}}} ends nothing"
    assert not open_ones, f"never ended: {open_ones}"


def _check_characters(text: str) -> None:
    """Check that braces match, mathematics ends on its line, and special characters are escaped."""
    depth = 0
    for line in text.splitlines():
        bare = re.sub(r"\\(\\|[&%$#_{}])", "", line)  # line ends and escaped characters
        bare = bare.replace("}{!}{%", "}{!}{").replace(r"\ifdim\width>", "")  # of \resizebox
        for character in bare:
            depth += {"{": 1, "}": -1}.get(character, 0)
            assert depth >= 0, f"a brace closes nothing: {line}"
        assert bare.count("$") % 2 == 0, f"mathematics does not end: {line}"
        outside = re.sub(r"\$[^$]*\$", "", bare)
        assert not re.search(r"[%#_^~<>]", outside), f"not escaped: {line}"
    assert depth == 0, "a brace is never closed"


def _check_tabular(columns: int, body: str) -> None:
    lines = body.splitlines()
    rules = [line for line in lines if line.endswith("rule")]
    assert rules == ["\\toprule", "\\midrule", "\\bottomrule"], rules
    assert lines[0] == rules[0] and lines[2] == rules[1] and lines[-1] == rules[2]
    for row in (line for line in lines if line not in rules):
        assert row.endswith(" \\\\"), f"a row does not end: {row}"
        found = len(re.findall(r"(?<!\\)&", row)) + 1
        assert found == columns, f"{found} cells in {columns} columns: {row}"


class Page(HTMLParser):
    """A parsed HTML page.

    Attributes:
        texts: the text of every element, by its name, in order.
        tables: for each table its caption, header, and rows of cells.
        links: all addresses that the page refers to.

    Raises:
        AssertionError: elements are not nested.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: dict[str, list[str]] = {}
        self.tables: list[tuple[str, list[str], list[list[str]]]] = []
        self.links: list[str] = []
        self._open: list[tuple[str, list[str]]] = []
        self._rows: list[list[str]] = []
        self.feed(html)
        self.close()
        assert not self._open, f"never closed: {[tag for tag, _ in self._open]}"
        css = "".join(self.texts.get("style", []))
        self.links += re.findall(r"(?:@import\s+|url\()([^\s)]+)", css)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in LINKS]
        if tag == "tr":
            self._rows.append([])
        if tag not in VOID:
            self._open.append((tag, []))

    def handle_data(self, data: str) -> None:
        for _, parts in self._open:
            parts.append(data)

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        name, parts = self._open.pop()
        assert name == tag, f"</{tag}> closes <{name}>"
        text = "".join(parts).strip()
        self.texts.setdefault(tag, []).append(text)
        if tag in ("th", "td"):
            self._rows[-1].append(text)
        if tag == "table":
            header, *rows = self._rows
            self._rows = []
            self.tables.append((self.texts["caption"][-1], header, rows))


def decode_svg(url: str) -> ElementTree.Element:
    """Return the picture in a data URL. Check that it refers to nothing else."""
    head, data = url.split(",", 1)
    assert head == "data:image/svg+xml;base64", head
    root = ElementTree.fromstring(base64.b64decode(data, validate=True))
    assert root.tag == "{http://www.w3.org/2000/svg}svg", root.tag
    for element in root.iter():
        for name, value in element.attrib.items():
            if name.rpartition("}")[2] == "href":
                assert value.startswith(("#", "data:")), value
    return root
