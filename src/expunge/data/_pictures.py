"""Encoded images (PNG, JPEG, ...) as one array: decoded by many threads, all of one size and kind."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from expunge.data._assemble import Array
from expunge.errors import RequestError

GREY = ("L", "1", "LA")
COLOUR = ("RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV")
Picture = tuple[str, Callable[[], Path | BinaryIO]]
"""What to call an image in messages, and what opens it."""


def read(pictures: Iterable[Picture], where: str, size: int | None = None) -> Array:
    """Images as uint8: grey ones (n, height, width), coloured ones (n, height, width, 3).

    Args:
        pictures: The images, in order.
        where: What they are all in, for messages.
        size: Resize each to this many pixels on each side.

    Raises:
        RequestError: An image is damaged or has more than 8 bits, or their sizes or kinds differ.
    """
    with ThreadPoolExecutor() as pool:
        return _stack(list(pool.map(lambda picture: _pixels(picture, size), pictures)), where)


def _pixels(picture: Picture, size: int | None) -> Array:
    name, content = picture
    try:
        with Image.open(content()) as image:
            return np.asarray(_plain(image, name, size))
    except RequestError:
        raise
    except Image.UnidentifiedImageError:
        raise RequestError(f"{name} is damaged, or no image of a known format") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RequestError(f"{name} is damaged: {error}") from error


def _plain(image: Image.Image, name: str, size: int | None) -> Image.Image:
    """As 8-bit grey or RGB; a mode that would lose its range in silence is refused."""
    if image.mode not in GREY + COLOUR:
        raise RequestError(f"{name} has pixels of mode {image.mode}: convert it to 8-bit grey or RGB")
    plain = image.convert("L" if image.mode in GREY else "RGB")
    return plain if size is None else plain.resize((size, size), Image.Resampling.BICUBIC)


def _stack(images: Sequence[Array], where: str) -> Array:
    shapes = {image.shape for image in images}
    if len(shapes) != 1:
        found = " and ".join(map(str, sorted(shapes))) or "none"
        raise RequestError(f"{where}: all images must have one size and kind, found {found}")
    return np.stack(images)
