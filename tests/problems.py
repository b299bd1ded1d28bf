"""Tiny problems that all tests share, and unlearning from them."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn

from expunge.core import config, masks, registry
from expunge.core import weights as model_weights
from expunge.core.errors import RequestError
from expunge.core.masks import Mask
from expunge.data.dataset import Dataset
from expunge.data.image_set import Batch, ImageSet, TensorImages, make
from expunge.data.unlearning_data import UnlearningData
from expunge.training.context import Context
from expunge.training.fit import Training
from expunge.training.rules import Rule
from expunge.trajectory import record
from expunge.trajectory.plan import Trajectory
from expunge.unlearning import presets
from expunge.unlearning.unlearn import Unlearning, unlearn


def images(count: int, classes: int = 3, first_id: int = 0, seed: int = 0) -> ImageSet:
    """Images of 1 x 4 x 4 that a linear model can tell apart: class c is bright in row c."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 120, (count, 1, 4, 4), dtype=torch.uint8, generator=generator)
    labels = torch.arange(count) % classes
    pixels[torch.arange(count), 0, labels] += 120
    return make(pixels, labels, first_id=first_id)


def data(classes: int = 3, forget: int = 10, retain: int = 30) -> UnlearningData:
    """A forget, a retain and a validation set."""
    return UnlearningData(
        images(forget, classes, seed=1), images(retain, classes, 100, seed=2), images(12, classes, 500, seed=3), classes
    )


def model(classes: int = 3, batch_norm: bool = True, seed: int = 0) -> nn.Module:
    """A small network, the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        norm: nn.Module = nn.BatchNorm2d(4) if batch_norm else nn.Identity()
        convolution = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        return nn.Sequential(convolution, norm, nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(64, classes))


def architecture(
    text: str, shape: tuple[int, ...] = (3, 32, 32), classes: int = 10, seed: int | None = None
) -> nn.Module:
    """A network of the library, drawn from the global generator unless a seed is given."""
    wanted = config.parse("models", text)
    with nullcontext() if seed is None else torch.random.fork_rng():
        if seed is not None:
            torch.manual_seed(seed)
        return registry.of_config("models", wanted).call(wanted, shape, classes)  # type: ignore[return-value]


def architectures() -> list[str]:
    """The names of architectures that can be built without naming anything else, such as a network of timm."""
    found = registry.plugins("models").values()
    return [each.name for each in found if all(map(_optional, dataclasses.fields(each.config)))]


def _optional(field: dataclasses.Field[object]) -> bool:
    return not field.default is field.default_factory is dataclasses.MISSING


def narrow(name: str) -> str:
    """An architecture in text with few channels, where its channels can be chosen."""
    return f"{name}:width=4" if "width" in config.field_names(registry.find("models", name).config) else name


def dataset(text: str) -> Dataset:
    """What a source of data gives."""
    wanted = config.parse("data", text)
    return registry.of_config("data", wanted).call(wanted)  # type: ignore[return-value]


def random_like(tensors: Mapping[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Normal numbers by name in the same shapes and types."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(w.shape, generator=generator, dtype=w.dtype) for name, w in tensors.items()}


def context(seed: int = 0, **more: object) -> Context:
    """The circumstances of a test."""
    return Context(torch.Generator().manual_seed(seed), **more)  # type: ignore[arg-type]


def recorded(network: nn.Module, seen: UnlearningData) -> Trajectory:
    """Train ``network`` in place on all that a method sees; what was kept of it."""
    rule = Rule(lr=0.05, momentum=0.5, clip=1.0)
    return record.recorded(network, seen.everything(), Training(1, 8, rule, record=True), context())


@dataclasses.dataclass(frozen=True)
class InOrder(TensorImages):
    """Batches are consecutive slices whatever the generator, as in a loop by hand."""

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[Batch]:
        """Of ``size``, the last may be smaller."""
        return super().batches(size)


def in_order(images: TensorImages) -> InOrder:
    """The same images, never shuffled."""
    return InOrder(images.inputs, images.labels, images.ids)


def run(
    wanted: object,
    start: nn.Module | None = None,
    on: UnlearningData | None = None,
    under: Context | None = None,
    trajectory: Trajectory | None = None,
    extras: Mapping[str, object] | None = None,
    **more: object,
) -> tuple[nn.Module, Context]:
    """The unlearned model and the circumstances, of a method in text, by its configuration, or with all that belongs.

    A method that must have a recorded training gets one; ``extras`` are what else it takes, ``more`` circumstances.
    """
    if isinstance(wanted, str):
        wanted = presets.named(wanted)
    wanted = wanted if isinstance(wanted, Unlearning) else Unlearning(wanted)
    start, on = model() if start is None else start, on or data()
    if trajectory is None and under is None and registry.of_config("methods", wanted.method).extras.get("trajectory"):
        trajectory = recorded(start, on)
    now = context(**more) if under is None else under
    return unlearn(start, on, wanted, now, {"trajectory": trajectory, **(extras or {})}), now


def unlearned(wanted: object, *given: object, **more: object) -> nn.Module:
    """The model alone, see :func:`run`."""
    return run(wanted, *given, **more)[0]  # type: ignore[arg-type]


def weights(network: nn.Module) -> dict[str, Tensor]:
    """A copy of the weights by name."""
    return {name: weight.detach().clone() for name, weight in network.named_parameters()}


def state(network: nn.Module) -> dict[str, Tensor]:
    """A copy of the weights and the statistics by name."""
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


Tensors = nn.Module | Mapping[str, Tensor]


def same(first: Tensors, second: Tensors) -> bool:
    """Whether two models, or tensors by name, are equal to the bit."""
    one, other = (each.state_dict() if isinstance(each, nn.Module) else each for each in (first, second))
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def assert_close(first: Tensors, second: Tensors, **tolerance: float) -> None:
    """Two models, or tensors by name, are equal within a tolerance; the message names the tensor."""
    one, other = (each.state_dict() if isinstance(each, nn.Module) else each for each in (first, second))
    assert list(one) == list(other)
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], msg=lambda text, name=name: f"{name}: {text}", **tolerance)


def finite(network: nn.Module) -> bool:
    """Whether every weight and statistic is a finite number."""
    return all(bool(torch.isfinite(value).all()) for value in network.state_dict().values())


Result = TypeVar("Result")


def attempt(call: Callable[[], Result]) -> tuple[Result | None, str]:
    """What a request gives, or the message with which it is refused."""
    try:
        return call(), ""
    except RequestError as error:
        return None, str(error)


def spied_teachers(patch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The frozen copies that are made from now on, in order: those that methods learn from."""
    made: list[nn.Module] = []
    real = model_weights.frozen_copy

    def spy(network: nn.Module) -> nn.Module:
        made.append(real(network))
        return made[-1]

    patch.setattr(model_weights, "frozen_copy", spy)
    return made


def full(network: nn.Module) -> Mask:
    """The mask that is true everywhere."""
    return Mask(masks.over(None, model_weights.trainable(network)))


def vector(network: nn.Module) -> Tensor:
    """All parameters as one float64 vector (p,)."""
    return torch.cat([weight.detach().flatten().double() for weight in network.parameters()])
