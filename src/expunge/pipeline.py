"""Train, unlearn, evaluate: :func:`run` turns the configuration of a run into its directory, once."""

import dataclasses
import math
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from expunge import checkpoints, config, masks, parameters, preparation, randomness, registry, training, unlearning
from expunge.context import Context, Make, UnlearningData
from expunge.data.forgetting import partition
from expunge.data.image_set import ImageSet
from expunge.data.poisoning import GaussianPoison, noise_of
from expunge.errors import OutOfMemory, RequestError, RunError
from expunge.evaluation import Predictions, Subject, evaluate, predict
from expunge.masks import Mask
from expunge.plans import (
    DataConfig,
    EvaluateConfig,
    ImportConfig,
    Original,
    PruneConfig,
    RunConfig,
    StageConfig,
    TrainConfig,
    UnlearnConfig,
    kind,
    label,
    parents,
    run_id,
    scenario,
)
from expunge.poison_score import gaussian_poison_scores
from expunge.preparation import Prepared
from expunge.provenance import PeakMemory, provenance
from expunge.runs import Draft, Record, RunDirectory, Store
from expunge.training import Training
from expunge.updates import Progress

T = TypeVar("T")


@dataclass(frozen=True)
class Session:
    """Where and before whose eyes runs take place; nothing here changes a result's meaning."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    on_step: Callable[[str, Progress], None] | None = None
    """Called with the run's id after each step."""
    retry: bool = False
    """Try failed runs again."""
    _memory: dict[object, object] = field(default_factory=dict[object, object], init=False, repr=False, compare=False)

    def prepare(self, wanted: DataConfig) -> Prepared:
        """The split data, on the CPU."""
        return self.remember(("data", wanted), lambda: preparation.prepare(wanted))

    def remember(self, key: object, make: Callable[[], T]) -> T:
        """What ``make`` returned for this key before, or returns now; the four last used are kept."""
        found = self._memory.pop(key) if key in self._memory else make()
        self._memory[key] = found
        while len(self._memory) > 4:
            del self._memory[next(iter(self._memory))]
        return cast("T", found)


def run(wanted: RunConfig, store: Store, session: Session) -> RunDirectory:
    """The run of this configuration, after its parents: found if it exists, else made.

    A failure of the work is kept as a failed run with its reason; what cannot be written (a full disk), finds
    too little memory or is interrupted leaves no run.

    Raises:
        RequestError: The request is wrong (no such data, a forget set that is empty, ...).
        RunError: The run, or one of its parents, failed now or before.
    """
    before = {role: run(parent, store, session) for role, parent in parents(wanted).items()}
    match wanted:
        case TrainConfig():
            return _once(wanted, before, store, session, lambda draft: _train(wanted, draft, session))
        case PruneConfig():
            return _once(wanted, before, store, session, lambda draft: _prune(wanted, before, draft, session))
        case UnlearnConfig():
            return _once(wanted, before, store, session, lambda draft: _unlearn(wanted, before, draft, store, session))
        case EvaluateConfig():
            return _once(wanted, before, store, session, lambda draft: _evaluate(wanted, before, store, session))
        case ImportConfig():
            return _imported(wanted, store)
        case StageConfig():
            raise RequestError("a stage is made by the run that needs it, not by itself")


def _once(
    wanted: RunConfig,
    before: Mapping[str, RunDirectory],
    store: Store,
    session: Session,
    work: Callable[[Draft], Record],
) -> RunDirectory:
    """The directory of a run, in which ``work`` has been done once, whoever else wants it at the same time."""
    directory = store.directory(run_id(wanted))
    if _settled(directory, session):
        return directory
    with store.lock(directory.id):
        if not _settled(directory, session):  # another process may have made it meanwhile
            with store.draft(directory.id, config.to_data(wanted, RunConfig)) as draft:
                _record(wanted, before, draft, session, work)
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


