"""What the documentation says holds: code runs, commands parse, links resolve, options are complete.

Conventions of the pages:

    ```python                     runs, with the other blocks of its page, in their order
    ```python title="file.py"     is a file beside which the page's blocks and commands run
    ```yaml title="file.yaml"     is a grid file
    ```sh                         lines with "signbench" are commands, and so is `signbench …` in text
"""

from __future__ import annotations

import ast
import dataclasses
import re
import shlex
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import tyro
import yaml

from baselines.registry import methods
from launch.cli import COMMANDS, main
from launch.config.grids import GRIDS, read_grid
from signin import SignIn

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
OTHERS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
NAMES = [str(page.relative_to(DOCS)) for page in PAGES]


def blocks(page: Path, language: str) -> list[tuple[str, str]]:
    """Title (or an empty string) and content of a page's code blocks."""
    fence = rf'^```{language}(?: title="([^"]+)")?\n(.*?)^```$'
    return re.findall(fence, page.read_text(), flags=re.S | re.M)


def write_files(page: Path, folder: Path) -> None:
    for language in ("python", "yaml"):
        for title, content in blocks(page, language):
            if title:
                (folder / title).write_text(content)


# ---- code


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=str)
def test_python_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    write_files(page, tmp_path)
    namespace: dict[str, Any] = {"__name__": page.stem}
    for title, code in blocks(page, "python"):
        if not title:
            exec(compile(code, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "yaml")], ids=str)
def test_grid_files_are_read(page, tmp_path):
    for title, content in blocks(page, "yaml"):
        path = tmp_path / (title or "grid.yaml")
        path.write_text(content)
        assert read_grid(path)


# ---- commands


class Parsed(BaseException):
    """Raised in place of running a command whose flags have been parsed."""


def commands(page: Path) -> list[str]:
    text = page.read_text()
    shell = "\n".join(re.findall(r"^```sh\n(.*?)^```", text, flags=re.S | re.M))
    inline = re.findall(r"`(signbench [a-z]+[^`…]*)`", text)
    lines = [line for line in shell.splitlines() if line.startswith("signbench ")]
    return [*lines, *inline]


def placeholder(line: str) -> bool:
    return bool(re.search(r"\b(NAME|NUMBER|COMMAND|WHAT)\b", line))


COMMAND_LINES = sorted(
    {(str(page.relative_to(DOCS)), line) for page in PAGES for line in commands(page)}
)


