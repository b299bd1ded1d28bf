"""A data set split into training, validation and test set, with poisoned examples if configured."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, cast

import torch
from torch import Tensor

from expunge.core import checks, randomness, registry
from expunge.core.config import Choice, ReadBy, read_texts
from expunge.core.errors import RequestError
from expunge.data import manifest, splits
from expunge.data.dataset import Dataset
from expunge.data.id_lists import check_ids, read_ids
from expunge.data.image_set import ImageSet
from expunge.data.manifest import Manifest
from expunge.data.names import Names
from expunge.data.poisoning import Poison, poison, triggered
from expunge.data.splits import Limits
from expunge.data.subsets import some

Split = Literal["ours", "released"]
"""How the validation set is chosen: as expunge does, or as the original repositories do."""
SEEDS: dict[str, int] = {"ours": 0, "released": 1}
"""The seed of a split by default; 1 is that of the split on which the original repositories train."""


@dataclass(frozen=True)
class DataConfig:
    """The images, and how they are split."""

    source: Annotated[object, Choice("data")]
    """The data source."""
    limit: int | None = None
    """Use a class-balanced subset of this many training images; all by default."""
    test_limit: int | None = None
    """Use a class-balanced subset of this many test images; all by default."""
    validation: float = 0.1
    """Share of each class that is set aside for validation."""
    seed: int | None = None
    """Seed of these choices; by default 0, and 1 for the released split, as the original models were trained."""
    poison: Annotated[Poison, Choice("poisons")] | None = None
    """The poison of some training images; none by default."""
    split: Split = "ours"
    """How validation images are chosen: ``released`` as in the original repositories, by position in the source."""
    validation_ids: Annotated[tuple[int, ...], ReadBy(read_ids)] | None = None
    """The validation images by their ids, or the name of a file of ids, in place of a choice."""

    def __post_init__(self) -> None:
        """Parse fields given as text; fill in the seed; check that no validation image repeats."""
        read_texts(self)
        checks.one_of(tuple(SEEDS), split=self.split)
        if self.seed is None:
            object.__setattr__(self, "seed", SEEDS[self.split])
        if self.validation_ids is not None:
            if self.split != "ours":
                raise RequestError(f"give the {self.split} split or the ids of the validation images, not both")
            listed = read_ids(self.validation_ids) if isinstance(self.validation_ids, str) else self.validation_ids
            if not listed:
                raise RequestError("the list of validation images is empty: write validation=0 for none")
            check_ids(listed, "the validation set")
            object.__setattr__(self, "validation_ids", tuple(sorted(listed)))


@dataclass(frozen=True)
class SplitData:
    """Training set, validation set, and the test set, which methods do not see."""

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    dataset: Dataset
    poison: "Poisoned | None" = None
    """The poisoned examples of the training set, if there are any."""
    names: Names = field(default_factory=Names)
    """The names of the examples of the source, by id."""
    manifest: Manifest | None = None
    """The manifest of the data; None if the source gives no names."""
    missing: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    """The ids of training examples that the manifest has and the disk lacks; their images in ``train`` are black."""
    notes: Mapping[str, object] = field(default_factory=dict[str, object])
    """How the data on disk differ from the manifest, and what the source says of its images; empty if nothing."""


@dataclass(frozen=True)
class Poisoned:
    """The poisoned examples of the training set, and the images to audit them with."""

    config: Poison
    ids: Tensor
    """The ids of the poisoned examples: int64, ascending."""
    clean: ImageSet
    """These examples before poisoning."""
    triggered: ImageSet
    """Test images of other classes with the trigger and the target label; empty if the poison is no trigger."""


def load(wanted: DataConfig, known: Manifest | None = None) -> SplitData:
    """Load, split and poison the data, on the CPU.

    With the manifest of a model's data, examples have the ids, labels and splits that they have in it.

    Raises:
        RequestError: The data cannot be read, or differ from the manifest in more than missing and new images.
    """
    plugin = registry.of_config("data", wanted.source)
    seed = wanted.seed or 0  # never None once the configuration is made
    limits = Limits(wanted.limit, wanted.test_limit, seed)
    if known is not None:
        limits = Limits(named=manifest.used(known))
    dataset = cast("Dataset", plugin.call(wanted.source, limits=limits))
    if known is None:
        found = _drawn(dataset, wanted, None if "limits" in plugin.extras else limits)
    else:
        found = _aligned(dataset, known)
    if dataset.notes:
        found = replace(found, notes={**found.notes, "images": list(dataset.notes)})
    if wanted.poison is None:
        return found
    if len(found.missing):
        raise RequestError(
            f"{len(found.missing)} training images are missing, and poisoned data need all: restore "
            f"{found.names.few(found.missing)}"
        )
    poisoned, ids = poison(found.train, wanted.poison, found.dataset.num_classes)
    before = found.train.select(torch.isin(found.train.ids, ids))
    audit = Poisoned(wanted.poison, ids, before, triggered(found.test, wanted.poison))
    return replace(found, train=poisoned, poison=audit)


def _drawn(dataset: Dataset, wanted: DataConfig, limits: Limits | None) -> SplitData:
    """The split of a data set that no model was trained on yet; the source may have applied the limits."""
    pool, test = dataset.train, dataset.test
    if limits is not None:
        pool = pool.select(limits.choose(pool.labels, "train"))
        test = test.select(limits.choose(test.labels, "test"))
    train, held = _split(dataset, pool, wanted, wanted.seed or 0)
    if not dataset.train_names:
        return SplitData(train, held, test, dataset)
    listed = manifest.of(dataset, train, held, test)
    return SplitData(train, held, test, dataset, names=listed.names, manifest=listed)


def _aligned(dataset: Dataset, known: Manifest) -> SplitData:
    """The split of the manifest."""
    found = manifest.align(known, dataset)
    whole = manifest.described(dataset, known, found)
    return SplitData(
        found.train, found.validation, found.test, whole, None, known.names, known, found.missing, found.notes
    )


def _split(dataset: Dataset, pool: ImageSet, wanted: DataConfig, seed: int) -> tuple[ImageSet, ImageSet]:
    """The training and the validation images among those that the limit has left.

    A split that is given, or released, is one of all images: the limit moves none to the other side.

    Raises:
        RequestError: A validation image is unknown, or no training image is left.
    """
    if wanted.validation_ids is not None:
        held = torch.tensor(wanted.validation_ids, device=pool.device)
        unknown = held[~torch.isin(held, dataset.all_ids)]
        if len(unknown):
            raise RequestError(f"no training image has the validation ids {some(unknown.tolist())}")
    elif wanted.split == "released":
        held = dataset.all_ids[splits.released(dataset.all_labels, wanted.validation, seed)[1]]
    else:
        generator = randomness.generator(seed, "split")
        train, validation = splits.class_balanced(pool.labels, wanted.validation, generator)
        return pool.select(train), pool.select(validation)
    aside = pool.contains(held)
    if bool(aside.all()):
        raise RequestError(f"all {len(pool)} training images are set aside for validation: none is left to train on")
    return pool.select(~aside), pool.select(aside)
