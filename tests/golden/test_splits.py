"""Splits and forget sets of the original repositories, by name."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from expunge.core.config import parse
from expunge.data import split_data
from expunge.data.forgetting import forget_ids
from expunge.data.image_set import ImageSet
from expunge.data.split_data import DataConfig
from tests.golden import cases
from tests.golden.cases import Case


@pytest.fixture
def case() -> Case:
    return cases.load("splits")


@pytest.fixture
def source(case: Case, tmp_path: Path) -> str:
    """A data set with the labels of the case."""
    labels = case.tensors["labels"].numpy()
    classes = int(labels.max()) + 1
    arrays = {"train_images": np.zeros((len(labels), 4, 4), np.uint8), "train_labels": labels.astype(np.int64)}
    arrays |= {"test_images": np.zeros((classes, 4, 4), np.uint8), "test_labels": np.arange(classes)}
    np.savez(tmp_path / "labels.npz", **arrays)
    return f"npz:{tmp_path / 'labels.npz'}"


def chosen(train: ImageSet, text: str) -> Tensor:
    return forget_ids(parse("forget_sets", text), train, torch.Generator().manual_seed(7), 10)


def test_the_released_split_is_that_of_the_originals(case: Case, source: str) -> None:
    for seed in case.hyperparameters["seeds"]:
        data = split_data.load(DataConfig(source, split="released", seed=seed))
        case.check(data.train.ids, f"seed{seed}.train")
        case.check(data.validation.ids, case.tensors[f"seed{seed}.validation"].sort().values)
        labels = case.tensors["labels"].long()
        assert torch.equal(data.train.labels, labels[data.train.ids])


def test_released_forget_sets_are_those_of_the_originals(case: Case, source: str) -> None:
    """The names of the arrays say what was drawn: ``forget_random90``, ``forget_class3_20``."""
    for seed in case.hyperparameters["seeds"]:
        train = split_data.load(DataConfig(source, split="released", seed=seed)).train
        drawn = case.prefixed(f"seed{seed}.forget_")
        assert len(drawn) >= 2
        for name, positions in drawn.items():
            label, _, count = name.removeprefix("random").removeprefix("class").rpartition("_")
            text = f"released:{count},seed={seed}" + (f",classes={label}" if label else "")
            case.check(chosen(train, text), train.ids[positions.long()].sort().values)
