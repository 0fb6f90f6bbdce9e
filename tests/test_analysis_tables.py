"""Comparisons and tables compared with means, deviations and tests computed separately."""

from __future__ import annotations

import json
import math
import re
import statistics
import warnings

import pandas as pd
import pytest
from structure import check_latex

from analysis.conditions import select_runs
from analysis.figures.groups import of_one_network
from analysis.folder import list_runs
from analysis.frame import load_runs
from analysis.report.results import results_sheet
from analysis.statistics import aggregate
from analysis.tables import make_table, render, table_of_grid
from analysis.tables.comparison import gain_text
from analysis.tables.paper import LAYOUTS, paper_cells, paper_sheets, paper_values
from analysis.tables.paper.cells import VALUES
from analysis.tables.paper.layouts import at_budget
from analysis.tables.sheet import Sheet, to_text
from baselines.errors import UserError

ACCURACIES = {
    ("dense", False): [0.97, 0.98],
    ("random", False): [0.90, 0.92, 0.91],
    ("random", True): [0.93, 0.95, 0.97],
    ("50% & more", False): [0.5],
}


def write_run(
    root, label, accuracy, seed=0, sign_in=False, sparsity=0.9, recipe="digits", **fields
):
    """Write the folder of a finished run, or of a failed run if the accuracy is None."""
    method = label.split(" ")[0] if "method" not in fields else fields.pop("method")
    folder = root / f"{recipe}-{label}-{sign_in}-{sparsity}-{seed}".replace("/", "")
    folder.mkdir(parents=True)
    options = fields.pop("options", {})
    settings = {"epochs": 10, "lr": 0.1, "model": "m", **fields.pop("settings", {}), **fields}
    run = {"recipe": recipe, "method": method, "options": options, "settings": settings}
    run |= {"sparsity": sparsity, "sign_in": sign_in, "seed": seed, "exclude": []}
    (folder / "config.json").write_text(json.dumps({"run": run, "label": label}))
    if accuracy is None:
        (folder / "failure.json").write_text('{"reason": "Diverged: NaN"}')
    else:
        result = {"accuracy": accuracy, "sparsity": sparsity, "sparsity_all": sparsity}
        result |= {
            "seconds": 1.0,
            "epochs": settings["epochs"],
            "dense_epochs": 1.5,
            "training_flops": 3e9,
        }
        result |= {"flops": 1e5, "dense_flops": 1e6}
        (folder / "result.json").write_text(json.dumps(result))
    return folder


@pytest.fixture
def folders(tmp_path):
    for (label, sign_in), values in ACCURACIES.items():
        for seed, accuracy in enumerate(values):
            sparsity = 0.0 if label == "dense" else 0.9
            write_run(tmp_path, label, accuracy, seed, sign_in, sparsity)
    return list_runs(tmp_path)


def test_compare_gives_mean_and_sample_deviation(folders):
    table = aggregate(load_runs(folders)).set_index(["label", "sign_in"])
    for key, values in ACCURACIES.items():
        row = table.loc[key]
        assert row["accuracy"] == pytest.approx(100 * statistics.mean(values))
        assert row["runs"] == len(values)
        if len(values) > 1:
            assert row["std"] == pytest.approx(100 * statistics.stdev(values))
        else:
            assert pd.isna(row["std"])
    assert table["best"].to_dict() == {
        ("dense", False): True,
        ("random", False): False,
        ("random", True): True,
        ("50% & more", False): False,
    }


def test_gain_is_over_runs_of_the_same_seed(folders):
    table = aggregate(load_runs(folders)).set_index(["label", "sign_in"])
    differences = [
        100 * (b - a)
        for a, b in zip(ACCURACIES["random", False], ACCURACIES["random", True], strict=True)
    ]
    row = table.loc[("random", True)]
    assert row["gain"] == pytest.approx(statistics.mean(differences))
    assert row["gain_std"] == pytest.approx(statistics.stdev(differences))
    assert table["gain"].notna().sum() == 1
    only_plain = [f for f in folders if "True" not in f.name]
    assert aggregate(load_runs(only_plain))["gain"].isna().all()


def test_a_gain_that_rounds_to_zero_has_no_minus():
    row = {"gain": -0.004, "gain_low": -0.5, "gain_high": 0.0}
    assert gain_text(row) == "+0.00 [-0.50, +0.00]"
    assert gain_text({**row, "gain_low": float("nan")}) == "+0.00"
    narrow = {"gain": 0.5, "gain_low": 0.4951, "gain_high": 0.5049}
    assert gain_text(narrow) == "+0.50 [+0.4951, +0.5049]"
    assert gain_text({**row, "gain": -0.006}) == "-0.01 [-0.50, +0.00]"


def test_the_rule_is_in_the_rows_or_in_the_columns(tmp_path):
    for sparsity in (0.8, 0.9):
        for sign_in in (False, True):
            write_run(tmp_path, "random", sparsity + sign_in / 100, 0, sign_in, sparsity)
    runs = load_runs(list_runs(tmp_path))
    usual, named = (make_table("compare", runs, r) for r in (("method",), ("method", "rule")))
    assert usual.render("text") == named.render("text")
    matrix, details = make_table("compare", runs, ("method", "sparsity"), ("rule",)).sheets
    found = matrix.cells.set_index("sparsity")[["rule = none", "rule = Sign-In"]]
    assert found.T.to_dict("list") == {"0.8": ["80.00", "81.00"], "0.9": ["90.00", "91.00"]}
    assert list(details.cells.columns).count("rule") == 0
    assert details.cells["accuracy"].tolist() == ["80.00", "90.00", "81.00", "91.00"]


def test_seeds_are_no_rows_or_columns(folders):
    for fields in ({"rows": ["method", "seed"]}, {"columns": ["sparsity", "seed"]}):
        with pytest.raises(UserError, match="means are over seeds"):
            make_table("compare", load_runs(folders), **fields)


