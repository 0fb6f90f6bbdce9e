"""Gradient flow of one neuron with one input (Theorems 5.1 and 5.2), by an ODE solver.

With C the mean of z² over positive inputs (½ for infinitely many), or over negative ones if w < 0,
where the teacher is zero,

    da = −C μ(a, β₁) (aw² − w₊) dt,   dw = −C μ(w, β₂) (a²w − a·[w > 0]) dt,

where μ = 1 for gradient flow, and μ(θ, β) = √(4θ² + β²) for the flow of two factors with inner
scaling β, whose product changes at the rate m² + w² (the paper has √(θ² + β)).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from signin.theory.neuron import SUCCESS

Array = npt.NDArray[np.float64]
Betas = tuple[float, float] | None

C = 0.5
TIME = 40.0


def velocity(a: Array, w: Array, betas: Betas = None) -> tuple[Array, Array]:
    """Return da/dt and dw/dt. Both are zero at w = 0, where the ReLU is zero."""
    on = w > 0
    pull = a * w - on
    speed_a, speed_w = (1.0, 1.0) if betas is None else (metric(a, betas[0]), metric(w, betas[1]))
    return -C * speed_a * pull * w, -C * speed_w * pull * a * (w != 0)


def metric(theta: Array, beta: float) -> Array:
    """Return m² + w² of factors with m · w = θ and m² − w² = β."""
    return np.hypot(2 * theta, beta)


@dataclass(frozen=True)
class Trajectory:
    """a and w over time, starting with the initialisation."""

    a: Array
    w: Array

    @property
    def loss(self) -> float:
        """The final loss: of f on positive inputs, plus that of w < 0 on negative ones."""
        a, w = self.a[-1], self.w[-1]
        return float(C * (a * w - 1) ** 2 / 2 if w > 0 else C * ((a * w) ** 2 + 1) / 2)

    @property
    def learned(self) -> bool:
        return self.loss < SUCCESS


def solve_flow(a: float, w: float, betas: Betas = None, time: float = TIME) -> Trajectory:
    """Solve the flow from (a, w) by an explicit Runge-Kutta method of order 8."""
    from scipy.integrate import solve_ivp

    def field(_: float, state: Array) -> Array:
        return np.stack(velocity(state[0], state[1], betas))

    times = np.geomspace(1e-3, time, 400)
    path = solve_ivp(
        field, (0, time), [a, w], method="DOP853", t_eval=[0, *times], rtol=1e-9, atol=1e-12
    )
    return Trajectory(path.y[0], path.y[1])


#: Balanced initialisations: |a| = |w|, in all four quadrants.
STARTS = tuple(
    (sign_a * size, sign_w * size)
    for size in (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    for sign_a in (1, -1)
    for sign_w in (1, -1)
)
FLOWS: dict[str, Betas] = {"Gradient flow": None, "Sign-In gradient flow": (2.0, 1.0)}


def trajectories() -> dict[str, list[Trajectory]]:
    """Return the trajectories from all `STARTS`, by kind of flow."""
    return {name: [solve_flow(*start, betas) for start in STARTS] for name, betas in FLOWS.items()}


def end_points(found: dict[str, list[Trajectory]]) -> pd.DataFrame:
    """Return one row per trajectory."""
    return pd.DataFrame(
        {
            "flow": name,
            "a_start": path.a[0],
            "w_start": path.w[0],
            "a_end": path.a[-1],
            "w_end": path.w[-1],
            "loss": path.loss,
            "reached": path.learned,
        }
        for name, paths in found.items()
        for path in paths
    )
