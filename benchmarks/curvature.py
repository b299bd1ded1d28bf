"""CPU time of Fisher diagonals and of influence unlearning: whole batches against one example at a time.

    python benchmarks/curvature.py

Both sides run in this process on one thread, on noise of 1 x 28 x 28, and agree in what they compute. The loops are
those of the released codes: a backward pass per example, and per class where the labels are the model's. The loops
over the Fisher diagonal run on a part of the examples; times are per example.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from expunge.curvature.fisher import empirical_fisher, true_fisher
from expunge.curvature.gram import fisher_solve
from expunge.curvature.network import Network, flat, frozen
from expunge.data.image_set import ImageSet, make
from expunge.methods.influence import released_step
from expunge.models import small_cnn

CLASSES, COUNT, PART, RECURSION = 10, 1002, 60, 500


def lenet(normalised: bool) -> nn.Module:
    """LeNet-5 with max pooling, 44,426 or 44,470 weights."""
    norms = (nn.BatchNorm2d(6), nn.BatchNorm2d(16)) if normalised else (nn.Identity(), nn.Identity())
    first = (nn.Conv2d(1, 6, 5), norms[0], nn.ReLU(), nn.MaxPool2d(2))
    second = (nn.Conv2d(6, 16, 5), norms[1], nn.ReLU(), nn.MaxPool2d(2))
    third = (nn.Flatten(), nn.Linear(256, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, CLASSES))
    return nn.Sequential(*first, *second, *third)


def models() -> dict[str, nn.Module]:
    """The networks, in evaluation mode."""
    torch.manual_seed(0)
    small = small_cnn.build(small_cnn.SmallCnnConfig(), (1, 28, 28), CLASSES)
    named = {"LeNet": lenet(False), "LeNet with batch normalisation": lenet(True), "small_cnn": small}
    return {name: model.eval() for name, model in named.items()}


def gradient(model: nn.Module, loss: Tensor, keep: bool = False) -> Tensor:
    """The gradient as one vector."""
    return torch.cat(
        [each.flatten() for each in torch.autograd.grad(loss, list(model.parameters()), retain_graph=keep)]
    )


def looped_fisher(model: nn.Module, images: ImageSet, true: bool) -> Tensor:
    """The diagonal, one example and one label at a time."""
    total = torch.zeros(sum(weight.numel() for weight in model.parameters()))
    for batch in images.batches(1):
        logits = model(batch.inputs)
        p = logits.detach().softmax(dim=1)[0]
        for label in range(CLASSES) if true else batch.labels.tolist():
            found = gradient(model, functional.cross_entropy(logits, torch.tensor([label])), keep=true)
            total += (p[label] if true else 1.0) * found.square()
    return total / len(images)


def looped_released(model: nn.Module, images: ImageSet, v: Tensor) -> Tensor:
    """The recursion of the released influence unlearning."""
    k, o = v.clone(), torch.zeros_like(v)
    for index, batch in enumerate(images.batches(1)):
        g = gradient(model, functional.cross_entropy(model(batch.inputs), batch.labels))
        if index == 0:
            o = g
            continue
        t = o @ g
        k -= (k @ g) / (1000 + t) * o
        o = o - t / (1000 + t) * o
    return k


def looped_woodfisher(model: nn.Module, images: ImageSet, v: Tensor) -> Tensor:
    """WoodFisher as its paper has it, with damping 1: each gradient times the inverse of all before it."""
    seen: list[tuple[Tensor, Tensor]] = []
    k = v.clone()
    for batch in images.batches(1):
        g = gradient(model, functional.cross_entropy(model(batch.inputs), batch.labels))
        o = g.clone()
        for before, scale in seen:
            o -= (before @ g) / scale * before
        scale = len(images) + g @ o
        seen.append((o, scale))
        k -= (o @ v) / scale * o
    return k


def compare(
    what: str, name: str, ours: Callable[[], Tensor], count: int, loop: Callable[[], Tensor], looped: int
) -> None:
    """Print milliseconds per example, the least of three, and the ratio."""
    fast = min(seconds(ours) for _ in range(3)) / count
    slow = min(seconds(loop) for _ in range(2)) / looped
    print(f"| {what} | {name} | {1e3 * fast:.3f} | {1e3 * slow:.2f} | {slow / fast:.1f} |", flush=True)


def seconds(work: Callable[[], Tensor]) -> float:
    """CPU seconds of one call."""
    started = time.process_time()
    work()
    return time.process_time() - started


def fishers(name: str, model: nn.Module, network: Network, images: ImageSet) -> None:
    """The diagonals with the labels of the model and of the data."""
    part = images.select(torch.arange(PART))
    for true in (True, False):
        diagonal = true_fisher if true else empirical_fisher
        expected = looped_fisher(model, part, true)
        torch.testing.assert_close(flat(diagonal(network, part, 10**9)), expected, rtol=1e-3, atol=1e-7)
        what = f"Fisher diagonal, labels of the {'model' if true else 'data'}"
        ours = lambda diagonal=diagonal: flat(diagonal(network, images, 10**9))  # noqa: E731
        compare(what, name, ours, COUNT, lambda true=true: looped_fisher(model, part, true), PART)


def influences(name: str, model: nn.Module, network: Network, images: ImageSet) -> None:
    """The solve of influence unlearning, done right and as released."""
    draws = torch.Generator().manual_seed(0)
    v = {key: 1e-3 * torch.randn(weight.shape, generator=draws) for key, weight in network.weights.items()}
    free = {key: torch.ones_like(weight, dtype=torch.bool) for key, weight in v.items()}
    part = images.select(torch.arange(RECURSION))

    def ours(chosen: ImageSet) -> Tensor:
        return flat(fisher_solve(network, chosen, v, 1.0, 4 * 10**9, free))

    torch.testing.assert_close(ours(part), looped_woodfisher(model, part, flat(v)), rtol=1e-2, atol=1e-5)
    what = f"influence, {RECURSION} samples, against WoodFisher"
    compare(what, name, lambda: ours(part), RECURSION, lambda: looped_woodfisher(model, part, flat(v)), RECURSION)

    def released() -> Tensor:
        return flat(released_step(network, images, v, free, 256))

    torch.testing.assert_close(released(), looped_released(model, images, flat(v)), rtol=1e-3, atol=1e-6)
    what = "influence as released, 1,002 samples"
    compare(what, name, released, COUNT, lambda: looped_released(model, images, flat(v)), COUNT)


if __name__ == "__main__":
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (COUNT, 1, 28, 28), dtype=torch.uint8, generator=generator)
    images = make(pixels, torch.randint(CLASSES, (COUNT,), generator=generator))
    print("| CPU milliseconds per example | network | whole batches (expunge) | one at a time | ratio |")
    print("|---|---|---:|---:|---:|")
    for name, model in models().items():
        with frozen(model) as network:
            fishers(name, model, network, images)
            influences(name, model, network, images)
