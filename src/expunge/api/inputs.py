"""What a user gives to the Python interface: models, images, labels, devices; and the state of torch around a call."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TypeAlias, get_args, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from expunge.core import checks, randomness, weights
from expunge.core.errors import RequestError
from expunge.data.augment import Augmentation
from expunge.data.image_set import ImageSet, make
from expunge.evaluation.predictions import predict
from expunge.training.precision import RequestedPrecision


@runtime_checkable
class MapDataset(Protocol):
    """A map-style dataset of ``(image, label)``, such as those of torch.utils.data."""

    def __len__(self) -> int:
        """The number of examples."""
        ...

    def __getitem__(self, index: int, /) -> tuple[object, object]:
        """One image (tensor, array or PIL image) and its label."""
        ...


Array: TypeAlias = npt.NDArray[np.generic]
Images: TypeAlias = ImageSet | tuple[Tensor | Array, Tensor | Array] | MapDataset


@contextmanager
def standard_torch() -> Iterator[None]:
    """Turn gradients on and make float32 the default within the block; restore the user's settings after it.

    numpy's global generator is restored too. Threads enter one after the other.
    """
    numbers = np.random.get_state()  # scikit-learn draws from it when it is first imported
    with randomness.exclusive(), torch.inference_mode(False):  # this turns gradients on, too
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(default)
            np.random.set_state(numbers)


def student_of(model: nn.Module, device: torch.device, *, in_place: bool = False) -> nn.Module:
    """Return the model to change, on this device: a copy, or the model itself.

    Raises:
        RequestError: It is a TorchScript module, whose copies cannot be trained.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise RequestError("a TorchScript model cannot be unlearned from: give the module that it was made from")
    return (model if in_place else weights.clone(model)).to(device)


@contextmanager
def restored_on_error(model: nn.Module, in_place: bool) -> Iterator[None]:
    """Restore the weights and buffers of a model that is changed in place if the block ends with an error."""
    before = {name: value.detach().clone() for name, value in model.state_dict().items()} if in_place else {}
    try:
        yield
    except BaseException:
        if in_place:
            model.load_state_dict(before)
        raise


def check_settings(seed: object, precision: str = "auto") -> None:
    """Raise a RequestError unless the seed is an integer and there is such a precision."""
    if not isinstance(seed, (int, np.integer)) or isinstance(seed, bool):
        raise RequestError(f"seed must be an integer, got {seed!r}: results are repeatable for a given seed")
    checks.one_of(get_args(RequestedPrecision), precision=precision)


def device_for(device: torch.device | str | None, model: nn.Module) -> torch.device:
    """Return the device to compute on: the given one, or that of the model.

    Raises:
        RequestError: There is no such device.
    """
    return device_of(model) if device is None else checks.device(device)


def check_disjoint(forget: ImageSet, retain: ImageSet) -> None:
    """Raise a RequestError if an example is in both sets."""
    both = forget.ids[torch.isin(forget.ids, retain.ids.to(forget.device))]
    if len(both):
        raise RequestError(
            f"{len(both)} examples are in the forget and in the retain set, the id {int(both[0])} among them: "
            "remove them from the retain set"
        )


def as_image_set(images: Images, *, first_id: int = 0, augmentation: Augmentation | None = None) -> ImageSet:
    """Convert images and labels to an ImageSet; an ImageSet is returned unchanged.

    Raises:
        RequestError: The set is empty, or images differ in shape.
    """
    if isinstance(images, ImageSet):
        return images
    if isinstance(images, DataLoader):
        raise RequestError("a DataLoader shuffles and batches: give its data set, loader.dataset")
    if isinstance(images, tuple):
        if len(images) != 2:
            raise RequestError(f"expected a pair (images, labels), got a tuple of {len(images)}")
        inputs, labels = (torch.as_tensor(part) for part in images)
    elif isinstance(images, MapDataset):  # pyright: ignore[reportUnnecessaryIsInstance]
        inputs, labels = _collect(images)
    else:
        raise RequestError(
            f"expected an ImageSet, a pair (images, labels) or a map-style data set, got a {type(images).__name__}"
        )
    if labels.ndim != 1 or len(labels) != len(inputs):
        raise RequestError(f"there are {len(inputs)} images and labels of shape {tuple(labels.shape)}: give one each")
    if labels.is_floating_point() and not bool((labels == labels.round()).all()):
        wrong = labels[labels != labels.round()]
        raise RequestError(f"labels must be class numbers, got {float(wrong[0]):g}")
    if labels.is_complex() or labels.dtype == torch.bool:
        raise RequestError(f"labels must be class numbers, got {str(labels.dtype).removeprefix('torch.')}")
    labels = labels.to(torch.int64)
    if not len(labels):
        raise RequestError("the set contains no examples")
    if labels.is_inference():  # no part of a gradient, which a copy can be
        labels = labels.clone()
    return make(inputs, labels, augmentation, first_id)


def _collect(dataset: MapDataset) -> tuple[Tensor, Tensor]:
    """Read every item of a dataset once, into one tensor of images and one of labels."""
    items = [_pair(dataset[index]) for index in range(len(dataset))]
    images = [_image(image) for image, _ in items]
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) > 1:
        raise RequestError(f"all images must have the same shape, found {' and '.join(map(str, sorted(shapes)))}")
    labels = torch.stack([torch.as_tensor(label) for _, label in items]) if items else torch.empty(0)
    return (torch.stack(images) if images else torch.empty(0)), labels


def _pair(item: object) -> tuple[object, object]:
    """Image and label of an item; what follows them, such as an index, is left out."""
    if not isinstance(item, (tuple, list)) or len(item) < 2:
        raise RequestError(f"the items of a data set must be (image, label), got a {type(item).__name__}")
    return item[0], item[1]


def _image(image: object) -> Tensor:
    """Convert one image to a tensor; PIL images and arrays (height, width, channels) become channels first."""
    if isinstance(image, Tensor):
        return image
    array = torch.as_tensor(np.array(image))
    if array.ndim == 2:
        return array[None]
    return array.permute(2, 0, 1) if array.shape[-1] in (1, 3, 4) and array.shape[0] not in (1, 3) else array


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model; the CPU if it has no weights."""
    weight = next(model.parameters(), None)
    return torch.device("cpu") if weight is None else weight.device


def num_classes(model: nn.Module, images: ImageSet, device: torch.device) -> int:
    """Return the number of outputs of a model; raise a RequestError if it does not accept the images."""
    if not len(images):
        raise RequestError("the retain set contains no examples")
    one = images.select(torch.arange(1))
    try:
        logits = predict(model, one, device).logits
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise RequestError(f"the model does not accept images of shape {images.shape}: {reason}") from error
    if logits.ndim != 2:
        raise RequestError(f"the model must return logits (batch, classes), got shape {tuple(logits.shape)}")
    return logits.shape[1]


def check_images(name: str, images: ImageSet | None, shape: tuple[int, ...], classes: int) -> None:
    """Raise a RequestError unless images have this shape and labels are in 0..classes - 1."""
    if images is None or not len(images):
        return
    if images.shape != shape:
        raise RequestError(f"{name} images have shape {images.shape}, other images {shape}")
    low, high = int(images.labels.min()), int(images.labels.max())
    if low < 0 or high >= classes:
        raise RequestError(
            f"{name} labels must be in 0..{classes - 1}, as the model has {classes} outputs; found {low}..{high}"
        )
