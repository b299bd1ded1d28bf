"""What the command line computes stays what it was, whatever is rebuilt beneath it.

Every method, pruner, score and kind of original runs on the digits, at two seeds and in one thread. Of each run, the
weights, the masks and the predictions of every split are compared by SHA-256, and so are the metrics. Floating point
depends on the kind of processor: where the values were frozen on another, hashes say nothing, and norms, sums and
metrics are compared within a tolerance instead (``RELATIVE``, and ``POINTS`` for metrics, most of which are percent).

This file goes through the command line and the files of a run, and imports nothing else of expunge. The values are
in ``frozen.json``; ``python -m tests.frozen.test_frozen`` makes them anew, which is for changes of results on purpose.
"""

import contextlib
import hashlib
import io
import json
import math
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from expunge.cli import main

VALUES = Path(__file__).with_name("frozen.json")
SEEDS = (0, 1)
RELATIVE = 0.02
"""Between kinds of processors: largest relative difference of a norm or a sum of absolute values."""
POINTS = 10.0
"""Between kinds of processors: largest difference of a metric, where one example of twenty is five points."""

SMALL = "--limit 200 --test-limit 100"
NETWORK = f"train {SMALL} --model small_cnn:width=4,blocks=2 --epochs 4 --batch-size 50"
LOGISTIC = f"train {SMALL} --model logistic --epochs 3 --batch-size 32 --lr 0.05 --momentum 0 --weight-decay 0.1"
SHORT = "--epochs 2 --batch-size 32"

ORIGINALS = {
    "network": NETWORK,
    "logistic": LOGISTIC,
    "recorded": f"{LOGISTIC} --record",
    "recorded-mlp": f"train {SMALL} --model mlp:hidden=(8,) --epochs 2 --batch-size 32 --momentum 0 --record",
    "adamw-augmented": f"train {SMALL} --model small_cnn:width=4,blocks=2 --epochs 2 --optimizer adamw --lr 0.01",
    "residual": "train --limit 50 --test-limit 50 --model resnet20 --epochs 1",
    "patched": f"{NETWORK} --poison patch:size=2,target=0,share=10%",
    "blended": f"{NETWORK} --poison blend:alpha=0.2,count=20",
    "noisy": f"{NETWORK} --poison gaussian:sigma=0.1,count=20",
    "magnitude": "prune --run {network} magnitude --rate 0.5",
    "iterative": "prune --run {network} --rewind 1 iterative-magnitude --rate 0.3 --rounds 2",
    "random": "prune --run {network} random --rate 0.5",
    "synflow": "prune --run {network} --rewind 0 synflow --rate 0.5 --iterations 5",
    "twice": "prune --run {random} random --rate 0.5",
    "imported": f"import {{checkpoint}} --data digits {SMALL} --model small_cnn:width=4,blocks=2 --epochs 2",
}
"""Command lines that make originals; ``{NAME}`` stands for the folder of a run before."""

OTHERS = {
    "influence-of-all": "score --run {recorded} trajectory-influence",
    "influence-on-logits": "score --run {recorded-mlp} trajectory-influence:of=logits,images=test,ids={shown}",
    "vectors": "precompute --run {recorded}",
    "half-vectors": "precompute --run {recorded-mlp} --dtype bfloat16",
    "released-vectors": "precompute --run {recorded} --as-released",
}
"""Command lines that make runs without a model."""

METHODS = {
    "network": (
        "retrain",
        "original",
        f"finetune {SHORT} --lr 0.02",
        f"gradient-ascent {SHORT}",
        f"gradient-ascent {SHORT} --l1 1e-4",
        f"neggrad-plus {SHORT} --lr 0.02",
        f"random-label {SHORT} --lr 0.02",
        f"random-label {SHORT} --lr 0.02 --order mixed",
        f"salun {SHORT}",
        f"scrub {SHORT} --lr 0.02",
        f"scrub {SHORT} --lr 0.02 --rewind",
        f"sfron {SHORT}",
        f"sharp-minmax {SHORT}",
        f"boundary-expanding {SHORT}",
        f"bad-teacher {SHORT}",
        f"adversarial {SHORT} --pretrain-steps 3",
        "fisher-forgetting --alpha 1e-6",
        "fisher-forgetting --alpha 1e-6 --as-released",
        "influence --alpha 0.5",
        "influence --alpha 0.5 --solver cg",
        f"l1-sparse {SHORT} --lr 0.02",
        "newton-step --l2 0.01 --weights head",
        "infinitesimal-jackknife --l2 0.01 --weights head",
        f"finetune {SHORT} --lr 0.02 --update-mask.fraction 0.3",
        f"finetune {SHORT} --lr 0.02 --adapters.rank 2",
        f"finetune {SHORT} --lr 0.02 --rho 0.05",
        f"neggrad-plus {SHORT} --forget.optimizer adamw --forget.lr 1e-3 --retain.lr 0.02",
        f"finetune {SHORT} --optimizer lion --lr 1e-4",
    ),
    "logistic": ("newton-step", "infinitesimal-jackknife", "certified-removal --repeatable --backbone-is-public"),
    "recorded": (
        "retrain",
        "hessian-free",
        "hessian-free --variant additive",
        "hessian-free --variant additive --as-released",
        "hessian-free --variant additive --vectors {vectors}",
    ),
    "recorded-mlp": ("hessian-free",),
    "iterative": ("retrain", f"finetune {SHORT} --lr 0.02", f"scrub {SHORT} --lr 0.02"),
    "imported": ("retrain", f"finetune {SHORT} --lr 0.02"),
}
"""The options of ``expunge unlearn`` by original."""

