"""Recorded trainings from end to end: train, precompute, delete, score; and what is said when they do not fit."""

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from expunge.cli import main
from expunge.core import config
from expunge.core.errors import RequestError, RunError
from expunge.core.weights import trainable
from expunge.data.forget_sets.ids import ListedForget
from expunge.runs import prune
from expunge.runs._data import load_data
from expunge.runs._model import load_model
from expunge.runs.precompute import FILES, PrecomputeConfig, estimate
from expunge.runs.score import ScoreConfig
from expunge.runs.train import TrainConfig, load_trajectory
from expunge.runs.unlearn import UnlearnConfig
from expunge.store import execute
from expunge.store.directory import RunDirectory, Store
from expunge.store.execute import Session
from expunge.store.run import run_id
from expunge.training.fit import Training
from expunge.training.rules import Rule
from expunge.trajectory import tangents
from expunge.trajectory.vectors import open_store
from expunge.unlearning import presets
from tests import runs
from tests.command_line import EXPUNGE, Terminal, expunge
from tests.runs import digits, reseal, trained

RULE = Rule(lr=0.05, momentum=0.0, weight_decay=0.05, clip=5.0)
SMALL = ["--limit", 60, "--test-limit", 40, "--model", "logistic"]


def recorded(**changes: object) -> TrainConfig:
    plan = Training(2, 16, RULE, record=True)
    return dataclasses.replace(trained("logistic", plan, data=digits(60, 40)), **changes)


def forgetting(text: str, **changes: object) -> UnlearnConfig:
    return runs.forgetting(text, **{"original": recorded()} | changes)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """With a recorded training in it."""
    found = Store(tmp_path_factory.mktemp("runs"))
    execute.run(recorded(), found, Session())
    return found


@pytest.fixture
def copied(store: Store, tmp_path: Path) -> Store:
    """The same, to be damaged."""
    name = run_id(recorded())
    shutil.copytree(store.root / name, tmp_path / "runs" / name)
    return Store(tmp_path / "runs")


def original(store: Store) -> RunDirectory:
    return store.directory(run_id(recorded()))


def weights(store: Store, wanted: object) -> Tensor:
    found = execute.run(wanted, store, Session())
    return torch.cat([value.flatten().double() for value in found.weights().values()])


def test_it_comes_near_the_model_retrained_on_the_same_batches(store: Store) -> None:
    wanted = weights(store, forgetting("retrain:recorded=true"))
    nothing = float((weights(store, forgetting("original")) - wanted).norm())
    texts = ["hessian_free", "hessian_free:variant=additive", "hessian_free:as_released=true"]
    shares = [float((weights(store, forgetting(text)) - wanted).norm()) / nothing for text in texts]
    assert shares[0] < 0.1 * shares[1]
    assert shares[1] < 0.5
    assert shares[1] < shares[2]
    notes = store.directory(run_id(forgetting("hessian_free"))).record()["notes"]
    assert notes["trajectory"]["steps"] == 8


def test_deleting_from_stored_vectors_is_the_additive_tangent(store: Store) -> None:
    for released in (False, True):
        kept = execute.run(PrecomputeConfig(recorded(), as_released=released), store, Session())
        assert {path.name for path in kept.path.iterdir()} == {"config.json", "run.json", "vectors.bin", "vectors.json"}
        assert not list(store.root.glob(".partial-*"))
        tail = f"variant=additive,as_released={str(released).lower()}"
        text = f"(precompute:as_released={str(released).lower()})"
        stored = forgetting(f"hessian_free:{tail},vectors={text}")
        found, expected = weights(store, stored), weights(store, forgetting(f"hessian_free:{tail}"))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
        seconds = store.directory(run_id(stored)).seconds()
        assert seconds["precompute"] >= kept.seconds()["precompute"], "precomputing counts as preparation"


def test_the_same_configuration_gives_the_same_bytes(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path)
    for wanted, name in (
        (recorded(), "trajectory.safetensors"),
        (recorded(), "model.safetensors"),
        (PrecomputeConfig(recorded(), "bfloat16"), "vectors.bin"),
        (forgetting("hessian_free"), "model.safetensors"),
    ):
        first, second = (execute.run(wanted, each, Session()).path / name for each in (store, other))
        assert first.read_bytes() == second.read_bytes()


