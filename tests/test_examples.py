"""The programs in examples/ run as their headers say."""

from __future__ import annotations

import re
import runpy
import warnings
from pathlib import Path

import pytest
from in_process import command, execute

ROOT = Path(__file__).parent.parent
EXAMPLES = {
    "own_loop": r"sparsity 0\.900\naccuracy 0\.[89]",
    "own_method": r"Sign-In False: 0\.\d+ at sparsity 0\.80\d\d\nSign-In True: .* 0\.80\d\d",
    "transplant_two_checkpoints": r"A, dense: 0\.[89].*\n.*A's signs \(100% equal\).*\n.*B's signs",
    "grid_from_python": r"8 runs, failed: \[\]\n(.*\n)+ *gmp  +True",
    "own_model": r"Sign-In False: 0\.[89]\d* of 66,\d+ .*\nSign-In True: 0\.[89]",
    "tabular_data": r"sparsity 0\.50: accuracy 0\.9\d+\n.*0\.9\d+\nsparsity 0\.95: accuracy 0\.9",
    "token_data": r"dense: accuracy (0\.9\d+|1\.000)\nsnip: accuracy (0\.[89]|1\.0)",
}
TRAINERS = {  # run in the process of the tests, which imports their packages once
    "huggingface_bert": r"at sparsity 0\.700\n(.*\n)*sparsity 0\.800\n(.*\n)*accuracy 0\.[78]",
    "huggingface_gpt2": r"sparsity 0\.800\n.* 7\d% zeros\none three five seven nine one",
    "huggingface_llama": r"sparsity 0\.800\n(.*\n)*2\.\d\d bits per character",
    "lightning_vit": r"sparsity 0\.800\naccuracy 0\.[6-9]",
}


def test_every_example_is_tested():
    assert {path.stem for path in ROOT.glob("examples/*.py")} == {*EXAMPLES, *TRAINERS}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs(forked_workers, tmp_path, name):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "only .* are prunable")
        printed = execute(ROOT / "examples" / f"{name}.py", tmp_path)
    assert re.search(EXAMPLES[name], printed), printed


def test_models_data_and_recipes_run_by_the_command_line(tmp_path):
    for line in (
        "--model own_model:PatchNet --method rigl --sign-in --epochs 1",
        "--data token_data:word_order --model token_data:WordNet --method snip --epochs 1 "
        "--exclude words.weight places.weight",
        f"--recipe {ROOT / 'examples' / 'own_recipe.yaml'} --method rigl",
    ):
        assert command(["run", *line.split()], ROOT / "examples", tmp_path) == 0
    names = [path.parent.name for path in tmp_path.glob("runs/*/result.json")]
    assert len(names) == 3 and any(name.startswith("own_recipe-rigl") for name in names)


@pytest.mark.parametrize("name", TRAINERS)
def test_example_of_a_trainer_runs(tmp_path, monkeypatch, capsys, name):
    package = "lightning" if name.startswith("lightning") else "transformers"
    pytest.importorskip(package, reason=f"no {package}")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    output = capsys.readouterr().out
    assert re.search(TRAINERS[name], output), output


def test_the_method_runs_by_the_command_line(tmp_path):
    line = "run --method own_method:RandomGradual --pruning-events 5 --epochs 1"
    assert command(line.split(), ROOT / "examples", tmp_path) == 0
    assert len(list(tmp_path.glob("runs/*/result.json"))) == 1
