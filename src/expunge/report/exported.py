"""A run's model for other programs: plain torch weights, how to prepare images, and a model card."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from safetensors.torch import save_file
from torch import Tensor

from expunge.core import checkpoints, files, registry
from expunge.core.errors import RequestError
from expunge.data import split_data
from expunge.data.dataset import Dataset
from expunge.evaluation.predictions import FORGOTTEN, stored_predictions
from expunge.models.own import OwnConfig
from expunge.models.timm import TimmConfig
from expunge.models.torchvision import TorchvisionConfig
from expunge.store.directory import RunDirectory, Store, write_json, write_text
from expunge.store.run import GivesModel

WEIGHTS, PREPROCESSING, CARD = "model.safetensors", "preprocessing.json", "model_card.md"


@dataclass(frozen=True)
class Exported:
    """A folder that holds a model for other programs."""

    folder: Path
    sha256: str
    """SHA-256 of the file of weights."""


def export(directory: RunDirectory, wanted: GivesModel, folder: Path) -> Exported:
    """Write the model of a run: weights, preprocessing and card. It reads the images, for their classes and size.

    The weights are a dense state dict without the normalisation of inputs. The names are those of the user's module, of
    timm or of torchvision; those of torchvision for residual networks of the library; its own for others.
    """
    stored, dataset = directory.model(), split_data.load(wanted.data).dataset
    foreign = isinstance(wanted.model, OwnConfig | TimmConfig | TorchvisionConfig)
    state = checkpoints.plain(stored.state, ours=not foreign)
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{WEIGHTS}.{os.getpid()}"
    save_file({name: value.contiguous() for name, value in state.items()}, draft, metadata={"format": "pt"})
    draft.replace(folder / WEIGHTS)
    write_json(folder / PREPROCESSING, preprocessing(stored.state, dataset))
    exported = Exported(folder, files.digest(folder / WEIGHTS))
    write_text(folder / CARD, card(directory, wanted, dataset, exported))
    return exported


def preprocessing(state: Mapping[str, Tensor], dataset: Dataset) -> dict[str, object]:
    """How to turn an image into the input of the network: its size, ``(pixels / 255 - mean) / std``, and the classes.

    Data sources whose images are floats are not divided by 255.
    """
    if len(dataset.train.shape) != 3:
        raise RequestError("only models of images can be exported: this one takes vectors; load its model.safetensors")
    channels, height, width = dataset.train.shape
    return {
        "size": [height, width],
        "channels": channels,
        "mean": state["normalise.mean"].flatten().tolist(),
        "std": state["normalise.std"].flatten().tolist(),
        "classes": list(dataset.class_names),
    }


def card(directory: RunDirectory, wanted: GivesModel, dataset: Dataset, exported: Exported) -> str:
    """The model card: what was done and measured, in counts; it names no example, no folder and no user."""
    record = directory.record()
    predictions, stored = stored_predictions(directory)
    forgotten = len(stored[FORGOTTEN]) if FORGOTTEN in stored else 0
    method = f"`{record['label']}`" if record.get("label") else "none"
    accuracy = [(f"{name} accuracy (%)", f"{part.accuracy():.2f}") for name, part in predictions.items() if len(part)]
    facts = [
        ("run", f"`{directory.id}`"),
        ("architecture", f"`{_architecture(wanted.model)}`"),
        ("classes", str(dataset.num_classes)),
        ("training images", str(len(predictions["train"]) - forgotten)),
        ("forgotten images", str(forgotten)),
        ("method", method if forgotten else f"{record['kind']}, nothing forgotten"),
        *accuracy,
        (f"SHA-256 of {WEIGHTS}", f"`{exported.sha256}`"),
        *((name, str(each)) for name, each in cast("Mapping[str, object]", record.get("versions", {})).items()),
    ]
    lines = ["---", "tags: [image-classification, machine-unlearning]", "---", f"# {directory.id}", ""]
    lines += [*_table(("fact", "value"), facts), "", *_measured(directory), *_loading(wanted.model, dataset)]
    return "\n".join([*lines, ""])


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> list[str]:
    return [f"| {first} | {second} |" for first, second in (head, ("---", "---"), *rows)]


def _measured(directory: RunDirectory) -> list[str]:
    """The metrics of all evaluations of this run in its store."""
    found: list[str] = []
    for each in Store(directory.path.parent).all():
        record = each.record()
        parents = cast("Mapping[str, object]", record.get("parents", {}))
        if record["kind"] != "evaluate" or record["status"] != "finished" or parents.get("subject") != directory.id:
            continue
        values = cast("Mapping[str, float | None]", record["metrics"])
        compared = "compared with a model retrained without them" if "reference" in parents else "without a reference"
        rows = [(name, "not defined" if value is None else f"{value:.4g}") for name, value in values.items()]
        found += [f"## Evaluation, {compared}", "", *_table(("metric", "value"), rows), ""]
    return found


def _architecture(model: object) -> str:
    """The architecture in text, without the folder of the user's file."""
    if not isinstance(model, OwnConfig):
        plugin = registry.of_config("models", model).name
        return f"{plugin}:{model.architecture}" if isinstance(model, TimmConfig | TorchvisionConfig) else plugin
    return f"{Path(model.builder).name}, source SHA-256 {model.sha256}"


def _loading(model: object, dataset: Dataset) -> list[str]:
    """How to load the weights."""
    classes, channels = dataset.num_classes, dataset.train.shape[0]
    load = f'load_file("{WEIGHTS}")'
    if isinstance(model, TimmConfig):
        options = "".join(f", {option}" for option in model.options)
        make = f'timm.create_model("{model.architecture}", num_classes={classes}, in_chans={channels}{options})'
        lines = ["import timm", f"model = {make}", f"model.load_state_dict({load})"]
    elif isinstance(model, TorchvisionConfig):
        make = f'torchvision.models.get_model("{model.architecture}", num_classes={classes})'
        lines = ["import torchvision", f"model = {make}", f"model.load_state_dict({load})"]
    elif isinstance(model, OwnConfig):
        lines = [f"model = ...  # {Path(model.builder).name}", f"model.load_state_dict({load})"]
    else:
        return ["## Loading", "", f"`expunge import {WEIGHTS} --model ... --data ...` reads the file.", ""]
    prepared = f"The inputs are images in 0..1, minus the mean, divided by the deviation, in `{PREPROCESSING}`."
    code = ["from safetensors.torch import load_file", *lines, "model.eval()"]
    return ["## Loading", "", "```python", *code, "```", "", prepared]


def push(exported: Exported, repository: str) -> str:
    """Upload the folder to a repository of the Hub, which is made, private, if it does not exist; its address.

    Raises:
        RequestError: huggingface_hub (the extra ``hub``) is missing, or the Hub refuses or cannot be reached.
    """
    try:
        import huggingface_hub  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise RequestError("--hub needs huggingface_hub: python -m pip install 'expunge[hub]'") from error
    try:
        interface = huggingface_hub.HfApi()
        interface.create_repo(repository, private=True, exist_ok=True)
        names = [WEIGHTS, PREPROCESSING, CARD]
        done = interface.upload_folder(repo_id=repository, folder_path=exported.folder, allow_patterns=names)
    except Exception as error:  # no network, no permission, a wrong name: each has its own class
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise RequestError(
            f"{exported.folder} is written, but cannot be uploaded to {repository} ({reason}): log in by "
            f"`hf auth login` where there is a network, and run `hf upload {repository} {exported.folder}` there"
        ) from error
    return str(done)