def test_a_fixed_order_is_another_training(store: Store) -> None:
    fixed = recorded(training=dataclasses.replace(recorded().training, fixed_order=True))
    assert run_id(fixed) != run_id(recorded())
    first, second = (load_trajectory(each, execute.run(each, store, Session())) for each in (recorded(), fixed))
    assert torch.equal(first.plan.batches[:4], second.plan.batches[:4])
    assert torch.equal(second.plan.batches[4:], second.plan.batches[:4])
    assert not torch.equal(first.plan.batches[4:], first.plan.batches[:4])


def test_scores_are_the_slope_of_the_test_loss_along_each_vector(store: Store) -> None:
    score = config.parse("scores", "trajectory_influence")
    found = execute.run(ScoreConfig(recorded(), score), store, Session()).tensors("scores")
    data = load_data(recorded().data, Session())
    assert torch.equal(found["ids"], data.train.ids)
    assert torch.equal(found["labels"], data.train.labels)
    kept = open_store(execute.run(PrecomputeConfig(recorded()), store, Session()).path)
    model = load_model(recorded(), original(store), Session())[0]
    loss = torch.nn.functional.cross_entropy(model(data.test.inputs / 255), data.test.labels)
    slope = torch.cat([each.flatten() for each in torch.autograd.grad(loss, list(trainable(model).values()))])
    expected = torch.stack([kept.change(example[None]) @ slope for example in data.train.ids])
    torch.testing.assert_close(found["loss"], expected, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("of", ["losses", "logits"])
def test_scores_of_single_images_are_the_change_of_their_outputs(of: str, store: Store) -> None:
    """Checked by deleting one example: the change of each output, but for second order."""
    data = load_data(recorded().data, Session())
    asked = data.test.ids[[3, 17]].sort().values
    score = config.parse("scores", f"trajectory_influence:of={of},ids={tuple(asked.tolist())}")
    found = execute.run(ScoreConfig(recorded(), score), store, Session()).tensors("scores")
    images = data.test.select(data.test.contains(asked))
    example = int(data.train.ids[5])
    outputs = []
    for text in ("original", "hessian_free:variant=additive"):
        wanted = forgetting(text, forget=ListedForget((example,)))
        model = load_model(recorded(), execute.run(wanted, store, Session()), Session())[0].double()
        logits = model(images.inputs.double() / 255)
        losses = torch.nn.functional.cross_entropy(logits, images.labels, reduction="none")
        outputs.append(logits if of == "logits" else losses[:, None])
    change = (outputs[1] - outputs[0]).detach()
    names = [
        f"logit.{row}.{label}" if of == "logits" else f"loss.{row}"
        for row in images.ids.tolist()
        for label in range(change.shape[1])
    ]
    assert set(found) == {"ids", "labels", *names}
    slopes = torch.stack([found[name][5] for name in names]).double()
    assert float((slopes - change.flatten()).norm() / change.norm()) < 0.02


# The command line.


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands")
    options = ["--record", "--epochs", 2, "--batch-size", 16, "--momentum", 0, "--runs", folder, "--quiet"]
    assert main([str(each) for each in ["train", *SMALL, *options]]) == 0
    return next(folder.glob("train-*"))


def test_precompute_delete_and_score_from_the_command_line(run: Path, tmp_path: Path, terminal: Terminal) -> None:
    kept = Path(terminal("precompute", "--run", run, "--dtype", "bfloat16"))
    error = " ".join(terminal.error.split())
    assert "60 vectors of 650 numbers, 0.1 MB: about" in error
    assert f"hessian-free --variant additive --vectors {kept.name}" in error
    assert (kept / "vectors.bin").stat().st_size == 60 * 650 * 2
    assert terminal.folder("precompute", "--run", run, "--dtype", "bfloat16") == kept
    assert "of work left" not in terminal.error, "it is there"
    deleting = ["--forget", "random:5", "hessian-free", "--variant", "additive", "--vectors", kept.name]
    deleted = terminal.folder("unlearn", "--run", run, *deleting)
    assert json.loads((deleted / "run.json").read_text())["status"] == "finished"
    table = tmp_path / "scores.csv"
    out = terminal("score", "--run", run, "trajectory-influence", "--csv", table, "--top", 2, "--quiet")
    assert "loss, highest" in out
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [set(row) for row in rows] == [{"id", "name", "label", "loss"}] * 60
    assert all(row["name"] == row["id"] for row in rows), "digits have no names"
    found = terminal.json("score", "--run", run, "trajectory-influence")
    assert found["status"] == "finished"


def test_groups_from_a_file(run: Path, tmp_path: Path, terminal: Terminal) -> None:
    data = RunDirectory(run).tensors("trajectory")["plan.ids"].tolist()
    path = tmp_path / "people.csv"
    path.write_text(
        "\n".join(["id,person", *(f"{example},{'anna' if at % 2 else 'bert'}" for at, example in enumerate(data[:6]))])
    )
    kept = terminal.folder("precompute", "--run", run, "--groups", path)
    assert open_store(kept).layout.count == 2
    ids = tmp_path / "ids.txt"
    unlearn = ["unlearn", "--run", run, "--quiet", "--forget", f"ids:{ids}", "hessian-free", "--variant", "additive"]
    ids.write_text("\n".join(map(str, data[1:6:2])))
    terminal(*unlearn, "--vectors", kept.name)
    ids.write_text("\n".join(map(str, data[1:4:2])))
    assert "delete groups as a whole" in terminal.refused(*unlearn, "--vectors", kept.name)
    ids.write_text(str(data[7]))
    assert f"no vector of example {data[7]}" in terminal.refused(*unlearn, "--vectors", kept.name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no group"),
        ("id,group\n", "names no group"),
        ("1,anna\n2\n", "entry 2 should be ID,GROUP"),
        ("1,anna\nx,bert\n", "entry 2"),
        ("1,\n", "entry 1"),
        ("1,anna\n1,bert\n", "each example can be in one group only"),
        ("100000,anna\n", "were not trained on, 100000 among them"),
    ],
)
def test_groups_that_are_wrong(text: str, message: str, run: Path, tmp_path: Path, terminal: Terminal) -> None:
    path = tmp_path / "groups.csv"
    path.write_text(text)
    assert message in terminal.refused("precompute", "--run", run, "--groups", path)
    assert "cannot be read" in terminal.refused("precompute", "--run", run, "--groups", tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--record", "--optimizer", "adamw"], "set optimizer=sgd"),
        (["--record", "--nesterov"], "set nesterov=false"),
        (["--record", "--rho", "0.1"], "set rho=0"),
        (["--record", "--stop-after", "1"], "leave out stop_after"),
        (["--fixed-order"], "add record"),
    ],
)
def test_what_cannot_be_recorded(options: list[str], message: str, tmp_path: Path, terminal: Terminal) -> None:
    assert message in terminal.refused("train", *SMALL, *options, "--runs", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_model_that_was_not_recorded(tmp_path: Path, terminal: Terminal) -> None:
    plain = terminal.folder("train", *SMALL, "--epochs", 1, "--runs", tmp_path)
    unlearn = ["unlearn", "--run", plain, "--forget", "random:5", "--quiet"]
    assert "train --record" in terminal.refused(*unlearn, "hessian-free")
    assert "train --record" in terminal.refused(*unlearn, "retrain", "--recorded")
    assert "train --record" in terminal.refused("precompute", "--run", plain)
    assert "train --record" in terminal.refused("score", "--run", plain, "trajectory-influence")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["precompute", "--memory", "0"], "memory must be above 0"),
        (["score", "trajectory-influence:of=logits"], "needs the ids"),
        (["score", "trajectory-influence:ids=(100000,)"], "no test image with the id 100000"),
        (["score", "trajectory-influence:images=train,ids=(100000,3)"], "no train image with the id 100000"),
        (["score", "trajectory-influence:of=nothing"], "expected one of loss, losses, logits"),
        (["score", "trajectory-influence:memory=0"], "memory must be a finite number, above 0"),
        (
            ["unlearn", "--forget", "random:5", "hessian-free", "--variant", "additive", "--vectors", "x"],
            "x is no run: give the folder that `expunge precompute` printed",
        ),
    ],
)
def test_requests_that_are_wrong(arguments: list[str], message: str, run: Path, terminal: Terminal) -> None:
    command, *rest = arguments
    assert message in terminal.refused(command, "--run", run, *rest)


