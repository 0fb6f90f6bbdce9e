"""The names that tables and figures show: of methods and their families, models and data sets."""

from __future__ import annotations

FAMILIES = {
    "dense": ("dense",),
    "dense to sparse": ("acdc", "str", "gmp", "woodfisher", "cap", "spred", "pilot"),
    "iterative": ("lrr", "imp", "wr"),
    "dynamic sparse": ("rigl", "set", "srigl"),
    "at initialisation": ("random", "mw", "snip", "synflow", "grasp", "phew", "npb"),
}
OTHERS, FIXED = "other methods", "masks from scratch"  # families of what is not listed above

NAMES = {
    "acdc": "AC/DC",
    "cap": "CAP",
    "dense": "Dense",
    "gmp": "GMP",
    "grasp": "GraSP",
    "imp": "IMP",
    "lrr": "LRR",
    "mw": "Random + m ⊙ w",
    "npb": "NPB",
    "phew": "PHEW",
    "pilot": "PILoT",
    "random": "Random",
    "rigl": "RigL",
    "set": "SET",
    "snip": "SNIP",
    "spred": "spred",
    "srigl": "SRigL",
    "str": "STR",
    "synflow": "SynFlow",
    "woodfisher": "WoodFisher",
    "wr": "WR",
}
LEARNERS = ("acdc", "rigl", "str")  # the methods of the paper that learn masks

_NETWORKS = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "deit_small_patch16_224": "DeiT Small",
    "imagenet": "ImageNet",
    "resnet18": "ResNet18",
    "resnet18-cifar": "ResNet18",
    "resnet20": "ResNet20",
    "resnet50": "ResNet50",
}


def name_of(label: str) -> str:
    """Return the label of a method with the method in the spelling of its paper.

    "lrr (level_length=0.25)" becomes "LRR (level_length=0.25)", and "fixed (gmp@final)", which
    trains the mask of another method, "GMP mask". Unknown methods keep their label.
    """
    if is_fixed(label):
        mask, *others = label.removeprefix("fixed (").rstrip(")").split(", ")
        method, _, at = mask.partition("@")
        rest = "".join(f", {other}" for other in others)
        return f"{name_of(method)} mask{'' if at in ('', 'final') else f' @{at}'}{rest}"
    method, space, options = label.partition(" ")
    return NAMES.get(method, method) + space + options


def legend_entry(label: str, sign_in: bool) -> str:
    """Return the legend entry of a method, plain or with Sign-In."""
    return name_of(label) + (" + Sign-In" if sign_in else "")


def method_of(label: str) -> str:
    """Return the method of a label, without its options; for a fixed mask, the mask's method."""
    return label.removeprefix("fixed (").split("@")[0].split(" ")[0]


def family_of(label: str) -> str:
    """Return the family of a method, given its label."""
    if is_fixed(label):
        return FIXED
    method = method_of(label)
    return next((name for name, members in FAMILIES.items() if method in members), OTHERS)


def network_name(name: str) -> str:
    """Return the common name of a model or data set; the name itself if it has no other."""
    return _NETWORKS.get(name, name)


def is_fixed(label: str) -> bool:
    """Return whether a label is that of a run that trains the mask of another run."""
    return label.startswith("fixed (")
