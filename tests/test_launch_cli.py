"""The command line: its output, and one line instead of a traceback for every mistake."""

from __future__ import annotations

import csv
import json
import os
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from small_digits import small_digits

from analysis.names import name_of
from baselines.errors import UserError
from baselines.registry import methods
from launch.cli import main
from launch.commands.run import parse_run
from launch.config.grids import find_grid
from launch.config.recipes import RECIPES
from launch.config.run import Run
from launch.config.shell import run_command
from launch.training.check import check_runs


def test_help_needs_none_of_the_heavy_libraries():
    code = (
        "import sys; from launch.cli import main; main(['--help']); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'pandas', 'tyro', 'numpy')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "signbench COMMAND" in done.stdout


def test_listings_have_a_line_each(capsys):
    assert main(["methods"]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "epochs of digits at sparsity 0.9 (options: run --method NAME --help):"
    assert [line.split()[0] for line in lines] == list(methods())
    costs = {line.split()[0]: int(line.split()[1]) for line in lines}
    assert costs["dense"] == 20 and costs["lrr"] == 12 * 20
    assert main(["recipes"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(RECIPES)


def test_flags_become_a_run():
    flags = """--recipe cifar10-resnet20 --method=random --sparsity 0.95 --sign-in --seed 3
        --epochs 5 --density erk --beta 2 --keep-epochs 0,2 --exclude fc conv1 --workers 7"""
    given = parse_run(flags.split())
    run, machine = given.run, given.machine
    assert (run.recipe, run.method, run.sparsity, run.sign_in, run.seed) == (
        "cifar10-resnet20",
        "random",
        0.95,
        True,
        3,
    )
    assert run.settings.epochs == 5 and run.settings.model == "resnet20"
    assert run.options.density == "erk" and run.settings.sign_in.beta == 2.0
    assert run.keep_epochs == (0, 2) and run.exclude == ("fc", "conv1")
    assert machine.workers == 7
    assert parse_run(["--method", "mw", "--beta", "4"]).run.settings.sign_in.beta == 4.0


@pytest.mark.parametrize(
    "flags, name",
    [("--method mw --rescale-until 0.3", "rescale_until"), ("--method spred --beta 4", "beta")],
)
def test_settings_without_effect_that_are_part_of_the_name_are_a_warning(flags, name):
    """Grids train such runs; the command that makes one again names the same folder."""
    with pytest.warns(UserWarning, match=f"^{name} has no effect without --sign-in: add it, or"):
        run = parse_run(flags.split()).run
    assert run.name != parse_run(flags.split()[:2]).run.name
    with pytest.warns(UserWarning, match=name):
        assert parse_run(shlex.split(run_command(run))[2:]).run.name == run.name


def test_a_grid_and_begun_runs_may_have_a_momentum_without_effect(machine):
    run = Run.make("digits", "dense", optimizer="adamw", momentum=0.95)
    flags = ["--optimizer", "adamw", "--momentum", "0.95", "--runs", str(machine.runs)]
    check_runs([run], machine)
    with pytest.raises(UserError, match="momentum has no effect with adamw: leave it out"):
        parse_run(flags)
    (machine.runs / run.name).mkdir()
    assert parse_run(flags).run == run


def test_a_dry_run_says_what_is_to_train(tmp_path, capsys):
    flags = ["run", "--method", "random", "--epochs", "1", "--runs", str(tmp_path), "--dry-run"]
    assert main(flags) == 0 and capsys.readouterr().out.endswith(", 1 epochs\n")
    assert main(flags[:-1]) == 0
    capsys.readouterr()
    assert main(flags) == 0 and "has finished: nothing to train" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("grid table9 --recipe digits --epochs 5", "(27 of 54 runs: random, snip, synflow)"),
        ("grid table9 --recipe digits --epochs 10", ""),
        ("run --method random --sign-in --epochs 5", "for plain m ⊙ w."),
        ("run --method random --sign-in", ""),
    ],
)
def test_trainings_that_are_too_short_for_sign_in_are_told_before_they_start(
    tmp_path, capsys, command, told
):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert main([*command.split(), "--dry-run", "--runs", str(tmp_path)]) == 0
    texts = [str(w.message) for w in caught]
    assert len(texts) == bool(told) and all(text.endswith(told) for text in texts)


def test_one_run_from_the_shell(tmp_path, capsys):
    script = str(Path(sys.executable).with_name("signbench"))
    flags = ["run", "--method", "random", "--sign-in", "--epochs", "1", "--threads", "1", "--runs"]
    done = subprocess.run([script, *flags, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert main([*flags, str(tmp_path)]) == 0
    (result,) = (json.loads(file.read_text()) for file in tmp_path.glob("*/result.json"))
    for output, texts in (
        (done.stdout, ("epoch   1/1", "results in")),
        (capsys.readouterr().out, ("finished before",)),
    ):
        assert all(text in output for text in texts)
        assert output.count(f" {result['accuracy']:.2%}") == 1
        assert output.count(str(tmp_path)) == 1


def test_help_leads_to_the_options_of_a_method(capsys):
    shown = help_of(capsys, "run")
    assert "--method NAME --help lists the options" in shown and "fixed take masks" in shown
    assert {"--init", "--mask", "--signs"} <= set(
        help_of(capsys, "run", "--method", "fixed").split()
    )
    assert main(["methods", "fixed"]) == 2
    assert "signbench run --method fixed --help" in capsys.readouterr().err


def help_of(capsys, *command):
    """Return the help of a command on one line, without its frame."""
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--sparsity 1.2 --method random", "sparsity must be in [0, 1), not 1.2"),
        ("--sparsity lots", "--sparsity takes a number, not 'lots'"),
        ("--method randm", "unknown method 'randm', did you mean random"),
        ("--recipe digts", "unknown recipe 'digts', did you mean digits?"),
        ("--model resnet51", "unknown model 'resnet51', did you mean"),
        ("--epoch 5", "Perhaps you meant: --epochs"),
        ("--method random --density dense", "invalid choice 'dense'"),
        ("--data nowhere", "no folder data/nowhere/train"),
        ("--epochs -1", "epochs must be positive"),
        ("--seed", "Missing value for argument '--seed'"),
        ("--device tpu", "device must be auto, cpu, cuda or cuda:N, not 'tpu'"),
        ("--batch-size 99999", "above the 1198 training examples"),
        ("--exclude nothing", "'nothing' matches none of"),
        ("--method random --beta 4", "beta has no effect without --sign-in: add it, or leave beta"),
        ("--method rigl --ham --beta 4", "beta has no effect without --sign-in"),
        ("--method random --ham-alpha 3", "ham_alpha has no effect without --ham"),
        ("--optimizer adamw --nesterov", "nesterov has no effect with adamw: leave it out"),
        ("--runs /proc/no", "cannot write to /proc/no"),
    ],
)
def test_a_wrong_value_is_one_line_and_exit_code_2(capsys, monkeypatch, tmp_path, flags, message):
    monkeypatch.chdir(tmp_path)
    assert main(["run", *flags.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1 and error.startswith("signbench: error: ")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named(capsys, tmp_path):
    assert main(["run", "--device", "cuda", "--runs", str(tmp_path)]) == 2
    assert "no GPU 0: this machine has 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    "args, message",
    [
        (["trian"], "unknown command 'trian'"),
        (["grid"], "unknown grid ''"),
        (["grid", ""], "unknown grid ''"),
        (["grid", "quick", "--slots", "-1"], "slots must not be negative"),
        (["methods", "--sparsity", "2"], "sparsity must be in [0, 1)"),
        (["grid", "quik"], "did you mean quick?"),
        (["grid", "quick", "--recipe", "x"], "unknown recipe 'x'"),
        (["grid", "quick", "--seeds", "a"], "--seeds takes whole numbers, not 'a'"),
    ],
)
def test_other_commands_name_mistakes_too(capsys, args, message):
    assert main(args) == 2
    assert message in capsys.readouterr().err


def test_the_quick_grid_runs_every_method_and_ends_in_a_table(forked_workers, capsys, tmp_path):
    args = ["grid", "quick", "--epochs", "1", "--seeds", "0", "--runs", str(tmp_path)]
    args += ["--data", small_digits()["data"], "--set", "batch_size=144"]
    with pytest.warns(UserWarning, match="left out: str has no constants .* --epochs 1"):
        assert main([*args, "--slots", "2", "--threads", "1"]) == 0
    out = capsys.readouterr().out
    known = {name: method for name, method in methods().items() if name != "str"}
    for name, method in known.items():
        assert name_of(name) in out or not method.variants
    with (tmp_path / "tables" / "quick.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    # plain, with Sign-In and, where weights are plain, with HAM
    expected = sum(len(m.variants) * (3 - m.factorised) for m in known.values())
    assert len(rows) == expected and all(row["runs"] == "1" for row in rows)
    assert "\\toprule" in (tmp_path / "tables" / "quick.tex").read_text()


def test_a_run_that_fails_does_not_stop_the_grid(forked_workers, capsys, tmp_path):
    grid = tmp_path / "grid.yaml"
    grid.write_text("method: [dense, gmp, random]\nsparsity: 0.9")
    flags = [str(grid), "--epochs", "1", "--seeds", "0", "--runs", str(tmp_path)]
    flags += ["--slots", "2", "--threads", "1"]
    assert main(["grid", *flags]) == 0
    broken = next(p for p in tmp_path.iterdir() if "dense-seed0" in p.name)
    (broken / "result.json").unlink()
    (broken / "config.json").write_text('{"run": {"seed": 7}}')
    capsys.readouterr()
    assert main(["grid", *flags]) == 1
    output = capsys.readouterr()
    assert f"failed: {broken.name}: " in output.err and "other settings" in output.err
    assert "Random" in output.out


def test_a_seed_given_twice_is_one_run():
    assert len(find_grid("quick", seeds=(0, 0))) == len(find_grid("quick", seeds=(0,)))


def test_the_quick_grid_is_short_and_has_each_rule_that_a_method_takes():
    runs = find_grid("quick", methods=["rigl", "pilot"], seeds=(0,))
    assert [(run.method, run.sign_in, run.ham) for run in runs] == [
        *(("rigl", False, False), ("rigl", True, False), ("rigl", False, True)),
        *(("pilot", False, False), ("pilot", True, False)),
    ]
    assert {run.settings.epochs for run in runs} == {12}
    (run, *_) = find_grid("quick", recipe="cifar10-resnet20", methods=["rigl"])
    assert run.settings.epochs == RECIPES["cifar10-resnet20"].epochs


def test_packages_of_the_same_name_from_elsewhere_are_refused(tmp_path):
    (tmp_path / "signin").mkdir()
    (tmp_path / "signin" / "__init__.py").write_text("")
    code = "import sys; sys.path.insert(0, sys.argv[1]); from launch.cli import main; main(['run'])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert f"package 'signin' comes from {tmp_path}" in done.stderr


@pytest.mark.parametrize(
    ("given", "in_force"), [({}, True), ({"THP_MEM_ALLOC_ENABLE": "0"}, False)]
)
def test_torch_asks_for_huge_pages_unless_the_user_has_chosen(given, in_force):
    """torch aligns large CPU tensors to pages where it asks for huge ones, else to 64 bytes."""
    code = (
        "from launch.cli import main; main(['--help']); import torch; "
        "print(torch.empty(2**24).data_ptr() % 4096 == 0)"
    )
    plain = {k: v for k, v in os.environ.items() if k != "THP_MEM_ALLOC_ENABLE"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=plain | given
    )
    assert done.stdout.splitlines()[-1] == str(in_force), done.stderr
