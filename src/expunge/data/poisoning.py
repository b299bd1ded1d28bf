"""Poisoned training data: backdoor triggers and Gaussian noise, and what an audit of a model trained on them needs.

An ImageSet augments its batches after all this: in training, random crops and flips move a trigger, and may cut it
off, as they do in the code of Jia et al. 2023 (arXiv:2304.04934). Test images are not augmented: there the trigger
is where it was put.
"""

import hashlib
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import ndtri
from torch import Tensor

from expunge.core import checks, randomness, registry
from expunge.core import config as configuration
from expunge.core.errors import RequestError
from expunge.data.image_set import Change, ImageSet

Place = Literal["bottom_right", "bottom_left", "top_left", "top_right", "centre"]
SHARE = 0.1
"""The share of the training set that is poisoned where the text form says nothing: 4500 of 45000, as published."""


@dataclass(frozen=True)
class PatchTrigger:
    """A square of one value (Gu et al. 2017, arXiv:1708.06733): by default black, 4 x 4, 2 pixels from the corner."""

    size: int = 4
    """Side of the square, in pixels."""
    place: Place = "bottom_right"
    """Which corner it is in, or the centre."""
    margin: int = 2
    """Pixels between the square and the two nearest edges; without meaning in the centre."""
    value: float = 0.0
    """What every pixel and channel becomes, from 0 (black) to 1."""

    def __post_init__(self) -> None:
        """Check the ranges that do not depend on the images."""
        checks.at_least(1, size=self.size)
        checks.at_least(0, margin=self.margin)
        checks.between(0, 1, value=self.value)


@dataclass(frozen=True)
class BlendTrigger:
    """A pattern z of uniform noise, the same for every image: ``(1 - alpha) x + alpha z``.

    Chen et al. 2017 (arXiv:1712.05526). The seed of the poison draws the pattern.
    """

    alpha: float = 0.2
    """The weight of the pattern, above 0 and at most 1."""

    def __post_init__(self) -> None:
        """Check the range."""
        checks.above(0, alpha=self.alpha)
        checks.between(0, 1, alpha=self.alpha)


@dataclass(frozen=True)
class GaussianPoison:
    """Noise N(0, sigma^2) of its own for every poisoned image, whose label stays.

    Pawelczyk et al. 2024 (arXiv:2406.17216). There is nothing to trigger at test time: an audit draws the noise
    again (:func:`noise_of`) and asks whether the model remembers it.
    """

    sigma: float = 0.1
    """Standard deviation of the noise, where pixels are in [0, 1]."""

    def __post_init__(self) -> None:
        """Check the range."""
        checks.above(0, sigma=self.sigma)


Trigger: TypeAlias = PatchTrigger | BlendTrigger | GaussianPoison
KINDS: dict[str, type[Trigger]] = {"patch": PatchTrigger, "blend": BlendTrigger, "gaussian": GaussianPoison}
"""The triggers, as the command line names them."""


@dataclass(frozen=True)
class Poison:
    """How some training examples are poisoned."""

    trigger: Trigger = field(default_factory=PatchTrigger)
    """What is done to their images."""
    share: float | None = None
    """The share of the whole training set that is poisoned, above 0 and at most 1; the number is rounded down."""
    count: int | None = None
    """Or how many examples are poisoned."""
    target: int = 0
    """The class that a trigger should lead to."""
    clean_label: bool = False
    """Poison only examples of the target class and leave labels as they are, instead of any class and a new label."""
    seed: int = 0
    """Draws which examples are poisoned, the pattern of a blend, and Gaussian noise."""

    def __post_init__(self) -> None:
        """Check the ranges that do not depend on the images."""
        if (self.share is None) == (self.count is None):
            raise RequestError("poison needs a share of the training set or a count, not both: share=10% or count=500")
        checks.above(0, share=self.share)
        checks.between(0, 1, share=self.share)
        checks.at_least(1, count=self.count)
        checks.at_least(0, target=self.target)
        if isinstance(self.trigger, GaussianPoison) and (self.target or self.clean_label):
            raise RequestError("Gaussian noise changes no label and has no target: leave out target and clean_label")


def parse_poison(text: str) -> Poison:
    """The poison written ``KIND[:key=value,...]``, as ``patch:size=4,target=0,share=10%`` or ``gaussian:count=500``.

    Keys are the fields of the trigger and of :class:`Poison`; a share is a fraction or a percentage. Without
    share and count it is 10%.

    Raises:
        RequestError: The kind, a key or a value is wrong.
    """
    name, _, rest = text.partition(":")
    if name not in KINDS:
        cure = "write patch:size=4,target=0,share=10%, blend:alpha=0.2 or gaussian:sigma=0.1,count=500"
        raise RequestError(f"{registry.unknown('kind of poison', name, KINDS)}; {cure}")
    what = f"poison {name}"
    of_trigger = configuration.field_names(KINDS[name])
    known = [*of_trigger, *(key for key in configuration.field_names(Poison) if key != "trigger")]
    values: dict[str, object] = {}
    for key, value in configuration.assignments(rest, of_trigger[0], what).items():
        if key not in known:
            raise RequestError(f"{what}: {registry.unknown('option', key, known)}")
        values[f"trigger.{key}" if key in of_trigger else key] = _fraction(value) if key == "share" else value
    if "share" not in values and "count" not in values:
        values["share"] = SHARE
    data = {"trigger": {"kind": configuration.tag(KINDS[name])}}
    return configuration.override(Poison, data, values, what)


