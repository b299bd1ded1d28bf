"""HAPT: postures and movements from a phone's sensors, 561 features, 12 classes (Reyes-Ortiz et al. 2015)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from expunge.core import files
from expunge.core.errors import RequestError
from expunge.core.registry import source
from expunge.data import _assemble, _named
from expunge.data._assemble import Arrays
from expunge.data.dataset import Dataset

CURE = "unpack the archive again"
FEATURES = 561
CLASSES = (
    *("walking", "walking upstairs", "walking downstairs", "sitting", "standing", "laying"),
    *("stand to sit", "sit to stand", "sit to lie", "lie to sit", "stand to lie", "lie to stand"),
)


@dataclass(frozen=True)
class HaptConfig:
    """Options of HAPT."""

    root: str = ""
    """The parent of the data set's folder; by default the environment variable EXPUNGE_DATA."""


@source()
def load(config: HaptConfig) -> Dataset:
    """HAPT: postures and movements from a phone's sensors, 7,767 and 3,162 rows of 561 features (Reyes-Ortiz 2015).

    Read from hapt/train/X_train.txt, y_train.txt, and the same in test/. Labels 1 to 12 become classes 0 to 11. (The
    code of arXiv:2404.01712 uses them as they are, for networks with 10 outputs.)
    """
    folder = _named.folder_of(("hapt",), config.root)
    return _assemble.vectors(_part(folder, "train"), _part(folder, "test"), folder, class_names=CLASSES)


def _part(folder: Path, part: str) -> Arrays:
    place = folder / part if (folder / part).is_dir() else folder / part.title()
    features, labels = (_numbers(place / f"{kind}_{part}.txt") for kind in "Xy")
    if features.size != FEATURES * labels.size or not np.isin(labels, np.arange(1, len(CLASSES) + 1)).all():
        raise RequestError(
            f"{place} should hold {FEATURES} features and a label of 1 to {len(CLASSES)} for each row, found "
            f"{features.size} numbers and {labels.size} labels: {CURE}"
        )
    return features.reshape(-1, FEATURES), labels.astype(np.int64) - 1


def _numbers(path: Path) -> npt.NDArray[np.float64]:
    content = files.text(path, CURE)
    with files.reading(path, CURE):
        return np.array(content.split(), np.float64)
