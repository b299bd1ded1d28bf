"""Update masks: which weights an unlearning may move, chosen by a score or by name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, get_args

import torch
from torch import Tensor, nn

from expunge.core import checkpoints, checks, files, masks
from expunge.core.config import InPlaceOf
from expunge.core.errors import RequestError
from expunge.core.masks import Mask
from expunge.core.weights import evaluating, trainable
from expunge.data.image_set import ImageSet
from expunge.data.unlearning_data import UnlearningData
from expunge.store.directory import RunDirectory
from expunge.training.losses import cross_entropy

Scores = dict[str, Tensor]
Score = Literal["gradient", "difference", "ratio", "random"]
Roles = Literal["both", "forget", "split"]


@dataclass(frozen=True)
class UpdateMask:
    """The weights that may move: those with the largest scores, those above a threshold, or those of some layers."""

    score: Score = "gradient"
    """gradient: |g| of the forget set (SalUn). difference: |g| of forget minus |g| of retain (DualOptim's SalUn).
    ratio: mean square of batch gradients, forget over retain (SFRon). random: uniform random numbers, as a control."""
    fraction: float | None = None
    """Share of weights that may move: those with the largest scores; by default half, or all of the named layers."""
    threshold: Annotated[float | None, InPlaceOf("fraction")] = None
    """Instead of the fraction: weights whose score is at least this may move."""
    layers: tuple[str, ...] = ()
    """Rank and move only weights with these names, where * matches anything: network.layer4+*.bias"""
    roles: Roles = "both"
    """both: the mask applies to every step. forget: to forget steps only. split: forget steps move the weights in
    the mask, retain steps the others (Sharp MinMax)."""
    file: str | None = None
    """Instead of a score: a stored mask, of a run or of SalUn's code (with_0.5.pt). The digest of its bytes is
    appended after a #, so that a changed file is refused."""
    freeze_statistics: bool = False
    """Freeze the running statistics of batch normalisation too, which update masks do not cover."""
    batch_size: int = 256
    """Examples per gradient."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        checks.one_of(get_args(Score), score=self.score)
        checks.one_of(get_args(Roles), roles=self.roles)
        checks.between(0, 1, fraction=self.fraction)
        checks.at_least(1, batch_size=self.batch_size)
        if self.threshold is not None:
            checks.at_least(-float("inf"), threshold=self.threshold)
            if self.fraction is not None:
                raise RequestError("give the mask a fraction or a threshold, not both")
        if self.file is not None:
            if self.fraction is not None or self.threshold is not None or self.layers:
                raise RequestError("a mask from a file takes no fraction, threshold or layers")
            if "#" not in self.file:
                object.__setattr__(self, "file", f"{self.file}#{_digest(self.file)}")


def update_masks(
    model: nn.Module,
    data: UnlearningData,
    config: UpdateMask,
    generator: torch.Generator,
    saliency: Scores | None = None,
) -> Mask | dict[str, Mask]:
    """Compute or load the mask that ``config`` describes, for every role or by role.

    ``saliency`` are the scores of the weights, where they are known.

    Raises:
        RequestError: A file contains no mask of this model, or its bytes have changed.
    """
    if config.file is not None:
        return _by_role(_stored(config.file, model), config.roles)
    return choose(saliency or scores(model, data, config.score, config.batch_size, generator), config)


def _stored(file: str, model: nn.Module) -> Mask:
    path, _, digest = file.rpartition("#")
    if _digest(path) != digest:
        raise RequestError(f"{path} is another mask than configured: its bytes have changed")
    found = masks.load(Path(path)) if path.endswith(".safetensors") else checkpoints.read_mask(Path(path), model)
    found.check(model)
    return found


def _digest(path: str) -> str:
    """Sixteen digits of the SHA-256 of a file, which is compared with that in ``run.json`` if a run wrote it."""
    place = Path(path)
    run = RunDirectory(place.parent)
    known = run.exists and place.name in run.digests()
    return files.digest(run.file(place.name) if known else place)[:16]


def scores(model: nn.Module, data: UnlearningData, score: Score, batch_size: int, generator: torch.Generator) -> Scores:
    """Compute the score of every trainable weight, from which masks of any fraction or threshold can be chosen.

    Cost: a forward and backward pass over the forget set, and one over the retain set if the score uses it.
    """
    return _SCORES[score](model, data, batch_size, generator)


def choose(found: Mapping[str, Tensor], config: UpdateMask) -> Mask | dict[str, Mask]:
    """Return the mask that ``config`` chooses by these scores, for every role or by role; see :func:`chosen`."""
    return _by_role(chosen(found, config), config.roles)


def chosen(found: Mapping[str, Tensor], config: UpdateMask) -> Mask:
    """Return the mask that ``config`` chooses by these scores; O(p).

    Raises:
        RequestError: A pattern of ``layers`` matches no weight.
    """
    inside = _inside(found, config.layers)
    if config.threshold is not None:
        moving = masks.at_least(inside, config.threshold)
    else:
        every = 1.0 if config.layers else 0.5
        moving = masks.largest(inside, every if config.fraction is None else config.fraction)
    return Mask({name: moving.get(name, torch.zeros_like(found[name], dtype=torch.bool)) for name in found})


def _by_role(mask: Mask, roles: Roles) -> Mask | dict[str, Mask]:
    if roles == "both":
        return mask
    return {"forget": mask} if roles == "forget" else {"forget": mask, "retain": mask.inverted()}


def gradient(model: nn.Module, images: ImageSet, batch_size: int) -> Scores:
    """``|sum over batches of the gradient of the batch's mean loss|`` of every trainable weight.

    Fan et al. 2024 (arXiv:2310.12508), eq. 4, in evaluation mode and with the test transform, which makes it
    deterministic. Cost: one forward and backward pass over the images.
    """
    return _accumulated(model, images, batch_size, lambda gradient: gradient, torch.abs)


def mean_square(model: nn.Module, images: ImageSet, batch_size: int) -> Scores:
    """``mean over batches of the square of the gradient of the batch's mean loss`` of every trainable weight.

    The saliency of SFRon (Huang et al. 2024, arXiv:2409.19732) as released, with squares of batch gradients, not of
    gradients per example. Evaluation mode and test transform. Cost: one forward and backward pass over the images.
    """
    count = images.steps(batch_size)
    return _accumulated(model, images, batch_size, torch.square, lambda total: total / count)


def _accumulated(
    model: nn.Module,
    images: ImageSet,
    batch_size: int,
    each: Callable[[Tensor], Tensor],
    finish: Callable[[Tensor], Tensor],
) -> Scores:
    """``finish(sum over batches of each(gradient))``; the training modes of the model's modules are restored."""
    weights = trainable(model)
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    with evaluating(model):
        for batch in images.batches(batch_size):
            loss = cross_entropy(model(batch.inputs), batch.labels)
            gradients = torch.autograd.grad(loss, list(weights.values()), materialize_grads=True)
            for name, found in zip(total, gradients, strict=True):
                total[name] += each(found)
    return {name: finish(sum_of) for name, sum_of in total.items()}


def _gradient(model: nn.Module, data: UnlearningData, batch_size: int, _: torch.Generator) -> Scores:
    return gradient(model, data.forget, batch_size)


def _difference(model: nn.Module, data: UnlearningData, batch_size: int, _: torch.Generator) -> Scores:
    """``|mean over forget batches of g| - |mean over retain batches of g|`` (released code of DualOptim)."""
    counts = data.forget.steps(batch_size), data.retain.steps(batch_size)
    forget, retain = (gradient(model, images, batch_size) for images in (data.forget, data.retain))
    return {name: forget[name] / counts[0] - retain[name] / counts[1] for name in forget}


TINY = 1e-15
"""Added to numerator and denominator of the ratio, as in SFRon: a weight without gradients has the ratio 1."""


def _ratio(model: nn.Module, data: UnlearningData, batch_size: int, _: torch.Generator) -> Scores:
    forget, retain = (mean_square(model, images, batch_size) for images in (data.forget, data.retain))
    return {name: (forget[name] + TINY) / (retain[name] + TINY) for name in forget}


def _random(model: nn.Module, data: UnlearningData, batch_size: int, generator: torch.Generator) -> Scores:
    return {
        name: torch.rand(weight.shape, generator=generator, device=generator.device).to(weight.device)
        for name, weight in trainable(model).items()
    }


_SCORES: Mapping[str, Callable[[nn.Module, UnlearningData, int, torch.Generator], Scores]] = MappingProxyType(
    {"gradient": _gradient, "difference": _difference, "ratio": _ratio, "random": _random}
)


def _inside(found: Mapping[str, Tensor], layers: Sequence[str]) -> Mapping[str, Tensor]:
    """The scores of these layers; all by default."""
    for pattern in layers:
        if not any(_matches(name, pattern) for name in found):
            raise RequestError(f"no weight is named {pattern!r}; there are {', '.join(found)}")
    return {n: s for n, s in found.items() if any(_matches(n, pattern) for pattern in layers)} if layers else found


def _matches(name: str, pattern: str) -> bool:
    """Whether a weight matches a pattern: ``fc`` matches ``fc.weight`` and ``fc.bias``."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")
