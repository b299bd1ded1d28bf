"""Train, unlearn, evaluate: each a configuration that :func:`run` turns into a run directory, once."""

import dataclasses
import functools
import math
import os
import platform
import resource
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, cast

import torch
from torch import Tensor, nn

from expunge import config, masks, parameters, randomness, registry, training, unlearning
from expunge.config import Choice
from expunge.context import Context, UnlearningData
from expunge.data import splits
from expunge.data.dataset import Dataset
from expunge.data.forgetting import Forget, forget_ids, partition
from expunge.data.image_set import ImageSet
from expunge.errors import RequestError, RunError
from expunge.evaluation import Predictions, Subject, evaluate, predict
from expunge.masks import Mask
from expunge.models._normalise import with_normalisation
from expunge.runs import Draft, Record, RunDirectory, Store
from expunge.training import Training
from expunge.unlearning import Unlearning
from expunge.updates import Precision, Progress


@dataclass(frozen=True)
class DataConfig:
    """Which images, and how they are split."""

    source: Annotated[object, Choice("data")]
    """Where the images come from."""
    limit: int | None = None
    """Use a class-balanced part of this many training images; all by default."""
    test_limit: int | None = None
    """Use a class-balanced part of this many test images; all by default."""
    validation: float = 0.1
    """Share of each class that is set aside for validation."""
    seed: int = 0
    """Seed of these choices."""


@dataclass(frozen=True)
class TrainConfig:
    """The training of an original model, on forget and retain set together."""

    data: DataConfig
    """The images."""
    model: Annotated[object, Choice("models")]
    """The architecture."""
    training: Training = Training()
    """How it is trained."""
    precision: Precision = "auto"
    """Precision of the forward passes: bfloat16 where it pays, or as said."""
    seed: int = 0
    """Seed of the initial weights, the order of examples and the augmentation."""


@dataclass(frozen=True)
class UnlearnConfig:
    """One unlearning of a trained model."""

    original: TrainConfig
    """The model that has learned too much."""
    forget: Forget
    """What it is to forget."""
    unlearning: Unlearning
    """How."""
    forget_seed: int = 0
    """Seed of the choice of the forget set."""
    precision: Precision = "auto"
    """Precision of the forward passes: bfloat16 where it pays, or as said."""
    seed: int = 0
    """Seed of the unlearning itself."""


@dataclass(frozen=True)
class EvaluateConfig:
    """The metrics of one unlearned model, beside its reference."""

    subject: UnlearnConfig
    """The unlearned model."""
    reference: UnlearnConfig | None = None
    """The retrained model that it should resemble."""
    metrics: tuple[Annotated[object, Choice("metrics")], ...] | None = None
    """Which metrics; all by default."""
    seed: int = 0
    """Seed of random choices within metrics."""

    def __post_init__(self) -> None:
        """A model is compared with one that was retrained without the same examples."""
        if self.reference is not None and _forgotten(self.reference) != _forgotten(self.subject):
            raise RequestError(
                "the reference has forgotten other examples than the model to evaluate: retrain with the same data, "
                "--forget and --forget-seed"
            )


def _forgotten(wanted: UnlearnConfig) -> tuple[object, ...]:
    return wanted.original.data, wanted.forget, wanted.forget_seed


RunConfig = TrainConfig | UnlearnConfig | EvaluateConfig


@dataclass(frozen=True)
class Session:
    """Where and before whose eyes runs take place; nothing here changes a result's meaning."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    on_step: Callable[[str, Progress], None] | None = None
    """Called with the run's id after each step."""
    retry: bool = False
    """Try failed runs again."""


def run_id(wanted: RunConfig) -> str:
    """The name of a run's directory: its kind, a few words for people, and twelve digits of its digest."""
    words = {TrainConfig: _train_words, UnlearnConfig: _unlearn_words, EvaluateConfig: _evaluate_words}[type(wanted)]
    return f"{kind(wanted)}-{words(wanted)}-{config.digest(wanted, RunConfig)[:12]}"  # pyright: ignore


