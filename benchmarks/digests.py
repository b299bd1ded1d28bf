"""The share of digests in the time of runs: made when a run is finished, compared when its files are read.

    python benchmarks/digests.py

A training of one epoch, an unlearning by fine-tuning, a retraining and an evaluation, each as a run of its own:
ResNet-18 of full width (11.2 million weights) on random images of 8 x 8, and the demo's small network on the digits.
CPU time, of which small images leave the share of digests large: it depends on the size of the files only. Every file
is read again for each comparison; with ``--remember``, once in this process until it changes, as in a comparison.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from expunge.bench import recipes
from expunge.data.forget_sets.random import RandomForget
from expunge.data.split_data import DataConfig
from expunge.runs.evaluate import EvaluateConfig
from expunge.runs.train import TrainConfig
from expunge.runs.unlearn import UnlearnConfig, retraining
from expunge.store import digests, execute
from expunge.store.directory import Store
from expunge.store.execute import Session
from expunge.training.fit import Training
from expunge.unlearning import presets


class Clock:
    """Adds up the seconds in functions that it wraps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function: Callable[..., object]) -> Callable[..., object]:
        """The function, timed."""

        def call(*arguments: object) -> object:
            begin = time.process_time()
            try:
                return function(*arguments)
            finally:
                self.seconds += time.process_time() - begin

        return call


def images(folder: Path, count: int) -> DataConfig:
    """Random images of ten classes."""
    chance = np.random.default_rng(0)
    parts = {
        name: chance.integers(0, 256, (number, 8, 8, 3), np.uint8) for name, number in (("train", count), ("test", 200))
    }
    labels = {name: np.arange(len(part)) % 10 for name, part in parts.items()}
    np.savez(
        folder / "own.npz",
        train_images=parts["train"],
        train_labels=labels["train"],
        test_images=parts["test"],
        test_labels=labels["test"],
    )
    return DataConfig(f"npz:{folder / 'own.npz'}")


def measured(
    original: TrainConfig, store: Store, writing: Clock, reading: Clock
) -> list[tuple[str, float, float, float]]:
    """For each run its name and CPU seconds: in all, for making digests, and for comparing them."""
    forget = RandomForget(share=0.1)
    subject = UnlearnConfig(original, forget, presets.named("finetune:epochs=1"))
    reference = UnlearnConfig(original, forget, retraining(original.training))
    wanted = {
        "train": original,
        "unlearn, finetune": subject,
        "unlearn, retrain": reference,
        "evaluate": EvaluateConfig(subject, reference),
    }
    found = []
    for name, each in wanted.items():
        writing.seconds = reading.seconds = 0.0
        begin = time.process_time()
        execute.run(each, store, Session())
        found.append((name, time.process_time() - begin, writing.seconds, reading.seconds))
    return found


def main(count: int, remember: bool) -> None:
    """Print a row for each run."""
    writing, reading = Clock(), Clock()
    digests.sealed, digests.check = writing.around(digests.sealed), reading.around(digests.check)
    digests.RECENT = float("-inf") if remember else float("inf")
    demo = recipes.find("demo")
    with tempfile.TemporaryDirectory() as name:
        large = TrainConfig(images(Path(name), count), "resnet18", Training(1, 64))
        small = TrainConfig(demo.data, demo.model, Training(1, 64))
        print("| run | CPU seconds | making digests (s) | comparing (s) | share (%) |\n|---|---:|---:|---:|---:|")
        for words, original in (("resnet18", large), ("demo", small)):
            store = Store(Path(name) / words)
            for what, total, made, compared in measured(original, store, writing, reading):
                share = 100 * (made + compared) / total
                print(f"| {words}: {what} | {total:.2f} | {made:.4f} | {compared:.4f} | {share:.2f} |", flush=True)
            size = sum(path.stat().st_size for path in store.root.glob("train-*/*")) / 1e6
            print(f"files of the training: {size:.1f} MB; {torch.get_num_threads()} threads", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", dest="count", type=int, default=4000)
    parser.add_argument("--remember", action="store_true")
    main(**vars(parser.parse_args()))
