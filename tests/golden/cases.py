"""Golden cases: inputs and outputs of the original implementations, read from files.

The files of a case are ``NAME.json`` and ``NAME.safetensors`` in ``tests/golden/data/``, or in the folder
that ``EXPUNGE_REFERENCE`` names. Every value a test uses comes from them, so that another family of the
same cases runs unchanged.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from expunge.data.image_set import ImageSet, make

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


def tiny_split(name: str) -> ImageSet:
    """``forget``, ``retain``, ``validation`` or ``test`` of the case ``tiny``."""
    case = load("tiny")
    return make(case.tensors[f"{name}.images"], case.tensors[f"{name}.labels"])


def assert_close(case: Case, got: Mapping[str, Tensor], prefix: str) -> None:
    """Every tensor of the case under ``prefix`` equals ours within the stated tolerance."""
    expected = case.prefixed(prefix)
    assert expected, f"{case.name} has nothing under {prefix}"
    for name, value in expected.items():
        torch.testing.assert_close(
            got[name].detach().contiguous(), value, rtol=case.rtol, atol=case.atol, msg=lambda m, n=name: f"{n}: {m}"
        )


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
