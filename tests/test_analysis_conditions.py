"""Conditions on runs, compared with plain Python expressions over the rows."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from analysis.conditions import parse_conditions, select_runs
from baselines.errors import UserError

RUNS = pd.DataFrame(
    [
        {
            "folder": Path(f"runs/{i}-{label.split(' ')[0]}"),
            "recipe": recipe,
            "method": label.split(" ")[0],
            "label": label,
            "sign_in": i % 2 == 1,
            "seed": i,
            "sparsity": sparsity,
            "settings.epochs": 5 * i,
            "options.density": "erk" if label == "snip" else None,
            "result.accuracy": None if i == 3 else 0.5 + i / 100,
            "state": "failed" if i == 3 else "finished",
        }
        for i, (recipe, label, sparsity) in enumerate(
            [
                ("digits", "dense", 0.0),
                ("digits", "random", 0.9),
                ("cifar10", "random (uniform)", 0.95),
                ("cifar100", "snip", 0.9),
                ("digits", "lrr (level_length=0.25, more=[1, 2])", 0.9),
            ]
        )
    ]
)


@pytest.mark.parametrize(
    "conditions, rows",
    [
        ([], [0, 1, 2, 3, 4]),
        (["method=snip"], [3]),
        (["method=snip,dense"], [0, 3]),
        (["method=snip", "method=dense"], [0, 3]),
        (["method=snip,dense,recipe=digits"], [0]),
        (["method!=dense"], [1, 2, 3, 4]),
        (["method!=dense,snip"], [1, 2, 4]),
        (["method!=dense", "method!=snip"], [1, 2, 4]),
        (["method=random"], [1]),
        (["method=random*"], [1, 2]),
        (["method=lrr"], [4]),
        (["method=lrr,snip"], [3, 4]),
        (["method!=lrr"], [0, 1, 2, 3]),
        (["method=lrr (level_length=0.25, more=[1, 2])"], [4]),
        (["method=none"], []),
        (["method!=none"], [0, 1, 2, 3, 4]),
        (["recipe=cifar*"], [2, 3]),
        (["recipe=CIFAR10"], [2]),
        (["recipe=cifar1?0"], [3]),
        (["recipe=cifar10[0]"], [3]),
        (["sparsity=.90"], [1, 3, 4]),
        (["sparsity=0.90,9e-1"], [1, 3, 4]),
        (["epochs=5.0"], [1]),
        (["sparsity>0.9"], [2]),
        (["sparsity >= 0.9"], [1, 2, 3, 4]),
        (["epochs>=5", "epochs<20"], [1, 2, 3]),
        (["epochs<=5"], [0, 1]),
        (["accuracy>0.5"], [1, 2, 4]),
        (["accuracy<1"], [0, 1, 2, 4]),
        (["accuracy="], [3]),
        (["density=erk"], [3]),
        (["density!=erk"], [0, 1, 2, 4]),
        (["sign_in=true", "seed=1,2"], [1]),
        (["folder=*random", "settings.epochs==10"], [2]),
        (["state=failed"], [3]),
        (["state!=fail*,stopped"], [0, 1, 2, 4]),
        (["state=failed,running"], [3]),
        (["state!=running"], [0, 1, 2, 3, 4]),
    ],
)
def test_conditions(conditions, rows):
    assert select_runs(RUNS, conditions).index.tolist() == rows


@pytest.mark.parametrize(
    "condition, rows",
    [
        ("method=AC/DC", [0, 1]),  # all, as none has this name
        ("method=AC/DC (final_phase=0.2)", [0]),
        ("method=Random + m ⊙ w,gmp mask", [2, 3]),
        ("method!=AC/DC,STR (target)", [2, 3, 5, 6]),
        ("method=Random", [5]),
        ("method=random*", [5, 6]),  # patterns are of labels, if any has one
        ("method=random +*", [2]),
        ("method=fixed", [3]),
    ],
)
def test_methods_are_found_by_their_names_in_tables(condition, rows):
    labels = ["acdc (final_phase=0.2)", "acdc (x=1)", "mw", "fixed (gmp@final)", "str-target"]
    labels += ["random", "random (uniform)"]
    runs = pd.DataFrame({"label": labels, "method": [label.split(" ")[0] for label in labels]})
    assert select_runs(runs, [condition]).index.tolist() == rows
    assert not len(select_runs(runs[:0], [condition]))


@pytest.mark.parametrize(
    "condition, message",
    [
        ("rigl", "--where takes FIELD=VALUE"),
        ("=rigl", "--where takes FIELD=VALUE"),
        ("epochs>many", "--where epochs>many: > takes one number"),
        ("epochs>1,2", "takes one number"),
        ("epochs => 5", "--where takes FIELD=VALUE"),
        ("epochs=<5", "--where takes FIELD=VALUE"),
        ("epochs>>5", "--where takes FIELD=VALUE"),
        ("state=running", "--where state=running: .* finished, failed, stopped here"),
        ("state=runing,x*", r"--where state=runing,x\*: .* finished, failed, stopped here"),
        ("method>=3", "--where method>=: method has texts, such as 'dense'"),
        (
            "epoch=5",
            r"unknown field 'epoch', did you mean epochs\? The runs differ in: .*sparsity",
        ),
    ],
)
def test_mistakes_say_what_is_allowed(condition, message):
    with pytest.raises(UserError, match=message):
        select_runs(RUNS, [condition])


def test_only_equalities_of_a_field_are_alternatives():
    found = parse_conditions(["a=1", "a!=2", "b=1", "a=3", "a!=4"])
    assert [(c.field, c.relation, c.values) for c in found] == [
        ("a", "=", ("1", "3")),
        ("a", "!=", ("2",)),
        ("b", "=", ("1",)),
        ("a", "!=", ("4",)),
    ]
