"""Train, unlearn, evaluate: :func:`run` turns the configuration of a run into its directory, once."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from expunge import (
    checkpoints,
    masks,
    parameters,
    preparation,
    randomness,
    registry,
    scoring,
    training,
    unlearning,
    vectors,
)
from expunge.context import Context, UnlearningData
from expunge.data.forgetting import partition
from expunge.data.image_set import ImageSet
from expunge.data.poisoning import GaussianPoison, noise_of
from expunge.errors import RequestError
from expunge.evaluation import Predictions, Shadows, Subject, evaluate, predict
from expunge.execution import Session, once
from expunge.masks import Mask
from expunge.originals import check_data, l2_of, load_sparse, load_trajectory
from expunge.plans import (
    EvaluateConfig,
    ImportConfig,
    PrecomputeConfig,
    PruneConfig,
    RunConfig,
    ScoreConfig,
    StageConfig,
    TrainConfig,
    UnlearnConfig,
    parents,
    run_id,
    shadows,
)
from expunge.poison_score import gaussian_poison_scores
from expunge.preparation import Prepared
from expunge.runs import Draft, Record, RunDirectory, Store
from expunge.stages import Stages
from expunge.training import Training

Work = Callable[[Draft], Record]


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
            work: Work = lambda draft: _train(wanted, draft, session)  # noqa: E731
        case PruneConfig():
            work = lambda draft: _prune(wanted, before, draft, session)  # noqa: E731
        case UnlearnConfig():
            work = lambda draft: _unlearn(wanted, before, draft, store, session)  # noqa: E731
        case EvaluateConfig():
            work = lambda draft: _evaluate(wanted, before, store, session)  # noqa: E731
        case PrecomputeConfig():
            work = lambda draft: vectors.precompute(wanted, before["original"], draft, store, session)  # noqa: E731
        case ScoreConfig():
            work = lambda draft: scoring.score(wanted, before["original"], draft, session)  # noqa: E731
        case ImportConfig():
            return _imported(wanted, store)
        case StageConfig():
            raise RequestError("a stage is made by the run that needs it, not by itself")
    return once(wanted, before, store, session, work)


def _context(wanted: TrainConfig | PruneConfig | UnlearnConfig, session: Session, *purpose: str) -> Context:
    return Context(
        generator=randomness.generator(wanted.seed, *purpose, device=session.device),
        device=session.device,
        precision=wanted.precision,
        on_step=session.reporter(run_id(wanted)),
    )


def _train(wanted: TrainConfig, draft: Draft, session: Session) -> Record:
    data = session.prepare(wanted.data)
    model = preparation.build(wanted, data.dataset).to(session.device)
    context = _context(wanted, session, "training")
    images = data.train.to(session.device)
    with context.phase("train"), context.seeded():
        if wanted.training.record:
            draft.tensors("trajectory", training.recorded(model, images, wanted.training, context).tensors())
        else:
            _fit(model, images, wanted.training, context)
    return {"data": data.train.fingerprint(), **_save(model, data, draft, context)}


def _fit(model: nn.Module, images: ImageSet, plan: Training, context: Context, first: int = 0) -> None:
    """Train by a plan, from its epoch ``first``."""
    epochs, size, last = plan.epochs, plan.batch_size, plan.stop_after
    training.fit(model, images, plan.rule, context, epochs=epochs, batch_size=size, first=first, last=last)
    for stepper in context.steppers:
        stepper.check()


def _prune(wanted: PruneConfig, before: Mapping[str, RunDirectory], draft: Draft, session: Session) -> Record:
    data = session.prepare(wanted.data)
    check_data(before["original"], data)
    context = _context(wanted, session, "pruning", f"round {_rounds(wanted)}")
    model, context.sparsity = load_sparse(wanted, before["original"], session)
    model.to(session.device)
    plugin = registry.of_config("pruning", wanted.pruner)
    if not plugin.mark.trained:
        _go_back(model, before)
    with context.phase("prune"), context.seeded():
        mask = plugin.call(model, data.train.shape, wanted.pruner, context)
    context.sparsity = cast("Mask", mask)
    _go_back(model, before)
    with context.phase("train"), context.seeded():
        _fit(model, data.train.to(session.device), wanted.training, context, wanted.rewind or 0)
    return {"data": data.train.fingerprint(), **_save(model, data, draft, context)}


def _rounds(wanted: PruneConfig) -> int:
    """How many rounds of pruning the model has had after this one: each draws from a generator of its own."""
    before = _rounds(wanted.original) if isinstance(wanted.original, PruneConfig) else 0
    return before + int(getattr(wanted.pruner, "rounds", 1))


def _go_back(model: nn.Module, before: Mapping[str, RunDirectory]) -> None:
    """Give the model the weights of the epoch that it is to go back to, if any."""
    if "start" in before:
        parameters.load(model, before["start"].tensors("model"), f"{before['start'].path / 'model.safetensors'}")


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

    return once(wanted, {}, store, session, work)


def _imported(wanted: ImportConfig, store: Store) -> RunDirectory:
    directory = store.directory(run_id(wanted))
    if not directory.exists:
        raise RequestError(f"{directory.id} is not there: import its checkpoint again with `expunge import`")
    return directory


def _unlearn(
    wanted: UnlearnConfig, before: Mapping[str, RunDirectory], draft: Draft, store: Store, session: Session
) -> Record:
    data = session.prepare(wanted.original.data)
    check_data(before["original"], data)
    ids = preparation.forget_set(wanted, data)
    forget, retain = partition(data.train.to(session.device), ids)
    seen = UnlearningData(forget, retain, data.validation.to(session.device), data.dataset.num_classes)
    context = _context(wanted, session, "unlearning")
    model, context.sparsity = load_sparse(wanted.original, before["original"], session)
    model.to(session.device)
    context.trajectory = load_trajectory(wanted.original, before["original"])
    context.l2 = l2_of(wanted.original)
    context.vectors = lambda name: vectors.find(name, wanted.original, context, store)
    context.keep = stages = Stages(wanted, context, store, session)
    model = unlearning.unlearn(model, seen, wanted.unlearning, context)
    for role, mask in _by_role(context.update_masks).items():
        masks.save(mask, draft.path / f"mask{role and f'.{role}'}.safetensors")
    return {"stages": stages.made, **_save(model, data, draft, context, {"forget.ids": ids})}


def _by_role(given: Mask | Mapping[str, Mask] | None) -> dict[str, Mask]:
    """Update masks by role, where one mask for all roles has the empty name."""
    if given is None:
        return {}
    return {"": given} if isinstance(given, Mask) else dict(given)


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
    reference, seen = None, _shadows(wanted, store, session)
    if wanted.reference is not None:
        judged = dataclasses.replace(wanted, subject=wanted.reference, reference=None)
        key = (store.root, run_id(judged), before["original"].id, before["reference"].record()["finished"])
        reference = session.remember(key, lambda: _judge(judged, None, seen, store, session)[0])
    subject, values = _judge(wanted, reference, seen, store, session)
    metrics = {name: value if math.isfinite(value) else None for name, value in values.items()}
    return {"metrics": metrics, "seconds": dict(subject.seconds)}


def _judge(
    wanted: EvaluateConfig, reference: Subject | None, seen: Shadows | None, store: Store, session: Session
) -> tuple[Subject, dict[str, float]]:
    """The subject with its metrics: no model is run, and no image read."""
    original = store.directory(run_id(wanted.subject.original))
    subject = subject_of(store.directory(run_id(wanted.subject)), original, reference, seen)
    context = Context(randomness.generator(wanted.seed, "evaluation"), session.device)
    return subject, evaluate(subject, wanted.metrics, context)


def _shadows(wanted: EvaluateConfig, store: Store, session: Session) -> Shadows | None:
    """What the shadow models of an evaluation say of the training and validation examples, if there are any."""
    runs = [store.directory(run_id(shadow)) for shadow in shadows(wanted)]
    if not runs:
        return None
    finished = [run.record()["finished"] for run in runs]
    return session.remember((store.root, runs[0].id, *finished), lambda: _joined([_seen_by(run) for run in runs]))


def _seen_by(directory: RunDirectory) -> Shadows:
    """One shadow model; of its logits, only what is asked for is kept."""
    splits, stored = _predictions(directory)
    parts = [splits[name] for name in ("train", "validation") if len(splits[name])]
    ids, log_odds = torch.cat([part.ids for part in parts]), torch.cat([part.log_odds() for part in parts])
    inside = torch.isin(ids, splits["train"].ids) & ~torch.isin(ids, stored["forget.ids"])
    return Shadows(ids, log_odds[None], inside[None])


def _joined(seen: Sequence[Shadows]) -> Shadows:
    """Shadow models of the same examples."""
    return Shadows(seen[0].ids, torch.cat([one.log_odds for one in seen]), torch.cat([one.inside for one in seen]))


def subject_of(
    directory: RunDirectory,
    original: RunDirectory | None = None,
    reference: Subject | None = None,
    seen: Shadows | None = None,
) -> Subject:
    """What the metrics judge, read from an unlearn run and from that of the model before it."""
    splits, stored = _predictions(directory)
    model, forgotten = directory.model(), stored["forget.ids"]
    return Subject(
        splits=_parted(splits, forgotten),
        weights=model.weights,
        original=None if original is None else _before(original, forgotten),
        sparsity=model.kept,
        seconds=directory.seconds(),
        scores={key.removeprefix("scores."): stored[key] for key in stored if key.startswith("scores.")},
        reference=reference,
        shadows=seen,
    )


def _before(original: RunDirectory, forgotten: Tensor) -> Subject:
    """The model that is to forget these examples."""
    return Subject(_parted(_predictions(original)[0], forgotten), original.weights())


def _predictions(directory: RunDirectory) -> tuple[dict[str, Predictions], dict[str, Tensor]]:
    """The predictions of a run by split; and all that is in their file."""
    stored = directory.tensors("predictions")
    found = {
        name: Predictions(stored[f"{name}.logits"], stored[f"{name}.labels"], stored[f"{name}.ids"])
        for name in ("train", "validation", "test", "triggered")
        if f"{name}.logits" in stored
    }
    return found, stored


def _parted(splits: Mapping[str, Predictions], ids: Tensor) -> dict[str, Predictions]:
    """Splits of which the training set is parted in what is forgotten and what is retained."""
    train = splits["train"]
    forgotten = torch.isin(train.ids, ids)
    rest = {name: part for name, part in splits.items() if name != "train"}
    return {"forget": train.select(forgotten), "retain": train.select(~forgotten), **rest}
