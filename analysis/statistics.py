"""Statistics over seeds: means, which rows are the best, and the gains over plain runs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.alike import differing_fields, without_unused
from analysis.folder import CONFIG
from analysis.frame import ended_runs, find_column, one_per_seed
from analysis.gains import paired_gains, summarise_gains
from analysis.marks import mark_best
from analysis.names import RULES, SIGN_IN
from analysis.references import SOURCES
from analysis.selection import VALIDATION
from analysis.target import in_missing_rows, misses_target
from baselines.errors import UserError

_MEANS = {
    "realised_all": "result.sparsity_all",
    "epochs": "result.epochs",
    "dense_epochs": "result.dense_epochs",
    "training_flops": "result.training_flops",
    "flops": "result.flops",
    "dense_flops": "result.dense_flops",
    "seconds": "result.seconds",
}


def aggregate(
    runs: pd.DataFrame,
    rows: Sequence[str] = ("method",),
    columns: Sequence[str] = ("sparsity",),
    chosen: Sequence[str] = (),
) -> pd.DataFrame:
    """Return statistics over seeds by recipe and any fields, plain and with Sign-In or HAM.

    Args:
        runs: from `analysis.frame.load_runs`.
        rows, columns: names of fields. The best is the best row of a recipe and column.
        chosen: columns of fields whose value was chosen for each row (`analysis.selection`).

    Returns:
        One row per combination, with the columns of the fields, rule and sign_in, and

        accuracy, std, runs: mean and sample standard deviation in percent, and number of seeds; NaN
            and 0 if all runs have failed
        failed: number of runs that failed
        misses: whether a run has another sparsity than the requested one (`analysis.target`)
        best: whether the mean is the highest of its recipe and column, of rows that do not miss
        tied: whether `analysis.marks.compare_with` does not distinguish it from the best at 5 %;
            False if one of the two has fewer than three seeds
        gain, gain_low, gain_high, gain_std: accuracy with Sign-In or HAM minus that of the plain
            runs of the same seeds: mean, 95 % interval (`analysis.gains.intervals`) and sample
            standard deviation; NaN if one of the two rows misses the requested sparsity
        validation: mean accuracy on held-out training examples in percent, if there are any
        the columns `chosen`
        realised, realised_all, epochs, dense_epochs, training_flops, flops, dense_flops, seconds:
            means of the results' fields; NaN for fields that the results do not have

    Raises:
        UserError: no run has finished, a field is unknown, or runs differ in a field that is
            neither a row nor a column.
    """
    ended = without_unused(ended_runs(runs))
    row_fields, column_fields = (
        [find_column(ended, name) for name in names] for names in (rows, columns)
    )
    by = list(dict.fromkeys(["recipe", *column_fields, *row_fields, "rule"]))
    check_alike(ended, [*by, *chosen])
    ended = one_per_seed(ended, by)
    done, failed = ended[ended["state"] == "finished"], ended[ended["state"] == "failed"]
    table = accuracy_statistics(done, by, within=["recipe", *column_fields])
    groups = done.groupby(by, sort=True, dropna=False)
    for name, field in _MEANS.items():
        table[name] = groups[field].mean() if field in done else np.nan
    if VALIDATION in done:
        table["validation"] = 100 * groups[VALIDATION].mean()
    for name in chosen:
        table[name] = groups[name].first()
    counts = failed.groupby(by, dropna=False).size().rename("failed").reset_index()
    table = table.reset_index().merge(counts.astype(ended[by].dtypes), how="outer", on=by)
    table = table.sort_values(by, ignore_index=True, key=_in_order)
    table = table.fillna({"runs": 0, "failed": 0})
    table = table.astype({"runs": int, "failed": int})
    for name in ("misses", "best", "tied"):
        table[name] = table[name].eq(True)
    gains = summarise_gains(paired_gains(done[~in_missing_rows(done, by)], by)).reset_index()
    table = table.merge(gains.astype(table[by].dtypes), how="left", on=by)
    return table.assign(sign_in=table["rule"] == SIGN_IN)


def _in_order(column: pd.Series) -> pd.Series:
    """Return the keys that sort a column: rules as in `analysis.names.RULES`."""
    return column.map(RULES.index) if column.name == "rule" else column


def accuracy_statistics(done: pd.DataFrame, by: list[str], within: list[str]) -> pd.DataFrame:
    """Return accuracy, std, runs, misses, realised, best and tied, as `aggregate` describes them.

    Args:
        done: finished runs.
        by: columns whose combinations are the rows.
        within: those of them that define the groups in which the best is marked.
    """
    groups = done.groupby(by, sort=True, dropna=False)
    accuracy = groups["result.accuracy"]
    table = pd.DataFrame(
        {"accuracy": 100 * accuracy.mean(), "std": 100 * accuracy.std(), "runs": accuracy.size()}
    )
    by_seed = done.groupby([*by, "seed"], dropna=False)["result.accuracy"].mean()
    values = 100 * by_seed.unstack("seed").reindex(table.index)
    misses = misses_target(done).groupby([done[name] for name in by], dropna=False).any()
    table["misses"] = misses.reindex(table.index)
    table["realised"] = groups["result.sparsity"].mean() if "result.sparsity" in done else np.nan
    return pd.concat([table, mark_best(values, ~table["misses"], within)], axis=1)


def check_alike(runs: pd.DataFrame, by: Sequence[str]) -> None:
    """Check that the runs of a recipe differ only in the columns `by` and in their seeds.

    Warn if there are several runs of one seed, all else alike, with different results, if runs of
    the same data have recorded different digests of them, and if runs that are averaged start from
    runs that differ.

    Raises:
        UserError: they differ in other fields, which are named with a choice of values.
    """
    for recipe, fields in differing_fields(runs, by).items():
        own = without_unused(runs[runs["recipe"] == recipe])[list(fields)]
        own = own.dropna() if own.notna().all(axis=1).any() else own
        most = own.value_counts(dropna=False).index[0]  # a combination that exists
        names = ["method" if f == "label" else f.rpartition(".")[2] for f in fields]
        parts = [
            f"{name} ({', '.join(values[:4])})"
            for name, values in zip(names, fields.values(), strict=True)
        ]
        chosen = [f'"{name}={value}"' for name, value in zip(names, most, strict=True)]
        raise UserError(
            f"runs of {recipe} differ in {' and '.join(parts)}: choose with "
            f"--where {' '.join(chosen)}, or see all with signbench table compare."
        )
    done = runs[runs["state"] == "finished"]
    rows = list(dict.fromkeys(["recipe", *by]))
    _warn_of_repeats(done, rows)
    _warn_of_other_data(done)
    _warn_of_other_sources(done, rows)


def _warn_of_repeats(done: pd.DataFrame, by: Sequence[str]) -> None:
    """Warn of runs that are not shown: equal to another one, with its seed, but another result.

    Such runs train masks of runs that differ in their settings, or ran on other machines.
    """
    if not len(done):
        return
    keys = [*by, "seed"]
    results = done.groupby(keys, dropna=False)["result.accuracy"].transform("nunique")
    shown = done[results > 1].drop_duplicates(keys)
    if len(shown):
        warnings.warn(
            f"{len(shown)} runs are not the only ones of their row and seed, and the others have "
            f"other results, which are not shown: {Path(shown['folder'].iloc[0]).name}, …",
            stacklevel=3,
        )


def _warn_of_other_data(done: pd.DataFrame) -> None:
    """Warn of runs of one recipe and data set that have different digests of the data.

    Not an error: versions differ in the digest of the same data. Earlier runs have none.
    """
    if "data_digest" not in done:
        return
    fields = ("recipe", "settings.data", "settings.image_size", "settings.validation")
    keys = [field for field in fields if field in done]
    known = done[done["data_digest"].fillna("") != ""]
    for (recipe, *_), group in known.groupby(keys, dropna=False):
        folders = group.drop_duplicates("data_digest")["folder"]
        if len(folders) > 1:
            names = " and ".join(Path(folder).name for folder in folders[:2])
            warnings.warn(
                f"runs of {recipe} were trained on data with different digests, such as {names}: "
                f"other files, or another version of signbench; see data_digest in {CONFIG}.",
                stacklevel=3,
            )


def _warn_of_other_sources(done: pd.DataFrame, by: Sequence[str]) -> None:
    """Warn of runs that are averaged although the runs that they start from differ in settings."""
    if SOURCES not in done:
        return
    for _, group in done.groupby([*by], dropna=False):
        if group[SOURCES].nunique() > 1:
            first, second = group[SOURCES].unique()[:2]
            warnings.warn(
                f"runs of {group['label'].iloc[0]} are averaged, but start from runs that differ: "
                f"({first}) and ({second}).",
                stacklevel=3,
            )