@pytest.mark.parametrize("page, line", COMMAND_LINES)
def test_commands_parse(page, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    write_files(DOCS / page, tmp_path)
    _, command, *args = shlex.split(line, comments=True)
    assert command in COMMANDS
    bare_name = not args and command in ("run", "grid", "table", "figure", "export", "theory")
    if placeholder(line) or bare_name or command == "recipes" or "--help" in args:
        return
    parse = tyro.cli

    def stop(*args: Any, **options: Any) -> Any:
        parse(*args, **options)
        raise Parsed

    monkeypatch.setattr(tyro, "cli", stop)
    with pytest.raises(Parsed):
        main([command, *args])
    if command == "grid":
        assert args[0] in GRIDS or (tmp_path / args[0]).exists()


# ---- links


def anchors(page: Path) -> set[str]:
    """What headings can be linked to by."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.S | re.M)
    titles = re.findall(r"^#+ (.*)$", text, flags=re.M)
    plain = [re.sub(r"[^\w\s-]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", t)) for t in titles]
    return {re.sub(r"[-\s]+", "-", title.strip().lower()) for title in plain}


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=lambda page: page.name)
def test_links_resolve(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.S | re.M)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in anchors(linked), f"{page}: {target}"


def test_every_page_is_in_the_navigation():
    text = re.sub(r"!!\S+", "", (ROOT / "mkdocs.yml").read_text())
    found: list[str] = []

    def collect(entry: Any) -> None:
        if isinstance(entry, str):
            found.append(entry)
        else:
            for value in entry.values() if isinstance(entry, dict) else entry:
                collect(value)

    collect(yaml.safe_load(text)["nav"])
    assert sorted(found) == NAMES


# ---- methods


def option_table(page: Path) -> dict[str, tuple[str, str]]:
    """Default and meaning of the options in a page's section "Options", by name."""
    (section,) = re.findall(r"^## Options\n(.*?)(?=^## |\Z)", page.read_text(), flags=re.S | re.M)
    rows = re.findall(r"^\| `(\w+)` \| `([^`]*)` \| (.*) \|$", section, flags=re.M)
    lines = [line for line in section.splitlines() if line.startswith("|")]
    assert len(lines) == (len(rows) + 2 if rows else 0), "a row of another form"
    return {name: (default, meaning) for name, default, meaning in rows}


def value(text: str) -> Any:
    numerator, slash, denominator = text.partition("/")
    return int(numerator) / int(denominator) if slash else ast.literal_eval(text)


def check_options(page: Path, options: type[Any]) -> None:
    fields = dataclasses.fields(options)
    table, hints = option_table(page), get_type_hints(options)
    assert sorted(table) == sorted(field.name for field in fields)
    for field in fields:
        default, meaning = table[field.name]
        assert value(default) == field.default, field.name
        assert type(value(default)) is type(field.default), field.name
        if get_origin(hints[field.name]) is Literal:
            for choice in get_args(hints[field.name]):
                assert f"`{choice}`" in meaning, f"{field.name}: {choice}"


@pytest.mark.parametrize("name", methods())
def test_a_method_has_a_page_with_all_its_options(name):
    page = DOCS / "methods" / f"{name}.md"
    text = page.read_text()
    check_options(page, methods()[name].options)
    sections = re.findall(r"^## (.*)$", text, flags=re.M)
    for section in ("Paper", "Command", "Options"):
        assert section in sections
    assert "Differences from the official code" in sections
    assert "Compared with the official code" in sections
    assert f"signbench run --method {name}" in text


def test_sign_in_has_a_page_with_all_its_options():
    check_options(DOCS / "methods" / "sign-in.md", SignIn)


def test_every_method_is_in_the_overview():
    text = (DOCS / "methods" / "index.md").read_text()
    rows = re.findall(r"^\| \[[^]]+\]\((\S+)\.md\) \| `(\S+)` \| ([^|]+) \|", text, flags=re.M)
    assert all(page == name for page, name, _ in rows)
    found = {name: family for _, name, family in rows}
    assert found == {name: method.family for name, method in methods().items()}


# ---- files of a run


def test_the_columns_of_a_run_are_documented(tmp_path, monkeypatch):
    """Every file, column and key that runs write is in run-folder.md."""
    import csv
    import json

    monkeypatch.chdir(tmp_path)
    flags = "--method str --sign-in --epochs 2 --threads 1 --keep-epochs 1".split()
    assert main(["run", *flags]) == 0
    (folder,) = tmp_path.glob("runs/*signin*")
    assert main(["sharpness", folder.name, "--per-class", "2", "--probes", "2"]) == 0
    text = (DOCS / "run-folder.md").read_text()
    words = set(re.findall(r"`([^`]+)`", text))
    for file in ("epochs.csv", "layers.csv", "sharpness.csv"):
        with (folder / file).open(newline="") as stream:
            header = next(csv.reader(stream))
        columns = [re.sub(r"^(final_(flips|compared)_).*", r"\1…", column) for column in header]
        assert set(columns) <= words, file
    assert set(json.loads((folder / "result.json").read_text())) <= words
    config = json.loads((folder / "config.json").read_text())
    run = config.pop("run")
    keys = {f"run.{key}" for key in run} | set(config)
    star = {"run.options", "run.settings", "versions"}
    assert {f"{key}.*" if key in star else key for key in keys} <= words
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {re.sub(r"epoch-\d+", "epoch-N", file) for file in files} <= words
