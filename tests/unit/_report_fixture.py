"""Writes a folder of runs as a bench leaves it, with random but plausible predictions."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.runs import reseal

METHODS = ("retrain", "original", "finetune", "gradient_ascent", "neggrad_plus", "random_label", "salun", "scrub")

# Mean margins of the true class on the retain, forget and test set, and seconds.
_MARGINS: Mapping[str, tuple[float, float, float, float]] = {
    "retrain": (9.0, 4.2, 4.2, 62.0),
    "original": (9.0, 9.0, 4.3, 0.0),
    "finetune": (10.0, 8.0, 4.2, 3.9),
    "gradient_ascent": (6.0, 4.0, 3.4, 0.8),
    "neggrad_plus": (8.6, 5.4, 4.0, 4.4),
    "random_label": (7.4, 3.4, 3.9, 5.1),
    "salun": (7.8, 3.9, 4.0, 5.6),
    "scrub": (9.0, 4.9, 4.2, 6.3),
}
CLASSES = 10
RECORDED = {"subject": {"original": {"training": {"record": True}}}}
"""The part of a configuration that says that the training was recorded."""
ATTACKS = ("correctness", "confidence", "entropy", "m_entropy", "prob")


def write_folder(
    folder: Path,
    *,
    methods: Sequence[str] = METHODS,
    seeds: int = 2,
    failed: Mapping[tuple[str, int], str] | None = None,
    manifest: bool = True,
    sizes: tuple[int, int, int] = (120, 900, 300),
    scenarios: Mapping[str, float] | None = None,
) -> Path:
    """Runs of ``methods`` over ``seeds``; ``failed`` maps (label, seed) to reasons; sizes of forget, retain, test.

    ``scenarios`` maps each to the sparsity of its models in percent; 0 is left out of the metrics, as for dense ones.
    """
    entries: list[dict[str, object]] = []
    for number, (scenario, sparsity) in enumerate((scenarios or {"": 0.0}).items()):
        for seed in range(seeds):
            reference: dict[str, float] | None = None
            for label in methods:
                name = f"{_slug(label)}-s{seed}-{number:06d}{seed:06d}"
                reason = (failed or {}).get((label, seed))
                values = _evaluate(folder, label, seed, reason, reference, sizes, name, sparsity)
                reference = values if label == "retrain" and reason is None else reference
                run, status = f"evaluate-{name}", "failed" if reason else "finished"
                named = {"scenario": scenario} if scenarios else {}
                entries.append({"label": label, "seed": seed, "run": run, "status": status, "reason": reason, **named})
                rewrite(folder / run / "run.json", **named)
    if manifest:
        (folder / "bench.json").write_text(json.dumps({"name": "demo", "entries": entries}))
    return folder


def rewrite(path: Path, **changes: object) -> None:
    """Change some keys of a JSON file; that of a run gets its new digests."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    if (path.parent / "run.json").exists():
        reseal(path.parent)


def add_entry(folder: Path, **entry: object) -> None:
    """Add an entry to ``bench.json``."""
    path = folder / "bench.json"
    rewrite(path, entries=[*json.loads(path.read_text())["entries"], entry])


def _slug(label: str) -> str:
    return "".join(sign if sign.isalnum() or sign == "_" else "-" for sign in label)


def _evaluate(
    folder: Path, label: str, seed: int, reason: str | None, reference: dict[str, float] | None,
    sizes: tuple[int, int, int], name: str, sparsity: float,
) -> dict[str, float]:  # fmt: skip
    subject, directory = f"unlearn-{name}", folder / f"evaluate-{name}"
    retain, forget, test, seconds = _MARGINS.get(label, (8.0, 5.0, 4.0, 2.0 + len(label)))
    forget += sparsity / 40  # it is an example only
    generator = torch.Generator().manual_seed(1000 * seed + sum(map(ord, label)))
    margins = zip(("forget", "retain", "test"), (forget, retain, test), sizes, strict=True)
    logits = {name: _logits(margin, count, generator) for name, margin, count in margins}
    if reason is None:
        _write_subject(folder / subject, label, logits, generator)
    total = seconds * (1 + 0.05 * seed)
    phases = {"precompute": 0.1 * total if label == "salun" else 0.0, "unlearn": total}
    values = {} if reason else _metrics(logits, reference, phases)
    if reason is None and label == "retrain":
        values |= {"average_gap": 0.0, "tow": 1.0, "tow.tow_mia": 1.0}
    values |= {"sparsity": sparsity} if sparsity and not reason else {}
    directory.mkdir(parents=True)
    reference_name = name.replace(_slug(label), "retrain", 1)
    parents = {"subject": subject, "reference": f"unlearn-{reference_name}", "original": "train-digits"}
    record = {
        "kind": "evaluate", "id": directory.name, "status": "failed" if reason else "finished", "reason": reason,
        "label": label, "metrics": values, "seconds": phases, "parents": parents,
        "versions": {"python": "3.12.1", "expunge": "0.1.0", "torch": "2.13.0"}, "device": "cpu (x86_64)", "threads": 2,
        "git_revision": "0123456789abcdef", "peak_memory_bytes": 400 * 2**20,
        "started": f"2026-01-02T03:0{seed}:00.5+00:00", "finished": f"2026-01-02T03:0{seed}:30.5+00:00",
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config_of(label, seed)))
    reseal(directory, **record)
    return values


