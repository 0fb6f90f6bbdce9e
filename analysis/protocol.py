"""Two protocols for the paper's tables: the suite's, and that of earlier code of its group.

That code (TurboPrune) prunes by SynFlow in one iteration, and its balanced densities lose weights
that full layers cannot hold, so that networks are sparser than requested. Runs of that protocol
have options, and so labels, of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from baselines.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

Protocol = Literal["suite", "paper"]

OPTIONS: dict[str, dict[str, Any]] = {
    "random": {"density": "legacy-balanced"},
    "mw": {"density": "legacy-balanced"},
    "synflow": {"iterations": 1},
}
LABELS = {
    "random (legacy-balanced)": "random",
    "mw (legacy-balanced)": "mw",
    "synflow (iterations=1)": "synflow",
}
NUMBERS = ("3", "9", "10", "11")  # tables with such runs

_NOTES = {
    "suite": (
        "code of the paper's group has sparser balanced masks and one-shot SynFlow: "
        "--protocol paper"
    ),
    "paper": (
        "protocol of code of the paper's group: one-shot SynFlow, and balanced masks that are "
        "sparser than requested"
    ),
}


def check_protocol(protocol: Protocol, number: str) -> None:
    """Raise a UserError if a table of the paper has no runs of a protocol."""
    if protocol != "suite" and number not in NUMBERS:
        tables = ", ".join(NUMBERS)
        raise UserError(f"protocol {protocol} is for tables {tables}, not {number}.")


def protocols(runs: pd.DataFrame, number: str) -> list[Protocol]:
    """Return the protocols of which there are runs for a table; the suite's is always included."""
    others = number in NUMBERS and bool(runs["label"].isin(LABELS).any())
    return ["suite", "paper"] if others else ["suite"]


def of_protocol(runs: pd.DataFrame, protocol: Protocol) -> pd.DataFrame:
    """Return the runs of a protocol. Those of the paper's have the labels of the suite's."""
    if protocol == "suite" or not len(runs):
        return runs
    own = runs[~runs["label"].isin(LABELS.values())]
    return own.assign(label=own["label"].replace(LABELS))


def protocol_note(protocol: Protocol, number: str) -> str:
    """Return the note below a table of the paper; empty for tables that have no such runs."""
    return _NOTES[protocol] if number in NUMBERS else ""