def test_text_marks_the_best(folders):
    matrix, details = make_table("compare", load_runs(folders)).sheets
    text = to_text(details)
    assert [line for line in text.splitlines() if "**" in line] == [
        line for line in text.splitlines() if "97.50" in line or "95.00" in line
    ]
    assert "**95.00 ± 2.00**" in text and "+4.00 [" in text
    assert to_text(matrix, colour=True).count("\033[1m") == 2
    assert "| **95.00 ± 2.00** |" in render(matrix, "markdown")


def test_tables_of_one_rule_name_it(tmp_path):
    for label in ("random", "snip"):
        write_run(tmp_path / "plain", label, 0.9)
        write_run(tmp_path / "ours", label, 0.9, sign_in=True)
    found = []
    for name in ("plain", "ours"):
        (sheet,) = make_table("compare", load_runs(list_runs(tmp_path / name))).sheets
        assert sheet.title == "Accuracy in percent and cost"  # there are no gains
        found.append(["Sign-In" in note for note in sheet.notes if "in all rows" in note])
    assert found == [[False], [True]]


def test_notes_are_wrapped_to_the_terminal_only():
    frame = pd.DataFrame({"method": ["RigL"]})
    note, command = "word " * 30 + "word", "missing: signbench grid quick " + "--flag value " * 9
    sheet = Sheet("title", frame, frame == "", notes=[note, command])
    wide = to_text(sheet).splitlines()
    assert wide[-2:] == [note, command]
    lines = to_text(sheet, width=40).splitlines()
    assert lines[-1] == command and max(map(len, lines[:-1])) <= 40
    assert " ".join(line.strip() for line in lines[3:-1]) == note
    for form in ("markdown", "latex"):
        assert note in render(sheet, form, 40)


def test_stars_and_bars_of_texts_are_no_markdown(tmp_path):
    for seed, (ours, other) in enumerate([(0.9, 0.8), (None, None)]):
        write_run(tmp_path, "random", ours, seed)
        write_run(tmp_path, "mine|your", other, seed)
    text = make_table("compare", load_runs(list_runs(tmp_path))).render("markdown")
    assert r"| **90.00\*** |" in text and r"| mine\|your | 80.00\* |" in text
    assert "\n\n\\* some seeds failed and are not included" in text  # else an item of a list


def test_latex_marks_the_best(folders):
    text = make_table("compare", load_runs(folders)).render("latex")
    assert check_latex(text) == 2
    assert "\\bfseries 95.00 $\\pm$ 2.00" in text and "50\\% \\& more" in text


def test_written_csv_has_the_numbers(folders, tmp_path):
    runs = load_runs(folders)
    csv, tex = make_table("compare", runs).write(tmp_path / "out", "name")
    table = pd.read_csv(csv)
    assert len(table) == 4 and tex.exists()
    assert table["accuracy"].max() == pytest.approx(97.5)


def test_folders_that_cannot_be_read_are_named_in_one_line(folders):
    (folders[0] / "result.json").write_text('{"accuracy": 0.')
    (folders[1] / "config.json").write_text("[]")
    (folders[2] / "config.json").write_text('{"label": "x"}')
    (folders[3] / "result.json").write_text('{"accuracy": "high"}')
    with pytest.warns(UserWarning, match="left out") as warned:
        runs = load_runs(folders)
    assert len(warned) == 1
    assert all(folder.name in str(warned[0].message) for folder in folders[:4])
    assert len(runs) == len(folders) - 4


def test_what_cannot_be_told_from_the_best_is_marked(tmp_path):
    for label, values in {
        "a": [0.90, 0.91, 0.92, 0.91],
        "b": [0.905, 0.913, 0.917, 0.90],
        "c": [0.80, 0.81, 0.80, 0.81],
        "d": [0.905],
    }.items():
        for seed, accuracy in enumerate(values):
            write_run(tmp_path, label, accuracy, seed)
    table = aggregate(load_runs(list_runs(tmp_path))).set_index("label")
    assert table["best"].to_dict() == {"a": True, "b": False, "c": False, "d": False}
    assert table["tied"].to_dict() == {"a": False, "b": True, "c": False, "d": False}


def write_at(root, label, accuracy, seed, realised, tolerance=None, sparsity=0.9):
    """Write a run whose realised sparsity is not the requested one."""
    folder = write_run(root, label, accuracy, seed, sparsity=sparsity)
    result = json.loads((folder / "result.json").read_text()) | {"sparsity": realised}
    result |= {} if tolerance is None else {"tolerance": tolerance}
    (folder / "result.json").write_text(json.dumps(result))


def test_another_sparsity_than_requested_never_competes(tmp_path):
    for seed in range(3):
        write_at(tmp_path, "str (published)", 0.975 + seed / 1000, seed, 0.49, 0.0)
        write_at(tmp_path, "random", 0.95 + seed / 1000, seed, 0.9, 0.0)
        write_at(tmp_path, "srigl", 0.951 - seed / 1000, seed, 0.9049, 0.005)  # within tolerance
        write_at(tmp_path, "snip", 0.94 + seed / 1000, seed, 0.9008, 0.0)  # of rounding
        write_at(tmp_path, "set", 0.98 + seed / 1000, seed, 0.9 if seed else 0.88)  # one of three
    runs = load_runs(list_runs(tmp_path))
    table = make_table("compare", runs)
    found = table.numbers.set_index("label")
    assert found["best"].to_dict() == {name: name == "random" for name in found.index}
    missing = ["str (published)", "set"]
    assert found["misses"].to_dict() == {name: name in missing for name in found.index}
    assert not found["tied"][missing].any() and found["tied"]["srigl"]
    for form in ("text", "markdown", "latex", "html"):
        text = "".join(render(sheet, form) for sheet in table.sheets)
        mark = r"\$\^\\ddagger\$" if form == "latex" else "‡"
        assert re.search(rf"97\.60\s.{{0,9}}0\.10.{{0,3}}{mark}", text), text
        assert "its sparsity is not the requested one, but 0.8933, 0.4900" in text
    assert "misses" in table.render("csv").splitlines()[0]


