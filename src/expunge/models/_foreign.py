"""Networks that other code builds: options from text, a check of the outputs, pretrained weights, building anew."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from expunge.core import checkpoints, files, weights
from expunge.core.errors import RequestError
from expunge.models._check import Shape

HUB = "hub"
"""The value of ``pretrained`` for the published weights."""


def package(name: str) -> ModuleType:
    """The module of an optional package.

    Raises:
        RequestError: It is not installed, or does not fit the installed torch.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise RequestError(
            f"{name} is not installed ({error}): python -m pip install 'expunge[models]', or timm torchvision"
        ) from error
    except RuntimeError as error:  # torchvision, if it was compiled for another torch
        raise RequestError(
            f"{name} does not fit the installed torch ({error}): install the torchvision that belongs to it"
        ) from error


def values(options: Sequence[str]) -> dict[str, object]:
    """Options ``key=value`` by key; values that look like none, booleans or numbers are these."""
    return {key: value(text) for key, _, text in (option.partition("=") for option in options)}


def value(text: str) -> object:
    """None, a boolean, an integer or a number if the text is one; else the text."""
    words: Mapping[str, object] = {"none": None, "true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def checked(make: Callable[[], object], shape: Shape, num_classes: int, what: str) -> nn.Module:
    """The module that ``make`` returns, on the CPU, whose ``reset_parameters`` makes it anew, as retraining needs.

    Raises:
        RequestError: It cannot be made, or does not turn two images of this shape into logits (2, num_classes).
    """

    def made() -> nn.Module:
        try:
            model = make()
        except RequestError:
            raise
        except Exception as error:  # whatever the user's code raises
            raise RequestError(f"{what} cannot be built: {type(error).__name__}: {error}") from error
        if not isinstance(model, nn.Module):
            raise RequestError(f"{what} should return a torch.nn.Module, got {type(model).__name__}")
        _check(model.cpu(), shape, num_classes, what)
        return model

    def reset_parameters(self: nn.Module) -> None:
        self.load_state_dict(made().state_dict())

    model = made()
    kind = type(model)
    # A subclass, not a module around it: the names of the weights stay those of the other code.
    model.__class__ = type(kind.__name__, (weights.Rebuilt, kind), {"reset_parameters": reset_parameters})
    return model


@torch.no_grad()
def _check(model: nn.Module, shape: Shape, num_classes: int, what: str) -> None:
    with weights.evaluating(model):
        try:
            logits: object = model(torch.zeros(2, *shape))
        except Exception as error:
            reason = str(error).partition("\n")[0]
            raise RequestError(f"{what} does not accept images of shape {shape}: {reason}") from error
    if not isinstance(logits, Tensor) or logits.shape != (2, num_classes):
        got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise RequestError(f"{what} should turn two images into logits (2, {num_classes}), got {got}")


def digest(pretrained: str | None, located: Callable[[], Path]) -> str:
    """The SHA-256 of pretrained weights, or of nothing."""
    return "" if pretrained is None else files.digest(located())


def start(model: nn.Module, path: Path, sha256: str) -> nn.Module:
    """The model with pretrained weights; a last linear layer for other classes stays as it is.

    Raises:
        RequestError: The file has changed or is no checkpoint, or its names or shapes differ.
    """
    if files.digest(path) != sha256:
        raise RequestError(f"{path} has changed since the model was made: restore it, or train again")
    given, own = dict(checkpoints.read(path).state), model.state_dict()
    linear = [name for name, each in model.named_modules() if isinstance(each, nn.Linear)]
    last = {f"{linear[-1]}.{part}" for part in ("weight", "bias")} if linear else set[str]()
    if any(name in given and name in own and given[name].shape != own[name].shape for name in last):
        given |= {name: own[name] for name in last & own.keys() & given.keys()}
    weights.load(model, given, str(path))
    return model
