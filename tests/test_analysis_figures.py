"""Figures and the report show the values in the files of the runs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import matplotlib.colors
import pandas as pd
import pytest
from needs import needs_browser
from PIL import Image
from structure import Page, decode_svg
from test_launch_train import train

from analysis.figures import FIGURES
from analysis.figures.flips import PHASES
from analysis.figures.style import look
from analysis.folder import list_runs
from analysis.frame import load_runs
from analysis.report import render_page
from baselines.errors import UserError
from launch.cli import main
from launch.config.machine import Machine
from launch.config.run import Run

pytestmark = pytest.mark.xdist_group("figures")  # which share their runs


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Train short runs: learned masks, the same from scratch, random masks; two seeds each."""
    root = tmp_path_factory.mktemp("figures")
    machine = Machine(runs=root, data_dir=root, device="cpu", workers=0, threads=1)
    for seed in (0, 1):
        base = Run.make("digits", "gmp", epochs=4, seed=seed)
        fixed = {"mask": f"{base.name}@final", "epochs": 4, "seed": 1000 + seed}
        others = [
            Run.make("digits", "random", epochs=4, seed=seed, sign_in=sign_in)
            for sign_in in (False, True)
        ]
        for run in (base, Run.make("digits", "fixed", **fixed), *others):
            train(run, machine)
    return root


@pytest.fixture
def runs(root):
    return load_runs(list_runs(root))


def lines(figure, panel=0):
    return {line.get_label(): line for line in figure.axes[panel].get_lines()}


@pytest.mark.parametrize("name", sorted(FIGURES.keys() - {"ranks"}))  # of several sparsities
@pytest.mark.parametrize("ending", ["pdf", "svg", "png"])
def test_every_figure_is_drawn(root, tmp_path, name, ending):
    path = tmp_path / f"figure.{ending}"
    assert main(["figure", name, "--runs", str(root), "-o", str(path)]) == 0
    assert path.stat().st_size > 5000
    if ending == "png":
        pixels = Image.open(path).convert("L")
        assert pixels.width >= 900 and len(set(pixels.resize((200, 100)).tobytes())) > 20


def layers_of(runs, label, sign_in=False):
    chosen = runs[(runs["label"] == label) & (runs["sign_in"] == sign_in)]
    return [pd.read_csv(folder / "layers.csv") for folder in chosen["folder"]]


def test_flips_by_phase_are_those_of_the_files(runs):
    figure = FIGURES["1"].draw(runs)
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    tables = layers_of(runs, "gmp")
    expected = []
    # the warm-up, a tenth, ends after epoch 0; the run after epoch 3
    for since, epoch in (("init", 0), ("warmup", 3), ("init", 3)):
        shares = []
        for table in tables:
            rows = table[table["epoch"] == epoch]
            flips, compared = rows[f"final_flips_{since}"], rows[f"final_compared_{since}"]
            shares.append(100 * flips.sum() / compared.sum())
        expected.append(sum(shares) / 2)
    assert heights[:3] == pytest.approx(expected)
    names = [tick.get_text() for tick in figure.axes[1].get_xticklabels()]
    assert names == ["GMP mask", "Random", "Random + Sign-In"]


def test_lines_are_means_over_seeds(runs):
    accuracy = lines(FIGURES["curves"].draw(runs), panel=1)["GMP"]
    tables = [pd.read_csv(f / "epochs.csv") for f in runs[runs["label"] == "gmp"]["folder"]]
    mean = 100 * sum(table["test_accuracy"] for table in tables) / 2
    assert accuracy.get_ydata() == pytest.approx(mean.to_numpy())
    assert list(accuracy.get_xdata()) == [1, 2, 3, 4]
    sparsity = lines(FIGURES["9"].draw(runs))["Random + Sign-In"]
    tables = [t[t["epoch"] == 3] for t in layers_of(runs, "random", sign_in=True)]
    mean = 100 * (1 - sum(t["density"].to_numpy() for t in tables) / 2)
    assert sparsity.get_ydata() == pytest.approx(mean)
    flips = lines(FIGURES["8"].draw(runs), list(PHASES).index("init → final"))["GMP"]
    shares = [
        100 * (t["final_flips_init"] / t["final_compared_init"])[t["epoch"] == 3]
        for t in layers_of(runs, "gmp")
    ]
    assert flips.get_ydata() == pytest.approx(sum(s.to_numpy() for s in shares) / 2)


def test_a_method_looks_the_same_everywhere(runs):
    for name in ("5", "8", "9", "curves"):
        for panel in (
            lines(FIGURES[name].draw(runs)),
            lines(FIGURES[name].draw(runs[runs["seed"] == 0])),
        ):
            if "Random" in panel:
                assert panel["Random"].get_color() == look("random")["color"]
    looks = [tuple(map(str, look(name).values())) for name in ("acdc", "rigl", "str", "lrr", "gmp")]
    assert len(set(looks)) == 5
    assert look("fixed (gmp@final)")["color"] == look("gmp")["color"] != look("mine")["color"]
    assert all(matplotlib.colors.is_color_like(look(n)["color"]) for n in ("mine", "yours"))


