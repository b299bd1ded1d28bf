"""A comparison of methods as a value, and the runs that it consists of."""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch

from expunge.core import config
from expunge.core.config import Choice
from expunge.core.errors import RequestError
from expunge.core.text import assignments, opened
from expunge.data.split_data import DataConfig
from expunge.runs import prune
from expunge.runs.evaluate import EvaluateConfig, check_shadows, shadow_models
from expunge.runs.prune import DENSE, scenario
from expunge.runs.train import TrainConfig
from expunge.runs.unlearn import UnlearnConfig, retraining
from expunge.training.fit import Training
from expunge.training.precision import RequestedPrecision, chosen
from expunge.unlearning import presets
from expunge.unlearning.unlearn import Unlearning

MOST_SEEDS = 1000
"""More are a mistake: a comparison lists all its runs before it begins."""


@dataclass(frozen=True)
class Comparison:
    """A comparison of methods with retraining, on the same models and forget sets, over several seeds."""

    name: str
    """The name of the comparison."""
    data: DataConfig
    """The images."""
    model: Annotated[object, Choice("models")]
    """The architecture."""
    training: Training
    """The training of the original and the retrained model."""
    forget: Annotated[object, Choice("forget_sets")]
    """The forget set."""
    methods: tuple[str, ...]
    """The methods, as ``NAME[:key=value,...]``, optionally with a label: ``salun:epochs=5 as mine``;
    retraining and the original model are added."""
    seeds: int = 1
    """The number of repetitions of training, choice of the forget set, and unlearning."""
    precision: RequestedPrecision = "auto"
    """Precision of the forward passes; ``auto`` becomes that of the machine that runs the comparison
    (:func:`settled`), and is float32 until then."""
    prunings: tuple[str, ...] = (DENSE,)
    """Repeat everything for each of these: ``dense``, or ``PRUNER:key=value,...[,rewind=EPOCH]``."""
    shadows: int = 0
    """The number of shadow models of every original for the attack ``lira``; none by default."""
    variations: tuple[str, ...] = ()
    """Repeat everything for each of these changes of the training or the forget set: ``lr=0.1``,
    ``epochs=60,batch_size=64``, ``forget=random:200``, ``forget=(class:3,count=50)``;
    the options given to methods, such as an l2, do not change."""

    def __post_init__(self) -> None:
        """Check ranges and names."""
        config.read_texts(self)
        if not 1 <= self.seeds <= MOST_SEEDS:
            raise RequestError(f"seeds is the number of repetitions, in 1..{MOST_SEEDS}, got {self.seeds}")
        if not re.fullmatch(r"[\w(][\w .()+-]{0,99}", self.name):
            raise RequestError(
                f"the name of a comparison is that of a folder: at most 100 letters, digits, spaces and -_.+(), got "
                f"{self.name[:120]!r}"
            )
        if not self.methods:
            raise RequestError("a comparison needs at least one method")
        for method in self.methods:
            presets.named(labelled(method)[0])
        for pruning in self.prunings:
            prune.pruned(self.original(0), pruning)
        check_shadows(self.shadows)
        for variation in self.variations:
            varied(self, variation)

    def original(self, seed: int) -> TrainConfig:
        """Return the original model of a seed."""
        precision = "float32" if self.precision == "auto" else self.precision
        return TrainConfig(self.data, self.model, self.training, precision, seed)


def settled(wanted: Comparison, device: torch.device) -> Comparison:
    """Return the comparison with the precision chosen for this device, so that its runs are the same on any other."""
    return dataclasses.replace(wanted, precision=chosen(wanted.precision, device))


@dataclass(frozen=True)
class Entry:
    """One cell of a comparison: a method at a seed."""

    label: str
    seed: int
    run: EvaluateConfig
    variation: str = ""

    @property
    def scenario(self) -> str:
        """The variation and the pruning of the original."""
        return ", ".join(filter(None, (self.variation, scenario(self.run.subject.original))))


def entries(wanted: Comparison) -> list[Entry]:
    """Return all evaluations of a comparison: retraining, the original and the methods for each setting and seed."""
    if not wanted.variations:
        return _entries(wanted)
    return [
        dataclasses.replace(entry, variation=variation)
        for variation in dict.fromkeys(wanted.variations)
        for entry in _entries(varied(wanted, variation))
    ]


def varied(wanted: Comparison, variation: str) -> Comparison:
    """Return the comparison with a change of its training or forget set.

    Raises:
        RequestError: An option is unknown or a value wrong.
    """
    given = assignments(variation, (), "variation")
    if not given:
        raise RequestError("a variation is text such as lr=0.1 or forget=random:200, got none")
    chosen = given.pop("forget", None)
    forget = wanted.forget if chosen is None else config.parse("forget_sets", opened(str(chosen)))
    training = config.override(Training, config.to_data(wanted.training), given, f"variation {variation}")
    return dataclasses.replace(wanted, forget=forget, training=training, variations=())


def _entries(wanted: Comparison) -> list[Entry]:
    """The evaluations of one variation."""
    retrain = retraining(wanted.training)
    cells = _labelled(retrain, wanted.methods)
    found: list[Entry] = []
    for pruning in dict.fromkeys(wanted.prunings):
        for seed in range(wanted.seeds):
            original = prune.pruned(wanted.original(seed), pruning)
            reference = UnlearnConfig(original, wanted.forget, retrain, seed, original.precision, seed)
            shadows = shadow_models(original, wanted.shadows)
            for label, cell in cells:
                subject = dataclasses.replace(reference, unlearning=cell)
                found.append(Entry(label, seed, EvaluateConfig(subject, reference, shadows=shadows)))
    return found


def _labelled(retrain: Unlearning, methods: Sequence[str]) -> list[tuple[str, Unlearning]]:
    """Each distinct unlearning once, with its label, or its full text if several have the same label."""
    always = (("retrain", retrain), ("original", presets.named("original")))
    cells = {config.digest(cell): (word, word, cell) for word, cell in always}
    for text, word in map(labelled, methods):
        cell = presets.named(text)
        cells.setdefault(config.digest(cell), (word or presets.canonical(text.partition(":")[0]), text, cell))
    words = [word for word, _, _ in cells.values()]
    return [(word if words.count(word) == 1 or text == word else text, cell) for word, text, cell in cells.values()]


def labelled(method: str) -> tuple[str, str]:
    """Split ``METHOD as LABEL``; the label may be empty."""
    text, _, label = method.partition(" as ")
    return text.strip(), label.strip()


def from_json(data: object) -> Comparison:
    """Return the comparison that the content of a JSON file describes."""
    return config.from_data(Comparison, data)
