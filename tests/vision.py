"""torchvision and timm where the compiled operators of torchvision do not fit the installed torch."""

import pytest
import torch

_DEFINED: list[torch.library.Library] = []


def importable() -> None:
    """Define the operators that importing torchvision needs, if they are missing; skip if it is not installed."""
    try:
        import torchvision
    except ImportError:
        pytest.skip("torchvision is not installed")
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor boxes, Tensor scores, float threshold) -> Tensor")
        library.define("qnms(Tensor boxes, Tensor scores, float threshold) -> Tensor")
        _DEFINED.append(library)  # it defines them as long as it exists
        import torchvision  # noqa: F401


def timm() -> None:
    """Make timm importable; skip if it is not installed."""
    importable()
    pytest.importorskip("timm")