# What does not fit together.


def from_vectors(vectors: object, more: str = "", **changes: object) -> UnlearnConfig:
    unlearning = presets.named(f"hessian_free:variant=additive,{more}", {"vectors": vectors})
    return dataclasses.replace(forgetting("original"), unlearning=unlearning, **changes)


def test_vectors_of_another_run_or_another_recursion(store: Store) -> None:
    other = recorded(seed=5)
    theirs = execute.run(PrecomputeConfig(other), store, Session())
    ours = execute.run(PrecomputeConfig(recorded()), store, Session())
    with pytest.raises(
        RequestError, match=f"{theirs.id} belongs to another model: compute it again for {original(store).id}"
    ):
        from_vectors(PrecomputeConfig(other))
    with pytest.raises(RequestError, match=f"expected a run of `expunge precompute`, got {original(store).id}"):
        from_vectors(recorded())
    with pytest.raises(RequestError, match="set as_released=false"):
        execute.run(from_vectors(PrecomputeConfig(recorded()), "as_released=true"), store, Session())
    for file in FILES:
        shutil.copy(theirs.path / file, ours.path / file)
    reseal(ours.path)
    with pytest.raises(RequestError, match="of another model"):
        execute.run(from_vectors(PrecomputeConfig(recorded()), seed=9), store, Session())
    shutil.rmtree(ours.path)