def test_the_papers_tables_mark_another_sparsity(tmp_path):
    for seed in range(3):
        write_at(tmp_path, "random", 0.95, seed, 0.5, 0.0)
        write_run(tmp_path, "mw", 0.90, seed)
    runs = load_runs(list_runs(tmp_path))
    cells = paper_cells(runs, "11")
    cells = cells[cells["column"] == "s = 0.9"].set_index("row")
    assert cells["misses"]["Random"] and not cells["best"]["Random"]
    assert cells["best"]["Random + m ⊙ w"]
    (sheet,) = make_table("11", runs).sheets
    assert "95.00 ± 0.00‡ [" in to_text(sheet) and "but 0.5000" in to_text(sheet)


def test_gains_are_of_runs_at_the_requested_sparsity(tmp_path):
    for seed in range(3):
        write_at(tmp_path, "random", 0.95, seed, 0.5, 0.0)
        write_run(tmp_path, "random", 0.93, seed, True)
        write_run(tmp_path, "snip", 0.90, seed)
        write_run(tmp_path, "snip", 0.93 + seed / 1000, seed, True)
    table = aggregate(load_runs(list_runs(tmp_path))).set_index(["label", "sign_in"])
    assert pd.isna(table["gain"]["random", True])
    assert table["gain"]["snip", True] == pytest.approx(3.1)


def test_a_row_with_one_run_at_another_sparsity_has_no_gain(tmp_path):
    for seed in range(3):
        write_at(tmp_path, "random", 0.90, seed, 0.9 if seed else 0.8, 0.0)
        write_run(tmp_path, "random", 0.93, seed, True)
        write_run(tmp_path, "snip", 0.90, seed)
        write_run(tmp_path, "snip", 0.93, seed, True)
    runs = load_runs(list_runs(tmp_path))
    table = aggregate(runs).set_index(["label", "sign_in"])
    assert table["misses"]["random", False] and pd.isna(table["gain"]["random", True])
    assert table["gain"]["snip", True] == pytest.approx(3)


def test_equal_means_are_both_the_best(tmp_path):
    """Also if they differ by rounding, as these do: (0.7 + 0.8 + 0.9)/3 in another order."""
    for label, values in (("random", (0.7, 0.8, 0.9)), ("snip", (0.9, 0.8, 0.7))):
        for seed, value in enumerate(values):
            write_run(tmp_path, label, value, seed)
    write_run(tmp_path, "gmp", 0.5)
    table = aggregate(load_runs(list_runs(tmp_path))).set_index("label")
    assert table["best"].to_dict() == {"random": True, "snip": True, "gmp": False}
    assert not table["tied"].any()


def test_failed_runs_are_shown(tmp_path):
    for seed in range(3):
        write_run(tmp_path, "random", 0.9, seed)
        write_run(tmp_path, "gmp", None if seed else 0.8, seed)
        write_run(tmp_path, "str", None, seed)
    (sheet,) = make_table("compare", load_runs(list_runs(tmp_path))).sheets
    shown = dict(zip(sheet.cells["method"], sheet.cells["accuracy"], strict=True))
    assert shown == {"Random": "90.00 ± 0.00", "GMP": "80.00*", "STR": "failed"}
    assert "* some seeds failed and are not included in the mean" in sheet.notes


def test_a_seed_that_failed_and_was_repeated_has_not_failed(tmp_path):
    write_run(tmp_path / "a", "random", None, 0, sparsity=0.8)
    write_run(tmp_path / "b", "random", 0.9, 0, sparsity=0.8)
    write_run(tmp_path / "b", "random", None, 1, sparsity=0.8)
    runs = load_runs([*list_runs(tmp_path / "a"), *list_runs(tmp_path / "b")])
    for table in (aggregate(runs), paper_cells(runs, "3").query("runs > 0")):
        assert table[["runs", "failed"]].to_numpy().tolist() == [[1, 1]]


def test_runs_that_differ_in_something_else_are_not_mixed(tmp_path):
    for epochs, lr, n in ((5, 0.1, 1), (20, 0.2, 2)):
        for seed in range(n):
            write_run(tmp_path / str(epochs), "random", 0.9, seed, epochs=epochs, lr=lr)
    runs = load_runs([*list_runs(tmp_path / "5"), *list_runs(tmp_path / "20")])
    hint = r'differ in epochs \(20, 5\) and lr \(0.1, 0.2\).*--where "epochs=20" "lr=0.2"'
    with pytest.raises(UserError, match=hint):
        aggregate(runs)
    with pytest.raises(UserError, match=hint):
        make_table("3", runs)
    assert len(aggregate(select_runs(runs, ["epochs=20", "lr=0.2"]))) == 1
    assert len(aggregate(runs, rows=("method", "epochs", "lr"))) == 2


def test_runs_on_other_data_are_averaged_with_a_warning(tmp_path):
    def write(data, seed, digest, settings=None):
        settings = settings or {"data": data}
        folder = write_run(tmp_path / data, "random", 0.9, seed, settings=settings)
        config = json.loads((folder / "config.json").read_text()) | {"data_digest": digest}
        (folder / "config.json").write_text(json.dumps(config))
        return folder.rename(tmp_path / f"{data}-{seed}")

    folders = [write("birds", 0, "a" * 16), write("birds", 1, ""), write("cats", 0, "c" * 16)]
    folders.append(write_run(tmp_path, "random", 0.9, 2, settings={"data": "birds"}))  # earlier
    held_out = {"data": "birds", "validation": 0.1}  # of labels, without those held out
    folders.append(write("birds", 4, "d" * 16, held_out))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_table("compare", load_runs(folders))
    folders.append(write("birds", 3, "b" * 16))
    told = "runs of digits were trained on data with different digests, such as birds-0 and birds-3"
    with pytest.warns(UserWarning, match=told) as warned:
        table = make_table("compare", load_runs(folders)).numbers
    assert len(warned) == 1
    assert sorted(table["runs"]) == [1, 1, 4]


