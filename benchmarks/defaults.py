"""Study of the methods' defaults: the average gap to retraining on several problems, relative to doing nothing.

    EXPUNGE_DATA=... OMP_NUM_THREADS=1 python benchmarks/defaults.py TRIALS.jsonl digits,fashion_lenet 100 METHOD...

Each METHOD (``scrub``, ``scrub:lr=0.1``, ``scrub:defaults=paper``) is tried on each problem with that seed, in float32;
a line of JSON per trial is appended to the file, and the mean of ``gap / gap of doing nothing`` is printed. On tuned
problems validation images take the place of test images. Models are kept in the folder ``TRIALS.runs``.
"""

import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from expunge.core import config, randomness, weights
from expunge.core.errors import RequestError, RunError
from expunge.data.image_set import ImageSet
from expunge.data.split_data import DataConfig, load
from expunge.data.unlearning_data import UnlearningData
from expunge.evaluation.predictions import Subject, evaluate, predict
from expunge.runs._model import load_model
from expunge.runs.train import TrainConfig
from expunge.runs.unlearn import UnlearnConfig, retraining
from expunge.store import execute
from expunge.store.directory import Store
from expunge.store.execute import Session
from expunge.training.context import Context
from expunge.training.fit import Training
from expunge.training.rules import Rule
from expunge.unlearning import presets
from expunge.unlearning.sequence import Step, divide
from expunge.unlearning.unlearn import unlearn

CPU = torch.device("cpu")
PARTS = ("unlearning_accuracy", "remaining_accuracy", "test_accuracy", "membership_svc.confidence")


@dataclass(frozen=True)
class Problem:
    """Images, a model with its training, and a forget set."""

    data: DataConfig
    model: str
    training: Training
    forget: str = "random:10%"


def cosine(epochs: int, batch_size: int = 128) -> Training:
    """SGD from 0.1 with warm-up."""
    return Training(epochs, batch_size, Rule(lr=0.1, schedule="cosine", warmup=0.05))


SLOW = Rule(lr=0.02)
TUNED = {
    "digits": Problem(DataConfig("digits", validation=0.3), "small_cnn", cosine(15)),
    "fashion_lenet": Problem(
        DataConfig("fashion_mnist", limit=3000, validation=1 / 3, test_limit=2000), "lenet", Training(60, rule=SLOW)
    ),
    "fashion_class": Problem(
        DataConfig("fashion_mnist", limit=2500, validation=0.4, test_limit=2000),
        "small_cnn",
        cosine(20),
        "class:6,count=75",
    ),
    "cifar_lenet": Problem(
        DataConfig("cifar10:augment=false", limit=3100, validation=10 / 31, test_limit=2000),
        "lenet",
        Training(50, rule=SLOW),
    ),
    "cifar_lenet20": Problem(
        DataConfig("cifar10:augment=false", limit=3100, validation=10 / 31, test_limit=2000),
        "lenet",
        Training(20, rule=SLOW),
    ),
}
"""Problems on which the defaults were chosen, with seed 100."""
UNTUNED = {
    "cifar4000": Problem(
        DataConfig("cifar10", limit=4400, validation=1 / 11, test_limit=2000),
        "resnet18:width=9",
        cosine(15, 100),
        "random:400",
    ),
    "fashion_cnn": Problem(
        DataConfig("fashion_mnist", limit=2200, validation=1 / 11, test_limit=2000),
        "cnn",
        Training(60, rule=SLOW),
        "random:150",
    ),
}
"""Problems that were looked at only in the end, with seeds 0, 1, ..."""


@dataclass(frozen=True)
class Prepared:
    """A problem with its original, what a method may see, and what it is judged by."""

    problem: Problem
    original: nn.Module
    seen: UnlearningData
    held: ImageSet
    reference: Subject
    nothing: float


def prepare(name: str, seed: int, store: Store) -> Prepared:
    """Train the original and the retrained model, or find them."""
    problem, session = (TUNED | UNTUNED)[name], Session()
    first = TrainConfig(problem.data, config.parse("models", problem.model), problem.training, "float32", seed)
    forget = config.parse("forget_sets", problem.forget)
    again = UnlearnConfig(first, forget, retraining(problem.training), seed, "float32", seed)
    retrained, _ = load_model(again, execute.run(again, store, session), session)
    original, _ = load_model(first, store.directory(config.run_id(first)), session)
    data = load(problem.data)
    _, _, gone, kept = divide(data.train, Step(forget, again.unlearning, None, seed), data.dataset.num_classes)
    held = data.validation if name in TUNED else data.test
    seen = UnlearningData(gone, kept, data.validation, data.dataset.num_classes)
    blank = Prepared(problem, original, seen, held, Subject({}, {}), 0.0)
    made = replace(blank, reference=judged(blank, retrained, seed, None))
    return replace(made, nothing=judged(made, original, seed, made.reference).values["average_gap"])


def judged(on: Prepared, model: nn.Module, seed: int, reference: Subject | None) -> Subject:
    """The model with its metrics."""
    splits = {"forget": on.seen.forget, "retain": on.seen.retain, "test": on.held}
    found = Subject({name: predict(model, part, CPU) for name, part in splits.items()}, {}, reference=reference)
    evaluate(found, [config.parse("metrics", "average_gap")], Context(randomness.generator(seed, "evaluation")))
    return found


def trial(method: str, name: str, seed: int, on: Prepared) -> dict[str, object]:
    """One unlearning: its average gap in points (None if it failed), that of doing nothing, and the four metrics."""
    generator = randomness.generator(seed, "unlearning")
    context = Context(generator, CPU, "float32", original_rule=on.problem.training.rule)
    started = time.perf_counter()
    found: dict[str, object] = {"method": method, "problem": name, "seed": seed, "nothing": on.nothing}
    try:
        model = unlearn(weights.clone(on.original), on.seen, presets.named(method), context)
        values = judged(on, model, seed, on.reference).values
        found |= {"gap": values["average_gap"], "parts": [round(values[part], 1) for part in PARTS]}
    except (RequestError, RunError) as error:
        found |= {"gap": None, "parts": [str(error)]}
    return found | {"seconds": round(time.perf_counter() - started, 2)}


def main(path: Path, names: list[str], seed: int, methods: list[str]) -> None:
    """Try every method on every problem; print a line per method."""
    store = Store(path.with_suffix(".runs"))
    ready = {name: prepare(name, seed, store) for name in names}
    for method in methods:
        found = [trial(method, name, seed, on) for name, on in ready.items()]
        with path.open("a") as file:
            file.writelines(json.dumps(each) + "\n" for each in found)
        share = [
            3.0 if each["gap"] is None else min(float(str(each["gap"])) / on.nothing, 3.0)
            for each, on in zip(found, ready.values(), strict=True)
        ]
        print(f"{method}: {sum(share) / len(share):.3f}", *(f"{each['problem']} {each['gap']}" for each in found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2].split(","), int(sys.argv[3]), sys.argv[4:])