def test_damaged_vectors(copied: Store) -> None:
    kept = execute.run(PrecomputeConfig(recorded()), copied, Session())
    wanted = from_vectors(PrecomputeConfig(recorded()))
    os.truncate(kept.path / "vectors.bin", 1000)
    with pytest.raises(RequestError, match=r"vectors\.bin is not as its run wrote it"):
        execute.run(wanted, copied, Session())
    reseal(kept.path)
    with pytest.raises(RequestError, match="cut off; precompute again"):
        execute.run(wanted, copied, Session())
    (kept.path / "vectors.json").unlink()
    with pytest.raises(RequestError, match=r"vectors\.json cannot be read"):
        execute.run(wanted, copied, Session())


def swap(store: Store, other: Store, wanted: TrainConfig) -> None:
    """Give the recorded run the trajectory of another."""
    theirs = execute.run(wanted, other, Session())
    shutil.copy(theirs.path / "trajectory.safetensors", original(store).path)
    reseal(original(store).path)


NEEDS = {
    "retrained": forgetting("retrain:recorded=true"),
    "set aware": forgetting("hessian_free"),
    "vectors": PrecomputeConfig(recorded()),
    "scores": ScoreConfig(recorded(), config.parse("scores", "trajectory_influence")),
}


@pytest.mark.parametrize("name", [name for name in NEEDS if name != "retrained"])  # which never saw the trained weights
@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"seed": 1}, id="seed"),
        pytest.param({"training": Training(2, 16, dataclasses.replace(RULE, lr=0.04), record=True)}, id="rule"),
    ],
)
def test_the_trajectory_of_another_training(name: str, other: dict[str, object], copied: Store) -> None:
    swap(copied, copied, recorded(**other))
    with pytest.raises(RequestError, match="does not lead to this model"):
        execute.run(NEEDS[name], copied, Session())
    assert not copied.directory(run_id(NEEDS[name])).exists


@pytest.mark.parametrize("name", NEEDS)
def test_the_trajectory_of_another_architecture(name: str, copied: Store) -> None:
    swap(copied, copied, recorded(model=config.parse("models", "mlp:hidden=(3,)")))
    with pytest.raises(RequestError, match="does not lead to this model: it is of another architecture"):
        execute.run(NEEDS[name], copied, Session())