FORGET = {
    "network": ("class:3", "ids:{ids}"),
    "patched": ("poisoned",),
    "blended": ("poisoned",),
    "noisy": ("poisoned",),
}
"""Other forget sets, for one method."""

BENCH = {
    "name": "frozen",
    "data": {"source": "digits", "limit": 200, "test_limit": 100},
    "model": "small_cnn:width=4,blocks=2",
    "training": {"epochs": 2},
    "forget": "random:10%",
    "methods": ["boundary_shrink:epochs=2", "ao_sparse:epochs=3,interval=1,rate=0.5", "finetune:epochs=1"],
    "seeds": 2,
}
"""A comparison, for the two methods that have no command line of their own yet."""

SPLITS = ("train", "validation", "test", "triggered")


def printed(*command: str) -> str:
    """What a command prints; it must end well."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        status = main(list(command))
    assert status == 0, f"{' '.join(command)}: exit status {status}"
    return output.getvalue()


def made(text: str, seed: int, folder: Path, names: Mapping[str, object]) -> Path:
    """The folder of the run that a command line makes."""
    words = text.format(**names).split()
    seeded = [] if words[0] == "precompute" else ["--seed", str(seed)]
    runs = ["--runs", str(folder / "runs")] if words[0] in ("train", "import") else []
    said = printed(words[0], *seeded, *runs, "--quiet", *words[1:])
    return Path(next(line for line in said.splitlines() if line.strip()).strip())


def unlearned(run: Path, forget: str, text: str, seed: int) -> Path:
    """The folder of an unlearning."""
    options = ["--run", str(run), "--forget", forget, "--seed", str(seed), "--forget-seed", str(seed), "--quiet"]
    return Path(printed("unlearn", *options, *text.split()).strip())


def tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file, as bytes or numbers; bfloat16 as float32."""
    with safe_open(path, framework="pt") as file:
        stored = {name: file.get_tensor(name) for name in sorted(file.keys())}
    return {name: (value.float() if value.is_floating_point() else value).numpy() for name, value in stored.items()}


def digest(values: dict[str, np.ndarray]) -> dict[str, object]:
    """What is kept of tensors: their hash, how many numbers, their norm and the sum of their absolute values."""
    sha = hashlib.sha256()
    for name, value in sorted(values.items()):
        sha.update(f"{name} {value.dtype} {value.shape}".encode())
        sha.update(np.ascontiguousarray(value).tobytes())
    flat = np.concatenate([value.astype(np.float64).ravel() for value in values.values()])
    return {
        "sha256": sha.hexdigest(),
        "count": len(flat),
        "norm": float(np.linalg.norm(flat)),
        "sum": float(np.abs(flat).sum()),
    }


def contents(run: Path) -> dict[str, object]:
    """What is kept of a run: its model, masks, scores, and the predictions of each split."""
    found: dict[str, object] = {}
    for path in sorted(run.glob("*.safetensors")):
        values = tensors(path)
        if path.stem == "predictions":
            for split in SPLITS:
                part = {name: value for name, value in values.items() if name.split(".")[0] == split}
                if part:
                    found[split] = digest(part)
        elif path.stem == "model" or path.stem.startswith(("mask", "scores")):
            found[path.stem] = digest(values)
    vectors = run / "vectors.bin"
    if vectors.is_file():
        found["vectors"] = digest({"vectors": np.frombuffer(vectors.read_bytes(), np.uint16).astype(np.int64)})
    return found


def judged(run: Path, reference: Path | None) -> dict[str, float | None]:
    """The metrics of an unlearning but for its run time."""
    options = [] if reference is None else ["--reference", str(reference)]
    found = json.loads(printed("evaluate", "--run", str(run), *options, "--quiet", "--json"))["metrics"]
    return {name: value for name, value in sorted(found.items()) if not name.startswith("run_time")}


def checkpoint(run: Path, path: Path) -> Path:
    """The weights of a run as other code would keep them."""
    with safe_open(run / "model.safetensors", framework="pt") as file:
        names = [name for name in file.keys() if name.startswith("network.")]  # noqa: SIM118 - no mapping
        state = {name.removeprefix("network."): file.get_tensor(name) for name in names}
    torch.save({"state_dict": state}, path)
    return path


