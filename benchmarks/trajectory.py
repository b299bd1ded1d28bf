"""Hessian-free unlearning beside the loops of the published code: ratios of CPU time, both sides in one run.

The problem is the published quick start: softmax regression on 1,000 images of MNIST, 15 epochs in batches of 32, 50
examples forgotten. The loops are those of the published code, in words of our own: one product with the Hessian for
each example and step by autograd, and a Hessian column by column for each example. What is only timed in part says so.

    EXPUNGE_DATA=FOLDER python benchmarks/trajectory.py [--steps 480] [--cnn] [--data fashion_mnist] [--device cuda]
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from expunge.api.recorded import Recorded, train_recorded
from expunge.core import config
from expunge.core.weights import clone
from expunge.data import split_data
from expunge.data.forgetting import partition
from expunge.data.split_data import DataConfig
from expunge.data.unlearning_data import UnlearningData
from expunge.methods import infinitesimal_jackknife, newton_step
from expunge.runs._model import build
from expunge.runs.train import TrainConfig
from expunge.training.context import Context
from expunge.training.rules import Rule
from expunge.trajectory import adjoint
from expunge.trajectory.flat_loss import flat_loss
from expunge.trajectory.plan import Trajectory
from expunge.trajectory.steps import Replay
from expunge.trajectory.tangents import AsReleased, SetAware, carry

FORGOTTEN = 50
DEVICE = torch.device("cpu")


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process; on a GPU, seconds of the clock until it is done."""
    clock = time.perf_counter if DEVICE.type == "cuda" else time.process_time
    started = clock()
    work()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize(DEVICE)
    return clock() - started


def problem(source: str, model: str, rule: Rule, epochs: int, batch_size: int) -> Recorded:
    """A recorded training on a thousand images."""
    data = DataConfig(config.parse("data", source), limit=1000, test_limit=1000, validation=0.0)
    prepared = split_data.load(data)
    untrained = build(TrainConfig(data, config.parse("models", model)), prepared.dataset)
    options = {"device": DEVICE, "epochs": epochs, "batch_size": batch_size, "rule": rule, "fixed_order": True}
    return train_recorded(untrained, prepared.train, **options)  # type: ignore[arg-type]


def loop_of_examples(recorded: Recorded, steps: int) -> Tensor:
    """The published precomputation: a gradient for each example of a batch, and n products a step."""
    model, plan, images = clone(recorded.model), recorded.trajectory.plan, recorded.images
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    inputs = images.inputs.float() / 255
    found = [[torch.zeros_like(weight) for weight in weights] for _ in plan.ids]
    replayed = _weights_along(recorded, steps)
    for step in range(steps):
        nn.utils.vector_to_parameters(replayed[step], weights)
        batch, rate = plan.batch(step), float(plan.rates[step])
        for i in batch.tolist():
            loss = functional.cross_entropy(model(inputs[i : i + 1]), images.labels[i : i + 1])
            own = [g + plan.l2 * w.detach() for g, w in zip(torch.autograd.grad(loss, weights), weights, strict=True)]
            for vector, gradient in zip(found[i], _clip(own, plan.clip), strict=True):
                vector.add_(gradient, alpha=rate / len(batch))
        loss = functional.cross_entropy(model(inputs[batch]), images.labels[batch])
        loss = loss + plan.l2 / 2 * sum(weight.square().sum() for weight in weights)
        slope = _clip(list(torch.autograd.grad(loss, weights, create_graph=True)), plan.clip)
        for vectors in found:
            moved = torch.autograd.grad(slope, weights, vectors, retain_graph=True)
            for vector, each in zip(vectors, moved, strict=True):
                vector.sub_(each, alpha=rate)
    return torch.stack([torch.cat([vector.flatten() for vector in vectors]) for vectors in found])


def _clip(gradient: list[Tensor], clip: float | None) -> list[Tensor]:
    norm = torch.cat([part.flatten() for part in gradient]).norm()
    return gradient if clip is None or float(norm.detach()) <= clip else [part * clip / norm for part in gradient]


def _weights_along(recorded: Recorded, steps: int) -> list[Tensor]:
    with flat_loss(recorded.model, recorded.images) as loss:
        replay = Replay(loss, recorded.trajectory.plan, loss.flat(dict(recorded.trajectory.initial)), last=steps)
        return [loss.in_order(step.weights[None])[0].clone() for step in replay]


def loop_of_columns(recorded: Recorded, columns: int) -> None:
    """The published Hessian of one example: a backward pass for each of these columns."""
    model, images = recorded.model, recorded.images
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    loss = functional.cross_entropy(model(images.inputs[:1].float() / 255), images.labels[:1])
    slope = torch.cat([part.flatten() for part in torch.autograd.grad(loss, weights, create_graph=True)])
    unit = torch.zeros_like(slope)
    for column in range(columns):
        unit.zero_()[column] = 1.0
        torch.autograd.grad(slope, weights, unit, retain_graph=True)