@pytest.mark.parametrize("name", NEEDS)
def test_the_trajectory_of_other_images(name: str, copied: Store) -> None:
    swap(copied, copied, recorded(data=dataclasses.replace(recorded().data, seed=3)))
    with pytest.raises(RequestError, match="trajectory"):
        execute.run(NEEDS[name], copied, Session())


@pytest.mark.parametrize("name", NEEDS)
def test_a_trajectory_that_is_missing_or_cut_off(name: str, copied: Store) -> None:
    path = original(copied).path / "trajectory.safetensors"
    os.truncate(path, path.stat().st_size - 100)
    reseal(path.parent)
    with pytest.raises(RequestError, match=r"trajectory\.safetensors cannot be read.*run it again"):
        execute.run(NEEDS[name], copied, Session())
    path.unlink()
    with pytest.raises(RequestError, match=r"trajectory\.safetensors cannot be read.*run it again"):
        execute.run(NEEDS[name], copied, Session())


def test_images_that_have_changed_since(copied: Store) -> None:
    reseal(original(copied).path, data="other")
    for wanted in NEEDS.values():
        with pytest.raises(RequestError, match="training images are not those"):
            execute.run(wanted, copied, Session())


def test_a_training_that_diverges_is_kept_as_failed(tmp_path: Path) -> None:
    wanted = recorded(
        model=config.parse("models", "mlp:hidden=(8,)"),
        training=Training(2, 16, dataclasses.replace(RULE, lr=1e30, clip=None), record=True),
    )
    with pytest.raises(RunError, match=r"not finite at step \d of 8: try a smaller lr, or set clip"):
        execute.run(wanted, Store(tmp_path), Session())
    assert Store(tmp_path).directory(run_id(wanted)).record()["status"] == "failed"


def test_a_tangent_that_diverges_is_kept_as_failed(tmp_path: Path) -> None:
    """Gradients of the cross-entropy are bounded, and with them the weights; tangents are not."""
    store = Store(tmp_path)
    rule = Rule(lr=10.0, momentum=0.0, weight_decay=0.01)
    wanted = recorded(training=Training(75, 16, rule, record=True))
    execute.run(wanted, store, Session())
    for each in (
        forgetting("hessian_free:variant=additive", original=wanted),
        PrecomputeConfig(wanted),
        ScoreConfig(wanted, config.parse("scores", "trajectory_influence")),
    ):
        with pytest.raises(RunError, match=r"grew without bound along the training.*smaller lr"):
            execute.run(each, store, Session())
        assert store.directory(run_id(each)).record()["status"] == "failed"


def test_a_pruned_model_has_no_recorded_training(store: Store, terminal: Terminal) -> None:
    pruned = prune.pruned(recorded(), "magnitude:rate=0.5,linear=true")
    for text in ("hessian_free", "retrain:recorded=true"):
        with pytest.raises(RequestError, match="recorded training of the model"):
            execute.run(forgetting(text, original=pruned), store, Session())
    run = execute.run(pruned, store, Session())
    assert "needs one of `expunge train`" in terminal.refused("precompute", "--run", run.path)
    with pytest.raises(RequestError, match="prune it without rewind"):
        execute.run(prune.pruned(recorded(), "magnitude:rate=0.5,linear=true,rewind=1"), store, Session())


# Interruptions and memory.


