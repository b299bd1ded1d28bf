"""Checkpoints of other code and of runs, read without executing them and translated to our names.

A file in safetensors, or one of ``torch.save``: a state dict, alone or in a dictionary as of timm (``state_dict``) or
torchvision (``model``). Unlearn-Sparse, SalUn, discriminative adversarial unlearning, sharp-unlearn, RUM and DualOptim
save a dictionary with a ``state_dict``, results and optimizers. Pruned layers hold ``X.weight_orig`` and
``X.weight_mask``, and the normalisation of the inputs is called ``normalize``.
"""

import mmap
import pickle
import re
import threading
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import torch
from safetensors import safe_open
from torch import Tensor, nn

from expunge.core import files, packing, pickles, weights
from expunge.core.errors import RequestError
from expunge.core.masks import Mask

State = dict[str, Tensor]

HEADER = "expunge"
"""The key of expunge's metadata in the header of a model file of a run."""

_LAST = ("fc", "linear", "classifier")
"""Names of the last layer."""
_NESTED = ("state_dict", "model", "model_state_dict")
"""Keys under which a checkpoint holds its state dict."""
_COMPUTED = ("relative_position_index", "attn_mask", "upper_lower_mask", "left_right_mask")
"""Tables and masks that Swin networks compute, and some checkpoints hold."""
_COUNTER = "num_batches_tracked"
"""The number of batches that batch normalisation has seen, which nothing here reads."""


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a checkpoint, under their original names."""

    state: Mapping[str, Tensor]
    """Weights and buffers of the network without the normalisation; pruned weights are zero."""
    mask: Mask | None
    """The sparsity mask of the pruned layers; None for a dense model."""
    mean: tuple[float, ...] | None
    """Mean of each channel in the normalisation of the inputs, if there is one."""
    std: tuple[float, ...] | None
    """Deviation of each channel."""
    ignored: tuple[str, ...]
    """The names of the other contents of the file: results, optimizer and so on."""
    original: bool = False
    """Whether it has the layout of the original repositories, whose networks normalise their inputs."""


def read(path: Path) -> Checkpoint:
    """The weights in a checkpoint; nothing in it is executed.

    A pruned weight is ``weight_orig * weight_mask``; a ``weight`` beside them, of an earlier forward pass, is not used.

    Raises:
        RequestError: The file is missing or damaged, holds no weights, or asks for anything but plain values.
    """
    content = _mapping(_load(path), str(path))
    nested = next((key for key in _NESTED if key in content and not isinstance(content[key], Tensor)), None)
    ignored = () if nested is None else tuple(str(key) for key in content if key != nested)
    state = _tensors(content if nested is None else content[nested], str(path))
    of_run = "normalise.mean" in state and "network." in _network(state)[0]
    if of_run:
        state = {re.sub("^network[.]", "", re.sub("^normalise[.]", "normalize.", key)): state[key] for key in state}
    mean, std = _normalisation(state, str(path))
    if mean is not None and any(name.startswith("stage1.patch_partition.") for name in state):
        mean, std = (0.0,) * len(mean), (1.0,) * len(mean)  # this network of Unlearn-Sparse holds them, and skips them
    mask = _unprune(state, str(path))
    return Checkpoint(state, mask, mean, std, ignored, original=mean is not None and not of_run)


def earlier(path: Path) -> dict[int, Path]:
    """The files ``epoch_K_rewind_weight.pt`` beside a checkpoint of Unlearn-Sparse by their epoch K."""
    names = ((re.fullmatch(r"epoch_(\d+)_rewind_weight\.pt", each.name), each) for each in path.parent.glob("epoch_*"))
    return {int(name[1]): each for name, each in sorted(names, key=lambda pair: pair[1].name) if name}


def plain(state: Mapping[str, Tensor], *, ours: bool) -> State:
    """The state of a network without the normalisation; with ``ours``, under the names of torchvision where known."""
    own = _network(state)[1]
    names = _original_names(own, {}) if ours else {name: name for name in own}
    return {theirs: own[name] for name, theirs in names.items()}


def translate(checkpoint: Checkpoint, model: nn.Module, what: str, without: str = "") -> tuple[State, Mask | None]:
    """The state dict of ``model`` and the sparsity mask, from a checkpoint that messages call ``what``.

    ``model``, which is not changed, is a network with or without :class:`InputNormalisation`. It takes the
    checkpoint's mean and deviation, if there are any. The layer ``without``, if named, stays as it is.

    Raises:
        RequestError: A name is missing, unknown, or of another shape or type; the message lists them.
    """
    state: State = dict(model.state_dict())
    prefix, own = _network(state)
    if not any(name.endswith(_COUNTER) for name in checkpoint.state):  # written before torch 0.4.1
        own = {name: value for name, value in own.items() if not name.endswith(_COUNTER)}
    names = _original_names(own, checkpoint.state)
    if without:
        names = {ours: theirs for ours, theirs in names.items() if not ours.startswith(f"{without}.")}
    left = set(_head(checkpoint.state)) if without else set[str]()
    left |= {name for name in checkpoint.state if name.endswith(_COMPUTED)} - set(names.values())
    given = {theirs: value for theirs, value in checkpoint.state.items() if theirs not in left}
    _check(given, {theirs: own[ours] for ours, theirs in names.items()}, what)
    translated = {prefix + ours: checkpoint.state[theirs] for ours, theirs in names.items()}
    mask = None
    if checkpoint.mask is not None:
        kept = checkpoint.mask
        mask = Mask({prefix + ours: kept[theirs] for ours, theirs in names.items() if theirs in kept})
        mask.check(model)
    return {**state, **translated, **_statistics(checkpoint, state, what)}, mask


def same_head(checkpoint: Checkpoint, model: nn.Module, last: str) -> bool:
    """Whether the last layers of the checkpoint and of ``model``, which calls it so, have the same shapes."""
    own = [value.shape for name, value in model.state_dict().items() if name.startswith(f"{last}.")]
    return sorted(value.shape for value in _head(checkpoint.state).values()) == sorted(own)


def _head(state: Mapping[str, Tensor]) -> State:
    """The part of a state dict under one of the names of a last layer."""
    return {
        name: value for name, value in state.items() if name.removeprefix("vit.").partition(".")[0] in (*_LAST, "head")
    }


def read_mask(path: Path, model: nn.Module) -> Mask:
    """The update mask in a file of a saliency mask (``with_0.5.pt``), under the names of ``model``.

    Raises:
        RequestError: The file cannot be read safely, a name or shape differs, or a value is neither 0 nor 1.
    """
    given = _tensors(_load(path), str(path))
    prefix, own = _network(weights.trainable(model))
    names = _original_names(own, given)
    given = {name: value for name, value in given.items() if not name.endswith(_COMPUTED)}
    weights.check_same(given, {theirs: own[ours] for ours, theirs in names.items()}, str(path))
    return Mask({prefix + ours: _bool(given[theirs], theirs, str(path)) for ours, theirs in names.items()})


def _load(path: Path) -> object:
    """Tensors and plain values, by ``torch.load`` with ``weights_only``.

    Numbers of numpy, which original checkpoints hold in their results and optimizers and torch refuses, are replaced by
    empty objects.
    """
    if not path.is_file():
        raise RequestError(f"{path} is {'a folder' if path.is_dir() else 'missing'}: name a checkpoint file")
    try:
        if path.suffix == ".safetensors":
            return _safetensors(path)
        with _only(_NUMPY), warnings.catch_warnings(), files.opened(path) as file:
            warnings.simplefilter("ignore")  # about formats, which are refused or read
            _check_cost(file, str(path))
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
    except (RequestError, MemoryError):
        raise
    except Exception as error:  # pickle, torch and the file system each raise their own
        raise RequestError(f"{path} {_refusal(error)}") from error


def _safetensors(path: Path) -> State:
    """The tensors; pruned weights of a run in their two parts, as in a checkpoint of ``torch.nn.utils.prune``."""
    files.check_regular(path)
    with safe_open(path, framework="pt") as file:
        stored: State = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
        header = (file.metadata() or {}).get(HEADER)
    if header is None:
        return stored
    known = _mapping(files.parse_json(header, f"the header of {path}", files.ANOTHER), str(path))
    state, kept = packing.unpack(stored, cast("dict[str, list[int]]", known.get("sparse", {})))
    for name, mask in kept.items():
        state |= {f"{name}_orig": state.pop(name), f"{name}_mask": mask}
    return state


def _check_cost(file: BinaryIO, path: str) -> None:
    """Refuse what would take much more memory or time than its file: the pickles in it say how large things are."""
    size, refused = files.size(file), ("builtins bytearray", "__builtin__ bytearray")
    if file.read(4) != b"PK\x03\x04":
        # Mapped, as reading a file of that format in small steps would allocate whatever a length in it says.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for _ in range(5):  # before torch 1.6: mark, version, system, content, names of storages
                pickles.check(cast("BinaryIO", content), size, path, refused=refused)
        return
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if any(each.compress_type for each in members) or sum(each.file_size for each in members) > size:
            raise RequestError(f"{path} is refused: it would be larger in memory than in the file; save it with torch")
        for name in (each.filename for each in members if each.filename.endswith(".pkl")):
            pickles.check(archive.read(name), size, path, refused=refused)


def _refusal(error: Exception) -> str:
    """The error in the file, without torch's advice to execute it."""
    asked = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
    if asked is None:
        first = re.split(r"\. |\n", str(error))[0][:200]
        return f"is damaged, or no checkpoint that can be read without executing it ({type(error).__name__}: {first})"
    return (
        f"is refused: it asks for {asked[1]}, which weights do not need; nothing of it was executed. If you trust "
        "who wrote it, save its state dict alone where it was made, and import that: "
        "torch.save(model.state_dict(), 'weights.pt')"
    )