def test_figures_of_different_networks_are_refused(root, runs, capsys):
    assert main(["figure", "1", "--runs", str(root), "-o", "figure.gif"]) == 2
    assert ".pdf, .svg or .png" in capsys.readouterr().err
    assert main(["figure", "1", "--runs", str(root), "--where", "method=none"]) == 2
    assert "there are no such runs" in capsys.readouterr().err


FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom")


def test_sparsities_are_not_mixed(runs):
    other = runs.assign(**{"sparsity": 0.5, "result.sparsity": 0.5, "seed": 7})
    mixed = pd.concat([runs, other], ignore_index=True)
    for name in ("1", "5", "8", "9", "curves"):
        with pytest.raises(UserError, match=r"differ in sparsity \(0.5, 0.9\)"):
            FIGURES[name].draw(mixed)
    drawn = {entry.get_text() for entry in FIGURES["compare"].draw(mixed).legends[0].get_texts()}
    assert drawn == {"GMP", "GMP mask", "Random", "Random + Sign-In"}
    report = render_page(mixed)
    assert report.count("<figure>") == 2 * (len(FIGURES) - 2) + 2  # compare and ranks have both
    assert "sparsity 0.5" in report and "differ" not in report


def test_a_run_of_one_epoch_is_reported(machine, tmp_path):
    train(Run.make("digits", "random", epochs=1, sign_in=True), machine)
    output = tmp_path / "report.html"
    assert main(["report", "--runs", str(machine.runs), "-o", str(output)]) == 0
    assert "random" in Page(output.read_text()).tables[-1][2][0][0]


def browse(report, script, tmp_path):
    """Return the page's DOM after a script, and the browser's console messages."""
    changed = tmp_path / "changed.html"
    changed.write_text(report.replace("</html>", f"<script>{script}</script></html>"))
    done = subprocess.run(
        ["chromium", *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"file://{changed}"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, console


@pytest.fixture(scope="module")
def report(root, tmp_path_factory):
    """Return the page that the command writes about the runs, one of which is broken."""
    (root / "broken").mkdir()
    (root / "broken" / "config.json").write_text("{")
    output = tmp_path_factory.mktemp("report") / "report.html"
    with pytest.warns(UserWarning, match="left out: broken"):
        assert main(["report", "--runs", str(root), "-o", str(output)]) == 0
    shutil.rmtree(root / "broken")
    return output.read_text()


def test_the_report_is_complete_and_self_contained(report, runs):
    page = Page(report)
    assert page.texts["h1"] == ["signbench report"] and page.texts["h2"] == ["digits", "Runs"]
    assert len(page.tables) >= 4
    for caption, header, rows in page.tables:
        assert caption and rows and all(len(row) == len(header) for row in rows), caption
    caption, header, rows = page.tables[-1]
    assert caption == "All 8 runs"
    listed = {row[header.index("run")]: row[header.index("accuracy")] for row in rows}
    of_files = dict(zip(runs["folder"], runs["result.accuracy"], strict=True))
    assert listed == {Path(folder).name: f"{100 * a:.2f}" for folder, a in of_files.items()}
    assert all(link.startswith("data:") for link in page.links)  # nothing is loaded from elsewhere
    pictures = [decode_svg(link) for link in page.links if link != "data:,"]
    assert len(pictures) == len(page.texts["figcaption"]) == len(FIGURES) - 1
    assert all(float(p.attrib["width"].removesuffix("pt")) > 100 for p in pictures)
    assert all(len(list(picture.iter())) > 50 for picture in pictures)


@needs_browser
def test_the_report_in_a_browser(report, tmp_path):
    script = """
      const tables = document.querySelectorAll("table");
      const table = tables[tables.length - 1];
      const column = [...table.tHead.rows[0].cells].findIndex(c => c.textContent == "accuracy");
      const values = () => [...table.tBodies[0].rows].map(r => +r.cells[column].textContent);
      const header = table.tHead.rows[0].cells[column];
      header.click(); const up = values(); header.click(); const down = values();
      const images = [...document.images];
      const found = { up, down, images: images.length, tables: tables.length,
                      shown: images.filter(i => i.complete && i.naturalWidth > 100).length };
      document.title = JSON.stringify(found);
    """
    script = f"window.onload = () => {{ {script} }}"
    dom, console = browse(report, script, tmp_path)
    assert console == []
    found = json.loads(re.search(r"<title>(.*?)</title>", dom)[1])
    assert found["up"] == sorted(found["up"]) == found["down"][::-1] and len(found["up"]) == 8
    assert found["images"] == found["shown"] == len(FIGURES) - 1
    assert found["tables"] >= 4