def test_a_precomputation_that_was_interrupted_is_continued(store: Store, tmp_path: Path) -> None:
    wanted = PrecomputeConfig(recorded(), "float16")
    whole = execute.run(wanted, store, Session(memory=1e-4))
    broken, seen = Store(tmp_path), list[int]()
    execute.run(recorded(), broken, Session())

    def kill(name: str, progress: object) -> None:
        if len(seen) == 11:
            raise KeyboardInterrupt
        seen.append(progress.step)

    with pytest.raises(KeyboardInterrupt):
        execute.run(wanted, broken, Session(memory=1e-4, on_step=kill))
    (partial,) = broken.root.glob(".partial-*")
    left = open_store(partial)
    assert left.done == {0}
    (partial / ".vectors.json.1").write_text("{")  # of a process that was killed while it wrote
    expected = estimate(wanted, original(broken), broken, Session())
    assert expected.rows == 60
    run = execute.run(wanted, broken, Session())
    assert (run.path / "vectors.bin").read_bytes() == (whole.path / "vectors.bin").read_bytes()
    assert run.seconds()["precompute"] > left.seconds
    assert not list(broken.root.glob(".partial-*"))
    assert estimate(wanted, original(broken), broken, Session()) is None


@pytest.mark.slow
def test_a_precomputation_that_was_killed_is_continued(tmp_path: Path) -> None:
    command = ["precompute", "--quiet", "--memory", "1e-4", "--run"]
    whole, broken = Store(tmp_path / "whole"), Store(tmp_path / "broken")
    plan = dataclasses.replace(recorded().training, epochs=60)
    wanted = recorded(training=plan)
    runs = [execute.run(wanted, each, Session()).path for each in (whole, broken)]
    process = subprocess.Popen([*EXPUNGE, *command, str(runs[1])], start_new_session=True)
    note = broken.root / f".partial-{run_id(PrecomputeConfig(wanted))}" / "vectors.json"
    deadline = time.monotonic() + 60
    while not (note.exists() and json.loads(note.read_text())["done"]) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = set(json.loads(note.read_text())["done"])
    assert 0 < len(done) < open_store(note.parent).layout.chunks
    found = [json.loads(expunge("precompute", "--json", *command[1:], each).stdout) for each in runs]
    assert [each["status"] for each in found] == ["finished"] * 2
    first, second = ((Path(each["run"]) / "vectors.bin").read_bytes() for each in found)
    assert first == second


MEMORY = """
import resource, sys, torch
from torch import nn
from pathlib import Path
from expunge.data.image_set import make
from expunge.training.rules import Rule
from expunge.trajectory import precompute
from expunge.trajectory.flat_loss import flat_loss
from expunge.trajectory.plan import draw
from expunge.trajectory.steps import record
from expunge.trajectory.vectors import begin

torch.set_num_threads(1)
kind, folder, memory = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
count, generator = 1000, torch.Generator().manual_seed(0)
pixels = torch.randint(0, 255, (count, 1, 24, 24), dtype=torch.uint8, generator=generator)
images = make(pixels, torch.arange(count) % 100)
hidden = nn.Sequential(nn.Linear(576, 80), nn.Tanh(), nn.Linear(80, 100))
model = nn.Sequential(nn.Flatten(), nn.Linear(576, 100) if kind == "linear" else hidden)
rule = Rule(lr=0.01, clip=1.0, momentum=0.0)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def work(positions, folder):
    chosen = images.select(positions)
    plan = draw(chosen.ids, rule, epochs=1, batch_size=500, fixed_order=False, generator=generator)
    with flat_loss(model, chosen, memory=memory) as loss:
        trajectory, end = record(loss, plan)
    for weight, value in zip(model.parameters(), loss.named(end).values()):
        weight.data.copy_(value)
    with flat_loss(model, chosen, memory=memory) as loss:
        layout = precompute.layout(loss, trajectory, dtype="float32", memory=memory)
        precompute.fill(begin(folder, layout), loss, trajectory)
        return layout

work(torch.arange(10), folder / "warm")
before = peak()
layout = work(torch.arange(count), folder / "store")
print(peak() - before, layout.nbytes, layout.chunks)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["linear", "network"])
def test_memory_is_bounded_by_what_was_granted_not_by_the_vectors(kind: str, tmp_path: Path) -> None:
    granted = 60_000_000
    given = [sys.executable, "-c", MEMORY, kind, str(tmp_path), str(granted)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    used, whole, chunks = map(int, subprocess.check_output(given, env=environment, text=True).split())
    assert whole > 210_000_000
    assert chunks > 5
    assert used < granted + 4 * tangents.GRADIENTS, "beside what gradients of single examples take"
