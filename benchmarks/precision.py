"""Time of a training step by network, float32 against bfloat16, both in channels-last.

    OMP_NUM_THREADS=1 python benchmarks/precision.py

The limit of `expunge.training.precision` (bfloat16 from 50,000 weights, where it is faster) comes from this. Steps of
both kinds are taken in turns and the median of each is compared, so that other load on the machine is on both sides.
One thread is measured in CPU time, several in wall-clock time. Images and steps may be given: `precision.py 16 15`.
"""

import statistics
import sys
import time

import torch
from torch import nn

from expunge.core import config, weights
from expunge.core.registry import of_config
from expunge.training.losses import cross_entropy
from expunge.training.precision import Precision, timed_ratio
from expunge.training.rules import Rule
from expunge.training.stepper import Stepper

CPU = torch.device("cpu")
NETWORKS = ("small_cnn:width=16", "small_cnn:width=64", *(f"resnet18:width={width}" for width in (4, 8, 16, 32)))
KINDS: tuple[Precision, Precision] = ("float32", "bfloat16")


def network(text: str) -> nn.Module:
    """A network for 3 x 32 x 32 images, in channels-last whatever its size."""
    wanted = config.parse("models", text)
    built = of_config("models", wanted).call(wanted, (3, 32, 32), 10)
    assert isinstance(built, nn.Module)
    return built.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def seconds(text: str, size: int, steps: int) -> list[float]:
    """The median time of a step on ``size`` images by precision, after one step of each that is not counted."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    images, labels = torch.rand(size, 3, 32, 32), torch.randint(10, (size,))
    networks = [network(text) for _ in KINDS]
    steppers = [
        Stepper(one, Rule(), steps + 1, device=CPU, precision=kind) for one, kind in zip(networks, KINDS, strict=True)
    ]
    times: list[list[float]] = [[] for _ in KINDS]
    for _ in range(steps + 1):
        for one, step, spent in zip(networks, steppers, times, strict=True):
            started = clock()
            step(retain=lambda one=one: cross_entropy(one(images), labels))
            spent.append(clock() - started)
    return [statistics.median(spent[1:]) for spent in times]


if __name__ == "__main__":
    size, steps = (int(word) for word in (sys.argv[1:] or ("128", "7")))
    print(f"{torch.get_num_threads()} threads, {size} images a step; the timed convolution: {timed_ratio():.2f}\n")
    print("| model | weights | float32 (ms) | bfloat16 (ms) | ratio |\n|---|---:|---:|---:|---:|")
    for text in NETWORKS:
        plain, half = seconds(text, size, steps)
        count = weights.count(network(text))
        print(f"| {text} | {count:,} | {1e3 * plain:.0f} | {1e3 * half:.0f} | {half / plain:.2f} |", flush=True)
