"""The quick start of Hessian-free unlearning: logistic regression on 1,000 digits of MNIST, in about a minute."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial

from expunge.bench import hessian_free
from expunge.bench.grid import Comparison
from expunge.data.split_data import DataConfig

ABLATIONS: Mapping[str, tuple[str, str, tuple[float, ...]]] = {
    "batch": ("the batch size", "batch_size=", (8, 16, 32, 64, 128, 256, 512, 1000)),
    "deleted": ("the number of examples deleted", "forget=random:", (10, 50, 100, 150, 200, 250, 300)),
    "epochs": ("the number of epochs", "epochs=", (1, 2, 5, 10, 15, 25, 50, 100, 200)),
    "l2": ("the regularisation", "weight_decay=", (1e-06, 0.0001, 0.001, 0.01, 0.05, 0.1, 0.5, 1.0)),
    "lr": ("the step size", "lr=", (0.001, 0.005, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)),
}
"""The description of each ablation, the key of its variations, and the values.

The numbers of deleted examples and the step sizes are the published ones; the numbers of epochs are nine of the
published ones. Of the L2 terms, 1e-6 and 0.5 are published; the batch sizes are not.
"""


def recipe() -> Comparison:
    """Fifty of 1,000 images forgotten at random, four seeds: a strongly convex loss.

    As published, except that the subset of images is class-balanced and there are four seeds instead of seven.
    """
    plan = hessian_free.training(15, 32, lr=0.05, l2=0.5, clip=5.0)
    return Comparison(
        name="hessian-free-quick",
        data=DataConfig("mnist", limit=1_000, test_limit=400, validation=0.0),
        model="logistic",
        training=plan,
        forget="random:50",
        methods=(*hessian_free.VARIANTS, *hessian_free.newton(l2=0.5, damping=1e-3), hessian_free.finetune(plan)),
        seeds=4,
    )


def more() -> dict[str, tuple[str, Callable[[], Comparison]]]:
    """Return the ablations."""
    return {
        f"hessian-free-ablation-{name}": (
            f"Hessian-free unlearning over {what}: the quick start otherwise.",
            partial(_ablation, name),
        )
        for name, (what, _, _) in ABLATIONS.items()
    }


def _ablation(name: str) -> Comparison:
    """The quick start at each value of one setting, with one seed and the methods that do not depend on the setting.

    Over L2 terms, Newton's steps are left out, since their own options contain the term.
    """
    _, start, values = ABLATIONS[name]
    quick = recipe()
    return dataclasses.replace(
        quick,
        name=f"hessian-free-ablation-{name}",
        methods=hessian_free.VARIANTS if name == "l2" else quick.methods[:-1],
        variations=tuple(f"{start}{value}" for value in values),
        seeds=1,
    )
