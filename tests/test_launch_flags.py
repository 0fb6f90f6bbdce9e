"""Flags from dataclasses, and which of them take lists."""

from __future__ import annotations

import pytest

from baselines.errors import UserError
from launch.commands.barrier import BarrierCommand
from launch.commands.grid import GridCommand
from launch.commands.run import RunCommand, parse_run
from launch.commands.sharpness import SharpnessCommand
from launch.commands.table import TableCommand
from launch.commands.transplant import TransplantCommand
from launch.config.run import Run
from launch.flags import list_flags, parse, values


@pytest.mark.parametrize(
    "kind, flags",
    [
        (GridCommand, {"--seeds", "--methods"}),
        (SharpnessCommand, {"--epochs"}),
        (TableCommand, {"--where", "--rows", "--columns"}),
    ],
)
def test_fields_that_are_tuples_take_lists(kind, flags):
    assert flags <= list_flags(kind).keys()


def test_epochs_is_a_list_only_where_it_is_one():
    found = list_flags(RunCommand, RunCommand(Run.make("digits", "random")))
    assert found["--exclude"] and found["--keep-epochs"] and "--epochs" not in found
    assert not found["--setup"] and not found["--slurm"]  # their values keep commas


def test_commas_and_spaces_separate_values():
    for line in (
        "--seeds 0,1 2",
        "--seeds=0,1,2",
        "--seeds 0 1 2",
        "--seeds 0 --epochs 1 --seeds 1,2",
        "--seeds=0 --seeds=1 2",
    ):
        flags = line.split()
        assert parse(GridCommand, flags, "grid").seeds == (0, 1, 2)


def test_commas_stay_in_commands_and_in_sbatch_parameters():
    cluster = parse_run(["--setup", "module load a,b", "cd x", "--slurm", "gres=a,b"]).cluster
    assert cluster.setup == ("module load a,b", "cd x") and cluster.slurm == ("gres=a,b",)


def test_conditions_add_up():
    flags = ["--where", "a=1,2", "b>3", "--rows", "a,b", "--where=c!=4"]
    given = parse(TableCommand, flags, "table")
    assert given.selection.where == ("a=1,2", "b>3", "c!=4") and given.rows == ("a", "b")


def test_values_of_a_flag_before_the_others_are_known():
    assert values(["--import", "a", "--x", "1", "--import=b"], "import") == ["a", "b"]
    assert values(["--import"], "import") == [] == values([], "import")


def test_the_last_method_gives_the_defaults():
    run = parse_run(["--method", "dense", "--method", "rigl", "--drop-fraction", "0.2"]).run
    assert run.method == "rigl" and run.options.drop_fraction == 0.2


@pytest.mark.parametrize(
    "kind, args, message",
    [
        (TransplantCommand, [], "--mask and --output must be given. See signbench x --help."),
        (BarrierCommand, ["--points", "2"], "points must be at least 3, not 2. See"),
        (BarrierCommand, ["--points", "a"], "--points takes a whole number, not 'a'. See"),
        (RunCommand, ["--lr", "a"], "--lr takes a number, not 'a'. See"),
    ],
)
def test_messages_have_no_names_of_classes_or_functions(kind, args, message):
    default = RunCommand(Run.defaults("digits", "rigl")) if kind is RunCommand else None
    with pytest.raises(UserError) as error:
        parse(kind, args, "signbench x NAME", default)
    assert str(error.value).startswith(message)
