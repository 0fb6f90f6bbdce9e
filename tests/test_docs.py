"""Code in the documentation runs, commands parse, links and paths exist, options are complete.

Conventions of the pages:

    ```python                     runs, after the blocks before it on the page
    ```py                         does not run: needs packages that the tests do not have
    ```python title="file.py"     a file; the page's other blocks and commands run in its folder
    ```yaml title="file.yaml"     a grid file; a recipe if its name has "recipe" in it
    ```sh                         lines that begin with "signbench" are commands
    `signbench …`                 a command in the text
"""

from __future__ import annotations

import ast
import csv
import dataclasses
import json
import pkgutil
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import tyro
import yaml
from in_process import command, modules_of

import launch.config.recipes
from baselines.registry import methods
from launch.cli import COMMANDS, main
from launch.config.grid_file import read_grid
from launch.config.grids import GRIDS
from launch.config.recipes import RECIPES, find_recipe
from signin import HAM, SignIn

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
README = ROOT / "README.md"
OTHERS = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
METHODS = methods()
PACKAGES = {  # that the code of a page needs
    "guide/hugging-face.md": ("transformers", "accelerate"),
    "guide/lightning.md": ("lightning",),
    "guide/other-trainers.md": ("accelerate", "skorch"),
}
NAMES = [str(page.relative_to(DOCS)) for page in PAGES]


def blocks(page: Path, language: str) -> list[tuple[str, str]]:
    """Return title (or an empty string) and content of a page's code blocks."""
    fence = rf'^```{language}(?: title="([^"]+)")?\n(.*?)^```$'
    return re.findall(fence, page.read_text(), flags=re.S | re.M)


def write_files(page: Path, folder: Path) -> None:
    for language in ("python", "yaml"):
        for title, content in blocks(page, language):
            if title:
                (folder / title).write_text(content)


# ---- code


@pytest.mark.parametrize("name", [n for n in NAMES if blocks(DOCS / n, "python")])
def test_python_runs(name, forked_workers, tmp_path, monkeypatch):
    for package in PACKAGES.get(name, ()):
        pytest.importorskip(package, reason=f"no {package}")
    write_files(DOCS / name, tmp_path)
    code = "".join(code for title, code in blocks(DOCS / name, "python") if not title)
    if "own-" in name:  # registers methods, models or recipes, which other tests must not see
        with modules_of(tmp_path, tmp_path):
            exec(compile(code, name, "exec"), {"__name__": name})
    else:
        monkeypatch.chdir(tmp_path)
        exec(compile(code, name, "exec"), {"__name__": name})


def test_the_method_of_the_guide_runs_with_its_option(tmp_path):
    page = DOCS / "guide" / "own-method.md"
    write_files(page, tmp_path)
    (line,) = (line for line in commands(page) if "my_method:" in line)
    _, *arguments = shlex.split(line)
    assert command([*arguments, "--threads", "1"], tmp_path, tmp_path) == 0
    (path,) = tmp_path.glob("runs/*/result.json")
    assert json.loads(path.read_text())["sparsity"] == pytest.approx(0.9, abs=1e-4)
    config = json.loads((path.parent / "config.json").read_text())
    assert config["run"]["options"] == {"at": 0.3} and config["run"]["sign_in"]


def test_models_data_and_recipes_of_the_guide_train(tmp_path):
    page = DOCS / "guide" / "own-model-data-recipe.md"
    write_files(page, tmp_path)
    with modules_of(tmp_path, tmp_path):
        exec("".join(code for title, code in blocks(page, "python") if not title), {})
    own = ("my_models", "my_data", "features.npz", "my_recipe.yaml --method")
    lines = [line for line in commands(page) if any(name in line for name in own)]
    assert len(lines) == 4
    for line in lines:
        _, *arguments = shlex.split(line)
        assert command([*arguments, "--epochs", "1", "--threads", "1"], tmp_path, tmp_path) == 0
    assert len(list(tmp_path.glob("runs/*/result.json"))) == 4


@pytest.mark.parametrize("name", [n for n in NAMES if blocks(DOCS / n, "yaml")])
def test_grid_and_recipe_files_are_read(name, tmp_path, monkeypatch):
    monkeypatch.setattr(launch.config.recipes, "RECIPES", dict(RECIPES))
    for title, content in blocks(DOCS / name, "yaml"):
        path = tmp_path / (title or "grid.yaml")
        path.write_text(content)
        assert find_recipe(str(path)) if "recipe" in path.stem else read_grid(path)


# ---- commands


class Parsed(BaseException):
    """Raised instead of running a command after its flags have been parsed."""


def commands(page: Path) -> list[str]:
    text = page.read_text()
    shell = "\n".join(re.findall(r"^```sh\n(.*?)^```", text, flags=re.S | re.M))
    inline = re.findall(r"`(signbench [a-z]+[^`…]*)`", text)
    lines = [line.strip() for line in re.split(r"\n|&&", shell)]
    return [*(line for line in lines if line.startswith("signbench ")), *inline]


PLACEHOLDER = re.compile(r"\b(NAME|NUMBER|MODEL)\b")
COMMAND_LINES = sorted(
    {(str(page.relative_to(ROOT)), line) for page in [*PAGES, README] for line in commands(page)}
)