def computed(folder: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """Every run at every seed: its name, and what is kept of it."""
    for seed in SEEDS:
        place = folder / str(seed)
        place.mkdir()
        names: dict[str, Path | str] = {"ids": place / "ids.txt"}
        for name, text in (ORIGINALS | OTHERS).items():
            if name == "influence-on-logits":
                shown = tensors(names["network"] / "predictions.safetensors")["test.ids"]
                names["shown"] = "+".join(map(str, sorted(shown.tolist())[:2]))
            if name == "imported":
                names["checkpoint"] = checkpoint(names["network"], place / "other.pth.tar")
            names[name] = made(text, seed, place, names)
            yield f"{name} s{seed}", contents(names[name])
        ids = sorted(tensors(names["network"] / "predictions.safetensors")["train.ids"].tolist())
        names["ids"].write_text("\n".join(str(number) for number in ids[:15]))
        references = {
            original: unlearned(names[original], "random:10%", "retrain", seed)
            for original, methods in METHODS.items()
            if methods[0] == "retrain"
        }
        for original, methods in METHODS.items():
            for text in methods:
                run = unlearned(names[original], "random:10%", text.format(**names), seed)
                kept = {"metrics": judged(run, references.get(original))}
                yield f"{original}: {text} s{seed}", contents(run) | kept
        for original, forgets in FORGET.items():
            for forget in forgets:
                run = unlearned(names[original], forget.format(**names), f"finetune {SHORT} --lr 0.02", seed)
                yield f"{original}: forget {forget} s{seed}", contents(run) | {"metrics": judged(run, None)}
    yield from compared(folder)


def compared(folder: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """The runs of a comparison by method; seeds in the order of the hashes."""
    (folder / "own.json").write_text(json.dumps(BENCH))
    printed("bench", str(folder / "own.json"), "--out", str(folder / "bench"), "--jobs", "1", "--quiet")
    runs = [path.parent for path in (folder / "bench").rglob("model.safetensors")]
    for method in ("boundary_shrink", "ao_sparse", "finetune"):
        found = [contents(run) for run in runs if f'"{method}"' in (run / "config.json").read_text()]
        assert len(found) == BENCH["seeds"]
        for number, one in enumerate(sorted(found, key=lambda kept: kept["model"]["sha256"])):  # type: ignore[index]
            yield f"bench: {method} {number}", one


def processor() -> str:
    """The kind of processor and the version of torch, on which the last bits depend."""
    model = platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        wanted = ("vendor_id", "cpu family", "model", "CPU implementer", "CPU part")
        model = ", ".join(dict.fromkeys(line for line in lines if line.partition("\t")[0].strip() in wanted))
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{' '.join(model.split())}; {capability}; torch {torch.__version__.partition('+')[0]}"


def different(wanted: object, found: object, exact: bool, points: float = 0.0) -> bool:
    """Whether what is kept of a run has changed: in any bit, or by more than the tolerance."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        if set(wanted) - set(found):
            return True
        keys = [key for key in wanted if exact or key != "sha256"]
        return any(different(wanted[key], found[key], exact, points) for key in keys)
    if exact or not isinstance(wanted, float) or not isinstance(found, float):
        return wanted != found
    return not math.isclose(wanted, found, rel_tol=RELATIVE, abs_tol=points)


def points(part: str) -> float:
    """The difference that metrics may have between kinds of processors."""
    return POINTS if part == "metrics" else 0.0


def test_a_change_is_seen_on_any_processor() -> None:
    kept = {"sha256": "a", "count": 3, "norm": 2.0, "sum": 3.0}
    assert different(kept, kept | {"sha256": "b"}, exact=True)
    assert not different(kept, kept | {"sha256": "b", "norm": 2.01}, exact=False)
    assert different(kept, kept | {"norm": 2.1}, exact=False)
    assert different(kept, kept | {"count": 4}, exact=False)
    assert different({"tow": 1.0}, {"average_gap": 1.0}, exact=False, points=POINTS)
    assert different({"tow": 1.0}, {"tow": None}, exact=False, points=POINTS)
    assert different({"test_accuracy": 50.0}, {"test_accuracy": 39.0}, exact=False, points=POINTS)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return dict(computed(tmp_path_factory.mktemp("frozen")))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
def test_every_result_is_what_it_was(found: dict[str, dict[str, object]]) -> None:
    kept = json.loads(VALUES.read_text())
    assert set(kept["runs"]) == set(found)
    exact = kept["processor"] == processor()
    changed = {
        name: [part for part, value in wanted.items() if different(value, found[name].get(part), exact, points(part))]
        for name, wanted in kept["runs"].items()
    }
    assert {name: parts for name, parts in changed.items() if parts} == {}


@pytest.mark.slow
def test_seeds_and_methods_differ(found: dict[str, dict[str, object]]) -> None:
    hashes = {name: one["model"]["sha256"] for name, one in found.items() if "model" in one}  # type: ignore[index]
    names = [name.removesuffix(" s0") for name in hashes if name.endswith(" s0")]
    assert [name for name in names if hashes[f"{name} s0"] == hashes[f"{name} s1"]] == []


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as temporary:
        runs = dict(computed(Path(temporary)))
    VALUES.write_text(json.dumps({"processor": processor(), "runs": runs}, indent=0, sort_keys=True) + "\n")