def _record(
    wanted: RunConfig,
    before: Mapping[str, RunDirectory],
    draft: Draft,
    session: Session,
    work: Callable[[Draft], Record],
) -> None:
    """Do the work and write down how it went."""
    memory = PeakMemory(session.device)
    record: Record = {
        "id": run_id(wanted),
        "kind": kind(wanted),
        "label": label(wanted),
        "scenario": scenario(wanted.subject.original) if isinstance(wanted, EvaluateConfig) else "",
        "parents": {role: directory.id for role, directory in before.items()},
        "started": _now(),
        **provenance(session.device),
    }
    try:
        result = work(draft)
    except (RequestError, OSError, OutOfMemory):  # not the fault of the work: nothing to remember
        raise
    except Exception as error:
        if _out_of_memory(error):
            raise OutOfMemory(
                f"out of memory: try a smaller batch_size or model, or fewer --jobs ({_first(error)})"
            ) from error
        reason = str(error) if isinstance(error, RunError) else f"{type(error).__name__}: {error}"
        failure = {"status": "failed", "reason": reason, "traceback": traceback.format_exc(), "finished": _now()}
        draft.finish(record | failure)
        raise RunError(reason) from error
    ended = {"status": "finished", "reason": None, "finished": _now(), **memory.record(), "metrics": {}}
    draft.finish(record | ended | result)