class _Inert:
    """An empty object in place of a value of numpy."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


_NUMPY = (
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *("numpy.dtype", "numpy.ndarray"),
)
_LOADING = threading.Lock()


@contextmanager
def _only(names: tuple[str, ...]) -> Iterator[None]:
    """Within the block, ``torch.load`` accepts these names, as :class:`_Inert`, and no others."""
    with _LOADING:
        before = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals([(_Inert, name) for name in names])
        try:
            yield
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(before)


def _mapping(content: object, where: str) -> dict[object, object]:
    if not isinstance(content, dict):
        raise RequestError(f"{where} holds no state dict but a {type(content).__name__}")
    return cast("dict[object, object]", content)


def _tensors(content: object, where: str) -> State:
    """A dictionary of names and plain tensors, without the prefix of DataParallel."""
    entries = _mapping(content, where)
    if not entries:
        raise RequestError(f"{where} holds an empty state dict")
    wrong = [str(key) for key, value in entries.items() if not (isinstance(key, str) and _plain(value))]
    if wrong:
        more = f" and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise RequestError(f"{where} holds no state dict: no plain tensor under {', '.join(wrong[:8])}{more}")
    parallel = all(str(name).startswith("module.") for name in entries)
    return {
        str(name).removeprefix("module.") if parallel else str(name): cast("Tensor", value).detach()
        for name, value in entries.items()
    }


def _plain(value: object) -> bool:
    """Whether this is a dense tensor of numbers whose storage is complete."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not (value.is_quantized or value.is_complex())
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def _normalisation(state: State, where: str) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Remove the mean and deviation of the normalisation from ``state``, and return them."""
    mean, std = (state.pop(f"normalize.{name}", None) for name in ("mean", "std"))
    if mean is None and std is None:
        return None, None
    if mean is None or std is None or mean.numel() != std.numel():
        raise RequestError(f"{where} should hold normalize.mean and normalize.std, one number each per channel")
    if not bool(torch.isfinite(mean).all() and torch.isfinite(std).all() and (std > 0).all()):
        raise RequestError(f"{where}: normalize.mean must be finite, and normalize.std above zero")
    # the shortest decimals of these float32 numbers: 0.4914, not 0.49140000343
    means, deviations = (tuple(float(str(x)) for x in each.float().flatten().numpy()) for each in (mean, std))
    return means, deviations


def _unprune(state: State, where: str) -> Mask | None:
    """Replace the two parts of pruned weights in ``state`` by the weights, and return the sparsity mask."""
    names = [name for name in state if not name.endswith(_COMPUTED)]
    parts = {part: {n.removesuffix(part) for n in names if n.endswith(part)} for part in ("_orig", "_mask")}
    if alone := parts["_orig"] ^ parts["_mask"]:
        raise RequestError(f"{where}: {', '.join(sorted(alone)[:8])}: the weights or the mask of a pruned layer lack")
    kept: State = {}
    for name in sorted(parts["_orig"]):
        original, mask = state.pop(f"{name}_orig"), state.pop(f"{name}_mask")
        if original.shape != mask.shape:
            raise RequestError(f"{where}: {name} has shape {tuple(original.shape)}, its mask {tuple(mask.shape)}")
        kept[name] = _bool(mask, f"{name}_mask", where)
        state[name] = torch.where(kept[name], original, torch.zeros_like(original))
    return Mask(kept) if kept else None


def _bool(mask: Tensor, name: str, where: str) -> Tensor:
    """A mask of zeros and ones as bool."""
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise RequestError(f"{where}: {name} should hold zeros and ones only: a soft mask cannot be used")
    return mask.bool()


def _network(state: Mapping[str, Tensor]) -> tuple[str, State]:
    """The prefix of the network's names, and its state without the prefix and the normalisation."""
    prefix = "network." if state and all(name.startswith(("network.", "normalise.")) for name in state) else ""
    return prefix, {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _statistics(checkpoint: Checkpoint, state: Mapping[str, Tensor], what: str) -> State:
    """The checkpoint's mean and deviation in the shape of the model's, where both have them."""
    found: State = {}
    for name, values in (("normalise.mean", checkpoint.mean), ("normalise.std", checkpoint.std)):
        if values is not None and name in state:
            if len(values) != state[name].numel():
                raise RequestError(f"{what} normalises {len(values)} channels, the model {state[name].numel()}")
            found[name] = torch.tensor(values, dtype=state[name].dtype).view(state[name].shape)
    return found


def _check(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], what: str) -> None:
    """Raise a RequestError unless names, shapes and types are those wanted, and every value is finite."""
    weights.check_same(given, wanted, what)
    types = [f"{n} is {given[n].dtype}, not {wanted[n].dtype}" for n in wanted if given[n].dtype != wanted[n].dtype]
    if types:
        more = f" and {len(types) - 8} more" if len(types) > 8 else ""
        raise RequestError(f"{what}: other types than the model's: {'; '.join(types[:8])}{more}")
    broken = [name for name in wanted if not bool(torch.isfinite(given[name]).all())]
    if broken:
        raise RequestError(f"{what}: values that are not finite in {', '.join(broken[:8])}: its training diverged")


