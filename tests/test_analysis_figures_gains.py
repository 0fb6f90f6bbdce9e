"""The figures of gains and ranks show the numbers of the tables."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_runs import FEW, write_runs

from analysis.figures import FIGURES
from analysis.figures.ranks import cliques
from analysis.mean_ranks import rank_summary
from analysis.names import RULES, legend_entry
from analysis.statistics import aggregate
from baselines.errors import UserError

SPARSITIES = (0.8, 0.9, 0.95, 0.98, 0.99)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return write_runs(tmp_path_factory.mktemp("gains"), FEW, SPARSITIES)


def test_each_pair_of_runs_is_a_line(runs):
    chosen = runs[runs["sparsity"] == 0.9]
    figure = FIGURES["gains"].draw(chosen)
    pairs, effects = figure.axes
    by = chosen.set_index(["label", "sign_in", "seed"])["result.accuracy"]
    expected = {
        (100 * by[label, False, seed], 100 * by[label, True, seed])
        for label in FEW
        for seed in range(3)
    }
    lines = {tuple(line.get_xdata()) for line in pairs.get_lines() if len(line.get_xdata()) == 2}
    assert np.array(sorted(lines)) == pytest.approx(np.array(sorted(expected)))
    numbers = aggregate(chosen).dropna(subset=["gain"]).sort_values("gain")
    (container,) = effects.containers
    assert container[0].get_xdata(orig=False) == pytest.approx(numbers["gain"].to_numpy())
    (bars,) = container[2]
    ends = np.array([segment[:, 0] for segment in bars.get_segments()])
    assert ends == pytest.approx(numbers[["gain_low", "gain_high"]].to_numpy())


def test_gains_of_sign_in_and_ham_are_told_apart(tmp_path):
    runs = write_runs(tmp_path, FEW[:2], (0.8, 0.9), rules=RULES)
    one = runs[runs["sparsity"] == 0.9]
    pairs, effects = FIGURES["gains"].draw(one).axes
    numbers = aggregate(one).dropna(subset=["gain"]).sort_values("gain")
    names = [tick.get_text() for tick in pairs.get_yticklabels()]
    rows = numbers[["label", "rule"]].to_numpy()
    assert names == [legend_entry(label, rule) for label, rule in rows]
    assert {"RigL + HAM", "RigL + Sign-In"} < set(names)
    assert effects.containers[0][0].get_xdata(orig=False) == pytest.approx(
        numbers["gain"].to_numpy()
    )
    panels = FIGURES["gains"].draw(runs).axes
    assert [ax.get_title() for ax in panels] == ["digits, Sign-In", "digits, HAM"]
    numbers = aggregate(runs).set_index(["rule", "sparsity", "label"])["gain"].sort_index()
    dots = panels[1].containers[0].lines[0].get_xdata(orig=False)
    assert sorted(dots) == pytest.approx(sorted(numbers["HAM", 0.8]))


def test_a_gain_without_interval_is_told_from_one_with_a_narrow_interval(tmp_path):
    runs = write_runs(tmp_path, ("random", "snip", "synflow", "rigl", "acdc"))
    title = FIGURES["gains"].draw(runs).axes[1].get_title()
    assert title == "mean, 95 % interval"
    collapsed = (runs["label"] == "snip") & runs["sign_in"]
    runs.loc[collapsed, "result.accuracy"] = 0.6
    runs = runs[~(collapsed & (runs["seed"] == 2))]
    plain = runs[(runs["label"] == "snip") & ~runs["sign_in"] & (runs["seed"] < 2)]
    loss = 100 * plain["result.accuracy"].mean() - 60
    effects = FIGURES["gains"].draw(runs).axes[1]
    assert [text.get_text() for text in effects.texts] == [f"-{loss:.1f}"]
    assert effects.get_title() == "mean, 95 % interval (□: none)"
    (hollow,) = [line for line in effects.get_lines() if line.get_markerfacecolor() == "white"]
    assert hollow.get_xdata() == pytest.approx([-loss])
    assert len(effects.containers[0].lines[0].get_xdata()) == 4


def test_runs_without_partner_have_no_gains(runs):
    with pytest.raises(UserError, match="no two runs of one seed"):
        FIGURES["gains"].draw(runs[~runs["sign_in"]])


def test_ranks_are_drawn_with_the_groups_that_do_not_differ(runs):
    figure = FIGURES["ranks"].draw(runs)
    texts = [text.get_text() for text in figure.axes[0].texts]
    ranks = rank_summary(aggregate(runs), ["label"], ["sparsity"])
    for rank in ranks.table["rank"]:
        assert any(f"{rank:.2f}" in text for text in texts)
    assert any(f"critical difference {ranks.critical_difference:.2f}" in text for text in texts)
    bars = [line for line in figure.axes[0].get_lines() if line.get_linewidth() == 2.5]
    assert len(bars) == len(cliques(ranks)) > 0
    values = sorted(ranks.table["rank"])
    for low, high in cliques(ranks):  # within the difference, and no method more
        assert high - low <= ranks.critical_difference
        assert all(not 0 < v - high <= ranks.critical_difference - (high - low) for v in values)
    few = FIGURES["ranks"].draw(runs[runs["sparsity"] < 0.95])
    assert all("critical" not in text.get_text() for text in few.axes[0].texts)