def _fraction(value: object) -> object:
    """``10%`` as 0.1; anything else as it is."""
    if not (isinstance(value, str) and value.endswith("%")):
        return value
    try:
        return float(value[:-1]) / 100
    except ValueError:
        raise RequestError(f"share={value} is no percentage: write share=10% or share=0.1") from None


def poison(train: ImageSet, config: Poison, num_classes: int) -> tuple[ImageSet, Tensor]:
    """A poisoned copy of the training set, and the ids of the poisoned examples: int64, ascending.

    With a trigger and new labels, examples of any class are drawn, those of the target class among them, as
    published: their label stays what it was. With clean labels, only examples of the target class are drawn.
    Gaussian noise is for examples of any class. A share is of the whole training set in every case.

    Raises:
        RequestError: There is no such class, there are too few examples, or the trigger does not fit the images.
    """
    if config.target >= num_classes:
        raise RequestError(f"the target of the poison is class {config.target}: classes are 0..{num_classes - 1}")
    chosen = _draw(train, config)
    labels = train.labels.clone()
    if not (config.clean_label or isinstance(config.trigger, GaussianPoison)):
        labels[chosen] = config.target
    poisoned = train.mapped(_stamping(train.shape, config.trigger, config.seed), chosen).with_labels(labels)
    return poisoned, train.ids[chosen].sort().values


def _draw(train: ImageSet, config: Poison) -> Tensor:
    """The positions of the examples to poison."""
    count = int(len(train) * config.share + 1e-9) if config.share is not None else (config.count or 0)
    if count < 1:
        raise RequestError(
            f"a share of {config.share:g} of {len(train)} training examples is less than one: give a larger share"
        )
    candidates = torch.arange(len(train), device=train.device)
    whose = "training examples"
    if config.clean_label:
        candidates, whose = candidates[train.labels == config.target], f"training examples of class {config.target}"
    if count > len(candidates):
        raise RequestError(f"cannot poison {count} of {len(candidates)} {whose}: give a smaller share or count")
    order = torch.randperm(len(candidates), generator=randomness.generator(config.seed, "poison"))
    return candidates[order[:count].to(train.device)]


def triggered(test: ImageSet, config: Poison) -> ImageSet:
    """Test images of every class but the target, with the trigger, labelled as the target; ids are kept.

    Accuracy on them is the success rate of the attack. Images of the target class are left out: a model without
    a backdoor would be right about them. Gaussian noise has no trigger: the set is empty.
    """
    if isinstance(config.trigger, GaussianPoison):
        return test.select(torch.arange(0))
    others = stamp(test.select(test.labels != config.target), config.trigger, config.seed)
    return others.with_labels(torch.full_like(others.labels, config.target))


def stamp(images: ImageSet, trigger: Trigger, seed: int = 0) -> ImageSet:
    """The same examples with the trigger in every image; the type of the images stays.

    The result is clipped to [0, 1]; in uint8 that is ``round(255 x)``, half to even. ``seed`` draws the pattern of a
    blend and Gaussian noise; a patch needs none.

    Raises:
        RequestError: A patch does not fit the images, or float images are not in [0, 1].
    """
    return images.mapped(_stamping(images.shape, trigger, seed))


def _stamping(shape: tuple[int, ...], trigger: Trigger, seed: int) -> Change:
    """What puts the trigger into images of this shape."""
    if isinstance(trigger, PatchTrigger):
        return partial(_patched, _square(trigger, shape), trigger.value)
    if isinstance(trigger, BlendTrigger):
        return partial(_blended, _pattern(shape, seed), trigger.alpha)
    return partial(_noised, trigger.sigma, seed)


def _patched(square: tuple[slice, slice], value: float, inputs: Tensor, ids: Tensor) -> Tensor:
    """The images with a square of one value."""
    _check_range(inputs)
    inputs = inputs.clone()
    inputs[:, :, square[0], square[1]] = _as(torch.tensor(value), inputs.dtype)
    return inputs


def _blended(pattern: Tensor, alpha: float, inputs: Tensor, ids: Tensor) -> Tensor:
    """The images moved towards a pattern."""
    scaled = _scaled(inputs)
    return _as(torch.lerp(scaled, pattern.to(scaled), alpha), inputs.dtype)