def _original_names(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, str]:
    """For each of our names, that of the original code; ``given`` decides where original codes differ."""
    if own.keys() == given.keys():
        return {name: name for name in own}
    if "norm.weight" in own:
        return _transformer(own, given)
    table = _residual(own) if "stages.0.body.0.weight" in own else _numbered(own, given)
    ours, theirs = ([name for name in _LAST if f"{name}.weight" in state] for state in (own, given))
    if len(ours) == len(theirs) == 1:
        table[ours[0]] = theirs[0]
    parts = {name: name.rpartition(".") for name in own}
    return {name: f"{table.get(layer, layer)}{dot}{value}" for name, (layer, dot, value) in parts.items()}


def _residual(own: Mapping[str, Tensor]) -> dict[str, str]:
    """The layers of residual networks: ``stages.2.body.3`` is ``layer2.0.conv2`` if the width grows there."""
    table = {"stem.0": "conv1", "stem.1": "bn1"}
    stage, index, width = 1, -1, len(own["stages.0.body.0.weight"])
    for block in range(len({name.split(".")[1] for name in own if name.startswith("stages.")})):
        first = len(own[f"stages.{block}.body.0.weight"])
        stage, index = (stage, index + 1) if first == width else (stage + 1, 0)
        width, place, ours = first, f"layer{stage}.{index}", f"stages.{block}"
        for number in range(3):
            table[f"{ours}.body.{3 * number}"] = f"{place}.conv{number + 1}"
            table[f"{ours}.body.{3 * number + 1}"] = f"{place}.bn{number + 1}"
        table |= {f"{ours}.shortcut.{part}": f"{place}.downsample.{part}" for part in range(2)}
    return table


