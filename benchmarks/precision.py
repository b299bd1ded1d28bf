"""Time of a training step by width of ResNet-18, float32 against bfloat16 with channels-last.

    python benchmarks/precision.py

The rule of `expunge.training.stepper` (bfloat16 from 50,000 weights, where the device has it natively) comes from this.
"""

import time
from typing import Literal

import torch
from torch import nn

from expunge.core import weights
from expunge.models import resnet18, small_cnn
from expunge.training.losses import cross_entropy
from expunge.training.rules import Rule
from expunge.training.stepper import Precision, Stepper, native_bfloat16

CPU = torch.device("cpu")


def model(kind: Literal["resnet18", "small_cnn"], width: int) -> nn.Module:
    """A network for 3 x 32 x 32 images."""
    if kind == "small_cnn":
        return small_cnn.build(small_cnn.SmallCnnConfig(width), (3, 32, 32), 10)
    return resnet18.build(resnet18.Resnet18Config(width), (3, 32, 32), 10)


def seconds(network: nn.Module, precision: Precision, steps: int = 5) -> float:
    """Seconds per step on a batch of 128, the first not counted."""
    images, labels = torch.rand(128, 3, 32, 32), torch.randint(10, (128,))
    step = Stepper(network.train(), Rule(), steps + 1, device=CPU, precision=precision)
    started = 0.0
    for index in range(steps + 1):
        if index == 1:
            started = time.perf_counter()
        step(retain=lambda: cross_entropy(network(images), labels))
    return (time.perf_counter() - started) / steps


if __name__ == "__main__":
    print(f"native bfloat16: {native_bfloat16(CPU)}, {torch.get_num_threads()} threads\n")
    print("| model | weights | float32 (ms) | bfloat16 (ms) | ratio |\n|---|---:|---:|---:|---:|")
    for kind, width in (
        ("small_cnn", 16),
        ("small_cnn", 64),
        ("resnet18", 4),
        ("resnet18", 8),
        ("resnet18", 16),
        ("resnet18", 32),
    ):
        plain = seconds(model(kind, width), "float32")  # type: ignore[arg-type]
        half = seconds(model(kind, width), "bfloat16")  # type: ignore[arg-type]
        size = weights.count(model(kind, width))  # type: ignore[arg-type]
        print(f"| {kind} {width} | {size:,} | {1e3 * plain:.0f} | {1e3 * half:.0f} | {half / plain:.2f} |")