def kind(wanted: RunConfig) -> str:
    """``train``, ``unlearn`` or ``evaluate``."""
    return config.tag(type(wanted)).removesuffix("_config")


def _train_words(wanted: TrainConfig) -> str:
    data = registry.of_config("data", wanted.data.source).name
    model = registry.of_config("models", wanted.model).name
    return f"{data}-{model}-s{wanted.seed}"


def _unlearn_words(wanted: UnlearnConfig) -> str:
    return f"{unlearning.label(wanted.unlearning)}-s{wanted.seed}"


def _evaluate_words(wanted: EvaluateConfig) -> str:
    return _unlearn_words(wanted.subject)


def parents(wanted: RunConfig) -> dict[str, RunConfig]:
    """The runs that must exist before this one, by their role in it."""
    if isinstance(wanted, UnlearnConfig):
        return {"original": wanted.original}
    if isinstance(wanted, EvaluateConfig):
        found: dict[str, RunConfig] = {"original": wanted.subject.original, "subject": wanted.subject}
        return found | ({"reference": wanted.reference} if wanted.reference else {})
    return {}


def run(wanted: RunConfig, store: Store, session: Session) -> RunDirectory:
    """The run of this configuration, after its parents: found if it exists, else made.

    A failure of the work is kept as a failed run with its reason; what cannot be written (a full disk) or
    is interrupted leaves no run.

    Raises:
        RequestError: The request is wrong (no such data, a forget set that is empty, ...).
        RunError: The run, or one of its parents, failed now or before.
    """
    directories = {role: run(parent, store, session) for role, parent in parents(wanted).items()}
    directory = store.directory(run_id(wanted))
    if _settled(directory, session):
        return directory
    with store.lock(directory.id):
        if not _settled(directory, session):  # another process may have made it meanwhile
            _make(wanted, directories, store, session)
    return directory


def _settled(directory: RunDirectory, session: Session) -> bool:
    if not directory.exists:
        return False
    record = directory.record()
    if record["status"] == "finished":
        return True
    if session.retry:
        return False
    raise RunError(f"{directory.id} failed before: {record['reason']}")


def _make(wanted: RunConfig, directories: Mapping[str, RunDirectory], store: Store, session: Session) -> None:
    name = run_id(wanted)
    started = datetime.now(timezone.utc)
    make = {TrainConfig: _train, UnlearnConfig: _unlearn, EvaluateConfig: _evaluate}[type(wanted)]
    with store.draft(name, config.to_data(wanted, RunConfig)) as draft:
        record: Record = {
            "id": name,
            "kind": kind(wanted),
            "label": "" if isinstance(wanted, TrainConfig) else label(wanted),
            "parents": {role: directory.id for role, directory in directories.items()},
            "started": started.isoformat(),
            **_provenance(session.device),
        }
        try:
            result = make(wanted, directories, draft, session)  # pyright: ignore
        except (RequestError, OSError):  # not the fault of the work: nothing to remember
            raise
        except Exception as error:
            reason = str(error) if isinstance(error, RunError) else f"{type(error).__name__}: {error}"
            failure = {"status": "failed", "reason": reason, "traceback": traceback.format_exc(), "finished": _now()}
            draft.finish(record | failure)
            raise RunError(reason) from error
        draft.finish(record | {"status": "finished", "reason": None, "finished": _now(), **result})


def label(wanted: UnlearnConfig | EvaluateConfig) -> str:
    """The word for the unlearning in tables."""
    subject = wanted.subject if isinstance(wanted, EvaluateConfig) else wanted
    return unlearning.label(subject.unlearning)


@dataclass(frozen=True)
class Prepared:
    """A data set split for training: what is learned, what is held out, what is never shown to a method."""

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    dataset: Dataset


