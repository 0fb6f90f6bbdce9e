"""The names that tables and figures show: of methods and their families, models and data sets."""

from __future__ import annotations

from collections.abc import Iterable

FAMILIES = {
    "dense": ("dense",),
    "dense to sparse": (
        *("acdc", "str", "str-target", "gmp", "woodfisher", "cap", "spred", "pilot", "srste"),
    ),
    "iterative": ("lrr", "imp", "wr"),
    "dynamic sparse": (
        *("rigl", "set", "srigl", "granet", "mest", "svite", "rigl_nm", "topkast", "chts"),
    ),
    "pruning at initialisation": ("random", "mw", "snip", "synflow", "grasp", "phew", "npb"),
    "one shot": ("oneshot", "wanda", "sparsegpt"),
}
# families whose masks do not change in training
KEEPING = ("dense", "pruning at initialisation", "one shot")
FACTORISED = ("mw", "pilot", "spred")  # train factors m ⊙ w by definition
PLAIN, SIGN_IN, HAM = "", "Sign-In", "HAM"  # what makes signs flip: the column `rule`
RULES = (PLAIN, SIGN_IN, HAM)
OTHERS = "other methods"  # the family of what is not listed above
FROM_SCRATCH = "masks from scratch"  # runs that train the mask of another run

NAMES = {
    "acdc": "AC/DC",
    "cap": "CAP",
    "chts": "CHTs",
    "dense": "Dense",
    "gmp": "GMP",
    "granet": "GraNet",
    "grasp": "GraSP",
    "imp": "IMP",
    "lrr": "LRR",
    "mest": "MEST",
    "mw": "Random + m ⊙ w",
    "npb": "NPB",
    "oneshot": "One-shot",
    "phew": "PHEW",
    "pilot": "PILoT",
    "random": "Random",
    "rigl": "RigL",
    "rigl_nm": "RigL N:M",
    "set": "SET",
    "snip": "SNIP",
    "sparsegpt": "SparseGPT",
    "spred": "spred",
    "srigl": "SRigL",
    "srste": "SR-STE",
    "str": "STR",
    "str-target": "STR (target)",
    "svite": "SViTE",
    "synflow": "SynFlow",
    "topkast": "Top-KAST",
    "wanda": "Wanda",
    "woodfisher": "WoodFisher",
    "wr": "WR",
}
LEARNERS = ("acdc", "rigl", "str")  # the methods of the paper that learn masks
PAI = ("random", "snip", "synflow")  # those of the paper that prune at initialisation

_NETWORKS = {
    "fashion": "Fashion-MNIST",
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
        mask, others = mask_of(label), label.removeprefix("fixed (").removesuffix(")")
        at, comma, others = others.removeprefix(mask).partition(", ")
        moment = "" if at in ("", "@final") else f" {at}"
        sources = ", ".join(map(_source, split_outside(",", others)))
        return f"{name_of(mask)} mask{moment}{comma}{sources}"
    method, space, options = label.partition(" ")
    return NAMES.get(method, method) + space + options


def _source(text: str) -> str:
    """Return the source of signs or magnitudes, as "signs=gmp@10", with the method's name."""
    part, equals, source = text.partition("=")
    if not part.isidentifier():  # the "=" is that of an option of the method
        part, equals, source = "", "", text
    method, at, moment = source.partition("@")
    return part + equals + name_of(method) + at + moment if at else text


def legend_entry(label: str, rule: str) -> str:
    """Return the name of a label, plain or with one of `RULES`."""
    return with_rule(name_of(label), rule)


def with_rule(name: str, rule: str) -> str:
    """Return the name of a method, plain or with one of `RULES`."""
    return f"{name} + {rule}" if rule else name


def listed_rules(rules: Iterable[str]) -> str:
    """Return the rules that gains belong to: "Sign-In or HAM" if there are runs with both."""
    present = set(rules) - {PLAIN}
    return " or ".join(rule for rule in RULES if rule in present)


def short_names(labels: Iterable[str]) -> dict[str, str]:
    """Return names by label, without the options that all labels of their method have.

    A single label with the mask of another method keeps its options, and all of them the mask.
    """
    parts = {label: _parts(label) for label in labels}
    names = {}
    for label, (method, options) in parts.items():
        alike = [others for other, others in parts.values() if other == method]
        kept = [o for o in options if not all(o in others for others in alike)]
        if is_fixed(label):
            mask = options[0]
            kept = options if len(alike) == 1 else [mask, *(o for o in kept if o != mask)]
        names[label] = name_of(_label(method, kept))
    return names


def method_of(label: str) -> str:
    """Return the method of a label, without its options; for a fixed mask, the mask's method."""
    return mask_of(label).split(" ")[0]


def common_label(labels: Iterable[str]) -> str:
    """Return the label of one method with the options that all of its labels have."""
    (method, options), *others = map(_parts, labels)
    return _label(method, [o for o in options if all(o in found for _, found in others)])


def _parts(label: str) -> tuple[str, list[str]]:
    """Return the method and the options of a label; of a fixed one, "fixed" and its sources."""
    method, _, options = label.removesuffix(")").partition(" (")
    return method, split_outside(",", options) if options else []


def _label(method: str, options: list[str]) -> str:
    return f"{method} ({', '.join(options)})" if options else method


def mask_of(label: str) -> str:
    """Return the label whose mask a run with this label trains; the label itself, if its own."""
    if not is_fixed(label):
        return label
    source = split_outside(",", label.removeprefix("fixed (").removesuffix(")"))[0]
    return split_outside("@", source)[0]


def split_outside(mark: str, text: str) -> list[str]:
    """Return the parts of a text between those of its marks that are outside of brackets."""
    parts, depth = [""], 0
    for character in text:
        depth = max(depth + (character in "([") - (character in ")]"), 0)
        if character == mark and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def family_of(label: str) -> str:
    """Return the family of a method, given its label; of a mask, that of the method it is from."""
    method = method_of(label)
    return next((name for name, members in FAMILIES.items() if method in members), OTHERS)


def network_name(name: str) -> str:
    """Return the common name of a model or data set; the name itself if it has no other."""
    return _NETWORKS.get(name, name)


def is_fixed(label: str) -> bool:
    """Return whether a label is that of a run that trains the mask of another run."""
    return label.startswith("fixed (")


def keeps_mask(label: str) -> bool:
    """Return whether the training of a run with this label keeps its first mask."""
    return is_fixed(label) or family_of(label) in KEEPING