def _numbered(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, str]:
    """Layers by their order: those of VGG networks, whose numbers depend on dropout, and those of plain sequences."""
    if all(re.match(r"\d+\.\w+$", name) for name in own):
        ours, theirs = (list(dict.fromkeys(name.rpartition(".")[0] for name in state)) for state in (own, given))
        return dict(zip(ours, theirs, strict=True)) if len(ours) == len(theirs) else {}
    table: dict[str, str] = {}
    for part in ("features", "classifier"):
        matches = ([re.match(rf"{part}\.(\d+)\.", name) for name in state] for state in (own, given))
        ours, theirs = (sorted({int(match[1]) for match in each if match}) for each in matches)
        if len(ours) == len(theirs):
            table |= {f"{part}.{a}": f"{part}.{b}" for a, b in zip(ours, theirs, strict=True)}
    return table


def _transformer(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, str]:
    """Whole names: those of torchvision (Swin) and timm (ViT) are ours; ``vit.`` may stand before those of a ViT."""
    at_end = "layers.0.downsample.norm.weight" in given
    theirs = {_swin_name(name, at_end) if "cls_token" not in own else name.removeprefix("vit."): name for name in given}
    return {name: name if name in given else theirs.get(name, name) for name in own}


_BLOCK = {
    "attention_block.fn.norm": "norm1",
    "attention_block.fn.fn.pos_embedding": "attn.relative_position_bias_table",
    "attention_block.fn.fn.to_qkv": "attn.qkv",
    "attention_block.fn.fn.to_out": "attn.proj",
    "mlp_block.fn.norm": "norm2",
    "mlp_block.fn.fn.net.0": "mlp.0",
    "mlp_block.fn.fn.net.2": "mlp.3",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.3",
}
"""Parts of a block of Swin in Unlearn-Sparse and in timm, and with our names."""


