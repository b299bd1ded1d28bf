"""Every random choice comes from a ``torch.Generator`` that is passed; this file makes them from seeds."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch


def generator(seed: int, *purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one purpose of one seed: other purposes of the same seed are independent of it.

    ``generator(0, "split")`` and ``generator(0, "forget")`` share nothing, so a change in how much one
    stage draws changes no other stage.
    """
    text = "/".join((str(seed), *purpose))
    value = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
    return torch.Generator(device).manual_seed(value)


def child(parent: torch.Generator, purpose: str) -> torch.Generator:
    """A new generator on the same device for one purpose, from the seed of ``parent``, which is not advanced."""
    return generator(parent.initial_seed(), purpose, device=parent.device)


def draw_seed(parent: torch.Generator) -> int:
    """A seed drawn from a generator, for libraries that take an integer (scikit-learn takes 32 bits)."""
    return int(torch.randint(2**31 - 1, (), generator=parent, device=parent.device).item())


_GLOBAL_GENERATORS = threading.RLock()


@contextmanager
def seeded(parent: torch.Generator) -> Iterator[None]:
    """Seed torch's global generators from ``parent`` within the block, for initialisers and dropout.

    After the block they are as they were before. Threads enter such a block one after the other: the generators are
    shared by all of them.
    """
    devices = [parent.device] if parent.device.type == "cuda" else []
    with _GLOBAL_GENERATORS, torch.random.fork_rng(devices=devices):
        torch.manual_seed(draw_seed(parent))
        yield


def uniform(ids: npt.NDArray[np.int64], size: int, seed: int, purpose: str) -> npt.NDArray[np.float64]:
    """``size`` numbers for each id, uniform on (0, 1): float64 (n, size).

    Number j of an id is the j-th output of SplitMix64 (Steele et al. 2014, doi:10.1145/2660193.2660195) from a state
    that is itself such a hash of the id, the seed and the purpose. A generator of torch cannot do it: which
    numbers an id gets would depend on how many are drawn before it.
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