@pytest.mark.parametrize("page, line", COMMAND_LINES)
def test_commands_parse(page, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(launch.config.recipes, "RECIPES", dict(RECIPES))
    write_files(ROOT / page, tmp_path)
    _, command, *args = shlex.split(line, comments=True)
    assert command in COMMANDS
    if not args or "--help" in args or PLACEHOLDER.search(line):
        return
    if "my_method:PruneOnce" in args:  # runs above
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


def without_blocks(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.S | re.M)


TEXTS = {page: without_blocks(page) for page in [*PAGES, *OTHERS]}


@cache
def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings."""
    text = without_blocks(page)
    titles = re.findall(r"^#+ (.*)$", text, flags=re.M)
    plain = [re.sub(r"[^\w\s-]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", t)) for t in titles]
    return {re.sub(r"[-\s]+", "-", title.strip().lower()) for title in plain}


def resolves(page: Path, target: str) -> bool:
    if target.startswith(("http://", "https://")):
        return True
    path, _, anchor = target.partition("#")
    linked = (page.parent / path).resolve() if path else page
    return linked.exists() and (not anchor or anchor in anchors(linked))


def exists(name: str) -> bool:
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def named(pattern: str) -> list[tuple[Path, str]]:
    """Return what a pattern finds in the text of all pages, with the page."""
    found = [(page, match) for page, text in TEXTS.items() for match in re.findall(pattern, text)]
    assert len(found) > 20
    return found


def test_links_resolve():
    links = named(r"\]\(([^)\s]+)\)")
    assert not [(page, target) for page, target in links if not resolves(page, target)]


def test_paths_exist():
    """Check the paths of modules and folders in backticks."""
    tops = "analysis|baselines|docs|examples|launch|signin|tests"
    paths = named(rf"`((?:{tops})/[\w./-]*|[\w-]+(?:/[\w-]+)+\.py|\.ci/\w+)`")
    assert not [(page, path) for page, path in paths if not (ROOT / path).exists()]


def test_dotted_names_exist():
    """Check the names of modules and their members in backticks."""
    names = named(r"`((?:analysis|baselines|launch|signin)(?:\.\w+)+)")
    assert not [(page, name) for page, name in names if not exists(name)]


def test_the_tree_of_the_architecture_exists():
    text = (DOCS / "architecture.md").read_text()
    (tree,) = re.findall(r"^```\n(baselines/.*?)^```$", text, flags=re.S | re.M)
    found, package = [], ROOT
    for line in tree.splitlines():
        names = re.split(r"\s{2,}", line.strip())[0].split()
        if not line.startswith(" "):
            package = ROOT / names.pop(0)
            found.append(package)
        found += [package / name for name in names]
    assert len(found) > 15 and not [path for path in found if not path.exists()]


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
    """Return default and meaning of the options in a page's section "Options", by name."""
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


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_a_page_with_all_its_options(name):
    page = DOCS / "methods" / f"{name}.md"
    text = page.read_text()
    check_options(page, METHODS[name].options_class)
    sections = re.findall(r"^## (.*)$", text, flags=re.M)
    for section in ("Paper", "Command", "Options"):
        assert section in sections
    assert "Differences from the official code" in sections
    assert "Compared with the official code" in sections
    assert f"signbench run --method {name}" in text


def test_sign_in_has_a_page_with_all_its_options():
    check_options(DOCS / "methods" / "sign-in.md", SignIn)
    check_options(DOCS / "methods" / "ham.md", HAM)


def test_every_method_is_in_the_overview():
    text = (DOCS / "methods" / "index.md").read_text()
    rows = re.findall(r"^\| \[[^]]+\]\((\S+)\.md\) \| `(\S+)` \| ([^|]+) \|", text, flags=re.M)
    assert all(page == name for page, name, _ in rows)
    found = {name: family for _, name, family in rows}
    assert found == {name: method.family for name, method in METHODS.items()}


# ---- files of a run


def test_the_columns_of_a_run_are_documented(tmp_path, monkeypatch):
    """Every file, column and key that runs write is in run-folder.md."""
    monkeypatch.chdir(tmp_path)
    flags = "--method str-target --sign-in --epochs 2 --threads 1 --keep-epochs 1 --validation 0.1"
    assert main(["run", *flags.split()]) == 0
    (folder,) = tmp_path.glob("runs/*signin*")
    assert main(["sharpness", folder.name, "--per-class", "2", "--probes", "2"]) == 0
    for file in ("epochs.csv", "layers.csv", "sharpness.csv"):
        with (folder / file).open(newline="") as stream:
            header = next(csv.reader(stream))
        columns = {re.sub(r"^(final_(flips|compared)_).*", r"\1…", column) for column in header}
        assert columns <= words(file), file
    assert set(json.loads((folder / "result.json").read_text())) == words("result.json")
    config = json.loads((folder / "config.json").read_text())
    run = config.pop("run")
    keys = {f"run.{key}" for key in run} | set(config)
    nested = {"run.options", "run.settings", "versions"}
    assert {f"{key}.*" if key in nested else key for key in keys} <= words("config.json")
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {re.sub(r"epoch-\d+", "epoch-N", file) for file in files} <= words("Run folder")


def words(title: str) -> set[str]:
    """Return the names in backticks in the first cells of a section's tables in run-folder.md."""
    text = (DOCS / "run-folder.md").read_text()
    (section,) = re.findall(rf"^#+ {title}\n(.*?)(?=^## |\Z)", text, flags=re.S | re.M)
    cells = re.findall(r"^\| (`[^|]*) \|", section, flags=re.M)
    methods = re.findall(r"^Methods add columns: .*", section, flags=re.M)
    return {word for cell in [*cells, *methods] for word in re.findall(r"`([^`]+)`", cell)}
