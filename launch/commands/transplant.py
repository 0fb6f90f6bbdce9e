"""`signbench transplant`: a checkpoint with mask, signs and magnitudes of different sources.

The file that is written is a state dict of the plain model, with zeros for pruned weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from baselines.checkpoint import Checkpoint, check_shape, entries_of
from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError, check_in_unit, check_not_negative
from launch.data.order import mix
from launch.flags import parse
from launch.models import shape_of_model
from launch.runs.checkpoints import write_checkpoint
from launch.runs.snapshots import find_source, read_source, run_folder_of
from signin.signs import agreement
from signin.transplant import (
    PARTS,
    RANDOM,
    MagnitudeKind,
    kept_zeros,
    masks_of,
    prunable_of,
    seeded_transplant,
    weights_of,
)

Named = Mapping[str, Tensor]


@dataclass(frozen=True)
class TransplantCommand:
    """Write a checkpoint with the mask, the signs and the magnitudes of three sources.

    A source is a run (RUN, RUN@EPOCH, RUN@init), a checkpoint file (.safetensors, .pt, .pth,
    .ckpt; FILE@KEY for one of several networks), or `random`: the initialisation of --model in
    runs with this --seed."""

    mask: str
    """Source of the mask: the one it has, or else where its weights are not zero."""
    output: Path
    """The checkpoint to write: .safetensors, .pt or .pth."""
    signs: str = ""
    """Source of the signs; that of the mask if not given."""
    magnitudes: str = ""
    """Source of the magnitudes; that of the mask if not given."""
    others: str = ""
    """Source of biases, normalisation and all else that is not pruned; that of the mask if not
    given."""
    magnitude_kind: MagnitudeKind = "each"
    """The magnitude of each weight, or their mean over the layer's kept weights."""
    flip_signs: float = 0.0
    """Fraction of the signs to reverse at random."""
    key: str = ""
    """Which network of files that have several, such as model_ema."""
    align: str = ""
    """Permute the units of the mask's source so that its weights match those of this source, before
    anything is taken from it. All snapshots of its run and of that of --align-from are permuted.
    Needs --model."""
    align_from: str = ""
    """Source of the weights that are matched, with the units of the mask, such as the dense network
    that it was found in; that of the mask if not given."""
    model: str = ""
    """One of the suite's models or of timm's. Needed for `random` and --align. Determines what is
    prunable: without it, the layers that the mask's source has masks of, or else all its matrices
    and kernels that are named weight."""
    classes: int | None = None
    """Number of classes of --model; by default what it is made for (timm: 1000)."""
    channels: int | None = None
    """Number of input channels of --model; by default what it is made for (timm: 3)."""
    image_size: int | None = None
    """Side of the images of --model in pixels; by default what it is made for (timm: 224)."""
    seed: int = 0
    """Seed of `random`, of reversed signs, and of signs that the source does not have."""
    runs: Path = Path("runs")
    """Folder of the run folders."""

    def __post_init__(self) -> None:
        check_in_unit(flip_signs=self.flip_signs)
        check_not_negative(seed=self.seed)
        if self.align_from and not self.align:
            raise UserError("--align-from needs --align.")
        if self.align and not self.model:
            raise UserError("--align needs --model.")
        _ = self.shape  # raises UserError
        if self.output.suffix not in (".safetensors", ".pt", ".pth"):
            raise UserError(f"--output must end in .safetensors, .pt or .pth, not {self.output}.")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Classes, channels and image size of --model."""
        return shape_of_model(
            self.model, classes=self.classes, channels=self.channels, image_size=self.image_size
        )

    def source(self, part: str) -> str:
        """Return the source of a part."""
        return getattr(self, part) or self.mask


def command(args: list[str]) -> int:
    """Write a checkpoint of transplanted weights."""
    write_transplant(parse(TransplantCommand, args, "signbench transplant"))
    return 0


def write_transplant(given: TransplantCommand) -> None:
    """Write the checkpoint, and print a line on every layer.

    Raises:
        UserError: a source cannot be read or does not fit the others. Nothing is written then.
    """
    fresh = _fresh(given) if given.model else None
    sources = _read_sources(given, fresh)
    if given.align and fresh is not None:
        sources = _aligned(given, sources, fresh)
    like = prunable_of(sources["mask"]) if fresh is None else dict(fresh.weights)
    masks = masks_of(sources["mask"], like)
    signs, magnitudes = (weights_of(sources[part], like) for part in ("signs", "magnitudes"))
    weights, drawn = seeded_transplant(
        masks, signs, magnitudes, given.seed, given.magnitude_kind, given.flip_signs
    )

    template = sources["mask"].weights if fresh is None else fresh.model.state_dict()
    named = _by_all_names(weights, template, is_file=fresh is None)
    rest = {name: tensor for name, tensor in template.items() if name not in named}
    state = {**entries_of(sources["others"], rest), **named}
    whole = {name: state[name].detach().to(tensor.dtype) for name, tensor in template.items()}
    write_checkpoint(given.output, Checkpoint(whole, masks={}))
    for line in _summary(masks, signs, magnitudes, weights, drawn):
        print(line)
    print(f"biases, normalisation and all else: from {given.source('others')}")
    print(f"written: {given.output}")


def _by_all_names(weights: Named, state: Named, is_file: bool) -> dict[str, Tensor]:
    """Return weights by all names that they have in a model's state; tied ones have several.

    Args:
        is_file: the state was read from a file, where tied weights are equal copies.
    """

    def is_tied(one: Tensor, other: Tensor) -> bool:
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        same = one.data_ptr() == other.data_ptr() and one.stride() == other.stride()
        return same or (is_file and bool(one.any()) and torch.equal(one, other))

    found = dict(weights)
    for name in (name for name in state if name not in weights):
        own = (weight for k, weight in weights.items() if is_tied(state[k], state[name]))
        if (weight := next(own, None)) is not None:
            found[name] = weight
    return found


def _fresh(given: TransplantCommand) -> SparseModel:
    from launch.models import build_model

    torch.manual_seed(mix(given.seed))  # as a run does
    return SparseModel(build_model(given.model, *given.shape))


def _read_sources(given: TransplantCommand, fresh: SparseModel | None) -> dict[str, Checkpoint]:
    """Return the checkpoint of each part, each source read once."""
    texts = {given.source(part) for part in PARTS}
    if given.mask == RANDOM:
        raise UserError("--mask must be a run or a file; it cannot be random.")
    if RANDOM in texts and fresh is None:
        raise UserError("random signs and magnitudes are those of a new network: give --model.")
    for text in (texts | {given.align, given.align_from}) - {RANDOM, ""}:
        path, _ = find_source(text, given.runs)
        if given.output.exists() and path.exists() and path.samefile(given.output):
            raise UserError(f"--output {given.output} is a source; write to another file.")
    own = None if fresh is None else fresh.model.state_dict()
    found = {given.mask: _read(given.mask, given, own)}
    if own is not None:
        _check_shapes(given, found[given.mask], own)
    like = found[given.mask].weights if own is None else own
    for text in sorted(texts - {RANDOM, given.mask}):
        found[text] = _read(text, given, like)
    if own is not None:
        found[RANDOM] = Checkpoint(own, masks={})
    return {part: found[given.source(part)] for part in PARTS}


def _check_shapes(given: TransplantCommand, source: Checkpoint, own: Named) -> None:
    """Raise UserError unless the model was made for what the source is of."""
    flags = "give the --classes, --channels and --image-size of the source"
    for name in filter(source.weights.__contains__, own):
        check_shape(source, name, own[name], f" as in {given.model}: {flags}")


def _read(text: str, given: TransplantCommand, like: Named | None) -> Checkpoint:
    return read_source(text, given.runs, given.key, like, say=print)


def _aligned(
    given: TransplantCommand,
    sources: dict[str, Checkpoint],
    fresh: SparseModel,
) -> dict[str, Checkpoint]:
    """Return the sources, with the units of those permuted that have the mask's order of units."""
    from launch.measures.alignment import align

    net = _fresh(given)
    own = fresh.model.state_dict()
    target, matched = (
        Checkpoint(own, {}) if t == RANDOM else _read(t, given, own)
        for t in (given.align, given.align_from or given.mask)
    )
    _, channels, size = given.shape
    x = torch.zeros(1, channels, size, size)
    found = align(matched, target, net, x)
    print(
        f"aligned: {len(found.groups)} permutations of units, cosine of the weights "
        f"{found.before:.3f} before, {found.after:.3f} after"
    )
    permuted = {_network(given, text) for text in (given.mask, given.align_from or given.mask)}
    return {
        part: found.apply(source) if _network(given, given.source(part)) in permuted else source
        for part, source in sources.items()
    }


