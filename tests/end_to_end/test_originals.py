"""Originals that are not simply trained here: pruned, imported, poisoned; each goes through every other command."""

import dataclasses
import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from expunge.bench.grid import entries
from expunge.core import config, masks
from expunge.core.config import parse
from expunge.core.errors import RequestError
from expunge.evaluation.predictions import predict
from expunge.runs import prune
from expunge.runs._data import load_data
from expunge.runs._model import load_model
from expunge.runs.evaluate import EvaluateConfig
from expunge.runs.prune import PruneConfig
from expunge.runs.train import TrainConfig
from expunge.store import execute
from expunge.store.directory import RunDirectory, Store
from expunge.store.execute import Session
from expunge.store.run import open_config, run_id
from expunge.training.fit import Training
from expunge.training.rules import Rule
from tests import problems
from tests.command_line import Terminal
from tests.runs import comparison, forgetting, original
from tests.unit import test_checkpoints as layouts

QUICK = ["--limit", 300, "--test-limit", 100, "--epochs", 2]


def convolutional(**changes: object) -> TrainConfig:
    plan = Training(epochs=4, rule=Rule(lr=0.1, schedule="cosine"))
    return original(model=config.parse("models", "small_cnn:width=4"), training=plan, **changes)


def pruned(text: str, **changes: object) -> PruneConfig:
    wanted = prune.pruned(convolutional(), text)
    return dataclasses.replace(wanted, **changes)


def sparsity(run: RunDirectory) -> float:
    kept = run.model().kept
    return 1 - sum(int(part.sum()) for part in kept.values()) / sum(part.numel() for part in kept.values())


def test_rounds_are_runs_of_their_own_and_masks_are_nested(tmp_path: Path) -> None:
    store, session = Store(tmp_path), Session()
    wanted = pruned("iterative_magnitude:rate=0.4,rounds=3,rewind=1")
    execute.run(wanted, store, session)
    rounds = [
        store.directory(run_id(dataclasses.replace(wanted, pruner=dataclasses.replace(wanted.pruner, rounds=r))))
        for r in (1, 2, 3)
    ]
    assert [sparsity(run) for run in rounds] == pytest.approx([1 - 0.6**r for r in (1, 2, 3)], abs=0.01)
    for before, after in itertools.pairwise(rounds):
        first, second = before.model().kept, after.model().kept
        assert all(not bool((second[name] & ~first[name]).any()) for name in first)
    steps = rounds[-1].record()["steps"]
    assert steps == {"retain": 3 * 3}, "three of four epochs are left after going back to the first"
    history = (rounds[-1].path / "history.jsonl").read_text().splitlines()
    assert json.loads(history[0])["step"] == 4, "the schedule goes on where the rewound weights were"


def test_rewound_weights_are_those_of_the_epoch(tmp_path: Path) -> None:
    store, session = Store(tmp_path), Session()
    wanted = pruned("magnitude:rate=0.5,rewind=4")  # the last epoch: nothing is trained after it
    found = execute.run(wanted, store, session).weights()
    before = execute.run(convolutional(), store, session).weights()
    kept = execute.run(wanted, store, session).model().kept
    for name, weight in found.items():
        assert torch.equal(weight, before[name] * kept[name] if name in kept else before[name])
    fresh = execute.run(pruned("magnitude:rate=0.5,rewind=0"), store, session)
    assert fresh.record()["steps"] == {"retain": 12}
    start = store.directory(fresh.record()["parents"]["start"])
    assert start.record()["steps"] == {}


