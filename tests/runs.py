"""Small runs on digits, and comparisons of them."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expunge.bench.grid import Comparison
from expunge.data.forget_sets.random import RandomForget
from expunge.data.split_data import DataConfig
from expunge.runs.train import TrainConfig
from expunge.runs.unlearn import UnlearnConfig
from expunge.store import digests
from expunge.training.fit import Training
from expunge.training.rules import Rule
from expunge.unlearning import presets


def digits(limit: int | None = 60, test_limit: int | None = 20, **more: Any) -> DataConfig:
    """Few of the digits."""
    return DataConfig("digits", limit=limit, test_limit=test_limit, **more)


def trained(model: str = "logistic", training: Training | None = None, **changes: Any) -> TrainConfig:
    """An original of few images."""
    wanted = TrainConfig(digits(), model, training or Training(1))
    return dataclasses.replace(wanted, **changes)


def original(**changes: Any) -> TrainConfig:
    """An original that has learned something."""
    found = trained("mlp:hidden=(32,)", Training(epochs=5, rule=Rule(lr=0.1)), data=digits(300, 120))
    return dataclasses.replace(found, **changes)


def forgetting(text: str = "finetune:epochs=2", **changes: Any) -> UnlearnConfig:
    """A tenth of its images is forgotten."""
    wanted = {"original": original(), "forget": RandomForget(share=0.1), "unlearning": presets.named(text)}
    return UnlearnConfig(**(wanted | changes))


def comparison(*methods: str, **changes: Any) -> Comparison:
    """A comparison of methods on such an original."""
    first, named = original(), methods or ("finetune:epochs=1", "scrub:epochs=1")
    wanted = Comparison("test", first.data, first.model, first.training, "random:10%", named)
    return dataclasses.replace(wanted, **changes)


def reseal(folder: Path, **changes: object) -> None:
    """Forge a run consistently: change keys of its record, and give it the digests of the files that are there."""
    path = folder / "run.json"
    before = json.loads(path.read_text()) if path.exists() else {"status": "finished"}
    path.write_text(json.dumps(digests.sealed(before | changes, folder)))


def gap(metrics: Mapping[str, float], reference: Mapping[str, float]) -> float:
    """The average gap to retraining, from the values of both."""
    parts = ("unlearning_accuracy", "remaining_accuracy", "test_accuracy", "membership_svc.confidence")
    return sum(abs(metrics[part] - reference[part]) for part in parts) / 4