def test_runs_of_version_0_1_are_not_mixed_with_others(tmp_path):
    """They have no field for validation, and rescaled after late changes of masks."""
    now = {"sign_in": {"rescale_period": 1, "rescale_masks_late": False}, "validation": 0.0}
    then = {"sign_in": {"rescale_period": 1}}
    for label in ("rigl", "random"):
        write_run(tmp_path, label, 0.90, 0, True, settings=then)
        write_run(tmp_path, label, 0.80, 1, True, settings=now)
        write_run(tmp_path, label, 0.90, 0, settings=then)
        write_run(tmp_path, label, 0.80, 1, settings=now)
    runs = load_runs(list_runs(tmp_path))
    table = make_table("compare", runs).numbers
    field = "settings.sign_in.rescale_masks_late"
    late = table[(table["label"] == "rigl") & (table["rule"] == "Sign-In")].set_index(field)
    assert late["accuracy"].to_dict() == pytest.approx({False: 80, True: 90})
    assert table[table["label"] == "random"]["runs"].tolist() == [2, 2]  # masks do not change
    for seed in (2, 3):
        held_out = {**now, "validation": 0.1}
        write_run(tmp_path / "held out", "random", 0.5, seed, settings=held_out)
    runs = load_runs([*list_runs(tmp_path), *list_runs(tmp_path / "held out")])
    with pytest.raises(UserError, match=r"differ in validation \(0.0, 0.1\)"):
        aggregate(runs[runs["label"] == "random"])


