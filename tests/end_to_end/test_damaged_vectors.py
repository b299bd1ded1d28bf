"""A folder of the program's own, in which a precomputation was cut off: it begins anew, with nothing to delete."""

from pathlib import Path

from expunge.core import config
from expunge.runs import pipeline, plans
from expunge.runs.execution import Session
from expunge.runs.plans import DataConfig, PrecomputeConfig, TrainConfig
from expunge.store.directory import Store
from expunge.training.fit import Training
from expunge.training.rules import Rule


def test_vectors_cut_off_before_their_note_are_begun_anew(tmp_path: Path) -> None:
    data = DataConfig(config.parse("data", "digits"), limit=20, test_limit=10)
    plan = Training(1, 10, Rule(lr=0.05, momentum=0.0), record=True)
    wanted = PrecomputeConfig(TrainConfig(data, config.parse("models", "logistic"), plan))
    store = Store(tmp_path)
    partial = store.root / f".partial-{plans.run_id(wanted)}"
    partial.mkdir(parents=True)
    (partial / "vectors.bin").write_bytes(b"cut")
    assert pipeline.run(wanted, store, Session()).finished
    assert not partial.exists()