def _swin_name(name: str, at_end: bool) -> str:
    """Our name for that of Unlearn-Sparse or timm, whose stages merge pixels at their end or at their beginning."""
    for theirs, ours in _BLOCK.items():
        name = name.replace(f".{theirs}", f".{ours}")
    fixed = {"stage1.patch_partition.linear": "features.0.1.reduction", "patch_embed.proj": "features.0.0"}
    fixed |= {"patch_embed.norm": "features.0.2", "mlp_head.0": "norm", "mlp_head.1": "head", "head.fc": "head"}
    for theirs, ours in fixed.items():
        if name.startswith(f"{theirs}."):
            return name.replace(theirs, ours, 1)
    if found := re.match(r"stage(\d)\.patch_partition\.linear\.(.*)", name):
        return f"features.{2 * int(found[1]) - 2}.reduction.{found[2]}"
    if found := re.match(r"stage(\d)\.layers\.(\d+)\.([01])\.(.*)", name):
        return f"features.{2 * int(found[1]) - 1}.{2 * int(found[2]) + int(found[3])}.{found[4]}"
    if found := re.match(r"layers\.(\d)\.blocks\.(\d+)\.(.*)", name):
        return f"features.{2 * int(found[1]) + 1}.{found[2]}.{found[3]}"
    if found := re.match(r"layers\.(\d)\.downsample\.(.*)", name):
        return f"features.{2 * (int(found[1]) + at_end)}.{found[2]}"
    return name
