"""The SVC attack on merged values against scikit-learn's on raw ones: agreement and time, on real confidences.

    EXPUNGE_DATA=... python benchmarks/membership_svc.py

A small network learns 10,000 images of Fashion-MNIST until it remembers them; members are these, non-members
10,000 test images, and the judged are 10,000 images that it has never seen. Without EXPUNGE_DATA, the
confidences are drawn from distributions of that shape.
"""

import os
import time

import numpy as np
import torch

from expunge.data.image_set import ImageSet
from expunge.evaluation import membership
from expunge.evaluation.predictions import Predictions, predict
from expunge.training.context import Context
from expunge.training.fit import Training, fit
from expunge.training.rules import Rule

COUNT = 10_000


def real() -> list[Predictions]:
    """Predictions of a network on members, non-members and others."""
    from expunge.data.sources import fashion_mnist

    loaded = fashion_mnist.load(fashion_mnist.FashionMnistConfig())
    part = loaded.train.select(torch.arange(COUNT))
    other = loaded.train.select(torch.arange(COUNT, 2 * COUNT))
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(784, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10)
    )
    context = Context(torch.Generator().manual_seed(0))
    fit(network, part, Rule(lr=0.1, schedule="cosine"), context, Training(epochs=20))
    sets: list[ImageSet] = [part, loaded.test, other]
    return [predict(network, images, torch.device("cpu")) for images in sets]


def drawn() -> list[Predictions]:
    """Logits whose true class leads by more for members than for others."""
    generator = torch.Generator().manual_seed(0)
    found: list[Predictions] = []
    for lead in (8.0, 5.0, 5.0):
        labels = torch.randint(10, (COUNT,), generator=generator)
        logits = torch.randn(COUNT, 10, generator=generator)
        logits[torch.arange(COUNT), labels] += lead + 3 * torch.randn(COUNT, generator=generator)
        found.append(Predictions(logits, labels, torch.arange(COUNT)))
    return found


def compare(members: np.ndarray, others: np.ndarray, asked: np.ndarray) -> tuple[float, float, float]:
    """Percent of equal answers, seconds on raw values, seconds on merged ones."""
    started = time.process_time()
    raw = membership.attack(members, others, exact=True).predict(asked)
    middle = time.process_time()
    classifier = membership.attack(members, others)
    distinct, back = np.unique(asked, axis=0, return_inverse=True)
    merged = classifier.predict(distinct)[back.ravel()]
    return 100 * float(np.mean(raw == merged)), middle - started, time.process_time() - middle


if __name__ == "__main__":
    sets = [membership.features(part) for part in (real() if os.environ.get("EXPUNGE_DATA") else drawn())]
    print("| feature | same answer (%) | raw (CPU s) | merged (CPU s) | ratio |\n|---|---:|---:|---:|---:|")
    for name in ("correctness", "confidence", "entropy", "m_entropy"):
        agreement, raw, merged = compare(*(part[name] for part in sets))
        print(f"| {name} | {agreement:.2f} | {raw:.2f} | {merged:.3f} | {raw / merged:.0f} |")
