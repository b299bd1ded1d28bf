"""Predictions of a model on every split, and the metrics computed from them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from expunge.core import randomness, registry, weights
from expunge.core.errors import RequestError, RunError
from expunge.data.image_set import ImageSet
from expunge.store.directory import RunDirectory
from expunge.training.context import Context
from expunge.training.precision import gains

SPLITS = ("forget", "retain", "validation", "test", "triggered")


@dataclass(frozen=True)
class Predictions:
    """Outputs of a model on one split, on the CPU: float32 logits (n, classes), int64 labels and ids (n,)."""

    logits: Tensor
    labels: Tensor
    ids: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def probabilities(self) -> Tensor:
        """Softmax probabilities (n, classes) in float64."""
        return torch.softmax(self.logits.double(), dim=1)

    def correct(self) -> Tensor:
        """Whether the largest logit is the label's: bool (n,)."""
        if not len(self):  # logits of an empty split may have no columns
            return torch.empty(0, dtype=torch.bool)
        return self.logits.argmax(dim=1) == self.labels

    def accuracy(self) -> float:
        """Top-1 accuracy in percent; NaN for an empty split."""
        return 100.0 * float(self.correct().double().mean())

    def losses(self) -> Tensor:
        """Cross-entropy of each example, in nats: float64 (n,)."""
        if not len(self):
            return torch.empty(0, dtype=torch.float64)
        return torch.nn.functional.cross_entropy(self.logits.double(), self.labels, reduction="none")

    def log_odds(self) -> Tensor:
        """``log p_y - log(1 - p_y)`` of the label y: float64 (n,), computed from the logits without overflow.

        The scale of confidence of Carlini et al. 2022 (arXiv:2112.03570).
        """
        if not len(self):
            return torch.empty(0, dtype=torch.float64)
        logits = self.logits.double()
        true = torch.nn.functional.one_hot(self.labels, logits.shape[1]).bool()
        return logits[true] - logits.masked_fill(true, -math.inf).logsumexp(dim=1)

    def select(self, kept: Tensor) -> "Predictions":
        """The examples at ``kept`` (bool or positions)."""
        return Predictions(self.logits[kept], self.labels[kept], self.ids[kept])


@dataclass(frozen=True)
class Shadows:
    """Outputs of shadow models, trained on random halves of the training set, for its examples and held-out ones."""

    ids: Tensor
    """The examples: int64 (n,), each once."""
    log_odds: Tensor
    """``Predictions.log_odds`` of every shadow model: float64 (shadows, n)."""
    inside: Tensor
    """Which examples each was trained on: bool (shadows, n)."""

    def of(self, ids: Tensor) -> "Shadows":
        """The outputs for these examples, in this order; a RequestError if one is missing."""
        order = self.ids.argsort()
        found = order[torch.searchsorted(self.ids[order], ids).clamp(max=len(order) - 1)]
        if not torch.equal(self.ids[found], ids):
            raise RequestError("the shadow models were not shown these examples: make them for the same data")
        return Shadows(ids, self.log_odds[:, found], self.inside[:, found])


@dataclass(frozen=True)
class Subject:
    """The input of metrics: an unlearned model's predictions, weights and run time, and its reference.

    The split ``triggered``, of test images with the trigger, exists if the training data had a backdoor.
    ``predictions("test")`` leaves out the classes without retained examples, as is usual in the literature when a
    whole class is forgotten.
    """

    splits: Mapping[str, Predictions]
    weights: Mapping[str, Tensor]
    original: "Subject | None" = None
    """The model before unlearning, on the same splits."""
    sparsity: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    """The sparsity mask, bool by name; empty for a dense model."""
    seconds: Mapping[str, float] = field(default_factory=dict[str, float])
    reference: "Subject | None" = None
    values: dict[str, float] = field(default_factory=dict[str, float])
    """Values of the metrics computed so far, by full name."""
    scores: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    """Scores of examples that need the model itself, (n,) each: ``gaussian_poison``."""
    shadows: Shadows | None = None
    """Outputs of shadow models."""

    def predictions(self, split: str) -> Predictions:
        """The predictions on ``forget``, ``retain``, ``validation``, ``test`` or ``triggered``.

        Raises:
            RequestError: The subject has no such split, or its labels are not classes of the outputs.
            RunError: Some output is not finite.
        """
        if split not in self.splits:
            raise RequestError(f"this metric needs the {split} split, and there are only {', '.join(self.splits)}")
        found = self.splits[split]
        _check(split, found)
        if split in ("validation", "test") and "retain" in self.splits:
            kept = torch.isin(found.labels, self.splits["retain"].labels.unique())
            return found if bool(kept.all()) else found.select(kept)
        return found


def _check(split: str, found: Predictions) -> None:
    if not len(found):
        return
    if found.logits.ndim != 2 or len(found.logits) != len(found):
        raise RequestError(f"the model must return logits (batch, classes), got shape {tuple(found.logits.shape)}")
    low, high, classes = int(found.labels.min()), int(found.labels.max()), found.logits.shape[1]
    if low < 0 or high >= classes:
        raise RequestError(
            f"{split} labels must be in 0..{classes - 1}, as the model has {classes} outputs; found {low}..{high}"
        )
    if not bool(torch.isfinite(found.logits).all()):
        raise RunError(
            f"the model gives outputs on the {split} set that are not finite: no metric of it means anything"
        )


