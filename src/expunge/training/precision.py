"""The precision of forward passes, and what ``auto`` chooses on a machine."""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Literal, TypeGuard

import torch
from torch import nn

Precision = Literal["float32", "bfloat16", "mixed"]
"""``mixed``: bfloat16 in networks that gain from it (:func:`gains`), float32 in others."""
RequestedPrecision = Literal["auto", "float32", "bfloat16", "mixed"]
"""A precision, or ``auto``: :func:`chosen` by the machine."""

LARGE_ENOUGH = 50_000
"""Weights from which a convolutional network gains, by `benchmarks/precision.py`."""
FASTER = 0.85
"""The largest ratio of times, bfloat16 to float32, at which ``auto`` takes bfloat16 on a CPU.

The convolution that is timed takes 0.56 to 0.67 on an AMD processor with AVX512-BF16, idle or under load; where
bfloat16 is slower, the ratio is above 1. The limit is far from both, so that load does not change the choice.
"""


def chosen(requested: RequestedPrecision, device: torch.device) -> Precision:
    """Return the precision that is asked for; ``auto`` is ``mixed`` where the device is faster in bfloat16.

    It is where a GPU computes in bfloat16 natively. A CPU that does is timed: instructions alone do not say whether
    they are faster. The result is kept for the processor and the version of torch in the user's cache folder, so that
    all processes choose alike. Cost: half a second, once.
    """
    if requested != "auto":
        return requested
    if device.type == "cuda":
        return "mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "mixed" if device.type == "cpu" and cpu_ratio() <= FASTER else "float32"


def gains(model: nn.Module) -> bool:
    """Whether bfloat16 and channels-last can make this model faster: it has convolutions and is not tiny."""
    convolutional = any(isinstance(module, nn.Conv2d) for module in model.modules())
    return convolutional and sum(weight.numel() for weight in model.parameters()) >= LARGE_ENOUGH


def fastest_layout(model: nn.Module) -> nn.Module:
    """Return the model itself, its weights moved to channels-last if it gains from that."""
    return model.to(memory_format=torch.channels_last) if gains(model) else model  # pyright: ignore


@cache
def cpu_ratio() -> float:
    """The ratio of times on this CPU, from the cache folder if it is there."""
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # from torch 2.8
    if not (capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")):
        return 1.0
    described = json.dumps([torch.__version__, {key: str(value) for key, value in sorted(capabilities.items())}])
    name = f"precision-{hashlib.sha256(described.encode()).hexdigest()[:16]}.json"
    path = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "expunge" / name
    with suppress(OSError, ValueError):
        known = json.loads(path.read_text(encoding="utf-8"))
        if _is_ratio(known):
            return known
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            ratio = timed_ratio()
    finally:
        torch.set_num_threads(threads)
    with suppress(OSError):  # a home that cannot be written to: each process times
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(ratio), encoding="utf-8")
        draft.replace(path)
    return ratio


def _is_ratio(known: object) -> TypeGuard[float]:
    return isinstance(known, float) and known > 0


def timed_ratio(repeats: int = 7) -> float:
    """The time of a training step of a convolution in bfloat16 divided by that in float32, both channels-last.

    CPU time of one thread, as threads that wait for each other on a loaded machine measure its load; the smallest of
    ``repeats`` steps of each kind, in turns, after one that is not counted.
    """
    network = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
    network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    images = torch.rand(32, 64, 16, 16).to(memory_format=torch.channels_last).requires_grad_()
    times: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(repeats + 1):
        for half, spent in times.items():
            started = time.thread_time()
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = network(images).float().square().mean()
            loss.backward()
            spent.append(time.thread_time() - started)
    return min(times[True][1:]) / min(times[False][1:])
