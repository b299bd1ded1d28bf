"""The split data of a run, loaded once per session."""

from dataclasses import dataclass

import torch
from torch import Tensor

from expunge.core.errors import RequestError
from expunge.data import duplicates, split_data
from expunge.data.image_set import ImageSet
from expunge.data.manifest import pixel_digests
from expunge.data.split_data import DataConfig, SplitData
from expunge.evaluation.predictions import FORGOTTEN
from expunge.store.directory import RunDirectory
from expunge.store.examples import first_run, stored_manifest
from expunge.store.execute import Session
from expunge.unlearning.sequence import Choices, divide


def load_data(wanted: DataConfig, session: Session) -> SplitData:
    """Load the split data to the CPU, once per session."""
    return session.cached(("data", wanted), lambda: split_data.load(wanted))


def data_of(original: RunDirectory, wanted: DataConfig, session: Session) -> SplitData:
    """Load the data that a model was trained on, once per session, to the CPU.

    Where examples have names, the data may lack images that the model was trained on (``SplitData.missing``), and
    images that have been added are left out.

    Raises:
        RequestError: The training images are not those that the model was trained on.
    """
    known = stored_manifest(original)
    if known is not None:
        return session.cached(("data", first_run(original).path), lambda: split_data.load(wanted, known))
    data = load_data(wanted, session)
    if original.record().get("data") != data.train.fingerprint():
        raise RequestError(
            f"the training images are not those that {original.id} was trained on: restore them, or train again"
        )
    return data


@dataclass(frozen=True)
class Divided:
    """The training images of a step of unlearning, on the device of the session."""

    ids: Tensor
    """The ids of the forget set: int64, ascending."""
    withheld: Tensor
    """The ids that are neither forgotten nor retained."""
    forget: ImageSet
    """The forget set; some of its images may not be on disk."""
    retain: ImageSet
    """The retain set."""
    forgotten: ImageSet
    """Images forgotten before, as far as they are on disk."""


def divided(original: RunDirectory, data: SplitData, step: Choices, session: Session) -> Divided:
    """Divide the training images that a model has not forgotten."""
    out = data.train.contains(forgotten_ids(original))
    remaining, forgotten = data.train.select(~out), present(data, data.train.select(out)).to(session.device)
    classes, poisoned = data.dataset.num_classes, None if data.poison is None else data.poison.ids
    return Divided(*divide(remaining.to(session.device), step, classes, poisoned, data.names), forgotten)


def forgotten_ids(directory: RunDirectory) -> Tensor:
    """Return the ids forgotten by a model and the models before it in its chain: int64, empty for an original."""
    found = directory.tensor("predictions", FORGOTTEN)
    return torch.empty(0, dtype=torch.int64) if found is None else found


def present(data: SplitData, images: ImageSet) -> ImageSet:
    """Return those of these training images that are on disk."""
    return images.select(~images.contains(data.missing)) if len(data.missing) else images


def duplicate_notes(data: SplitData, forget: ImageSet, retain: ImageSet) -> dict[str, object]:
    """Return a note on the forget examples with exact duplicates in the retain set, and on these; empty if none has.

    Their pixels are equal. Digests are those of the manifest if the data have one and are not poisoned; else all
    training images are hashed, 50,000 of 3 x 32 x 32 in a second.
    """
    sides = [images.ids.cpu() for images in (forget, retain)]
    if data.manifest is None or data.poison is not None:
        digests = [pixel_digests(images) for images in (forget, retain)]
    else:
        digests = [data.manifest.digests[ids] for ids in sides]
    found = duplicates.shared(*digests)
    if not found:
        return {}
    which = [sorted(int(ids[each]) for pair in found for each in pair[side]) for side, ids in enumerate(sides)]
    return {"duplicates": {"forget": which[0], "retain": which[1]}}


def check_present(data: SplitData, images: ImageSet, what: str, cure: str) -> None:
    """Raise a RequestError unless all of these training images are on disk."""
    lost = missing(data, images)
    if len(lost):
        raise RequestError(f"{len(lost)} of {len(images)} {what} are missing: {data.names.few(lost)}; {cure}")


def missing(data: SplitData, images: ImageSet) -> Tensor:
    """Return the ids of those of these training images that are not on disk: int64."""
    return data.missing[torch.isin(data.missing, images.ids.cpu())]
