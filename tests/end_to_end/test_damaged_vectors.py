"""A folder of the program's own, in which a precomputation was cut off: it begins anew, with nothing to delete."""

from pathlib import Path

from expunge.runs.precompute import PrecomputeConfig
from expunge.store import execute
from expunge.store.directory import Store
from expunge.store.execute import Session
from expunge.store.run import run_id
from expunge.training.fit import Training
from expunge.training.rules import Rule
from tests.runs import trained


def test_vectors_cut_off_before_their_note_are_begun_anew(tmp_path: Path) -> None:
    plan = Training(1, 10, Rule(lr=0.05, momentum=0.0), record=True)
    wanted = PrecomputeConfig(trained("logistic", plan))
    store = Store(tmp_path)
    partial = store.root / f".partial-{run_id(wanted)}"
    partial.mkdir(parents=True)
    (partial / "vectors.bin").write_bytes(b"cut")
    assert execute.run(wanted, store, Session()).finished
    assert not partial.exists()