def test_different_results_of_one_seed_are_not_dropped_silently(tmp_path):
    for i, accuracy in enumerate((0.9, 0.9, 0.8)):
        write_run(tmp_path / str(i), "fixed (a.pt)", accuracy)
    folders = [folder for part in sorted(tmp_path.iterdir()) for folder in list_runs(part)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert aggregate(load_runs(folders[:2]))["runs"].tolist() == [1]
    with pytest.warns(UserWarning, match="1 runs are not the only ones of their row and"):
        assert aggregate(load_runs(folders))["accuracy"].tolist() == [90]
    with pytest.warns(UserWarning, match="1 runs are not the only ones of their row and"):
        of_one_network(load_runs(folders))  # of figures


def test_runs_with_ham_are_rows_of_their_own_with_gains(tmp_path):
    for rule, more in (("", 0.0), ("Sign-In", 0.01), ("HAM", 0.02)):
        for seed in range(3):
            accuracy, settings = 0.5 + seed / 10 + more, {"ham": {"ham_alpha": 10.0}}
            settings = settings if rule == "HAM" else {"ham": {"ham_alpha": 200.0}} if seed else {}
            root = tmp_path / f"{rule}{seed}"
            folder = write_run(root, "random", accuracy, seed, rule == "Sign-In", settings=settings)
            config = json.loads((folder / "config.json").read_text())
            if seed or rule == "HAM":  # earlier versions do not have the field
                config["run"]["ham"] = rule == "HAM"
            (folder / "config.json").write_text(json.dumps(config))
    runs = load_runs([folder for root in sorted(tmp_path.iterdir()) for folder in list_runs(root)])
    numbers = aggregate(runs).set_index("rule")
    assert numbers["accuracy"].to_dict() == pytest.approx({"": 60, "HAM": 62, "Sign-In": 61})
    assert numbers["gain"].dropna().to_dict() == pytest.approx({"HAM": 2, "Sign-In": 1})
    by_field = aggregate(runs, ("method", "ham")).set_index("rule")["gain"].dropna()
    assert by_field.to_dict() == pytest.approx({"HAM": 2, "Sign-In": 1})
    (sheet,) = make_table("compare", runs).sheets
    assert list(sheet.cells[""]) == ["", "Sign-In", "HAM"]
    assert any(note.startswith("gain: Sign-In or HAM minus plain") for note in sheet.notes)
    assert "gain of HAM" in results_sheet(runs).cells
    (sheet,) = make_table("ham", runs).sheets
    assert list(sheet.cells["digits"])[:3] == ["Random", "Random + Sign-In", "Random + HAM"]
    cell = sheet.cells.set_index("digits")["s = 0.9"]["Random + HAM"]
    assert cell.startswith("62.00 ± 10.00") and cell.endswith("[72.72]")
    assert "arXiv 2506.02630" in "".join(sheet.notes) and "Table" not in sheet.title


def test_what_a_grid_varies_becomes_rows_and_columns(tmp_path):
    for i, (model, lr) in enumerate([("a", 0.1), ("a", 0.2), ("b", 0.1), ("b", 0.2)]):
        for seed in (0, 1):
            accuracy = 0.5 + i / 10 + seed / 100
            write_run(tmp_path / f"{i}", "random", accuracy, seed, model=model, lr=lr)
            more = tmp_path / f"{i}"
            write_run(more, "random", accuracy + 0.05, seed, True, model=model, lr=lr)
    write_run(tmp_path / "other", "random", 0.3, recipe="other", model="c")
    folders = [folder for root in sorted(tmp_path.iterdir()) for folder in list_runs(root)]
    table = make_table("compare", load_runs(folders))
    matrix, details = table.sheets
    found = table.numbers.set_index(["recipe", "settings.model", "settings.lr", "sign_in"])
    for i, (model, lr) in enumerate([("a", 0.1), ("a", 0.2), ("b", 0.1), ("b", 0.2)]):
        plain, ours = (found.loc[("digits", model, lr, sign_in)] for sign_in in (False, True))
        assert plain["accuracy"] == pytest.approx(50.5 + 10 * i)
        assert ours["gain"] == pytest.approx(5) and ours["best"] == (lr == 0.2)
    assert found.loc[("other", "c", 0.1, False), "runs"] == 1
    assert list(matrix.cells.columns[:2]) == ["recipe", "lr"]  # all rows have one method
    assert [c for c in matrix.cells.columns if "=" in c] == [
        "model = a",
        "model = b",
        "model = c",
    ]
    assert len(details.cells) == 9 and {"model", "lr"} <= set(details.cells.columns)


def test_runs_without_a_field_have_a_column_of_their_own(tmp_path):
    write_run(tmp_path, "random", 0.8)
    write_run(tmp_path, "rigl", 0.9, options={"drop_fraction": 0.3})
    for columns, heads in (
        (["drop_fraction"], ["drop_fraction = 0.3", "drop_fraction = none"]),
        (["sparsity", "drop_fraction"], ["drop_fraction = 0.3", "drop_fraction = none"]),
    ):
        matrix, _ = make_table("compare", load_runs(list_runs(tmp_path)), columns=columns).sheets
        assert [c for c in matrix.cells.columns if "=" in c] == heads
        assert matrix.cells[heads].values.tolist() == [["90.00", ""], ["", "80.00"]]
        assert matrix.bold[heads].values.tolist() == [[True, False], [False, True]]


def test_settings_of_sign_in_are_no_rows_of_plain_runs(tmp_path):
    """Plain runs pair with the runs of all settings of Sign-In; methods with factors have them."""
    for beta in (1.0, 2.0):
        settings = {"sign_in": {"beta": beta}}
        for seed in (0, 1):
            root = tmp_path / f"{beta}"
            write_run(root, "random", 0.8 + beta / 100, seed, True, settings=settings)
            write_run(root, "mw", 0.7 + beta / 100, seed, settings=settings)
            write_run(root, "mw", 0.7 + 1.5 * beta / 100, seed, True, settings=settings)
    for seed in (0, 1):
        write_run(tmp_path / "plain", "random", 0.8, seed, settings={"sign_in": {"beta": 1.0}})
    folders = [folder for root in sorted(tmp_path.iterdir()) for folder in list_runs(root)]
    table = make_table("compare", load_runs(folders)).numbers
    found = {
        (row["label"], row["sign_in"], row["settings.sign_in.beta"]): (row["accuracy"], row["gain"])
        for row in table.fillna(-1).to_dict("records")
    }
    expected = {
        ("mw", False, 1.0): (71, -1),
        ("mw", False, 2.0): (72, -1),
        ("mw", True, 1.0): (71.5, 0.5),
        ("mw", True, 2.0): (73, 1),
        ("random", False, -1): (80, -1),
        ("random", True, 1.0): (81, 1),
        ("random", True, 2.0): (82, 2),
    }
    assert found.keys() == expected.keys()
    assert all(found[key] == pytest.approx(expected[key]) for key in expected)


def test_repeated_plain_runs_do_not_take_the_settings_of_sign_in(tmp_path):
    """Such as those that kept other snapshots: they are one row, and have all gains."""
    for seed in range(3):
        for beta in (1.0, 2.0):
            more = {"settings": {"sign_in": {"beta": beta}}}
            accuracy = 0.8 + beta / 100 + (seed - 1) / 1000
            write_run(tmp_path / f"{beta}", "random", accuracy, seed, True, **more)
        write_run(tmp_path / "plain", "random", 0.8, seed, settings={"sign_in": {"beta": 1.0}})
    write_run(tmp_path / "again", "random", 0.8, 0, settings={"sign_in": {"beta": 1.0}})
    folders = [folder for root in sorted(tmp_path.iterdir()) for folder in list_runs(root)]
    table = aggregate(load_runs(folders), ("method", "beta"))
    assert table[["rule", "runs"]].to_numpy().tolist() == [["Sign-In", 3], ["Sign-In", 3], ["", 3]]
    gains = table.dropna(subset="gain").set_index("settings.sign_in.beta")
    assert gains["gain"].to_dict() == pytest.approx({1.0: 1, 2.0: 2})
    assert gains["gain_low"].notna().all()  # of three seeds


def test_an_own_method_that_trains_factors_has_their_settings(tmp_path):
    """Its runs say so; those of rescaling have no effect without Sign-In."""
    for beta in (1.0, 2.0):
        for until in (0.25, 0.5):
            root = tmp_path / f"{beta} {until}"
            settings = {"sign_in": {"beta": beta, "rescale_until": until}}
            path = write_run(root, "mine", beta / 10, settings=settings) / "config.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {"factorised": True}))
    folders = [folder for root in sorted(tmp_path.iterdir()) for folder in list_runs(root)]
    numbers = make_table("compare", load_runs(folders)).numbers
    assert numbers[["settings.sign_in.beta", "accuracy"]].to_numpy().tolist() == [[1, 10], [2, 20]]


def test_str_with_other_constants_is_another_row(tmp_path):
    """Constants follow from recipe and sparsity, unless they were calibrated again."""
    for sparsity in (0.8, 0.9):
        for seed in range(5):
            again = sparsity == 0.9 and seed > 2
            options = {"options": {"calibrated": [-20.0 * sparsity, 0.1 if again else 0.09]}}
            write_run(tmp_path, "str", 0.9 - 0.1 * again, seed, sparsity=sparsity, **options)
            write_run(tmp_path, "random", 0.7, seed, sparsity=sparsity)
    runs = load_runs(list_runs(tmp_path))
    with pytest.raises(UserError, match=r'differ in calibrated .*"calibrated=\[-18.0, 0.09\]"'):
        aggregate(runs)
    chosen = select_runs(runs, ["calibrated!=[-18.0, 0.1]"])
    assert aggregate(chosen)["runs"].tolist() == [5, 5, 5, 3]
    table = make_table("compare", runs).numbers
    own = table[table["label"] == "str"].fillna({"options.calibrated": ""})
    assert own.set_index("options.calibrated")["accuracy"].to_dict() == pytest.approx(
        {"": 90, "[-18.0, 0.09]": 90, "[-18.0, 0.1]": 80}
    )


def test_gains_do_not_depend_on_how_rows_are_told_apart(folders):
    runs = load_runs(folders)
    for fields in ({"rows": ("method", "sign_in")}, {"columns": ("sparsity", "sign_in")}):
        numbers = make_table("compare", runs, **fields).numbers
        assert numbers["gain"].dropna().tolist() == pytest.approx([4])


def test_decays_of_runs_with_factors_are_compared_with_those_of_the_others(tmp_path):
    def notes():
        (sheet,) = make_table("compare", load_runs(list_runs(tmp_path))).sheets
        return [note for note in sheet.notes if "decays" in note]

    own = {"frobenius_decay": 1e-4, "sign_in_weight_decay": 0.0}
    settings = {"settings": {"weight_decay": 1e-4, "sign_in": own}}
    write_run(tmp_path, "random", 0.9, **settings)
    write_run(tmp_path, "random", 0.9, sign_in=True, **settings)
    told = "unequal weight decays on digits: of normalisation and biases 0.0001 plain, 0 with "
    assert notes() == [f"{told}Sign-In (see grid decay)"]
    write_run(tmp_path, "mw", 0.9, **settings)
    assert notes() == [f"{told}factors m ⊙ w (see grid decay)"]


def test_the_decay_of_ham_is_compared_with_that_of_plain_runs(tmp_path):
    def notes():
        (sheet,) = make_table("compare", load_runs(list_runs(tmp_path))).sheets
        return [note for note in sheet.notes if "decays" in note]

    def write(name, ham=False, **choices):
        folder = write_run(tmp_path, "random", 0.9, settings=settings, **choices)
        config = json.loads((folder / "config.json").read_text())
        if ham:
            config["run"]["ham"] = True
            config["decays"] = {"theta": 2e-4, "others": 1e-4}
        (folder / "config.json").write_text(json.dumps(config))
        folder.rename(tmp_path / name)

    own = {"frobenius_decay": 1e-4, "sign_in_weight_decay": 0.0}
    settings = {"weight_decay": 1e-4, "sign_in": own}
    write("plain")
    write("ham", ham=True)
    told = "unequal weight decays on digits: of θ 0.0001 plain, 0.0002 with HAM"
    assert notes() == [f"{told} (see ham_beta)"]
    write("sign-in", sign_in=True)
    others = "of normalisation and biases 0.0001 plain, 0 with Sign-In"
    assert notes() == [f"{told}; {others} (see ham_beta and grid decay)"]


def test_the_report_has_unequal_decays_beside_its_gains(tmp_path):
    own = {"frobenius_decay": 0.1, "sign_in_weight_decay": 0.0}
    for sign_in in (False, True):
        settings = {"weight_decay": 1e-4, "sign_in": own}
        write_run(tmp_path, "random", 0.9, sign_in=sign_in, settings=settings)
    notes = results_sheet(load_runs(list_runs(tmp_path))).notes
    assert [note for note in notes if note.startswith("unequal weight decays on digits: of θ")]


def test_a_mixed_recipe_does_not_block_the_others(tmp_path):
    for epochs in (5, 20):
        write_run(tmp_path / f"{epochs}", "random", 0.9, epochs=epochs)
    write_run(tmp_path / "20", "random", 0.8, recipe="cifar10-resnet20")
    runs = load_runs([*list_runs(tmp_path / "5"), *list_runs(tmp_path / "20")])
    with pytest.warns(UserWarning, match="left out: runs of digits differ in epochs"):
        cells = paper_cells(runs, "3")
    assert set(cells["recipe"]) == {"cifar10-resnet20"}
    assert cells["accuracy"].max() == 80
    compared = make_table("compare", runs).numbers
    assert len(compared) == 3 and set(compared["recipe"]) == {"digits", "cifar10-resnet20"}


def test_a_run_that_has_only_begun_removes_no_recipe_from_a_numbered_table(tmp_path):
    write_run(tmp_path, "random", 0.8, recipe="cifar10")
    for recipe, model in (("cifar10", "other"), ("digits", "m")):
        begun = write_run(tmp_path / "begun", "random", 0.9, recipe=recipe, epochs=1, model=model)
        (begun / "result.json").unlink()
    runs = load_runs([*list_runs(tmp_path), *list_runs(tmp_path / "begun")])
    cells = paper_cells(runs, "3").set_index(["recipe", "row", "column"])
    assert cells["accuracy"].dropna().to_dict() == {("cifar10", "Random", "s = 0.9"): 80}
    assert set(cells["network"]) == {"m", ""}
    assert set(cells.index.get_level_values("recipe")) == {"cifar10", "digits"}  # all missing


def test_numbered_tables_have_our_cells_and_the_papers(tmp_path):
    for seed, accuracy in enumerate([0.85, 0.87]):
        write_run(tmp_path, "random", accuracy, seed, recipe="cifar10-resnet20")
    write_run(tmp_path, "random", None, 2, recipe="cifar10-resnet20")
    write_run(tmp_path, "random", 0.9, 0, sparsity=0.8, recipe="digits")
    runs = load_runs(list_runs(tmp_path))
    table = paper_cells(runs, "3").set_index(["recipe", "row", "column"])
    ours = table.loc[("cifar10-resnet20", "Random", "s = 0.9")]
    assert ours["accuracy"] == pytest.approx(86) and ours["std"] == pytest.approx(math.sqrt(2))
    assert (ours["runs"], ours["failed"], ours["paper"]) == (2, 1, 86.25)
    assert pd.isna(table.loc[("cifar10-resnet20", "Random + Sign-In", "s = 0.9"), "accuracy"])
    cifar, digits = make_table("3", runs).sheets
    text = to_text(cifar)
    assert "**86.00 ± 1.41* [86.25 ± 0.30]**" in text
    assert "missing [87.83 ± 0.11]" in text and "some seeds failed" in text
    assert "missing: signbench table 3 shows how to train them" in text
    asked = []

    def command(number, recipe, folders):
        asked.append((number, recipe, len(folders)))
        return f"signbench grid table{number}"

    shown = [to_text(sheet) for sheet in make_table("3", runs, command=command).sheets]
    assert asked == [("3", "cifar10-resnet20", 3), ("3", "digits", 1)]
    assert all("missing: signbench grid table3" in sheet for sheet in shown)
    assert "90.00 [88.25 ± 0.35]" in to_text(digits)
    assert "[" not in to_text(make_table("3", runs, paper=False).sheets[0])
    assert len(make_table("9", load_runs([])).sheets) == 2  # only the paper's values


def test_a_best_row_of_few_seeds_is_why_there_are_no_marks(tmp_path):
    def sheets():
        runs = load_runs(list_runs(tmp_path))
        made = [make_table(name, runs).sheets for name in ("compare", "3")]
        return [*made[0], *made[1], results_sheet(runs)]

    for sparsity in (0.8, 0.9):
        for seed in range(3):
            write_run(tmp_path, "random", 0.9 + seed / 100, seed, sparsity=sparsity)
            write_run(tmp_path, "random", 0.9, seed, True, sparsity=sparsity)
    assert not any("fewer than three" in note for sheet in sheets() for note in sheet.notes)
    write_run(tmp_path, "snip", 0.95)
    write_run(tmp_path, "random", 0.9, sparsity=0.95)
    for sheet in sheets():
        (note,) = [note for note in sheet.notes if "fewer than three" in note]
        assert note.endswith("none at all if the best row has fewer")


def test_gains_without_an_interval_are_explained(tmp_path):
    for seed in range(3):
        write_run(tmp_path, "random", 0.9, seed)
        write_run(tmp_path, "random", 0.91 + seed / 100, seed, True)
    for sign_in in (False, True):
        write_run(tmp_path, "snip", 0.9, sign_in=sign_in)
    runs = load_runs(list_runs(tmp_path))
    for shown, told in (
        (runs[runs["label"] == "random"], "interval"),
        (runs, "same for all of them"),
    ):
        notes = make_table("compare", shown).sheets[-1].notes
        assert next(note for note in notes if note.startswith("gain")).endswith(told)


def test_cells_of_fewer_seeds_are_named_and_completed(tmp_path):
    def notes():
        (sheet,) = make_table("3", load_runs(list_runs(tmp_path)), paper=False).sheets
        return [note for note in sheet.notes if "fewer seeds than" in note or "missing" in note]

    recipe, sparsities = {"recipe": "imagenet-resnet50"}, (0.8, 0.9, 0.95)
    folders = [
        write_run(tmp_path, "random", 0.7 - sparsity / 10, seed, sign_in, sparsity, **recipe)
        for sparsity in sparsities
        for sign_in in (False, True)
        for seed in range(3)
    ]
    assert notes() == []
    for folder in (folders[5], folders[16], folders[17]):  # their jobs were killed
        (folder / "result.json").unlink()
    told = (
        "fewer seeds than in other cells (3): Random + Sign-In, s = 0.8 (2); "
        "Random + Sign-In, s = 0.95 (1)"
    )
    command = "missing: signbench table 3 shows how to train them"
    assert notes() == [told, command]
    (folders[5] / "failure.json").write_text('{"reason": "NaN"}')  # trained, marked with *
    assert notes() == [told.replace("Random + Sign-In, s = 0.8 (2); ", ""), command]


def test_table_one_finds_its_rows(tmp_path):
    base = write_run(tmp_path, "gmp", 0.9, epochs=20)
    for i, (signs, magnitudes) in enumerate(
        [("@2", ""), ("@6", ""), ("@final", ""), ("", "@2"), ("", "@final"), ("", "")]
    ):
        options = {"mask": f"{base.name}@final", "others": "", "init": "", "flip_signs": 0.0}
        options |= {"signs": signs and base.name + signs, "magnitude_kind": "each"}
        options |= {"magnitudes": magnitudes and base.name + magnitudes}
        parts = (options["mask"], *filter(None, (options["signs"], options["magnitudes"])))
        label = f"fixed ({', '.join(parts)})"
        write_run(tmp_path, label, i / 10, 1000, epochs=20, options=options, method="fixed").rename(
            tmp_path / f"fixed{i}"
        )
    runs = load_runs(list_runs(tmp_path))
    assert {"fixed (gmp@final, signs=gmp@2)", "fixed (gmp@final, magnitudes=gmp@2)"} <= {
        *runs["label"]
    }
    assert aggregate(runs)["accuracy"].round().tolist() == [50, 30, 40, 0, 10, 20, 90]
    assert table_of_grid("table1", runs) == "1"
    cells = paper_cells(runs, "1")
    assert cells["paper"].notna().sum() == 21
    table = cells.set_index(["row", "column"])["accuracy"]
    expected = {
        "Baseline": 90,
        "Epoch 2 of 20 (10 %) sign + learned mask": 0,
        "Epoch 6 of 20 (30 %) sign + learned mask": 10,
        "Final sign + learned mask": 20,
        "Epoch 2 of 20 (10 %) mag + learned mask": 30,
        "Final mag + learned mask": 40,
        "Random init + learned mask": 50,
    }
    assert table.xs("GMP", level="column").to_dict() == pytest.approx(expected)
    assert table.xs("AC/DC", level="column").isna().all()
    assert not any("kept weights" in note for note in paper_sheets(cells, runs, "1")[0].notes)
    layers = "epoch,layer,weights,active,density,nonzero,drawn_signs,zero_magnitudes\n"
    layers += "".join(f"{e},{w},100,20,0.2,20,{d},0\n" for e in (0, 1) for w, d in ("a3", "b2"))
    (tmp_path / "fixed0" / "layers.csv").write_text(layers)
    cells = paper_cells(runs, "1")
    assert cells["drawn_signs"].sum() == 0.125
    (note,) = [n for n in paper_sheets(cells, runs, "1")[0].notes if "kept weights" in n]
    assert note == (
        "kept weights with a sign drawn at random, as the source has a zero: "
        "GMP, Epoch 2 of 20 (10 %) sign + learned mask 12.5%"
    )
    (tmp_path / "fixed1" / "layers.csv").write_text("epoch,layer\nnone,a\n")
    with pytest.warns(UserWarning, match="not counted in the notes on kept weights: .*fixed1"):
        damaged = paper_cells(runs, "1")
    pd.testing.assert_frame_equal(damaged, cells)  # the table is shown, without that run's share


def test_a_run_under_two_labels_is_counted_once(tmp_path):
    """Random magnitudes are the default of a fixed mask, and can be given, too."""
    fixed = {"init": "", "others": "", "flip_signs": 0.0, "magnitude_kind": "each", "signs": ""}
    accuracies = [0.90, 0.92, 0.94]
    for seed, accuracy in enumerate(accuracies):
        base = write_run(tmp_path, "gmp", 0.95, seed)
        for magnitudes in ("", "random") if seed == 0 else ("",):
            options = fixed | {"mask": f"{base.name}@final", "magnitudes": magnitudes}
            label = f"fixed {magnitudes}"
            write_run(tmp_path, label, accuracy, 1000 + seed, options=options, method="fixed")
    runs = load_runs(list_runs(tmp_path))
    assert table_of_grid("table10", runs) == "10"  # which has no place for the masks' own runs
    cells = paper_cells(runs, "1").set_index(["row", "column"])
    cell = cells.loc[("Random init + learned mask", "GMP"), :]
    assert (cell["accuracy"], cell["runs"]) == (pytest.approx(92), 3)
    assert cell["std"] == pytest.approx(100 * statistics.stdev(accuracies))


def test_tables_have_only_transplants_from_one_run():
    part = {"at": "final", "run": "a"}
    run = {f"{name}.{key}": part[key] for name in ("mask", "signs") for key in part}
    run |= {"magnitudes.at": "random", "magnitudes.run": "", "mask.label": "gmp"}
    run |= {"options.init": "", "options.others": "", "options.magnitude_kind": "each"}
    run |= {"rule": "", "learner": False, "method": "fixed", "label": "fixed (gmp@final)"}
    run |= {"options.flip_signs": 0.0, "mask.early": (10, 30)}
    one, ten = LAYOUTS["1"].place, LAYOUTS["10"].place
    assert one(run) == ("Final sign + learned mask", "GMP")
    assert one({**run, "signs.run": "b"}) is None
    sizes = {"signs.at": "random", "signs.run": "", "magnitudes.at": "10", "magnitudes.run": "a"}
    assert one({**run, **sizes}) == ("Epoch 10 mag + learned mask", "GMP")
    assert one({**run, **sizes, "magnitudes.run": "b"}) is None
    fresh = {**run, "signs.at": "random", "signs.run": ""}
    assert one(fresh) == ("Random init + learned mask", "GMP") and ten(fresh) == ("GMP", "Random")
    of_snip = {**fresh, "mask.label": "snip", "label": "fixed (snip@final)"}
    assert ten(of_snip) == ("SNIP mask", "Random")  # not the row of SNIP itself
    assert ten({**fresh, "label": "snip", "method": "snip"}) == ("SNIP", "Random")
    early = {"signs.at": "40", "mask.early": (10, 40)}
    assert one({**run, **early}) == ("Epoch 30 sign + learned mask", "GMP")
    assert one({**run, **early, "signs.at": "30"}) is None
    others = {"options.init": "a@final"}  # whose biases and normalisation are learned
    assert one({**run, **others}) is one({**fresh, **others}) is ten({**fresh, **others}) is None


def test_rows_of_other_budgets_say_which_epoch_they_are():
    row = "Epoch 30 sign + learned mask"
    ten, acdc = (10, (1, 3)), (150, (10, 40))
    assert at_budget(row, {(100, (10, 30))}) == at_budget(row, set()) == row
    assert at_budget(row, {ten}) == "Epoch 3 of 10 (30 %) sign + learned mask"
    assert at_budget(row, {(5, (1, 2))}) == "Epoch 2 of 5 (40 %) sign + learned mask"
    assert at_budget(row, {acdc}) == "Epoch 40 of 150 (27 %) sign + learned mask"
    assert at_budget(row, {ten, acdc}) == "30 % of the epochs sign + learned mask"
    assert at_budget("Baseline", {ten}) == "Baseline"


def test_titles_name_the_network_that_was_trained(tmp_path):
    about = {"recipe": "imagenet-deit-small", "sparsity": 0.5, "data": "imagenet"}
    write_run(tmp_path, "random", 0.7, model="deit_small_patch16_224", **about)
    (sheet,) = make_table("4", load_runs(list_runs(tmp_path))).sheets
    assert sheet.title == "Table 4: random masks with Sign-In, DeiT Small on ImageNet"
    write_run(tmp_path / "b", "random", 0.7, model="mine", recipe="digits", data="digits")
    (sheet,) = make_table("4", load_runs(list_runs(tmp_path / "b"))).sheets
    assert sheet.title == "Table 4: random masks with Sign-In, mine on digits"


@pytest.mark.parametrize(
    ("number", "count", "cell"),
    [
        ("1", 21, ("imagenet-resnet50", "Epoch 30 sign + learned mask", "STR", 73.91)),
        ("3", 18, ("cifar100-resnet18", "Random + Sign-In", "s = 0.95", 72.51)),
        ("4", 2, ("imagenet-deit-small", "Random", "s = 0.5", 69.31)),
        ("5", 6, ("imagenet-resnet50", "AC/DC + Sign-In", "s = 0.9", 74.74)),
        ("9", 36, ("cifar10-resnet20", "SynFlow + Sign-In", "s = 0.95", 80.13)),
        ("10", 12, ("imagenet-resnet50", "SNIP", "Random + Sign-In", 54.27)),
        ("11", 27, ("cifar10-resnet20", "Random + m ⊙ w", "s = 0.8", 89.11)),
    ],
)
def test_the_papers_values(number, count, cell):
    table = paper_values(number)
    assert len(table) == count
    found = table.set_index(["recipe", "row", "column"])["accuracy"]
    assert found.index.is_unique and found.loc[cell[:3]] == cell[3]
    assert found.between(50, 92).all()


def test_every_layout_has_the_papers_values():
    assert {path.stem for path in VALUES.glob("*.csv")} == {f"table{number}" for number in LAYOUTS}
