"""Figures of trajectories: Figure 3 (flows of one neuron), 7 (five inputs), 4 and 6 (networks)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from signin.theory.experiment import Setting
from signin.theory.flow import FLOWS, Array, Betas, Trajectory, velocity
from signin.theory.network import NetworkPaths
from signin.theory.neuron import SUCCESS, Descent, one_thread
from signin.theory.style import COLUMN, PAGE, colours, figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EDGE, FAR = 2.0, 4.2
GREY = "0.75"
EVERY = 10  # steps from one drawn point of a path to the next


@styled
def figure3(found: dict[str, list[Trajectory]]) -> Figure:
    """Draw phase portraits of the flows for one input, and paths from balanced initialisations.

    Args:
        found: from `flow.trajectories`.
    """
    drawn, panels = figure(1, 2, PAGE, 3.1)
    for axes, (name, paths) in zip(panels, found.items(), strict=True):
        betas = FLOWS[name]
        _field(axes, betas)
        _optimum(axes, EDGE)
        for path in paths:
            _path(axes, path.w, path.a, learned=path.learned)
        scalings = "" if betas is None else rf", $\beta_1 = {betas[0]:g}, \beta_2 = {betas[1]:g}$"
        _plane(axes, name + scalings, "$w$")
        axes.set(xlim=(-EDGE, EDGE), ylim=(-EDGE, EDGE), aspect="equal")
        axes.set_xticks(range(-2, 3))
        axes.set_yticks(range(-2, 3))
    panels[0].set_ylabel("$a$")
    _path_legend(drawn, panels[0])
    return drawn


def _field(axes: Axes, betas: Betas) -> None:
    w, a = np.meshgrid(np.linspace(-EDGE, EDGE, 61), np.linspace(-EDGE, EDGE, 61))
    da, dw = velocity(a, w, betas)
    axes.streamplot(w, a, dw, da, color=GREY, density=0.9, linewidth=0.5, arrowsize=0.5, zorder=1)


def _optimum(axes: Axes, edge: float) -> None:
    """Draw the curve a · w₁ = 1."""
    w = np.geomspace(1 / edge, edge, 100)
    axes.plot(w, 1 / w, color="black", linewidth=1.5, zorder=2, label="global optima")


def _path(axes: Axes, w: Array, a: Array, learned: bool) -> None:
    colour = colours()[2] if learned else colours()[3]
    axes.plot(w, a, color=colour, linewidth=1.0, zorder=3)
    axes.plot(w[0], a[0], "o", color=colour, markersize=2.5, zorder=4)
    axes.plot(w[-1], a[-1], "*" if learned else "X", color=colour, markersize=7 if learned else 5,
              markeredgecolor="black", markeredgewidth=0.4, zorder=5)  # fmt: skip


def _plane(axes: Axes, title: str, label: str) -> None:
    axes.set(title=title, xlabel=label)
    axes.axhline(0, color="0.5", linewidth=0.5, zorder=0)
    axes.axvline(0, color="0.5", linewidth=0.5, zorder=0)


def _path_legend(drawn: Figure, axes: Axes) -> None:
    axes.plot([], [], "-*", color=colours()[2], markeredgecolor="black", markeredgewidth=0.4,
              linewidth=1, label="learned")  # fmt: skip
    axes.plot([], [], "-X", color=colours()[3], markeredgecolor="black", markeredgewidth=0.4,
              markersize=5, linewidth=1, label="failed")  # fmt: skip
    handles, labels = axes.get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)


@styled
def figure7(settings: dict[str, Setting]) -> Figure:
    """Draw paths of a and w₁ with five inputs, from all four sign cases.

    Args:
        settings: by title of the panel.
    """
    drawn, panels = figure(1, len(settings), PAGE, 3.1)
    for axes, (name, setting) in zip(panels, settings.items(), strict=True):
        _optimum(axes, FAR)
        a, w, learned = descend(setting, EVERY)
        for run in range(a.shape[1]):
            _path(axes, w[:, run].numpy(), a[:, run].numpy(), bool(learned[run]))
        _plane(axes, name, "$w_1$")
        axes.set(xlim=(-1.2, 2.2), ylim=(-FAR, FAR))
    panels[0].set_ylabel("$a$")
    _path_legend(drawn, panels[0])
    return drawn


def descend(setting: Setting, every: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a and w₁ [times, runs] at every `every`-th step, and which runs learn [runs]."""
    with one_thread():
        descent = Descent(setting.task(), *setting.students(), setting.storages, setting.rate)
        points = []
        for step in range(setting.steps + 1):
            if step % every == 0:
                points.append(torch.stack([descent.a[:, 0], descent.w[:, 0]]))
            if step < setting.steps:
                descent.step()
        a, w = torch.stack(points, dim=1)
        return a, w, descent.loss < SUCCESS


@styled
def figure_networks(found: dict[str, NetworkPaths], seed: int) -> Figure:
    """Draw the path of each neuron |aᵢ| wᵢ, with the teacher on the unit circle.

    Args:
        found: by title of the panel.
        seed: the seed that is drawn; the titles count all seeds.
    """
    count = len(found)
    wide = COLUMN if count == 2 else PAGE
    drawn, panels = figure(1, count, wide, wide / count + (1.0 if count == 2 else 0.8))
    for i, (axes, (name, paths)) in enumerate(zip(panels, found.items(), strict=True)):
        _network(axes, paths, seed)
        share = paths.recovered.double().mean().item()
        name = name.removeprefix("Sparse, ")
        axes.set_title(f"({'abcd'[i]}) {name}\nrecovered: {share:.0%}")
    handles, labels = panels[0].get_legend_handles_labels()
    drawn.legend(
        handles, labels, loc="outside lower center", ncols=2 if count == 2 else 4, frameon=False
    )
    return drawn


def _network(axes: Axes, paths: NetworkPaths, seed: int) -> None:
    positive, negative = colours()[0], colours()[1]
    turn = np.linspace(0, 2 * np.pi, 200)
    axes.plot(np.cos(turn), np.sin(turn), color=GREY, linewidth=0.6)
    for a, (x, y) in zip(paths.teacher_a[seed], paths.teacher_w[seed], strict=True):
        axes.plot([0, x], [0, y], color=positive if a > 0 else negative, linewidth=2.5, alpha=0.5)
    places = (paths.a[:, seed].abs()[:, :, None] * paths.w[:, seed]).numpy()
    for i, a in enumerate(paths.a[-1, seed]):
        colour = positive if a > 0 else negative
        axes.plot(places[:, i, 0], places[:, i, 1], color=colour, linewidth=0.6)
        axes.plot(*places[0, i], ".", color="0.5", markersize=2.5)
        axes.plot(*places[-1, i], "o", color=colour, markersize=4, markeredgecolor="black",
                  markeredgewidth=0.4)  # fmt: skip
    for colour, sign in ((positive, "$a_i > 0$"), (negative, "$a_i < 0$")):
        axes.plot([], [], color=colour, linewidth=2.5, alpha=0.5, label=f"teacher, {sign}")
        axes.plot([], [], "-o", color=colour, markersize=4, linewidth=0.6, markeredgecolor="black",
                  markeredgewidth=0.4, label=f"student, {sign}")  # fmt: skip
    # a few neurons of a dense network may end outside of the frame
    edge = min(max(1.25, 1.08 * float(np.abs(places[[0, -1]]).max())), 2.2)
    axes.set(xlim=(-edge, edge), ylim=(-edge, edge), aspect="equal", xticks=[], yticks=[])