@functools.lru_cache(maxsize=2)
def prepare(wanted: DataConfig) -> Prepared:
    """Load and split the data, on the CPU; the two last used are kept in memory."""
    plugin = registry.of_config("data", wanted.source)
    dataset = cast("Dataset", plugin.function(wanted.source))
    pool = _limited(dataset.train, wanted.limit, wanted.seed, "train")
    train, validation = splits.class_balanced(
        pool.labels, wanted.validation, randomness.generator(wanted.seed, "split")
    )
    return Prepared(
        pool.select(train),
        pool.select(validation),
        _limited(dataset.test, wanted.test_limit, wanted.seed, "test"),
        dataset,
    )


def _limited(images: ImageSet, count: int | None, seed: int, name: str) -> ImageSet:
    if count is None:
        return images
    generator = randomness.generator(seed, "limit", name)
    return images.select(splits.balanced_subset(images.labels, count, generator))


def build(wanted: TrainConfig, dataset: Dataset) -> nn.Module:
    """The untrained model of this configuration, with its input step, on the CPU."""
    plugin = registry.of_config("models", wanted.model)
    with randomness.seeded(randomness.generator(wanted.seed, "initialisation")):
        network = cast("nn.Module", plugin.function(wanted.model, dataset.train.shape, dataset.num_classes))
    return with_normalisation(network, dataset.mean, dataset.std)


def _context(wanted: TrainConfig | UnlearnConfig, session: Session, purpose: str) -> Context:
    name = run_id(wanted)
    report = session.on_step
    return Context(
        generator=randomness.generator(wanted.seed, purpose, device=session.device),
        device=session.device,
        precision=wanted.precision,
        on_step=None if report is None else lambda progress: report(name, progress),
    )


def _train(wanted: TrainConfig, _: Mapping[str, RunDirectory], draft: Draft, session: Session) -> Record:
    data = prepare(wanted.data)
    model = build(wanted, data.dataset).to(session.device)
    context = _context(wanted, session, "training")
    plan = wanted.training
    with context.phase("train"), context.seeded():
        images = data.train.to(session.device)
        training.fit(model, images, plan.rule, context, epochs=plan.epochs, batch_size=plan.batch_size)
        for stepper in context.steppers:
            stepper.check()
    return {"data": data.train.fingerprint(), **_save(model, data, draft, context)}


def _unlearn(wanted: UnlearnConfig, directories: Mapping[str, RunDirectory], draft: Draft, session: Session) -> Record:
    data, ids = prepare(wanted.original.data), forget_of(wanted)
    _check_data(directories["original"], data)
    forget, retain = partition(data.train.to(session.device), ids)
    seen = UnlearningData(forget, retain, data.validation.to(session.device), data.dataset.num_classes)
    model = load_model(wanted.original, directories["original"]).to(session.device)
    context = _context(wanted, session, "unlearning")
    model = unlearning.unlearn(model, seen, wanted.unlearning, context)
    if isinstance(context.update_masks, Mask):
        masks.save(context.update_masks, draft.path / "mask.safetensors")
    return _save(model, data, draft, context, {"forget.ids": ids})


def forget_of(wanted: UnlearnConfig) -> Tensor:
    """The ids of the forget set: sorted int64."""
    data = prepare(wanted.original.data)
    generator = randomness.generator(wanted.forget_seed, "forget")
    return forget_ids(wanted.forget, data.train, generator, data.dataset.num_classes)


def _check_data(original: RunDirectory, data: Prepared) -> None:
    if original.record().get("data") != data.train.fingerprint():
        raise RequestError(
            f"the training images are not those that {original.id} was trained on: restore them, or train again"
        )


def load_model(wanted: TrainConfig, directory: RunDirectory) -> nn.Module:
    """The model of a train or unlearn run, on the CPU, in evaluation mode."""
    model = build(wanted, prepare(wanted.data).dataset)
    parameters.load(model, directory.tensors("model"), f"{directory.path / 'model.safetensors'}")
    return model.eval()


