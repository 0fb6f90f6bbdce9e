"""The printed command for missing cells trains exactly what is missing."""

from __future__ import annotations

import html
import re
import shlex

import pytest

import launch.config.run
from analysis.folder import list_runs
from launch.cli import main
from launch.commands.missing import missing_command
from launch.config.grid_parts import from_mask_of
from launch.config.run import Run
from launch.config.str_constants import Constants
from launch.runs.provenance import write_config

SETTINGS = "--batch-size 512 --lr 0.02 --exclude 8.weight --flip --threads 1"


@pytest.mark.parametrize(
    "number, method",
    [
        ("9", "snip --epochs 1 --sign-in --beta 0.5"),
        ("10", "random --epochs 1 --sign-in --beta 0.5"),
        ("1", "str --epochs 2"),
    ],
)
def test_the_command_completes_the_table(
    forked_workers, tmp_path, capsys, monkeypatch, number, method
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch.config.run, "find_constants", lambda _: Constants(-8.0, 0.1))
    root = ["--runs", "my runs"]
    flags = f"run --method {method} --sparsity 0.8 --seed 3 {SETTINGS}"
    assert main([*flags.split(), *root]) == 0
    capsys.readouterr()
    assert main(["table", number, *root, "--where", "recipe=digits"]) == 0
    shown = capsys.readouterr().out
    (line,) = re.findall("^missing: (signbench grid .*)$", shown, flags=re.M)
    words = shlex.split(line)[1:]
    assert main([*words, "--dry-run"]) == 0
    plan = capsys.readouterr().out.splitlines()
    done = {folder.name for folder in list_runs(tmp_path / "my runs")}
    assert {row.split("/")[-1].split(" (")[0] for row in plan if row.startswith("finished")} == done
    if number != "9":
        return  # STR's constants do not reach the sparsity in so short a training
    assert main([*words, "--slots", "2", "--threads", "1"]) == 0
    capsys.readouterr()
    assert main(["table", number, *root]) == 0
    assert "missing" not in capsys.readouterr().out


def test_every_setting_is_in_the_command(tmp_path):
    run = Run.make(
        "cifar10-resnet20",
        "random",
        sparsity=0.7,
        seed=4,
        sign_in=True,
        data="my images",
        model="resnet18",
        image_size=48,
        batch_size=96,
        flip=False,
        rescale_until=0.25,
    )
    folder = tmp_path / "runs" / run.name
    folder.mkdir(parents=True)
    write_config(folder, run)
    command = missing_command(tmp_path / "runs")
    assert shlex.split(command("9", "cifar10-resnet20", [folder])) == [
        *["signbench", "grid", "table9", "--recipe", "cifar10-resnet20", "--seeds", "4", "--runs"],
        str(tmp_path / "runs"),
        "--set",
        "data=my images",
        "model=resnet18",
        "image_size=48",
        "flip=false",
        "batch_size=96",
        "rescale_until=0.25",
    ]
    assert "--sparsity 0.7" in command("10", "cifar10-resnet20", [folder])
    assert command("9", "digits", []) == (
        f"signbench grid table9 --recipe digits --runs {tmp_path}/runs"
    )
    assert command("9", "a recipe of one's own", [folder]) == ""


@pytest.mark.parametrize("number", ["1", "10"])
def test_masks_of_other_methods_are_in_the_command(tmp_path, number):
    folders = []
    for method in ("snip", "gmp"):
        base = Run.make("digits", method, sparsity=0.8)
        for run in (base, from_mask_of(base)):
            folders.append(tmp_path / run.name)
            folders[-1].mkdir()
            write_config(folders[-1], run)
    command = missing_command(tmp_path)
    fixed = [folder for folder in folders if "fixed" in folder.name]
    assert "--methods acdc,rigl,str,gmp,snip " in command(number, "digits", fixed)
    assert "--methods" not in command(number, "digits", folders[:1])  # SNIP of Table 10 or 9


def test_the_report_has_the_command_of_the_table(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = "--data digits --model digits-cnn --image-size 8 --batch-size 512 --lr 0.02 --epochs 1"
    for method in ("random", "random --sign-in", "random --density legacy-balanced"):
        flags = f"--recipe cifar10-resnet20 --method {method} --sparsity 0.8 {own}"
        assert main(["run", *flags.split(), "--threads", "1", "--runs", "my runs"]) == 0
    capsys.readouterr()
    lines = {}
    for protocol in ("suite", "paper"):
        assert main(["table", "9", "--runs", "my runs", "--protocol", protocol]) == 0
        shown = capsys.readouterr().out
        found = re.findall("^missing: (signbench grid .*)$", shown, flags=re.M)
        (lines[protocol],) = (line for line in found if "cifar10-resnet20" in line)
    assert main(["report", "--runs", "my runs", "-o", "report.html"]) == 0
    page = html.unescape((tmp_path / "report.html").read_text())
    found = re.findall("missing: (signbench [^<]*)", page)
    assert found.count(lines["suite"]) == found.count(lines["paper"]) == 1
    assert all(line.startswith("signbench grid table") for line in found)
    capsys.readouterr()
    assert main([*shlex.split(lines["suite"])[1:], "--dry-run"]) == 0
    plan = capsys.readouterr().out.splitlines()
    assert sum(row.startswith("finished") for row in plan) == 2