def _network(given: TransplantCommand, text: str) -> tuple[Path, str] | None:
    """Return the run of a source, or the file and the key in it; None for `random`."""
    if text == RANDOM:
        return None
    path, key = find_source(text, given.runs)
    return (run_folder_of(text, given.runs) or path).resolve(), key or given.key


def _summary(
    masks: Named, signs: Named, magnitudes: Named, weights: Named, drawn: Mapping[str, int]
) -> list[str]:
    """Return one line per layer: weights, kept ones, and agreement with the source of the signs,
    of the weights that gave the magnitudes (before) and of the written ones (after)."""
    before, after = agreement(magnitudes, signs, masks), agreement(weights, signs, masks)
    width = max(map(len, masks))
    lines = [f"{'layer':{width}}    weights       kept sparsity agreement before   after"]
    for name, mask in masks.items():
        n, kept = mask.numel(), _ones(mask)
        lines.append(
            f"{name:{width}} {n:10,} {kept:10,} {1 - kept / n:8.4f} "
            f"{before[name]:16.1%} {after[name]:7.1%}"
        )
    n, kept = (sum(map(count, masks.values())) for count in (Tensor.numel, _ones))
    lines.append(f"{'all':{width}} {n:10,} {kept:10,} {1 - kept / n:8.4f}")
    if any(drawn.values()):
        lines.append(f"{sum(drawn.values()):,} signs drawn at random: their source has zeros there")
    if lost := sum(kept_zeros(masks, weights).values()):
        lines.append(
            f"{lost:,} kept weights are zero: the source of the magnitudes has zeros there"
        )
    return lines


def _ones(mask: Tensor) -> int:
    return int(mask.count_nonzero())
