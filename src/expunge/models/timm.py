"""A network of timm (the extra ``models``)."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast

from torch import nn

from expunge.core import registry
from expunge.core.config import Others
from expunge.core.errors import RequestError
from expunge.core.registry import architecture
from expunge.models import _foreign
from expunge.models._check import Shape, image_shape


@dataclass(frozen=True)
class TimmConfig:
    """A network by its name in timm."""

    architecture: str
    """Its name in timm: resnet50, vit_tiny_patch16_224, ..."""
    pretrained: str | None = None
    """The weights that training starts from: a file (safetensors, .pth), or hub for the published ones."""
    sha256: str = ""
    """SHA-256 of the file of weights; by default that of the file as it is now."""
    options: Annotated[tuple[str, ...], Others()] = ()
    """Further arguments of timm.create_model: img_size=64, drop_rate=0.1, ..."""

    def __post_init__(self) -> None:
        """Find the pretrained weights."""
        if not self.sha256:
            object.__setattr__(self, "sha256", _foreign.digest(self.pretrained, lambda: _located(self)))


@architecture(reference="https://github.com/huggingface/pytorch-image-models")
def build(config: TimmConfig, shape: Shape, num_classes: int) -> nn.Module:
    """A network of timm by its name (needs the extra models): timm:resnet50,pretrained=FILE.

    Raises:
        RequestError: timm is missing or has no such network, the weights are missing or have changed, or the network
            does not take images of this shape.
    """
    timm, (channels, *_) = _foreign.package("timm"), image_shape(shape)
    _check(config)
    options = _foreign.values(config.options)
    make = functools.partial(timm.create_model, config.architecture, num_classes=num_classes, in_chans=channels)

    def made() -> object:
        model = make(**options)
        return _foreign.start(model, _located(config), config.sha256) if config.pretrained else model

    return _foreign.checked(made, shape, num_classes, f"timm:{config.architecture}")


def _check(config: TimmConfig) -> None:
    timm = _foreign.package("timm")
    if not timm.is_model(config.architecture):
        raise RequestError(
            registry.unknown("network of timm", config.architecture.partition(".")[0], timm.list_models())
        )


def _located(config: TimmConfig) -> Path:
    """The file of pretrained weights, for ``hub`` in the cache of the Hub, into which it is downloaded if need be.

    Raises:
        RequestError: It is neither in the cache nor can be downloaded.
    """
    if config.pretrained != _foreign.HUB:
        return Path(str(config.pretrained))
    timm, hub = _foreign.package("timm"), _foreign.package("huggingface_hub")
    _check(config)
    published = timm.get_pretrained_cfg(config.architecture)
    if published is None or not published.hf_hub_id:
        raise RequestError(f"timm has no published weights of {config.architecture}: give a file, pretrained=FILE")
    repository, name = published.hf_hub_id, published.hf_hub_filename or "model.safetensors"
    try:
        return Path(cast("str", hub.hf_hub_download(repository, name)))
    except Exception as error:  # no network, no such file, no permission: each has its own class
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise RequestError(
            f"{name} of {repository} is not in the Hub cache {hub.constants.HF_HUB_CACHE} and cannot be downloaded "
            f"({reason}): run `hf download {repository} {name}` where there is a network, and copy the folder "
            f"{Path(hub.constants.HF_HUB_CACHE) / ('models--' + repository.replace('/', '--'))} here"
        ) from error