def _noised(sigma: float, seed: int, inputs: Tensor, ids: Tensor) -> Tensor:
    """The images with the Gaussian noise of their ids."""
    scaled = _scaled(inputs)
    noise = _noise(ids, tuple(inputs.shape[1:]), sigma, seed).to(scaled)
    return _as(scaled + noise, inputs.dtype)


def _scaled(inputs: Tensor) -> Tensor:
    """Stored images in [0, 1], in float32 at least."""
    _check_range(inputs)
    scaled = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
    return scaled / 255 if inputs.dtype == torch.uint8 else scaled


def _check_range(values: Tensor) -> None:
    """Refuse float images outside [0, 1]: black, white and sigma would have no meaning there."""
    if values.dtype != torch.uint8 and not bool(((values >= 0) & (values <= 1)).all()):
        raise RequestError(
            f"float images must be in [0, 1] to be poisoned, found {float(values.min()):g} to {float(values.max()):g}: "
            "rescale them, and leave their normalisation to the model"
        )


def _as(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Values clipped to [0, 1], in the type of the images."""
    clipped = values.clamp(0, 1)
    return (clipped * 255).round().to(dtype) if dtype == torch.uint8 else clipped.to(dtype)


def _square(trigger: PatchTrigger, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """The rows and columns of a patch."""
    if len(shape) != 3:
        raise RequestError(f"a patch needs images (channels, height, width), got inputs of shape {shape}: use blend")
    height, width = shape[1:]
    needed = trigger.size + (0 if trigger.place == "centre" else trigger.margin)
    if needed > min(height, width):
        raise RequestError(
            f"a patch of {trigger.size} pixels with a margin of {trigger.margin} does not fit images of "
            f"{height} x {width}: size and margin may be {min(height, width)} together"
        )
    if trigger.place == "centre":
        top, left = (height - trigger.size) // 2, (width - trigger.size) // 2
    else:
        top = trigger.margin if trigger.place.startswith("top") else height - needed
        left = trigger.margin if trigger.place.endswith("left") else width - needed
    return slice(top, top + trigger.size), slice(left, left + trigger.size)


def _pattern(shape: tuple[int, ...], seed: int) -> Tensor:
    """The pattern of a blend: uniform on (0, 1), float64 ``shape``."""
    drawn = _uniform(np.zeros(1, dtype=np.int64), int(np.prod(shape)), seed, "pattern")
    return torch.from_numpy(drawn).view(shape)


def noise_of(ids: Tensor, shape: tuple[int, ...], config: Poison) -> Tensor:
    """The Gaussian noise of the images with these ids: float32 (n, *shape) on the device of ``ids``, not clipped.

    An image's noise depends on its id, the shape and the seed alone: it is the same whenever, wherever and beside
    whichever others it is drawn.

    Raises:
        RequestError: The poison is no Gaussian noise.
    """
    if not isinstance(config.trigger, GaussianPoison):
        raise RequestError("only Gaussian noise can be drawn again from ids: poison with gaussian:sigma=0.1")
    return _noise(ids, shape, config.trigger.sigma, config.seed)


def _noise(ids: Tensor, shape: tuple[int, ...], sigma: float, seed: int) -> Tensor:
    """Gaussian noise in parts of 256 images, which bound the memory of the float64 numbers on the way."""
    size = int(np.prod(shape))
    noise = torch.empty(len(ids), size)
    for part, into in zip(ids.cpu().split(256), noise.split(256), strict=True):
        into.copy_(torch.from_numpy(sigma * ndtri(_uniform(part.numpy(), size, seed, "noise"))))
    return noise.view(len(ids), *shape).to(ids.device)


def _uniform(ids: npt.NDArray[np.int64], size: int, seed: int, purpose: str) -> npt.NDArray[np.float64]:
    """``size`` numbers for each id, uniform on (0, 1): float64 (n, size).

    Number j of an id is the j-th output of SplitMix64 (Steele et al. 2014, doi:10.1145/2660193.2660195) from a state
    that is itself such a hash of the id, the seed and the purpose. A generator of torch cannot do it: which
    numbers an image gets would depend on how many are drawn before it.
    """
    key = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8]
    states = _mix(np.frombuffer(key, "<u8") + ids.astype(np.uint64) * _STEP)
    counters = np.arange(1, size + 1, dtype=np.uint64) * _STEP
    bits = _mix(states[:, None] + counters) >> np.uint64(12)
    return (bits.astype(np.float64) + 0.5) * 2.0**-52  # 52 bits and a half are exact: neither 0 nor 1 can come out


_STEP = np.uint64(0x9E3779B97F4A7C15)
_FACTORS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finalizer of SplitMix64, a permutation of the 64-bit numbers."""
    for shift, factor in _FACTORS:
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    return values ^ (values >> np.uint64(31))
