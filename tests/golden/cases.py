"""Golden cases: inputs and outputs of the original implementations, read from files.

The files of a case are ``NAME.json`` and ``NAME.safetensors`` in ``tests/golden/data/``, or in the folder
that ``EXPUNGE_REFERENCE`` names. Every value a test uses comes from them, so that another family of the
same cases runs unchanged.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from expunge.core.masks import Mask
from expunge.data.image_set import make
from expunge.data.unlearning_data import UnlearningData
from expunge.training.context import Context
from expunge.training.rules import Rule
from tests.problems import InOrder, in_order

Method = Callable[[nn.Module, UnlearningData, Any, Context], nn.Module]
HERE = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Case:
    """One case: what its two files say."""

    name: str
    description: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def hyperparameters(self) -> Mapping[str, Any]:
        return self.description["hyperparameters"]

    @property
    def rtol(self) -> float:
        return float(self.description["tolerance"]["rtol"])

    @property
    def atol(self) -> float:
        return float(self.description["tolerance"]["atol"])

    def prefixed(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin so, without the prefix."""
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}

    def mask(self, prefix: str = "mask.") -> Mask:
        """The mask whose tensors' names begin so."""
        return Mask({name: tensor.bool() for name, tensor in self.prefixed(prefix).items()})

    def only(self, *names: str) -> "Case":
        """The same with nothing but these tensors."""
        return replace(self, tensors={name: self.tensors[name] for name in names})

    def check(self, got: Tensor, expected: Tensor | str) -> None:
        """A tensor equals that of the case, or another, within the stated tolerance."""
        wanted = self.tensors[expected] if isinstance(expected, str) else expected
        torch.testing.assert_close(got.detach().to(wanted.dtype), wanted, rtol=self.rtol, atol=self.atol)


@cache
def load(name: str) -> Case:
    """The case of that name; skips the test where another family of cases lacks it."""
    elsewhere = os.environ.get("EXPUNGE_REFERENCE")
    folder = Path(elsewhere) if elsewhere else HERE
    if elsewhere and not (folder / f"{name}.json").is_file():
        pytest.skip(f"{folder} has no case {name}")
    description = json.loads((folder / f"{name}.json").read_text())
    return Case(name, description, load_file(folder / f"{name}.safetensors"))


def tiny_model() -> nn.Module:
    """The network of the case ``tiny`` with its weights; sizes come from the tensors."""
    state = load("tiny").prefixed("model.")
    first, second = state["0.weight"], state["3.weight"]
    model = nn.Sequential(
        nn.Conv2d(first.shape[1], first.shape[0], 3, padding=1, bias=False),
        nn.BatchNorm2d(first.shape[0]),
        nn.ReLU(),
        nn.Conv2d(second.shape[1], second.shape[0], 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(second.shape[0]),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(state["8.weight"].shape[1], state["8.weight"].shape[0]),
    )
    model.load_state_dict({key: value.clone() for key, value in state.items()})
    return model


def tiny_split(name: str) -> InOrder:
    """``forget``, ``retain``, ``validation`` or ``test`` of the case ``tiny``, in batches that are never shuffled."""
    case = load("tiny")
    return in_order(make(case.tensors[f"{name}.images"], case.tensors[f"{name}.labels"]))


def tiny_data() -> UnlearningData:
    """The splits of the case ``tiny`` that a method sees."""
    classes = len(load("tiny").tensors["model.8.bias"])
    return UnlearningData(tiny_split("forget"), tiny_split("retain"), tiny_split("validation"), classes)


def trajectory_network(case: Case, weights: Tensor) -> nn.Module:
    """The network that a case of a trajectory describes in words, with these weights, in float64."""
    side, classes = case.tensors["images"].shape[-1], int(case.tensors["labels"].max()) + 1
    model: nn.Module = nn.Sequential(nn.Flatten(), nn.Linear(side * side, classes))
    if case.name == "trajectory_cnn":
        first, second = nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Conv2d(4, 4, 3, stride=2, padding=1)
        model = nn.Sequential(first, nn.Softplus(), second, nn.Softplus(), nn.Flatten(), nn.Linear(64, classes))
    copied = weights.double().clone()  # the weights become views of it
    nn.utils.vector_to_parameters(copied, model.double().parameters())
    return model


def kept(case: Case) -> Tensor:
    """Which examples of a trajectory are not forgotten."""
    found = torch.ones(len(case.tensors["labels"]), dtype=torch.bool)
    found[case.tensors["forget"].long()] = False
    return found


def context(**more: object) -> Context:
    """Circumstances in the precision of the original implementations."""
    return Context(torch.Generator().manual_seed(0), precision="float32", **more)  # type: ignore[arg-type]


def rule(case: Case, **more: object) -> Rule:
    """SGD with the rates of the case."""
    given = case.hyperparameters
    assert given.get("optimizer", "SGD") == "SGD"
    return Rule(lr=given["lr"], momentum=given["momentum"], weight_decay=given["weight_decay"], **more)  # type: ignore[arg-type]


def passes(case: Case) -> dict[str, int]:
    """Epochs and batches of the case, as options of a method."""
    return {"epochs": case.hyperparameters["epochs"], "batch_size": case.hyperparameters["batch_size"]}


def assert_close(case: Case, got: Mapping[str, Tensor], prefix: str) -> None:
    """Every tensor of the case under ``prefix`` equals ours within the stated tolerance."""
    expected = case.prefixed(prefix)
    assert expected, f"{case.name} has nothing under {prefix}"
    for name, value in expected.items():
        torch.testing.assert_close(
            got[name].detach().contiguous(), value, rtol=case.rtol, atol=case.atol, msg=lambda m, n=name: f"{n}: {m}"
        )


def assert_method_agrees(case: Case, method: Method, config: object, prefix: str = "expected.", **more: object) -> None:
    """A method leaves the tiny network as the original implementation did."""

    def compute() -> dict[str, Tensor]:
        return method(tiny_model(), tiny_data(), config, context(**more)).state_dict()

    assert_agrees(case, compute, prefix)


def assert_agrees(case: Case, compute: Callable[[], Mapping[str, Tensor]], prefix: str) -> None:
    """``compute`` gives the tensors of the case under some order of float32 sums.

    A trained ReLU network magnifies rounding: the last bit of one sum, which depends on the number of
    threads, can flip a unit and show in the fourth digit some steps later; the formula in float64 is as far
    from these files as that. So the comparison is made with several numbers of threads, and one must agree
    within the stated tolerance. A wrong formula agrees under none.
    """
    failures: list[str] = []
    threads = torch.get_num_threads()
    try:
        for count in (2, 1, 4):
            torch.set_num_threads(count)
            got = compute()
            try:
                return assert_close(case, got, prefix)
            except AssertionError as error:
                failures.append(f"with {count} threads: {error}")
    finally:
        torch.set_num_threads(threads)
    raise AssertionError("\n".join(failures))