def test_a_kill_in_the_third_round_repeats_no_earlier_one(tmp_path: Path) -> None:
    wanted = pruned("iterative_magnitude:rate=0.2,rounds=5")
    whole = execute.run(wanted, Store(tmp_path / "whole"), Session())
    third = run_id(dataclasses.replace(wanted, pruner=dataclasses.replace(wanted.pruner, rounds=3)))

    def kill(name: str, progress: object) -> None:
        if name == third and progress.step == 5:
            raise KeyboardInterrupt

    store = Store(tmp_path / "broken")
    with pytest.raises(KeyboardInterrupt):
        execute.run(wanted, store, Session(on_step=kill))
    finished = {run.id: run.record()["finished"] for run in store.all()}
    assert sum(name.startswith("prune-") for name in finished) == 2
    again = execute.run(wanted, store, Session())
    assert all(store.directory(name).record()["finished"] == stamp for name, stamp in finished.items())
    assert (again.path / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "method",
    [
        "retrain:epochs=2",
        "scrub:epochs=1",
        "sfron:epochs=1",
        "salun:epochs=1",
        "l1_sparse:epochs=1",
        "finetune:epochs=1,optimizer=lion,lr=0.001",
        "finetune:epochs=1,adapters.rank=2",
        "original",
    ],
)
def test_every_method_keeps_the_sparsity_of_a_pruned_original(
    method: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = Store(tmp_path_factory.getbasetemp() / "shared-sparse")
    wanted = pruned("magnitude:rate=0.8", retraining=Training(epochs=1))
    run = execute.run(forgetting(method, original=wanted), store, Session())
    kept, parent = run.model().kept, store.directory(run_id(wanted)).model().kept
    assert problems.same(kept, parent)
    weights = run.weights()
    assert all(bool((weights[name][~part] == 0).all()) for name, part in kept.items())
    stored = run.tensors("predictions")
    model = load_model(wanted, run, Session())[0]
    images = load_data(wanted.data, Session()).test
    torch.testing.assert_close(
        predict(model, images, torch.device("cpu")).logits, stored["test.logits"], rtol=1e-5, atol=1e-5
    )


def test_a_sparse_resnet18_is_stored_in_a_sixth(tmp_path: Path) -> None:
    from expunge.core import registry
    from expunge.training import sparsity as prunable
    from expunge.training.context import Context

    network = problems.architecture("resnet18")
    pruner = config.parse("pruning", "magnitude:rate=0.95")
    mask = registry.of_config("pruning", pruner).call(network, (3, 32, 32), pruner, Context(torch.Generator()))
    assert prunable.weights(network, linear=False).keys() == mask.keys()
    state = {k: v * mask[k] if k in mask else v for k, v in network.state_dict().items()}
    store = Store(tmp_path)
    for name, kept in (("dense", {}), ("sparse", mask)):
        with store.draft(name, {}) as draft:
            draft.model(state, [], kept)
            draft.finish({"status": "finished"})
    dense, sparse = (store.directory(name).path / "model.safetensors" for name in ("dense", "sparse"))
    assert sparse.stat().st_size < dense.stat().st_size / 6
    stored = store.directory("sparse").tensors("model")
    assert all(torch.equal(stored[name], value) for name, value in state.items())


def test_a_comparison_over_prunings_has_a_reference_for_each() -> None:
    wanted = comparison(
        model=convolutional().model, prunings=("dense", "magnitude:rate=0.5", "magnitude:rate=0.9,rewind=1"), seeds=2
    )
    cells = entries(wanted)
    assert len(cells) == 3 * 2 * 4
    assert list(dict.fromkeys(cell.scenario for cell in cells)) == [
        "",
        "magnitude:rate=0.5",
        "magnitude:rate=0.9,rewind=1",
    ]
    for cell in cells:
        assert cell.run.reference.original == cell.run.subject.original
    for text, message in (
        ("magnitude:rate=2", "rate"),
        ("magnitud", "did you mean magnitude"),
        ("magnitude:rewind=99", "rewind"),
    ):
        with pytest.raises(RequestError, match=message):
            comparison(prunings=(text,))


def test_prune_from_the_command_line(tmp_path: Path, terminal: Terminal) -> None:
    run = terminal.folder("train", "--model", "small_cnn:width=4", *QUICK, "--runs", tmp_path)
    sparse = terminal.folder("prune", "--run", run, "--epochs", 1, "magnitude", "--rate", 0.9)
    assert sparsity(RunDirectory(sparse)) == pytest.approx(0.9, abs=0.01)
    retrained, tuned = (
        terminal.folder("unlearn", "--run", sparse, "--forget", "random:10%", method, "--epochs", 1)
        for method in ("retrain", "finetune")
    )
    found = terminal.json("evaluate", "--run", tuned, "--reference", retrained)
    assert found["metrics"]["sparsity"] == pytest.approx(90, abs=1)
    assert found["scenario"] == "magnitude:rate=0.9"
    refused = terminal.refused("prune", "--run", run, "--rewind", 7, "magnitude")
    assert "rewind must be an epoch in 0..2, got 7" in refused


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A few images of the size that the original networks take."""
    rng = np.random.default_rng(0)
    arrays = {
        f"{part}_{what}": rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        if what == "images"
        else np.arange(count) % layouts.CLASSES
        for part, count in (("train", 60), ("test", 20))
        for what in ("images", "labels")
    }
    np.savez(tmp_path / "pictures.npz", **arrays)
    return tmp_path / "pictures.npz"


def test_an_original_checkpoint_goes_through_every_command(tmp_path: Path, pictures: Path, terminal: Terminal) -> None:
    source = layouts.sparse(layouts.original("resnet18"), 0.6)
    torch.save({"state_dict": source.state_dict(), "epoch": 7}, tmp_path / "1model_SA_best.pth.tar")
    torch.save(layouts.saliency("resnet18"), tmp_path / "with_0.5.pt")
    text = layouts.LAYOUTS["resnet18"][0]
    options = ["--data", f"npz:{pictures}", "--model", text]
    run = terminal.folder(
        "import", tmp_path / "1model_SA_best.pth.tar", *options, "--epochs", 1, "--runs", tmp_path / "runs"
    )
    assert sparsity(RunDirectory(run)) == pytest.approx(0.6, abs=0.01)
    stored = RunDirectory(run).tensors("predictions")
    with np.load(pictures) as arrays, torch.no_grad():
        source.eval()
        logits = source(torch.from_numpy(arrays["test_images"]).permute(0, 3, 1, 2).float() / 255)
    torch.testing.assert_close(stored["test.logits"], logits, rtol=1e-4, atol=1e-4)
    tuning = ["finetune", "--epochs", 1, "--batch-size", 16, "--update-mask.file", tmp_path / "with_0.5.pt"]
    tuned = RunDirectory(terminal.folder("unlearn", "--run", run, "--forget", "random:10%", *tuning))
    moving = masks.load(tuned.path / "mask.safetensors")
    before, after = RunDirectory(run).weights(), tuned.weights()
    assert all(torch.equal(after[name][~part], before[name][~part]) for name, part in moving.items())
    assert moving.density() == pytest.approx(0.5, abs=0.02)
    assert sparsity(tuned) == pytest.approx(0.6, abs=0.01)
    (tmp_path / "with_0.5.pt").write_bytes(b"another")
    again = open_config(tuned)
    with pytest.raises(RequestError, match="its bytes have changed"):
        execute.run(dataclasses.replace(again, seed=5), Store(run.parent), Session())
    assert "cannot be read" in terminal.refused("import", tmp_path / "nothing.pt", *options)
    with pytest.raises(RequestError, match="import its checkpoint again"):
        execute.run(dataclasses.replace(again.original, seed=9), Store(run.parent), Session())


def test_a_hostile_checkpoint_executes_nothing(tmp_path: Path, pictures: Path, terminal: Terminal) -> None:
    victim = tmp_path / "executed"
    hostile = layouts.Hostile(os.system, f"touch {victim}")
    torch.save({"state_dict": hostile}, tmp_path / "a.pth.tar")
    options = ["--data", f"npz:{pictures}", "--model", "resnet18"]
    assert "executed" in terminal.refused("import", tmp_path / "a.pth.tar", *options)
    assert not victim.exists()


@pytest.mark.parametrize("text", ["patch:size=2,margin=0,value=1.0,share=15%", "blend:alpha=0.5,share=15%"])
def test_a_backdoor_is_learned_and_retraining_without_it_removes_it(text: str, tmp_path: Path) -> None:
    store, session = Store(tmp_path), Session()
    data = dataclasses.replace(original().data, limit=700, poison=parse("poisons", text))
    plan = Training(epochs=20, rule=Rule(lr=0.1))
    trained = original(data=data, training=plan)
    rates = []
    for method in ("original", "retrain:epochs=20"):
        wanted = forgetting(method, original=trained, forget=parse("forget_sets", "poisoned"))
        record = execute.run(EvaluateConfig(wanted), store, session).record()
        rates.append(record["metrics"]["attack_success_rate"])
    before, after = rates
    stored = execute.run(trained, store, session).tensors("predictions")
    shown = torch.isin(stored["test.ids"], stored["triggered.ids"])
    assert torch.equal(stored["test.labels"][shown] != 0, torch.ones(int(shown.sum()), dtype=torch.bool))
    assert int(shown.sum()) == int((stored["test.labels"] != 0).sum()) == len(stored["triggered.ids"])
    assert before > 80
    assert after < 20


def test_gaussian_poisons_show_until_they_are_retrained_away(tmp_path: Path) -> None:
    store, session = Store(tmp_path), Session()
    data = dataclasses.replace(original().data, limit=700, poison=parse("poisons", "gaussian:sigma=0.3,share=30%"))
    trained = original(data=data, training=Training(epochs=40, rule=Rule(lr=0.1)))
    means = []
    for method in ("original", "retrain:epochs=40"):
        run = EvaluateConfig(forgetting(method, original=trained, forget=parse("forget_sets", "poisoned")))
        means.append(execute.run(run, store, session).record()["metrics"]["gaussian_poison.mean"])
    assert means[0] > means[1] + 0.3
    assert abs(means[1]) < 4 / 189**0.5, "without memory the mean of 189 scores is normal around 0"


def test_poisons_from_the_command_line(tmp_path: Path, terminal: Terminal) -> None:
    train = ["train", "--model", "mlp:hidden=(16,)", *QUICK, "--runs", tmp_path]
    forget = ["--forget", "poisoned", "finetune", "--epochs", 1]
    run = terminal.folder(*train, "--poison", "patch:size=2,share=10%")
    tuned = terminal.folder("unlearn", "--run", run, *forget)
    assert "attack_success_rate" in terminal("evaluate", "--run", tuned, "--quiet")
    assert len(RunDirectory(tuned).tensors("predictions")["forgotten.ids"]) == 27
    clean = terminal.folder(*train)
    assert "expunge train --poison" in terminal.refused("unlearn", "--run", clean, *forget)
    assert "patch" in terminal.refused(*train, "--poison", "patch:size=99")


def test_synflow_prunes_at_the_weights_that_are_gone_back_to(tmp_path: Path) -> None:
    store, session = Store(tmp_path), Session()
    wanted = pruned("synflow:rate=0.6,iterations=5,rewind=0")
    found = execute.run(wanted, store, session)
    whole = convolutional()
    untrained = dataclasses.replace(whole, training=dataclasses.replace(whole.training, stop_after=0))
    by_itself = prune.pruned(untrained, "synflow:rate=0.6,iterations=5")
    expected = execute.run(by_itself, store, session).model().kept
    kept = found.model().kept
    assert problems.same(kept, expected)
    trained = execute.run(pruned("synflow:rate=0.6,iterations=5"), store, session).model().kept
    assert any(not torch.equal(kept[name], trained[name]) for name in trained)