def main() -> None:
    """Print a table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--steps", type=int, default=24, help="steps of the loop that are timed")
    options.add_argument("--data", default="mnist")
    options.add_argument("--cnn", action="store_true", help="the published network of two convolutions instead")
    options.add_argument("--device", default="cpu", help="cuda: both sides on the GPU")
    given = options.parse_args()
    global DEVICE  # noqa: PLW0603
    DEVICE = torch.device(given.device)
    torch.set_num_threads(1)
    if given.cnn:
        rule = Rule(lr=0.05, momentum=0.0, schedule="exponential", weight_decay=1e-6, clip=10.0)
        recorded = problem(given.data, "cnn", rule, 20, 64)
    else:
        rule = Rule(lr=0.05, momentum=0.0, schedule="exponential", weight_decay=0.5, clip=5.0)
        recorded = problem(given.data, "logistic", rule, 15, 32)
    compare(recorded, given.steps, columns=None if not given.cnn else 500)


def compare(recorded: Recorded, steps: int, columns: int | None) -> None:
    """Time the loops, then what takes their place, and print the ratios."""
    plan, size = recorded.trajectory.plan, sum(w.numel() for w in recorded.model.parameters())
    steps = min(steps, plan.steps)
    taken = seconds(lambda: loop_of_examples(recorded, steps))
    loop, note = taken / steps * plan.steps, "" if steps == plan.steps else f" (from {steps} of {plan.steps} steps)"
    columns = size if columns is None else min(columns, size)
    column = seconds(lambda: loop_of_columns(recorded, columns)) / columns
    dense = column * size * len(plan.ids)
    print(f"per-example loop, all {len(plan.ids)} vectors: {loop:.1f} s{note}")
    print(f"dense Hessian by example: {dense:.0f} s (from {columns} columns of one example)\n")
    rows = [*hessian_free(recorded, loop), *newton(recorded, dense)]
    width = max(len(name) for name, _, _ in rows)
    for name, value, reference in rows:
        ratio = "" if reference is None else f"{reference / value:10.0f} x"
        print(f"{name:{width}}  {value * 1e3:10.2f} ms{ratio}")


Timed = list[tuple[str, float, float | None]]


def hessian_free(recorded: Recorded, loop: float) -> Timed:
    """All vectors, one set, the adjoint, and deletions from a store."""
    trajectory, count = recorded.trajectory, len(recorded.images)
    drop = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:FORGOTTEN]
    kept = torch.ones(count, dtype=torch.bool)
    kept[drop] = False
    each = torch.arange(count)
    with flat_loss(recorded.model, recorded.images) as loss:
        released = AsReleased(loss, trajectory, each)
        functional_of = loss.point(loss.weights, each).gradient()[None]
        rows: Timed = [
            ("retraining once", seconds(lambda: _retrain(recorded, kept)), None),
            ("all vectors, as released", seconds(lambda: carry(loss, trajectory, [released])), loop),
            ("one set, set-aware", seconds(lambda: carry(loss, trajectory, [SetAware(loss, trajectory, kept)])), loop),
            ("adjoint, all examples", seconds(lambda: _adjoint(loss, trajectory, functional_of)), loop),
        ]
    with tempfile.TemporaryDirectory() as folder:
        rows.append(("all vectors into a store", seconds(lambda: recorded.precompute(Path(folder))), loop))
        store = recorded.precompute(Path(folder))  # is there already
        ids = recorded.images.ids[drop]
        store.change(ids[:1])
        rows.append(
            (
                f"deletion of {FORGOTTEN} from a store",
                seconds(lambda: [store.change(ids) for _ in range(100)]) / 100,
                None,
            )
        )
    return rows


def _retrain(recorded: Recorded, kept: Tensor) -> Tensor:
    with flat_loss(recorded.model, recorded.images) as loss:
        start = loss.flat(dict(recorded.trajectory.initial))
        return Replay(loss, recorded.trajectory.plan, start, kept=kept).finish()


def _adjoint(loss: object, trajectory: Trajectory, directions: Tensor) -> None:
    adjoint.influence(loss, trajectory, directions, 10**9)  # type: ignore[arg-type]


def newton(recorded: Recorded, dense: float) -> Timed:
    """The Newton step and the jackknife."""
    drop = torch.randperm(len(recorded.images), generator=torch.Generator().manual_seed(0))[:FORGOTTEN]
    forget, retain = partition(recorded.images, recorded.images.ids[drop])
    data, l2 = UnlearningData(forget, retain, None, 10), recorded.trajectory.plan.l2
    rows: Timed = []
    for module, chosen in (
        (newton_step, newton_step.NewtonStepConfig(l2=l2)),
        (infinitesimal_jackknife, infinitesimal_jackknife.InfinitesimalJackknifeConfig(l2=l2)),
    ):
        copies = [recorded.with_weights(_flat(recorded.model)) for _ in range(2)]
        context = Context(torch.Generator().manual_seed(0))
        for model in copies:  # the first time, torch prepares derivatives in forward mode
            taken = seconds(lambda m=module, c=chosen, n=model, x=context: m.unlearn(n, data, c, x))  # type: ignore[misc]
        rows.append((module.__name__.rpartition(".")[2], taken, dense))
    return rows


def _flat(model: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach()


if __name__ == "__main__":
    main()
