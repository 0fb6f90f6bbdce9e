"""Figures of finished runs: those of the paper that are measured on trained networks, and two more.

Each takes runs from `analysis.frame.load_runs` and returns a matplotlib figure. Seeds become means
with a band or bar of one standard deviation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.figures.style import COLUMN, PAGE, look, save, subplots
from analysis.frame import finished, read_rows
from analysis.statistics import check_alike
from analysis.tables.numbered import name_of
from baselines.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FIGURES", "save"]

PHASES = {
    # columns of layers.csv, and whether at the warm-up's end or at the run's
    "init → warm-up": ("init", "warmup"),
    "warm-up → final": ("warmup", "final"),
    "init → final": ("init", "final"),
}
Group = tuple[str, bool]  # label, with Sign-In


def figure1(runs: pd.DataFrame) -> Figure:
    """Sign flips by phase: (a) methods that learn their masks, (b) masks trained from scratch."""
    flips = _per_run(runs, _flips_by_phase)
    scratch = flips["label"].map(_is_from_scratch)
    drawn, axes = subplots(2, PAGE, 2.1, sharey=True, gridspec_kw={"width_ratios": [1, 1.3]})
    titles = ("(a) dense to sparse", "(b) from scratch")
    for ax, part, title in zip(axes, (flips[~scratch], flips[scratch]), titles, strict=True):
        _bars(ax, part)
        ax.set(title=title, xlabel="", ylabel="sign flips (%)" if ax is axes[0] else "")
    _legend_below(drawn, axes)
    return drawn


def figure5(runs: pd.DataFrame) -> Figure:
    """(a) Sign flips since initialisation, (b) the largest Hessian eigenvalue, by epoch."""
    drawn, axes = subplots(2, PAGE, 2.3)
    _lines(axes[0], runs, "epochs.csv", "flips", 100)
    axes[0].set(title="(a) sign flips since initialisation", ylabel="flipped (%)")
    if _lines(axes[1], runs, "sharpness.csv", "sharpness", 1):
        axes[1].set(title="(b) sharpness", ylabel="largest Hessian eigenvalue", yscale="log")
    else:
        axes[1].set_axis_off()
        hint = "sharpness not measured yet:\nsignbench sharpness RUN"
        axes[1].text(0.5, 0.5, hint, ha="center", va="center", transform=axes[1].transAxes)
    _legend_below(drawn, axes)
    return drawn


def figure8(runs: pd.DataFrame) -> Figure:
    """Sign flips by layer in three stages."""
    flips = _per_run(runs, _flips_by_layer)
    drawn, axes = subplots(3, PAGE, 2.3, sharey=True)
    for ax, phase in zip(axes, PHASES, strict=True):
        _by_layer(ax, flips, phase)
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set(title=phase, xlabel="layer", ylabel="sign flips (%)" if ax is axes[0] else "")
    _legend_below(drawn, axes)
    return drawn


def figure9(runs: pd.DataFrame) -> Figure:
    """Sparsity by layer of all masks."""
    layers = _per_run(runs, _sparsity_by_layer)
    drawn, (ax,) = subplots(1, PAGE, 2.6)
    _by_layer(ax, layers, "sparsity")
    names = _layer_names(layers)
    step = max(1, len(names) // 27)
    shown = range(0, len(names), step)
    ax.set_xticks(
        list(shown), [names[i].removesuffix(".weight") for i in shown], rotation=60, ha="right"
    )
    ax.set(xlabel="", ylabel="sparsity (%)")
    _legend_below(drawn, [ax])
    return drawn


def curves(runs: pd.DataFrame) -> Figure:
    """Training loss and test accuracy by epoch."""
    drawn, axes = subplots(2, PAGE, 2.4)
    _lines(axes[0], runs, "epochs.csv", "train_loss", 1)
    axes[0].set(title="training loss", ylabel="cross entropy")
    _lines(axes[1], runs, "epochs.csv", "test_accuracy", 100)
    axes[1].set(title="test accuracy", ylabel="accuracy (%)")
    _legend_below(drawn, axes)
    return drawn


def compare(runs: pd.DataFrame) -> Figure:
    """Accuracy against sparsity: a line a method, dashed with Sign-In."""
    done = finished(runs)
    by = ["recipe", "label", "sign_in", "sparsity"]
    check_alike(done, by)
    done = done.drop_duplicates([*by, "seed"])
    drawn, (ax,) = subplots(1, COLUMN if _groups(done) <= 6 else PAGE, 2.8)
    values = sorted(done["sparsity"].unique())
    for (label, sign_in), group in _by_method(done):
        accuracy = 100 * group.groupby("sparsity")["result.accuracy"].agg(["mean", "std"])
        style = look(label, sign_in)
        x = [values.index(s) for s in accuracy.index]
        errors = accuracy["std"].fillna(0)
        ax.errorbar(x, accuracy["mean"], errors, label=_title(label, sign_in), capsize=2, **style)
    ax.set_xticks(range(len(values)), [f"{s:g}" for s in values])
    ax.set(xlabel="sparsity", ylabel="accuracy (%)", xlim=(-0.3, len(values) - 0.7))
    _legend_below(drawn, [ax])
    return drawn


FIGURES: dict[str, Callable[[pd.DataFrame], Figure]] = {
    "1": figure1,
    "5": figure5,
    "8": figure8,
    "9": figure9,
    "curves": curves,
    "compare": compare,
}


# ---- what runs tell


def _per_run(runs: pd.DataFrame, of: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
    """What each run's layers.csv gives, one below the other, with columns label, sign_in, seed.

    Raises:
        UserError: no run has finished, or they are of different networks.
    """
    parts = []
    done = _one_network(runs).drop_duplicates(["label", "sign_in", "seed"])
    for run in done.to_dict("records"):
        layers = read_rows(run["folder"], "layers.csv")
        if "final_flips_init" in layers:
            about = {"label": run["label"], "sign_in": run["sign_in"], "seed": run["seed"]}
            parts.append(of(layers).assign(**about))
    if not parts:
        raise UserError("no run has counted its sign flips over the final mask.")
    return pd.concat(parts, ignore_index=True)


def _one_network(runs: pd.DataFrame) -> pd.DataFrame:
    """Finished runs that differ in method, Sign-In and seed only (and dense ones).

    Raises:
        UserError: there are none, or they differ in something else.
    """
    done = finished(runs)
    check_alike(done[done["sparsity"] > 0], ["label", "sign_in"])
    for field in ("recipe", "settings.model"):
        values = sorted(map(str, done[field].unique()))
        if len(values) > 1:
            name = field.rpartition(".")[2]
            raise UserError(
                f"the runs are of several {name}s ({', '.join(values)}): choose with "
                f"--where {name}={values[0]}."
            )
    return done


def _at(layers: pd.DataFrame, since: str, until: str) -> tuple[pd.Series[Any], pd.Series[Any]]:
    """Flips and what is compared between two moments, a value a layer, over the final mask."""
    last = layers["epoch"].max()
    warmup = layers["epoch"].max() if until == "final" else _warmup(layers)
    rows = layers[layers["epoch"] == (last if until == "final" else warmup)].set_index("layer")
    return rows[f"final_flips_{since}"], rows[f"final_compared_{since}"]


def _warmup(layers: pd.DataFrame) -> int:
    """The epoch after which the warm-up ended: the one before signs are compared with it."""
    after = layers.loc[layers["final_flips_warmup"].notna(), "epoch"]
    return int(after.min()) - 1 if len(after) else int(layers["epoch"].max())


def _flips_by_phase(layers: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for phase, (since, until) in PHASES.items():
        if f"final_flips_{since}" in layers:
            flips, compared = _at(layers, since, until)
            rows.append({"phase": phase, "value": 100 * flips.sum() / max(1, compared.sum())})
    return pd.DataFrame(rows)


def _flips_by_layer(layers: pd.DataFrame) -> pd.DataFrame:
    table = pd.DataFrame()
    for phase, (since, until) in PHASES.items():
        if f"final_flips_{since}" in layers:
            flips, compared = _at(layers, since, until)
            table[phase] = 100 * flips / compared.where(compared > 0)
    return table.rename_axis("layer").reset_index()


def _sparsity_by_layer(layers: pd.DataFrame) -> pd.DataFrame:
    last = layers[layers["epoch"] == layers["epoch"].max()]
    return pd.DataFrame({"layer": last["layer"], "sparsity": 100 * (1 - last["density"])})


def _is_from_scratch(label: str) -> bool:
    return label.startswith(("fixed", "random", "snip", "synflow", "grasp", "phew", "npb"))


# ---- how it is drawn


def _bars(ax: Any, flips: pd.DataFrame) -> None:
    import seaborn

    ordered = flips.sort_values(["label", "sign_in"])
    titles = map(_title, ordered["label"], ordered["sign_in"])
    named = ordered.assign(run=list(titles))
    colours = dict(zip(PHASES, seaborn.color_palette("colorblind")[:3], strict=True))
    if len(named):
        seaborn.barplot(
            named,
            x="run",
            y="value",
            hue="phase",
            hue_order=list(PHASES),
            palette=colours,
            errorbar="sd",
            err_kws={"linewidth": 0.8},
            ax=ax,
            legend=True,
        )
        ax.tick_params(axis="x", rotation=25)
        for tick in ax.get_xticklabels():
            tick.set_horizontalalignment("right")


def _lines(ax: Any, runs: pd.DataFrame, file: str, column: str, factor: float) -> bool:
    """A line a method over epochs, with a band over seeds. False where no run has the file."""
    drawn = False
    for (label, sign_in), group in _by_method(_one_network(runs)):
        has = [(folder / file).exists() for folder in group["folder"]]
        tables = [read_rows(f, file) for f in group[has].drop_duplicates("seed")["folder"]]
        values = [factor * t.set_index("epoch")[column] for t in tables if column in t]
        if not values:
            continue
        drawn = True
        wide = pd.concat(values, axis=1)
        x, mean, std = wide.index.to_numpy(), wide.mean(axis=1), wide.std(axis=1).fillna(0)
        if file == "epochs.csv":
            x = x + 1  # its rows are of what was so after that epoch
        style = look(label, sign_in) | {"markevery": max(1, len(x) // 8)}
        ax.plot(x, mean, label=_title(label, sign_in), **style)
        ax.fill_between(x, mean - std, mean + std, color=style["color"], alpha=0.15, linewidth=0)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set(xlabel="epoch")
    return drawn


def _by_layer(ax: Any, table: pd.DataFrame, column: str) -> None:
    names = _layer_names(table)
    for (label, sign_in), group in _by_method(table):
        if column not in group:
            continue
        values = group.groupby("layer")[column].agg(["mean", "std"]).reindex(names)
        x, mean, std = range(len(names)), values["mean"], values["std"].fillna(0)
        style = look(label, sign_in) | {"markevery": max(1, len(names) // 10)}
        ax.plot(x, mean, label=_title(label, sign_in), **style)
        ax.fill_between(x, mean - std, mean + std, color=style["color"], alpha=0.15, linewidth=0)


def _by_method(table: pd.DataFrame) -> Iterator[tuple[Group, pd.DataFrame]]:
    for (label, sign_in), group in table.groupby(["label", "sign_in"]):
        yield (str(label), bool(sign_in)), group


def _groups(runs: pd.DataFrame) -> int:
    return len(runs[["label", "sign_in"]].drop_duplicates())


def _layer_names(table: pd.DataFrame) -> list[str]:
    """In the order of the network."""
    return [str(name) for name in table["layer"].unique()]


def _title(label: str, sign_in: bool) -> str:
    """A method as legends have it."""
    if label.startswith("fixed ("):
        source = label.removeprefix("fixed (").rstrip(")")
        mask, *others = source.split(", ")
        run, _, at = mask.partition("@")
        rest = f", {', '.join(others)}" if others else ""
        label = f"{name_of(run)} mask{'' if at == 'final' else f' @{at}'}{rest}"
    return name_of(label) + (" + Sign-In" if sign_in else "")


def _legend_below(drawn: Figure, axes: list[Any]) -> None:
    """One legend for all panels."""
    entries: dict[str, Any] = {}
    for ax in axes:
        handles, labels = ax.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
        if ax.get_legend():
            ax.get_legend().remove()
    wide = drawn.get_figwidth() > COLUMN
    columns = min(len(entries), 5 if wide else 2) or 1
    drawn.legend(
        entries.values(), entries, loc="outside lower center", ncols=columns, frameon=False
    )