def _out_of_memory(error: Exception) -> bool:
    """Whether there was too little memory: true of this machine at this moment, not of the run."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # torch's CPU allocator


def _first(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _now() -> str:
    return datetime.now(timezone.utc).isoformat()


def _context(wanted: TrainConfig | PruneConfig | UnlearnConfig, session: Session, *purpose: str) -> Context:
    name, report = run_id(wanted), session.on_step
    return Context(
        generator=randomness.generator(wanted.seed, *purpose, device=session.device),
        device=session.device,
        precision=wanted.precision,
        on_step=None if report is None else lambda progress: report(name, progress),
    )


def _train(wanted: TrainConfig, draft: Draft, session: Session) -> Record:
    data = session.prepare(wanted.data)
    model = preparation.build(wanted, data.dataset).to(session.device)
    context = _context(wanted, session, "training")
    plan = wanted.training
    with context.phase("train"), context.seeded():
        _fit(model, data.train.to(session.device), plan, context)
    return {"data": data.train.fingerprint(), **_save(model, data, draft, context)}


def _fit(model: nn.Module, images: ImageSet, plan: Training, context: Context, first: int = 0) -> None:
    """Train by a plan, from its epoch ``first``."""
    epochs, size, last = plan.epochs, plan.batch_size, plan.stop_after
    training.fit(model, images, plan.rule, context, epochs=epochs, batch_size=size, first=first, last=last)
    for stepper in context.steppers:
        stepper.check()


def _prune(wanted: PruneConfig, before: Mapping[str, RunDirectory], draft: Draft, session: Session) -> Record:
    data = session.prepare(wanted.data)
    _check_data(before["original"], data)
    model = load_model(wanted, before["original"], session).to(session.device)
    context = _context(wanted, session, "pruning", before["original"].id)
    context.sparsity = _sparsity(before["original"])
    plugin = registry.of_config("pruning", wanted.pruner)
    if not plugin.mark.trained:
        _go_back(model, before)
    with context.phase("prune"), context.seeded():
        mask = plugin.function(model, data.train.shape, wanted.pruner, context)
    context.sparsity = cast("Mask", mask)
    _go_back(model, before)
    with context.phase("train"), context.seeded():
        _fit(model, data.train.to(session.device), wanted.training, context, wanted.rewind or 0)
    return {"data": data.train.fingerprint(), **_save(model, data, draft, context)}


def _go_back(model: nn.Module, before: Mapping[str, RunDirectory]) -> None:
    """Give the model the weights of the epoch that it is to go back to, if any."""
    if "start" in before:
        parameters.load(model, before["start"].tensors("model"), f"{before['start'].path / 'model.safetensors'}")


def _sparsity(directory: RunDirectory) -> Mask | None:
    """The sparsity mask of a stored model, if it is sparse."""
    kept = directory.sparsity()
    return None if kept is None else Mask(kept)


def take_in(wanted: ImportConfig, path: Path, store: Store, session: Session) -> RunDirectory:
    """The run of an imported checkpoint: found if it exists, else made from the file at ``path``.

    What the file says of the input step (mean and deviation) is taken from it; where it differs from what the data
    source says, the run notes both.

    Raises:
        RequestError: The file is no checkpoint of this architecture; the message lists what does not fit.
    """

    def work(draft: Draft) -> Record:
        data = session.prepare(wanted.data)
        model = preparation.build(wanted, data.dataset)
        checkpoint = checkpoints.read(path)
        state, mask = checkpoints.translate(checkpoint, model, str(path))
        parameters.load(model, state, str(path))
        context = Context(randomness.generator(wanted.seed, "import"), session.device, wanted.precision, mask)
        context.notes |= {"checkpoint": path.name, "ignored": list(checkpoint.ignored)}
        ours = {"mean": tuple(data.dataset.mean), "std": tuple(data.dataset.std)}
        theirs = {"mean": checkpoint.mean, "std": checkpoint.std}
        for name, value in theirs.items():
            if value is not None and value != ours[name]:
                context.notes[f"{name} of the input step"] = {"checkpoint": list(value), "data": list(ours[name])}
        model.to(session.device).eval()
        return {"data": data.train.fingerprint(), **_save(model, data, draft, context)}

    return _once(wanted, {}, store, session, work)


def _imported(wanted: ImportConfig, store: Store) -> RunDirectory:
    directory = store.directory(run_id(wanted))
    if not directory.exists:
        raise RequestError(f"{directory.id} is not there: import its checkpoint again with `expunge import`")
    return directory


def _unlearn(
    wanted: UnlearnConfig, before: Mapping[str, RunDirectory], draft: Draft, store: Store, session: Session
) -> Record:
    data = session.prepare(wanted.original.data)
    _check_data(before["original"], data)
    ids = preparation.forget_set(wanted, data)
    forget, retain = partition(data.train.to(session.device), ids)
    seen = UnlearningData(forget, retain, data.validation.to(session.device), data.dataset.num_classes)
    model = load_model(wanted.original, before["original"], session).to(session.device)
    context = _context(wanted, session, "unlearning")
    context.sparsity = _sparsity(before["original"])
    stages: dict[str, str] = {}
    context.keep = lambda name, plan, make: _stage(wanted, name, plan, make, stages, context, store, session)
    model = unlearning.unlearn(model, seen, wanted.unlearning, context)
    for role, mask in _by_role(context.update_masks).items():
        masks.save(mask, draft.path / f"mask{role and f'.{role}'}.safetensors")
    return {"stages": stages, **_save(model, data, draft, context, {"forget.ids": ids})}


def _stage(
    wanted: UnlearnConfig,
    name: str,
    plan: object,
    make: Make,
    stages: dict[str, str],
    context: Context,
    store: Store,
    session: Session,
) -> dict[str, Tensor]:
    """The tensors of a stage, made in a run of its own that others share; its time counts for each of them."""
    stage = StageConfig(wanted.original, name, config.to_data(plan), wanted.precision, wanted.seed)

    def work(draft: Draft) -> Record:
        with context.phase("make"):
            draft.tensors(name, make(randomness.generator(wanted.seed, "stage", name, device=session.device)))
        return {"seconds": {"precompute": context.seconds["make"]}}

    with context.phase("wait"):  # for another process that makes it, too
        directory = _once(stage, {"original": store.directory(run_id(wanted.original))}, store, session, work)
    for phase in ("make", "wait"):
        context.seconds.pop(phase, None)
    context.seconds["precompute"] = context.seconds.get("precompute", 0.0) + seconds_of(directory)["precompute"]
    stages[name] = directory.id
    return {key: tensor.to(session.device) for key, tensor in directory.tensors(name).items()}


def _by_role(given: Mask | Mapping[str, Mask] | None) -> dict[str, Mask]:
    """Update masks by role, where one mask for all roles has the empty name."""
    if given is None:
        return {}
    return {"": given} if isinstance(given, Mask) else dict(given)


def _check_data(original: RunDirectory, data: Prepared) -> None:
    if original.record().get("data") != data.train.fingerprint():
        raise RequestError(
            f"the training images are not those that {original.id} was trained on: restore them, or train again"
        )


def load_model(wanted: Original, directory: RunDirectory, session: Session) -> nn.Module:
    """The model of a run, on the CPU, in evaluation mode."""
    model = preparation.build(wanted, session.prepare(wanted.data).dataset)
    parameters.load(model, directory.tensors("model"), f"{directory.path / 'model.safetensors'}")
    return model.eval()


def seconds_of(directory: RunDirectory) -> dict[str, float]:
    """The seconds of a run by phase."""
    return dict(cast("Mapping[str, float]", directory.record()["seconds"]))


def _save(
    model: nn.Module, data: Prepared, draft: Draft, context: Context, extra: Mapping[str, Tensor] | None = None
) -> Record:
    """Write weights, history and the predictions of every split; the result for ``run.json``."""
    tensors: dict[str, Tensor] = dict(extra or {})
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    if data.poison is not None and len(data.poison.triggered):
        splits["triggered"] = data.poison.triggered
    for name, images in splits.items():
        found = predict(model, images, context.device)
        tensors |= {f"{name}.logits": found.logits, f"{name}.labels": found.labels, f"{name}.ids": found.ids}
    tensors |= _poison_scores(model, data, context.device)
    draft.model(model.state_dict(), [name for name, _ in model.named_parameters()], context.sparsity or {})
    draft.tensors("predictions", tensors)
    draft.lines("history", context.history())
    return {"seconds": context.seconds, "steps": context.steps(), "notes": context.notes}


def _poison_scores(model: nn.Module, data: Prepared, device: torch.device) -> dict[str, Tensor]:
    """How much each Gaussian poison still shows in the model, where there are any."""
    if data.poison is None or not isinstance(data.poison.config.trigger, GaussianPoison):
        return {}
    clean, plan, sigma = data.poison.clean, data.poison.config, data.poison.config.trigger.sigma
    noise = noise_of(clean.ids, clean.shape, plan)
    return {"scores.gaussian_poison": gaussian_poison_scores(model, clean, noise, sigma, device)}


def _evaluate(wanted: EvaluateConfig, before: Mapping[str, RunDirectory], store: Store, session: Session) -> Record:
    reference = None
    if wanted.reference is not None:
        judged = dataclasses.replace(wanted, subject=wanted.reference, reference=None)
        key = (store.root, run_id(judged), before["reference"].record()["finished"])
        reference = session.remember(key, lambda: _judge(judged, None, store, session)[0])
    subject, values = _judge(wanted, reference, store, session)
    metrics = {name: value if math.isfinite(value) else None for name, value in values.items()}
    return {"metrics": metrics, "seconds": dict(subject.seconds)}


def _judge(
    wanted: EvaluateConfig, reference: Subject | None, store: Store, session: Session
) -> tuple[Subject, dict[str, float]]:
    """The subject with its metrics: no model is run, and no image read."""
    original = store.directory(run_id(wanted.subject.original)).weights()
    subject = subject_of(store.directory(run_id(wanted.subject)), original, reference)
    context = Context(randomness.generator(wanted.seed, "evaluation"), session.device)
    return subject, evaluate(subject, wanted.metrics, context)


def subject_of(directory: RunDirectory, original: Mapping[str, Tensor], reference: Subject | None = None) -> Subject:
    """What the metrics judge, read from an unlearn run."""
    stored = directory.tensors("predictions")
    found = {
        name: Predictions(stored[f"{name}.logits"], stored[f"{name}.labels"], stored[f"{name}.ids"])
        for name in ("train", "validation", "test", "triggered")
        if f"{name}.logits" in stored
    }
    train = found.pop("train")
    forgotten = torch.isin(train.ids, stored["forget.ids"])
    return Subject(
        splits={"forget": train.select(forgotten), "retain": train.select(~forgotten), **found},
        weights=directory.weights(),
        sparsity=directory.sparsity() or {},
        original_weights=original,
        seconds=seconds_of(directory),
        scores={key.removeprefix("scores."): stored[key] for key in stored if key.startswith("scores.")},
        reference=reference,
    )
