"""A network of torchvision (the extra ``models``)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from torch import nn

from expunge.core import registry
from expunge.core.config import Others
from expunge.core.errors import RequestError
from expunge.core.registry import architecture
from expunge.models import _foreign
from expunge.models._check import Shape, image_shape


@dataclass(frozen=True)
class TorchvisionConfig:
    """A network by its name in torchvision."""

    architecture: str
    """Its name in torchvision.models: resnet18, vit_b_16, ..."""
    pretrained: str | None = None
    """The weights that training starts from: a file (safetensors, .pth), or hub for torchvision's default ones."""
    sha256: str = ""
    """SHA-256 of the file of weights; by default that of the file as it is now."""
    options: Annotated[tuple[str, ...], Others()] = ()
    """Further arguments of the function in torchvision: image_size=64, dropout=0.1, ..."""

    def __post_init__(self) -> None:
        """Find the pretrained weights."""
        if not self.sha256:
            object.__setattr__(self, "sha256", _foreign.digest(self.pretrained, lambda: _located(self)))


@architecture(reference="https://pytorch.org/vision/stable/models.html")
def build(config: TorchvisionConfig, shape: Shape, num_classes: int) -> nn.Module:
    """A network of torchvision by its name (needs the extra models): torchvision:resnet18,pretrained=FILE.

    Raises:
        RequestError: torchvision is missing or has no such network, the weights are missing or have changed, or the
            network does not take images of this shape.
    """
    models, options = _foreign.package("torchvision.models"), _foreign.values(config.options)
    image_shape(shape)
    _check(config)

    def made() -> object:
        model = models.get_model(config.architecture, weights=None, num_classes=num_classes, **options)
        return _foreign.start(model, _located(config), config.sha256) if config.pretrained else model

    return _foreign.checked(made, shape, num_classes, f"torchvision:{config.architecture}")


def _check(config: TorchvisionConfig) -> None:
    models = _foreign.package("torchvision.models")
    known = models.list_models(module=models)
    if config.architecture not in known:
        raise RequestError(registry.unknown("network of torchvision", config.architecture, known))


def _located(config: TorchvisionConfig) -> Path:
    """The file of pretrained weights, for ``hub`` in the cache of torch, into which it is downloaded if need be.

    Raises:
        RequestError: It is neither in the cache nor can be downloaded.
    """
    if config.pretrained != _foreign.HUB:
        return Path(str(config.pretrained))
    _check(config)
    url = str(_foreign.package("torchvision.models").get_model_weights(config.architecture).DEFAULT.url)
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), progress=False)
        except Exception as error:  # no network, a full disk: each has its own class
            raise RequestError(
                f"{path} is missing and cannot be downloaded ({error}): run `curl -LO {url}` where there is a network, "
                f"and copy the file to {path.parent}"
            ) from error
    return path
