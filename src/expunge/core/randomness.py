"""Random generators from seeds: every random choice is drawn from a ``torch.Generator`` that is passed on."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import numpy.typing as npt
import torch


def generator(seed: int, *purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator for one purpose of a seed, independent of those for other purposes.

    ``generator(0, "split")`` and ``generator(0, "forget")`` are separate: how much one stage draws does not
    affect the other.
    """
    text = "/".join((str(seed), *purpose))
    value = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
    return torch.Generator(device).manual_seed(value)


def child(parent: torch.Generator, purpose: str) -> torch.Generator:
    """Return a new generator for one purpose, from the seed and on the device of ``parent``, which is not advanced."""
    return generator(parent.initial_seed(), purpose, device=parent.device)


def draw_seed(parent: torch.Generator) -> int:
    """Draw an integer seed from a generator, for libraries that need one (scikit-learn takes 32 bits)."""
    return int(torch.randint(2**31 - 1, (), generator=parent, device=parent.device).item())


_GLOBAL_GENERATORS = threading.RLock()


def exclusive() -> AbstractContextManager[object]:
    """A context that one thread at a time enters: for work that changes the global state of torch."""
    return _GLOBAL_GENERATORS


@contextmanager
def seeded(parent: torch.Generator) -> Iterator[None]:
    """Seed torch's global generators from ``parent`` within the block, for initialisers and dropout.

    Their states are restored after the block. Threads enter such a block one after the other, since they share the
    generators.
    """
    devices = [parent.device] if parent.device.type == "cuda" else []
    with _GLOBAL_GENERATORS, torch.random.fork_rng(devices=devices):
        torch.manual_seed(draw_seed(parent))
        yield


def uniform(ids: npt.NDArray[np.int64], size: int, seed: int, purpose: str) -> npt.NDArray[np.float64]:
    """Draw ``size`` numbers for each id, uniform on (0, 1): float64 (n, size).

    Number j of an id is output j of SplitMix64 (Steele et al. 2014, doi:10.1145/2660193.2660195), whose initial state
    is a hash of the id, the seed and the purpose. Unlike the draws of a torch generator, the numbers of an id do not
    depend on how many were drawn before.
    """
    key = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8]
    states = _mix(np.frombuffer(key, "<u8") + ids.astype(np.uint64) * _STEP)
    counters = np.arange(1, size + 1, dtype=np.uint64) * _STEP
    bits = _mix(states[:, None] + counters) >> np.uint64(12)
    return (bits.astype(np.float64) + 0.5) * 2.0**-52  # 52 bits and a half are exact: the result is never 0 or 1


_STEP = np.uint64(0x9E3779B97F4A7C15)
_FACTORS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finalizer of SplitMix64, a permutation of the 64-bit numbers."""
    for shift, factor in _FACTORS:
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    return values ^ (values >> np.uint64(31))
