"""Handwritten digits, 8 x 8, grey: 1,797 real images that scikit-learn carries (Alpaydin & Kaynak 1998)."""

import numpy as np
import torch
from sklearn.datasets import load_digits

from expunge.core.randomness import generator
from expunge.core.registry import source
from expunge.data import splits
from expunge.data.dataset import Dataset, channel_statistics
from expunge.data.image_set import make


@source()
def load() -> Dataset:
    """Handwritten digits, 8 x 8, grey; needs no file. A fixed fifth of each class is the test set."""
    values, labels = load_digits(return_X_y=True)
    pixels = np.rint(np.asarray(values) * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    everything = make(torch.from_numpy(pixels), torch.from_numpy(np.asarray(labels)))
    train, test = splits.class_balanced(everything.labels, 0.2, generator(0, "digits", "test"))
    learned = everything.select(train)
    mean, std = channel_statistics(learned.inputs)
    return Dataset(learned, everything.select(test), tuple("0123456789"), mean, std)
