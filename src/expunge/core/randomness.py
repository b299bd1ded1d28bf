"""Every random choice comes from a ``torch.Generator`` that is passed; this file makes them from seeds."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def seeded(parent: torch.Generator) -> Iterator[None]:
    """Seed torch's global generators from ``parent`` within the block, for initialisers and dropout.

    After the block they are as they were before.
    """
    devices = [parent.device] if parent.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(draw_seed(parent))
        yield
