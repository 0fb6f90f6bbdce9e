"""The report: its contents, and how a browser shows it on a phone and on a large screen."""

from __future__ import annotations

import json
import re
import subprocess

import numpy as np
import pandas as pd
import pytest
from needs import needs_browser
from structure import Page, decode_svg
from synthetic_runs import FEW, SOME, write_runs
from test_analysis_tables import write_run

import analysis.report.pictures
from analysis import frame
from analysis.folder import list_runs, read_rows
from analysis.frame import load_runs
from analysis.names import RULES, name_of
from analysis.report import render_page
from analysis.report.page import Part, _shared_settings
from analysis.report.results import results_sheet
from analysis.statistics import aggregate
from baselines.errors import UserError
from launch.cli import main

pytestmark = pytest.mark.xdist_group("report")  # the tests share their runs
LABELS = (*FEW, "dense", "random (uniform)", "wr (level_length=0.25, rewind_to=0.2)")
N_RUNS = len(LABELS) * len(RULES) * 3
SMALLEST = 9.0  # pixels
PHONE, SCREEN = 400, 1200  # pixels
REASON = "Diverged: loss is nan at epoch 0, step 2, lr 0.3"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Write finished runs, and one that failed."""
    root = tmp_path_factory.mktemp("report")
    write_runs(root, LABELS, rules=RULES)
    broken = sorted(root.glob("*-0.9-Sign-In-2"))[0]
    (broken / "result.json").unlink()
    (broken / "failure.json").write_text(json.dumps({"reason": REASON}))
    return root


@pytest.fixture(scope="module")
def report(root, tmp_path_factory):
    """Return the page that the command writes about the runs, besides one that is broken."""
    (root / "broken").mkdir()
    (root / "broken" / "config.json").write_text("{")
    output = tmp_path_factory.mktemp("page") / "report.html"
    with pytest.warns(UserWarning, match="left out: broken"):
        assert main(["report", "--runs", str(root), "-o", str(output)]) == 0
    return output.read_text()


def test_it_begins_with_contents_and_a_ranking(report):
    page = Page(report)
    assert page.texts["h1"] == ["signbench report"]
    assert page.texts["p"][0] == f"{N_RUNS - 1} finished, 1 failed"
    assert page.texts["h2"] == [
        *("digits", "Runs without a result", "About these runs", "All finished runs"),
    ]
    assert page.texts["h3"] == ["Results", "Training and masks"]
    targets = re.findall(r'<a href="#([\w-]+)">', report)
    assert len(targets) == 6 and all(f'id="{target}"' in report for target in targets)
    assert page.texts["figcaption"][0].startswith("Accuracy of each method, best first")


def test_one_table_has_all_results(report, root):
    page = Page(report)
    results, unfinished, finished = page.tables
    assert results[1][:4] == ["method", "sparsity", "plain", "Sign-In"]
    assert results[2][0][0] == "Dense" and len(results[2]) == len(LABELS)
    assert all(len(row) == len(results[1]) for row in results[2])
    assert unfinished[2] == [["digits-0-0.9-Sign-In-2", "failed", REASON]]
    assert finished[0] == f"All {N_RUNS - 1} finished runs" and "missing" not in report
    listed = {row[0]: row[1] for row in finished[2]}
    for name, accuracy in listed.items():
        result = json.loads((root / name / "result.json").read_text())
        assert accuracy == f"{100 * result['accuracy']:.2f}"


def test_results_are_ordered_and_paired(tmp_path):
    runs = write_runs(tmp_path, SOME, (0.8, 0.9))
    sheet = results_sheet(runs)
    numbers = aggregate(runs)
    for sparsity in (0.8, 0.9):
        own = numbers[numbers["sparsity"] == sparsity]
        best = own.groupby("label")["accuracy"].max().sort_values(ascending=False)
        rows = sheet.cells[sheet.cells["sparsity"] == f"{sparsity:g}"]
        assert list(rows["method"]) == [name_of(label) for label in best.index]
        for sign_in, column in ((False, "plain"), (True, "Sign-In")):
            of_label = own[own["sign_in"] == sign_in].set_index("label")
            means = [f"{of_label['accuracy'][label]:.2f}" for label in best.index]
            assert [text.split(" ")[0] for text in rows[column]] == means
            assert list(sheet.bold.loc[rows.index, column]) == list(of_label["best"][best.index])
        gains = own.set_index(["label", "sign_in"])["gain"].xs(True, level=1)
        found = [float(text.split(" ")[0]) for text in rows["gain"]]
        assert found == pytest.approx(gains[best.index].to_numpy(), abs=0.006)
    plain = results_sheet(runs[~runs["sign_in"]])
    assert "Sign-In" not in plain.cells and "gain" not in plain.cells


def test_seeds_have_a_place_for_each_rule(tmp_path):
    runs = write_runs(tmp_path, ("random", "rigl", "snip"), rules=RULES)
    left_out = (runs["rule"] == "Sign-In") & (runs["label"] != "random")
    left_out |= (runs["rule"] == "HAM") & (runs["label"] == "rigl") & (runs["seed"] == 2)
    sheet = results_sheet(runs[~left_out])
    seeds = sheet.cells.set_index("method")["seeds"].to_dict()
    assert seeds == {"Random": "3", "RigL": "3 / – / 2", "SNIP": "3"}
    assert "seeds: where their numbers differ, plain / Sign-In / HAM" in sheet.notes


def test_results_have_the_seeds_and_failures_of_each_rule(tmp_path):
    for seed in range(3):
        write_run(tmp_path, "random", 0.9, seed)
        write_run(tmp_path, "snip", 0.8, seed)
        write_run(tmp_path, "snip", None, seed, sign_in=True)
        write_run(tmp_path, "gmp", None, seed)
    write_run(tmp_path, "random", 0.95, 0, sign_in=True)
    sheet = results_sheet(load_runs(list_runs(tmp_path)))
    cells = sheet.cells.set_index("method")[["plain", "Sign-In", "seeds"]]
    assert cells.T.to_dict("list") == {
        "Random": ["90.00 ± 0.00", "95.00", "3 / 1"],
        "SNIP": ["80.00 ± 0.00", "failed", "3 / 0"],
    }
    assert "seeds: where their numbers differ, plain / Sign-In" in sheet.notes
    assert "* some seeds failed and are not included in the mean" in sheet.notes


def test_it_is_self_contained_and_notes_what_was_not_measured(report):
    page = Page(report)
    assert all(link.startswith(("data:", "#")) for link in page.links)
    pictures = [decode_svg(link) for link in page.links if link.startswith("data:image/svg")]
    assert len(pictures) == 2 * len(page.texts["figcaption"]) == 2 * 7
    assert all(len(list(picture.iter())) > 50 for picture in pictures)
    assert "sharpness was not measured: signbench sharpness" in page.texts["p"]
    assert len(report) < 8_000_000


@pytest.fixture
def unsaved(monkeypatch):
    """Draw figures without writing them, which takes most of the time."""
    monkeypatch.setattr(analysis.report.pictures, "save", lambda _, path: path.write_text("<svg/>"))


def test_sparsities_have_their_own_figures(unsaved, tmp_path):
    page = Page(render_page(write_runs(tmp_path, FEW[:2], (0.8, 0.9), seeds=(0,))))
    assert page.texts["h3"] == [
        "Results",
        "Training and masks, sparsity 0.8",
        "Training and masks, sparsity 0.9",
    ]
    # ranking, gains, compare, ranks; and five at each sparsity
    assert len(page.texts["figcaption"]) == 4 + 2 * 5
    assert not any("differ" in text for text in page.texts["p"])


def test_what_cannot_be_shown_is_told_once_per_reason():
    part = Part("Results", notes=["n"])
    for title, reason in (("Curves", "a"), ("Figure 1", "a"), ("Figure 5", "b")):
        part.refuse(title, UserError(reason))
    assert part.remarks == ["n", "Curves, Figure 1: a", "Figure 5: b"]


def test_the_papers_tables_are_shown_for_its_recipes(unsaved, tmp_path):
    runs = write_runs(tmp_path / "a", ("random",), recipe="cifar10-resnet20")
    page = Page(render_page(runs))
    assert "Tables of the paper" in page.texts["h3"]
    titles = [caption.split(":")[0] for caption, _, _ in page.tables]
    assert titles[1:-1] == ["Table 3", "Table 9", "Table 11"]


def test_learning_rates_are_written_as_numbers_in_order(tmp_path):
    runs = write_runs(tmp_path, ("random",), seeds=(0, 1, 2, 3))
    text = render_page(runs.assign(**{"settings.lr": [0.2, 1e6, 1e-5, 10.0] * 2}))
    assert "lr 1e-05 or 0.2 or 10 or 1e+06," in text


def test_runs_that_have_not_finished_are_reported(tmp_path):
    runs = write_runs(tmp_path, ("random",), seeds=(0,))
    page = Page(render_page(runs.assign(state="stopped")))
    assert page.texts["h2"] == ["Runs without a result", "About these runs", "All finished runs"]
    assert len(page.tables[0][2]) == 2


MEASURE = """
window.onload = () => setTimeout(() => {
  const box = (e) => e.getBoundingClientRect();
  const table = document.querySelector("table");
  const heads = [...table.tHead.rows[0].cells];
  const images = [...document.images];
  const last = [...document.querySelectorAll("table")].pop();
  const values = () => [...last.tBodies[0].rows].map((row) => +row.cells[1].textContent);
  const header = last.tHead.rows[0].cells[1];
  header.click(); const up = values(); header.click(); const down = values();
  const found = {
    page: document.documentElement.scrollWidth, window: window.innerWidth,
    cut: [...document.querySelectorAll(".scroll")].map((e) => e.scrollWidth - e.clientWidth),
    signIn: box(heads.find((head) => head.textContent == "Sign-In")).right,
    images: images.map((image) => [image.currentSrc.length, box(image).width]),
    shown: images.every((image) => image.complete && image.naturalWidth > 100), up, down,
  };
  parent.postMessage(JSON.stringify(found), "*");
}, 100);
"""
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom")
FLAGS += ("--virtual-time-budget=10000", "--window-size=1400,900")


def browse(report, script, width, folder):
    """Return what a script puts into the page's title, and the browser's console messages."""
    folder.mkdir()
    frame, inner = folder / "frame.html", folder / "page.html"
    inner.write_text(report.replace("</html>", f"<script>{script}</script></html>"))
    # a frame, because the window of a browser has a least width
    frame.write_text(
        f'<iframe src="page.html" width="{width}" height="800" style="border: 0"></iframe>'
        "<script>onmessage = (event) => { document.title = event.data; };</script>"
    )
    done = subprocess.run(
        ["chromium", *FLAGS, f"--user-data-dir={folder / 'profile'}", f"file://{frame}"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(re.search(r"<title>(.*?)</title>", done.stdout)[1]), console


def font_sizes(url):
    """Return the sizes of all texts in a picture, in units of its width."""
    root = decode_svg(url)
    width = float(root.attrib["viewBox"].split()[2])
    texts = [e for e in root.iter() if e.tag.endswith(("}text", "}tspan"))]
    size = re.compile(r"(?:font: |font-size: )[^;]*?([\d.]+)px")
    found = [size.search(element.get("style", "")) for element in texts]
    return [float(match[1]) / width for match in found if match]


@needs_browser
@pytest.mark.parametrize("width", [PHONE, SCREEN])
def test_a_browser_shows_it(report, tmp_path, width):
    found, console = browse(report, MEASURE, width, tmp_path / "browser")
    assert console == []
    assert found["window"] == width
    assert found["page"] <= width, "the page scrolls sideways"
    assert found["signIn"] <= width, "the column of Sign-In is not visible"
    assert width == PHONE or max(found["cut"]) <= 0, "a table is cut"
    assert found["cut"][1] <= 0, "the reason of a failure is cut"
    assert found["shown"]
    links = [link for link in Page(report).links if link.startswith("data:image/svg")]
    by_length = {len(link): font_sizes(link) for link in links}
    for length, image_width in found["images"]:
        assert min(by_length[length]) * image_width >= SMALLEST
        assert image_width <= width
    assert (
        found["up"] == sorted(found["up"]) == found["down"][::-1] and len(found["up"]) == N_RUNS - 1
    )
    assert np.ptp(found["up"]) > 0


def test_each_table_of_a_run_is_read_once(unsaved, root, monkeypatch):
    read = []

    def noted(folder, file):
        read.append(folder / file)
        return read_rows(folder, file)

    monkeypatch.setattr(frame, "read_rows", noted)
    few = 2 * len(RULES)
    runs = frame.load_runs(sorted(root.glob("*-0"))[:few])  # of the first seed
    assert len(runs) == few
    page = render_page(runs)
    assert read and len(read) == len(set(read))
    monkeypatch.setattr(frame, "KEPT_BYTES", 0)
    read.clear()
    assert render_page(runs) == page
    assert len(read) >= 2 * len(set(read))


def test_settings_are_those_of_runs_that_have_ended(tmp_path):
    runs = write_runs(tmp_path, ("random",), rules=("",))
    begun = runs[:1].assign(**{"settings.epochs": 1, "state": "stopped"})
    assert "epochs 20, batch size" in _shared_settings(pd.concat([begun, runs]))
    failed = begun.assign(state="failed")
    assert "epochs 1 or 20, batch size" in _shared_settings(pd.concat([failed, runs]))
