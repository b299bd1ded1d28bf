"""The weights of a model: by name, copied, reinitialised, compared."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from expunge.core.errors import RequestError


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that may be trained, by name; a shared parameter appears once."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def count(model: nn.Module) -> int:
    """The number of trainable weights."""
    return sum(weight.numel() for weight in trainable(model).values())


def check_plain(model: nn.Module, what: str) -> None:
    """Raise a RequestError if some weight is not a parameter itself but made from others, as under adapters."""
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module):
            raise RequestError(f"{what} needs the weights themselves, and those of {name} are made from adapters")


def distance(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    """The Euclidean distance between two sets of named weights, summed in float64.

    Raises:
        RequestError: The names or shapes differ: these are two architectures.
    """
    check_same(first, second, "the two models")
    return norm({name: first[name].double() - second[name].double() for name in first})


def norm(weights: Mapping[str, Tensor]) -> float:
    """The Euclidean norm of named weights, summed in float64."""
    squares = [weight.double().square().sum() for weight in weights.values()]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0


def clone(model: nn.Module) -> nn.Module:
    """A deep copy that shares no storage with ``model``."""
    return copy.deepcopy(model)


def frozen_copy(model: nn.Module) -> nn.Module:
    """A deep copy in evaluation mode, with merged adapters, whose weights require no gradient."""
    copied = clone(model)
    for module in [module for module in copied.modules() if parametrize.is_parametrized(module)]:
        # Not by remove_parametrizations, which changes the class, and with it the module that was copied.
        values = {name: getattr(module, name).detach() for name in module.parametrizations}  # pyright: ignore
        module.__class__ = type(module).__bases__[0]
        del module.parametrizations
        for name, value in values.items():
            module.register_parameter(name, nn.Parameter(value))
    return copied.eval().requires_grad_(False)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within the block, the model is in evaluation mode; afterwards each module is in its previous mode."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():  # not by model.train(): some layers may have been in evaluation mode
            module.training = mode


def reinitialise(model: nn.Module) -> None:
    """Reinitialise every weight by its module's ``reset_parameters``, children before parents.

    Networks that start from trained weights load them again.

    Uses torch's global generator: call it within :func:`randomness.seeded`.

    Raises:
        RequestError: Some parameter belongs to a module that cannot be reset, or the model has adapters.
    """
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module):
            raise RequestError(
                f"{name or 'the model'} is parametrised (by low-rank adapters, a weight norm, ...) and cannot be drawn "
                "anew: do without adapters here, or remove the parametrisation"
            )
    uncovered = {id(weight): name for name, weight in model.named_parameters()}
    for module in _children_first(model):
        reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        if callable(reset):
            reset()
            for weight in module.parameters():
                uncovered.pop(id(weight), None)
    if uncovered:
        raise RequestError(
            f"cannot draw {', '.join(uncovered.values())} anew: give its module a reset_parameters() method"
        )
    load_pretrained(model)


def load_pretrained(model: nn.Module) -> list[str]:
    """Let every module that has a ``load_pretrained`` method start from trained weights; what to tell the user.

    Raises:
        RequestError: A file is missing, has changed, or is of another architecture.
    """
    methods = [getattr(module, "load_pretrained", None) for module in model.modules()]
    return [str(found) for found in (method() for method in methods if callable(method)) if found]


class Rebuilt:
    """Base of a module whose ``reset_parameters`` initialises all of it, its children included."""


def _children_first(module: nn.Module) -> list[nn.Module]:
    if isinstance(module, Rebuilt):
        return [module]
    return [found for child in module.children() for found in _children_first(child)] + [module]


def load(model: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load a state dict; a RequestError lists keys that are missing, unknown, or of another shape."""
    check_same(state, model.state_dict(), what)
    model.load_state_dict(state, strict=True)


@torch.no_grad()
def assign(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Set trainable weights to these values, each rounded once to the weight's precision; others keep theirs."""
    for name, weight in trainable(model).items():
        if name in values:
            weight.copy_(values[name])


def check_same(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], what: str) -> None:
    """Raise a RequestError that lists the differences of names or shapes."""
    shapes = [
        f"{name} has shape {tuple(given[name].shape)}, not {tuple(wanted[name].shape)}"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    problems = [
        *(f"{name} is missing" for name in wanted if name not in given),
        *(f"{name} is unknown" for name in given if name not in wanted),
        *shapes,
    ]
    if problems:
        more = f" and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise RequestError(f"{what}: another architecture: {'; '.join(problems[:8])}{more}")
