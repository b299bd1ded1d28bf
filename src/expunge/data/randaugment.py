"""RandAugment on whole batches (Cubuk et al. 2020, arXiv:1909.13719), with the operations and ranges of torchvision.

Images are uint8, or float in [0, 1]; both are computed on the scale of 0 to 255, and uint8 is rounded down after each
operation. Geometry takes the nearest pixel, and zero outside of the image.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from expunge.core.errors import RequestError

STRONGEST = 30
"""The largest magnitude."""
GREY = (0.2989, 0.587, 0.114)
"""The weights of red, green and blue in brightness."""


def augmented(images: Tensor, operations: int, magnitude: int, generator: torch.Generator) -> Tensor:
    """Apply ``operations`` random operations to each image of (n, channels, height, width), one after the other.

    Each is drawn uniformly from the 14 in :data:`OPERATIONS`, its direction from two; the draws are three numbers an
    image and operation, whatever was drawn before. Cost: 14 masked passes over the batch for each operation.

    Raises:
        RequestError: Float images are not in [0, 1].
    """
    _check(images)
    drawn = torch.rand(2, operations, len(images), generator=generator, device=generator.device).to(images.device)
    for step in range(operations):
        chosen = (drawn[0, step] * len(OPERATIONS)).long().clamp(max=len(OPERATIONS) - 1)
        signs = torch.where(drawn[1, step] < 0.5, -1.0, 1.0)
        changed = images.clone()
        for number, operation in enumerate(OPERATIONS.values()):
            of_it = (chosen == number).nonzero().flatten()
            if len(of_it):
                changed[of_it] = operation(images[of_it], signs[of_it], magnitude / STRONGEST)
        images = changed
    return images


def rotated(images: Tensor, degrees: Tensor) -> Tensor:
    """Turn each image counter-clockwise about its centre, by its own angle (n,)."""
    angles = degrees.to(torch.float64).deg2rad()
    cos, sin = angles.cos(), angles.sin()
    return _moved(images, torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2), centred=True)


def _rotate(images: Tensor, signs: Tensor, strength: float) -> Tensor:
    return rotated(images, signs * 30 * strength)


def _shear_x(images: Tensor, signs: Tensor, strength: float) -> Tensor:
    return _moved(images, _shear(signs, 0.3 * strength, 0))


def _shear_y(images: Tensor, signs: Tensor, strength: float) -> Tensor:
    return _moved(images, _shear(signs, 0.3 * strength, 1))


def _shear(signs: Tensor, by: float, axis: int) -> Tensor:
    matrix = torch.eye(2, dtype=torch.float64, device=signs.device).repeat(len(signs), 1, 1)
    matrix[:, axis, 1 - axis] = signs.double() * by
    return matrix


def _translate_x(images: Tensor, signs: Tensor, strength: float) -> Tensor:
    return _translate(images, signs, strength, 0)


def _translate_y(images: Tensor, signs: Tensor, strength: float) -> Tensor:
    return _translate(images, signs, strength, 1)


def _translate(images: Tensor, signs: Tensor, strength: float, axis: int) -> Tensor:
    """Move by 150/331 of the side at full strength, in whole pixels."""
    offset = torch.zeros(len(images), 2, dtype=torch.float64, device=images.device)
    offset[:, axis] = -signs.double() * int(150 / 331 * images.shape[3 - axis] * strength)
    return _moved(images, _shear(signs, 0.0, 0), offset)


def _moved(images: Tensor, matrix: Tensor, offset: Tensor | None = None, *, centred: bool = False) -> Tensor:
    """Take each pixel (x, y) from the nearest one to ``matrix (x, y) + offset``, by image: (n, 2, 2) and (n, 2).

    Coordinates are those of the centres of pixels, relative to the upper left corner or to the centre of the image.
    """
    height, width = images.shape[2:]
    origin = torch.tensor([width / 2, height / 2] if centred else [0.0, 0.0], dtype=torch.float64, device=images.device)
    y, x = torch.meshgrid(
        torch.arange(height, device=images.device) + 0.5, torch.arange(width, device=images.device) + 0.5, indexing="ij"
    )
    places = torch.stack([x, y], -1).double().view(-1, 2) - origin
    found = places @ matrix.mT + origin + (0 if offset is None else offset[:, None])
    columns, rows = (found - 0.5).round().long().unbind(-1)
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    flat = (rows * width + columns).where(inside, 0)[:, None].expand(-1, images.shape[1], -1)
    return (images.flatten(2).gather(2, flat) * inside[:, None]).view(images.shape)


def _brightness(images: Tensor, signs: Tensor, strength: float) -> Tensor:
    return _blended(images, torch.zeros_like(_scaled(images)), signs, strength)


def _colour(images: Tensor, signs: Tensor, strength: float) -> Tensor:
    return images if images.shape[1] == 1 else _blended(images, _grey(images), signs, strength)


def _contrast(images: Tensor, signs: Tensor, strength: float) -> Tensor:
    return _blended(images, _grey(images).mean((1, 2, 3), keepdim=True), signs, strength)


def _sharpness(images: Tensor, signs: Tensor, strength: float) -> Tensor:
    """Blend with the images smoothed by 3 x 3 weights 1 and a 5 in the middle, whose borders stay as they are."""
    if min(images.shape[2:]) <= 2:
        return images
    plain, channels = _scaled(images), images.shape[1]
    kernel = torch.ones(3, 3, device=images.device)
    kernel[1, 1] = 5
    smooth = functional.conv2d(plain, (kernel / kernel.sum()).expand(channels, 1, 3, 3), groups=channels)
    inner = smooth.round() if images.dtype == torch.uint8 else smooth
    other = plain.clone()
    other[:, :, 1:-1, 1:-1] = inner
    return _blended(images, other, signs, strength)


def _blended(images: Tensor, other: Tensor, signs: Tensor, strength: float) -> Tensor:
    """``factor image + (1 - factor) other``, where the factor is ``1 + sign 0.9 strength``."""
    factor = (1 + signs * 0.9 * strength)[:, None, None, None]
    return _stored(factor * _scaled(images) + (1 - factor) * other, images.dtype)


def _posterize(images: Tensor, signs: Tensor, strength: float) -> Tensor:
    """Keep the highest bits: 8 to 4."""
    step = 2 ** round(4 * strength)
    return _stored((_scaled(images) / step).floor() * step, images.dtype)


def _solarize(images: Tensor, signs: Tensor, strength: float) -> Tensor:
    """Invert what is at least 255 (1 - strength)."""
    plain = _scaled(images)
    return _stored(torch.where(plain >= 255 * (1 - strength), 255 - plain, plain), images.dtype)


def _autocontrast(images: Tensor, signs: Tensor, strength: float) -> Tensor:
    """Stretch each channel to the whole range."""
    plain = _scaled(images)
    low, high = plain.amin((2, 3), keepdim=True), plain.amax((2, 3), keepdim=True)
    return torch.where(high > low, _stored((plain - low) * (255 / (high - low).clamp(min=1e-6)), images.dtype), images)


def _equalize(images: Tensor, signs: Tensor, strength: float) -> Tensor:
    """Make the histogram of each channel flat, as Pillow does."""
    levels = _scaled(images).floor().long().flatten(0, 1).flatten(1)
    counts = torch.zeros(len(levels), 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(1, levels, torch.ones_like(levels))
    highest = levels.amax(1, keepdim=True)
    step = (counts.sum(1, keepdim=True) - counts.gather(1, highest)) // 255
    table = (counts.cumsum(1) - counts + step // 2) // step.clamp(min=1)
    found = table.clamp(0, 255).gather(1, levels).where(step > 0, levels)
    return _stored(found.view(images.shape).float(), images.dtype)


def _identity(images: Tensor, signs: Tensor, strength: float) -> Tensor:
    return images


def _grey(images: Tensor) -> Tensor:
    """Brightness (n, 1, height, width), in whole levels for uint8."""
    plain = _scaled(images)
    if images.shape[1] == 3:
        weights = torch.tensor(GREY, device=images.device)[:, None, None]
        plain = (plain * weights).sum(1, keepdim=True)
    return plain.floor() if images.dtype == torch.uint8 else plain


def _check(images: Tensor) -> None:
    if images.is_floating_point() and len(images) and not (images.min() >= 0 and images.max() <= 1):
        raise RequestError("RandAugment needs uint8 images, or float images in [0, 1]: leave operations at 0")


def _scaled(images: Tensor) -> Tensor:
    return images.float() if images.dtype == torch.uint8 else images.float() * 255


def _stored(values: Tensor, dtype: torch.dtype) -> Tensor:
    values = values.clamp(0, 255)
    return values.to(dtype) if dtype == torch.uint8 else (values / 255).to(dtype)


OPERATIONS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "Identity": _identity,
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": _translate_x,
    "TranslateY": _translate_y,
    "Rotate": _rotate,
    "Brightness": _brightness,
    "Color": _colour,
    "Contrast": _contrast,
    "Sharpness": _sharpness,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "AutoContrast": _autocontrast,
    "Equalize": _equalize,
}
"""The operations: images, a direction of -1 or 1 for each, and the strength from 0 to 1, to other images."""
