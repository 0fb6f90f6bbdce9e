"""The choice of hyper-parameters by validation accuracy only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.alike import compared_columns, without_unused
from analysis.frame import ended_runs, find_column
from analysis.names import common_label, is_fixed, legend_entry
from analysis.references import SOURCE
from baselines.errors import UserError

VALIDATION = "result.validation_accuracy"
# settings that run folders have as values, and which follow other settings unless they are given
_DECAYS = ("settings.sign_in.frobenius_decay", "settings.sign_in.sign_in_weight_decay")
_FOLLOWED_BY = {"settings.weight_decay": _DECAYS, "settings.optimizer": _DECAYS}


@dataclass(frozen=True)
class Choice:
    """The runs that remain after a choice.

    Attributes:
        runs: those with the chosen values, and those without a choice. Labels do not have
            options that were chosen, so that rows of several values are of one method.
        columns: of the fields that were chosen.
        notes: what was chosen, and by which accuracies.
    """

    runs: pd.DataFrame
    columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def choose_by_validation(runs: pd.DataFrame, fields: Sequence[str]) -> Choice:
    """Choose the values of fields with the highest mean validation accuracy over seeds.

    There is one choice for each method, plain and with Sign-In or HAM, at each recipe, sparsity
    and value of all other fields. Values at which fewer seeds have a result than at others
    cannot be chosen. The decays of Sign-In are chosen together with weight_decay or optimizer,
    which they follow.

    Args:
        runs: from `analysis.frame.load_runs`.
        fields: names of settings or options, such as lr.

    Raises:
        UserError: a field is unknown, or there is a choice between runs without validation.
    """
    if not fields:
        return Choice(runs)
    ended = _with_sources(without_unused(ended_runs(runs)))
    columns = _with_followers([find_column(ended, name) for name in fields], ended)
    names, others = compared_columns(ended), _other_options(ended, columns)
    if others:  # label has all options
        names = [*others, *(name for name in names if name != "label")]
    keys = ["recipe", *(name for name in names if name not in columns)]
    parts, incomplete, considered = [], False, dict[str, set[object]]()
    for _, group in ended.groupby(keys, dropna=False, sort=False):
        candidates = group.groupby(list(columns), dropna=False)
        done = group[group["state"] == "finished"]
        if candidates.ngroups > 1 and len(done):
            best, left_out = _best(done, list(columns))
            tried = done.groupby(list(columns), dropna=False)
            incomplete |= left_out or tried.ngroups < candidates.ngroups
            for column in columns:
                considered.setdefault(column, set()).update(_values(group, column))
            found = group[list(columns)].astype(object)
            both_missing = found.isna() & pd.Series(best, dtype=object).isna().to_numpy()
            group = group[((found == best) | both_missing).all(axis=1)]
        parts.append(group)
    notes = _notes(runs, considered, incomplete)
    chosen = runs.loc[pd.concat(parts).index] if parts else ended
    if others:
        chosen = chosen.assign(label=_labels(ended, others))
    return Choice(chosen, columns, notes)


def _with_sources(runs: pd.DataFrame) -> pd.DataFrame:
    """Return runs whose options have methods instead of names of runs: the same for all seeds."""
    named = {c.removeprefix(SOURCE): runs[c] for c in runs.columns if c.startswith(SOURCE)}
    return runs.assign(**{key: values.fillna(runs[key]) for key, values in named.items()})


def _other_options(runs: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """Return the columns of method and options without the chosen ones; none if none is chosen."""
    options = [c for c in map(str, runs.columns) if c.startswith("options.")]
    return ["method", *(c for c in options if c not in columns)] if {*options} & {*columns} else []


def _labels(runs: pd.DataFrame, others: list[str]) -> pd.Series[str]:
    """Return labels without the options in which runs that are alike in `others` differ."""
    common = runs.groupby(others, dropna=False)["label"].transform(common_label)
    return runs["label"].where(runs["label"].map(is_fixed).astype(bool), common)


def _with_followers(columns: Sequence[str], runs: pd.DataFrame) -> tuple[str, ...]:
    """Return columns with those of the settings that follow them and of which runs have several."""
    more = [name for column in columns for name in _FOLLOWED_BY.get(column, ())]
    several = [name for name in more if name in runs and runs[name].nunique() > 1]
    return tuple(dict.fromkeys([*columns, *several]))


def _values(runs: pd.DataFrame, column: str) -> list[object]:
    """Return the values of a column, without those of settings that have no effect."""
    values = runs[column]
    return list((values.dropna() if column.startswith("settings.") else values).unique())


def _best(done: pd.DataFrame, columns: list[str]) -> tuple[list[object], bool]:
    """Return the values with the highest mean, and whether others have fewer seeds."""
    if VALIDATION not in done or done[VALIDATION].isna().any():
        names = ", ".join(column.rpartition(".")[2] for column in columns)
        raise UserError(
            f"{names} cannot be chosen: there are runs without validation accuracy. Train them "
            "with --validation 0.1, which holds out a tenth of the training examples."
        )
    groups = done.groupby(columns, dropna=False)
    seeds, means = groups["seed"].nunique(), groups[VALIDATION].mean()
    complete = means[seeds == seeds.max()]
    best = complete.idxmax()
    return list(best) if isinstance(best, tuple) else [best], len(complete) < len(means)


def _notes(
    runs: pd.DataFrame, considered: dict[str, set[object]], incomplete: bool
) -> tuple[str, ...]:
    if not considered:
        return ("nothing was chosen: each row has one value only",)
    parts = runs.get("settings.validation", pd.Series(dtype=float)).dropna().unique()
    held_out = " or ".join(f"{part:.0%}" for part in sorted(parts) if part)
    of = f" ({held_out} of the training examples)" if held_out else ""
    notes = [
        f"{column.rpartition('.')[2]} was chosen for each row among {_listed(values)}, by the mean "
        f"validation accuracy over seeds{of}"
        for column, values in considered.items()
        if values
    ]
    if incomplete:
        notes.append("values at which seeds failed or are missing were not considered")
    return tuple(notes)


def describe_choice(choice: Choice) -> list[str]:
    """Return a line for each method with its chosen values, for tables without such columns."""
    if not choice.columns:
        return []
    lines = []
    groups = without_unused(choice.runs).groupby(["recipe", "label", "rule", "sparsity"])
    several = choice.runs["recipe"].nunique() > 1
    for (recipe, label, rule, sparsity), group in groups:
        values = ", ".join(
            f"{column.rpartition('.')[2]} {_listed(values)}"
            for column in choice.columns
            if (values := _values(group, column))
        )
        if values:
            name, where = legend_entry(str(label), str(rule)), f" on {recipe}" if several else ""
            lines.append(f"{name} at {sparsity:g}{where}: {values}")
    return lines


def _listed(values: Iterable[object]) -> str:
    numbers = sorted(v for v in values if isinstance(v, (int, float)))
    texts = sorted(str(v) for v in values if not isinstance(v, (int, float)))
    return ", ".join([*(f"{number:g}" for number in numbers), *texts])
