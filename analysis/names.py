"""Methods as the paper writes them."""

from __future__ import annotations

LEARNERS = {"acdc": "AC/DC", "rigl": "RiGL", "str": "STR"}
NAMES = {
    **LEARNERS,
    "snip": "SNIP",
    "synflow": "SynFlow",
    "random": "Random",
    "mw": "Random + m ⊙ w",
}


def name_of(label: str) -> str:
    """Return the paper's name of a method; its label if the paper has none."""
    return NAMES.get(label, label)


def legend_entry(label: str, sign_in: bool) -> str:
    """Return the legend entry of a method.

    "fixed (gmp@final)", which trains the mask of another method, becomes "gmp mask".
    """
    if is_fixed(label):
        mask, *others = label.removeprefix("fixed (").rstrip(")").split(", ")
        method, _, at = mask.partition("@")
        rest = f", {', '.join(others)}" if others else ""
        label = f"{name_of(method)} mask{'' if at == 'final' else f' @{at}'}{rest}"
    return name_of(label) + (" + Sign-In" if sign_in else "")


def is_fixed(label: str) -> bool:
    """Return whether a label is that of a run that trains the mask of another run."""
    return label.startswith("fixed (")