def _save(
    model: nn.Module, data: Prepared, draft: Draft, context: Context, extra: Mapping[str, Tensor] | None = None
) -> Record:
    """Write weights, history and the predictions of every split; the result for ``run.json``."""
    tensors: dict[str, Tensor] = dict(extra or {})
    for name, images in (("train", data.train), ("validation", data.validation), ("test", data.test)):
        found = predict(model, images, context.device)
        tensors |= {f"{name}.logits": found.logits, f"{name}.labels": found.labels, f"{name}.ids": found.ids}
    draft.tensors("model", model.state_dict())
    draft.tensors("predictions", tensors)
    draft.lines("history", context.history())
    return {"seconds": context.seconds, "peak_memory_bytes": peak_memory(context.device), "metrics": {}}


def _evaluate(
    wanted: EvaluateConfig, directories: Mapping[str, RunDirectory], draft: Draft, session: Session
) -> Record:
    original = _weights(wanted.subject.original, directories["original"])
    reference = None
    if wanted.reference is not None:
        judged = dataclasses.replace(wanted, subject=wanted.reference, reference=None)
        reference = _judged(judged, directories["reference"].path, directories["original"].path, session.device)
    subject = subject_of(wanted.subject, directories["subject"], original, reference)
    values = evaluate(subject, _metrics(wanted), _evaluation_context(wanted, session.device))
    metrics = {name: value if math.isfinite(value) else None for name, value in values.items()}
    return {"metrics": metrics, "seconds": dict(subject.seconds), "peak_memory_bytes": peak_memory(session.device)}


@functools.lru_cache(maxsize=4)
def _judged(wanted: EvaluateConfig, subject: Path, original: Path, device: torch.device) -> Subject:
    """A reference with its metrics: computed once for all the methods that are compared with it."""
    weights = _weights(wanted.subject.original, RunDirectory(original))
    found = subject_of(wanted.subject, RunDirectory(subject), weights)
    evaluate(found, _metrics(wanted), _evaluation_context(wanted, device))
    return found


def _metrics(wanted: EvaluateConfig) -> tuple[object, ...]:
    return wanted.metrics or tuple(plugin.config() for plugin in registry.plugins("metrics").values())


def _evaluation_context(wanted: EvaluateConfig, device: torch.device) -> Context:
    return Context(randomness.generator(wanted.seed, "evaluation"), device)


def subject_of(
    wanted: UnlearnConfig, directory: RunDirectory, original: Mapping[str, Tensor], reference: Subject | None = None
) -> Subject:
    """What the metrics judge, read from an unlearn run: no model is run."""
    stored = directory.tensors("predictions")
    splits_ = {
        name: Predictions(stored[f"{name}.logits"], stored[f"{name}.labels"], stored[f"{name}.ids"])
        for name in ("train", "validation", "test")
    }
    train = splits_.pop("train")
    forgotten = torch.isin(train.ids, stored["forget.ids"])
    return Subject(
        splits={"forget": train.select(forgotten), "retain": train.select(~forgotten), **splits_},
        weights=_weights(wanted.original, directory),
        original_weights=original,
        seconds=cast("Mapping[str, float]", directory.record()["seconds"]),
        reference=reference,
    )


def _weights(wanted: TrainConfig, directory: RunDirectory) -> dict[str, Tensor]:
    """The stored parameters of a run, without the buffers."""
    model = load_model(wanted, directory)
    return {name: weight.detach() for name, weight in model.named_parameters()}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat()


def peak_memory(device: torch.device) -> int:
    """The largest memory in bytes so far: of the device if it has its own, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _provenance(device: torch.device) -> Record:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})"
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **{n: version(n) for n in ("expunge", "torch", "numpy")}},
        "git_revision": _git_revision(),
    }


@functools.cache
def _git_revision() -> str | None:
    """The revision of expunge itself, where it runs from a checkout."""
    here = Path(__file__).resolve().parent
    if not (here.parents[1] / ".git").exists():
        return None
    command = ["git", "-C", os.fspath(here), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
