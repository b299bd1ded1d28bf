"""Runs that give every training example of a model a number."""

from collections.abc import Mapping
from typing import cast

from torch import Tensor

from expunge import randomness, registry
from expunge.context import Context
from expunge.errors import RunError
from expunge.execution import Session
from expunge.originals import check_data, load_sparse, load_trajectory
from expunge.plans import ScoreConfig, run_id
from expunge.runs import Draft, Record, RunDirectory
from expunge.scores import ScoreData


def score(wanted: ScoreConfig, original: RunDirectory, draft: Draft, session: Session) -> Record:
    """Write ``scores.safetensors``: ``ids`` and ``labels`` of the training images, and a tensor for each score.

    Raises:
        RequestError: The score needs a recorded training, and there is none.
        RunError: A score is not finite.
    """
    data = session.prepare(wanted.data)
    check_data(original, data)
    plugin = registry.of_config("scores", wanted.score)
    model, sparsity = load_sparse(wanted.original, original, session)
    generator = randomness.generator(wanted.seed, "score", device=session.device)
    report = session.reporter(run_id(wanted))
    trajectory = load_trajectory(wanted.original, original)
    context = Context(generator, session.device, sparsity=sparsity, trajectory=trajectory, on_step=report)
    if plugin.mark.trajectory:
        context.recorded(plugin.name)
    train, validation, test = (images.to(session.device) for images in (data.train, data.validation, data.test))
    with context.phase("score"):
        seen = ScoreData(train, validation, test, data.dataset.num_classes)
        scores = cast("dict[str, Tensor]", plugin.call(model.to(session.device), seen, wanted.score, context))
    _check(scores, plugin.name)
    draft.tensors("scores", {"ids": data.train.ids, "labels": data.train.labels, **scores})
    return {"seconds": context.seconds, "notes": context.notes}


def _check(scores: Mapping[str, Tensor], name: str) -> None:
    for key, values in scores.items():
        bad = int((~values.isfinite()).sum())
        if bad:
            raise RunError(f"{name}: {bad} of {len(values)} values of {key} are not finite")