def config_of(label: str, seed: int) -> dict[str, object]:
    """The configuration of an evaluation."""
    rule = {"kind": "rule", "optimizer": "sgd", "lr": 0.01, "momentum": 0.9, "schedule": "cosine"}
    data = {"source": {"name": "digits"}, "limit": None, "validation": 0.1, "seed": 0}
    training = {"epochs": 40, "batch_size": 64, "rule": rule}
    original = {"data": data, "model": {"name": "small_cnn", "width": 16}, "training": training, "seed": seed}
    subject = {
        "original": original,
        "forget": {"kind": "random_forget", "count": None, "percent": 10.0},
        "unlearning": {"method": {"name": label, "epochs": 5, "batch_size": 128, "rule": rule}, "update_mask": None},
        "forget_seed": seed,
        "seed": seed,
    }
    return {"kind": "evaluate_config", "subject": subject, "reference": None, "metrics": None, "seed": 0}


def _logits(margin: float, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    labels = torch.randint(CLASSES, (count,), generator=generator)
    logits = torch.randn(count, CLASSES, generator=generator)
    logits[torch.arange(count), labels] += margin + 2.0 * torch.randn(count, generator=generator)
    return logits, labels


def _write_subject(
    folder: Path, label: str, logits: Mapping[str, tuple[Tensor, Tensor]], generator: torch.Generator
) -> None:
    folder.mkdir(parents=True)
    train = [torch.cat(parts) for parts in zip(logits["forget"], logits["retain"], strict=True)]
    tensors = {
        "train.logits": train[0],
        "train.labels": train[1],
        "forgotten.ids": torch.arange(len(logits["forget"][1])),
    }
    for name in ("validation", "test"):
        tensors |= {f"{name}.logits": logits["test"][0].clone(), f"{name}.labels": logits["test"][1].clone()}
    for name in ("train", "validation", "test"):
        tensors[f"{name}.ids"] = torch.arange(len(tensors[f"{name}.labels"]))
    save_file(tensors, folder / "predictions.safetensors")
    (folder / "history.jsonl").write_text("".join(json.dumps(step) + "\n" for step in _history(label, generator)))
    reseal(folder)


def _history(label: str, generator: torch.Generator) -> list[dict[str, object]]:
    if label == "original":
        return []
    steps, noise = 500, torch.rand(500, 2, generator=generator).tolist()
    retain = [2.2 * math.exp(-step / 90) + 0.15 * noise[step][0] for step in range(steps)]
    forget = [0.3 + 0.004 * step + 0.3 * noise[step][1] for step in range(steps)]
    one_role = {"retrain": ("retain",), "finetune": ("retain",), "gradient_ascent": ("forget",)}
    roles = one_role.get(label, ("forget", "retain"))
    values = {"retain": retain, "forget": forget}
    return [
        {"step": step + 1, "lr": dict.fromkeys(roles, 0.01), "loss": {role: values[role][step] for role in roles}}
        for step in range(steps)
    ]


def _metrics(
    logits: Mapping[str, tuple[Tensor, Tensor]], reference: Mapping[str, float] | None, phases: Mapping[str, float]
) -> dict[str, float]:
    accuracy = {name: 100.0 * float((x.argmax(1) == y).double().mean()) for name, (x, y) in logits.items()}
    confidence = {name: x.softmax(1).gather(1, y[:, None])[:, 0] for name, (x, y) in logits.items()}
    threshold = float(torch.cat([confidence["retain"], confidence["test"]]).median())
    attacked = 100.0 * float((confidence["forget"] < threshold).double().mean())
    values = {
        "unlearning_accuracy": 100.0 - accuracy["forget"],
        "remaining_accuracy": accuracy["retain"],
        "test_accuracy": accuracy["test"],
        "validation_accuracy": accuracy["test"] - 0.2,
        **{f"membership_svc.{name}": attacked + 0.5 * i for i, name in enumerate(ATTACKS)},
        **{f"run_time.{name}": value for name, value in phases.items()},
        "run_time.total": sum(phases.values()),
        "weight_distance.to_original": sum(phases.values()) ** 0.5,
    }
    if reference:
        parts = ("unlearning_accuracy", "remaining_accuracy", "test_accuracy", "membership_svc.confidence")
        gaps = [abs(values[part] - reference[part]) for part in parts]
        values["average_gap"] = sum(gaps) / 4
        values["tow"] = math.prod(1 - gap / 100 for gap in gaps[:3])
        values["tow.tow_mia"] = math.prod(1 - gap / 100 for gap in gaps[1:])
        values["weight_distance.to_reference"] = 3.0 + gaps[0]
    return values