@torch.no_grad()
def predict(model: nn.Module, images: ImageSet, device: torch.device, batch_size: int = 512) -> Predictions:
    """The predictions of ``model``, in evaluation mode and its own type, on all images in order; one forward pass."""
    logits: list[Tensor] = []
    # Convolutions take the layout of their input: the same bits and speed as of a model that a stepper has moved.
    layout = torch.channels_last if gains(model) and len(images.shape) == 3 else torch.preserve_format
    kind = next((each.dtype for each in model.parameters() if each.is_floating_point()), torch.float32)
    with weights.evaluating(model):
        for batch in images.batches(batch_size):
            output = model(batch.inputs.to(device, kind, memory_format=layout))
            if not isinstance(output, Tensor):
                raise RequestError(
                    f"the model returns a {type(output).__name__}, not a tensor of logits: wrap it in a module whose "
                    "forward returns the logits, such as model(x).logits, model(x)['logits'] or model(x)[0]"
                )
            logits.append(output.float())
    joined = torch.cat(logits).cpu() if logits else torch.empty(0, 0)
    return Predictions(joined, images.labels.cpu(), images.ids.cpu())


FORGOTTEN = "forgotten.ids"
"""The key, in the file of predictions, of the ids that a model and those before it have forgotten."""
WITHHELD = "withheld.ids"
"""The key of the ids that the last unlearning neither forgot nor retained."""


def stored_predictions(directory: RunDirectory) -> tuple[dict[str, Predictions], dict[str, Tensor]]:
    """The predictions of a run by split, and all tensors in their file.

    Raises:
        RequestError: The file is missing, damaged or incomplete.
    """
    stored = directory.tensors("predictions")
    return by_split(stored, directory.path / "predictions.safetensors", directory.cure), stored


def by_split(stored: Mapping[str, Tensor], path: Path, cure: str) -> dict[str, Predictions]:
    """The predictions by split, from the tensors of their file.

    Raises:
        RequestError: Labels or ids are missing.
    """
    names = [name for name in ("train", "validation", "test", "triggered") if f"{name}.logits" in stored]
    lacks = [f"{name}.{part}" for name in names for part in ("labels", "ids") if f"{name}.{part}" not in stored]
    if lacks:
        raise RequestError(f"{path} lacks {lacks[0]}: {cure}")
    return {
        name: Predictions(stored[f"{name}.logits"], stored[f"{name}.labels"], stored[f"{name}.ids"]) for name in names
    }


def parted(splits: Mapping[str, Predictions], ids: Tensor, withheld: Tensor | None = None) -> dict[str, Predictions]:
    """The splits with the training set divided into forget and retain set; what is withheld is in neither."""
    train = splits["train"]
    forgotten = torch.isin(train.ids, ids)
    retained = ~forgotten if withheld is None else ~(forgotten | torch.isin(train.ids, withheld))
    rest = {name: part for name, part in splits.items() if name != "train"}
    return {"forget": train.select(forgotten), "retain": train.select(retained), **rest}


def evaluate(
    subject: Subject, metrics: Sequence[object], context: Context, left_out: dict[str, str] | None = None
) -> dict[str, float]:
    """The values of these metrics (given by their configurations), by full name; they are stored in the subject.

    Each metric draws from a generator of its own, so that no value depends on which others are computed. Metrics that
    need others (``needs``) come after them; needed ones without a value are computed too, with their defaults. With
    ``left_out``, a metric that cannot be computed from this subject is left out, and its name mapped to the reason.

    Raises:
        RequestError: A metric is given twice, or cannot be computed from this subject.
        RunError: The model's outputs are not finite.
    """
    for config in _ordered(_completed(metrics, subject)):
        plugin = registry.of_config("metrics", config)
        alone = replace(context, generator=randomness.child(context.generator, plugin.name))
        try:
            found = cast("dict[str, float]", plugin.call(subject, config, alone))
        except RequestError as error:
            if left_out is None:
                raise
            left_out[plugin.name] = str(error)
            continue
        for key, value in found.items():
            subject.values[registry.full_name(plugin.name, key)] = float(value)
    return dict(subject.values)


def _completed(metrics: Sequence[object], subject: Subject) -> dict[str, object]:
    """These metrics and those they need without a value in the subject, by their default configurations; by name."""
    names = [registry.of_config("metrics", config).name for config in metrics]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise RequestError(f"the metric {twice[0]} is asked for twice: evaluate once for each configuration of it")
    wanted = dict(zip(names, metrics, strict=True))
    known = {name.partition(".")[0] for name in subject.values}
    while names:
        for name in registry.find("metrics", names.pop()).mark.needs:
            if name not in known and name not in wanted:
                wanted[name] = registry.find("metrics", name).config()
                names.append(name)
    return wanted


def _ordered(waiting: dict[str, object]) -> list[object]:
    """Metrics in an order in which each comes after those it needs, else as given."""
    ordered: list[object] = []
    while waiting:
        ready = [name for name in waiting if not set(registry.find("metrics", name).mark.needs) & set(waiting)]
        if not ready:
            raise RequestError(f"the metrics {', '.join(waiting)} need each other in a circle")
        ordered += [waiting.pop(name) for name in ready]
    return ordered
