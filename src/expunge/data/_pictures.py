"""Decoding of images (PNG, JPEG, ...) to one array, in parallel threads."""

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from expunge.core import files
from expunge.core.errors import RequestError
from expunge.data._assemble import Array

GREY = ("L", "1", "LA")
COLOUR = ("RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV")
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""The formats that are decoded: no others, some of which start programs."""
CURE = "replace it, or leave it out"
SMALL, PIXELS_A_BYTE = 2**20, 10_000
"""So many pixels any file may say that it has; more only if it has bytes for them, however well it is compressed."""
TOGETHER = 64
"""Images per task of a thread."""

Picture = tuple[str, Callable[[], Path | BinaryIO]]
"""The name of an image for messages, and a function that opens it."""
Prepare = Callable[[Image.Image], Image.Image]
"""A change of an image of mode L or RGB, such as a crop; the image's name is prepended to its errors."""


def read(pictures: Sequence[Picture], where: str, prepare: Prepare | None = None) -> Array:
    """Decode images to uint8: (n, height, width) if grey, (n, height, width, 3) if RGB.

    Memory: that of the result, stored channels first as in a Dataset, and one decoded image per thread.

    Raises:
        RequestError: There is no image; one is damaged, has more than 8 bits or too many pixels; or sizes or modes
            differ.
    """
    if not pictures:
        raise RequestError(f"{where}: there are no images")
    model = _pixels(pictures[0], prepare)
    files.check_room(len(pictures) * model.nbytes, where)
    memory = np.empty((len(pictures), *model.shape[2:], *model.shape[:2]), np.uint8)
    images = memory.transpose(0, 2, 3, 1) if model.ndim == 3 else memory

    def fill(start: int) -> None:
        for index, picture in enumerate(pictures[start : start + TOGETHER], start):
            pixels = _pixels(picture, prepare)
            if pixels.shape != model.shape:
                raise RequestError(
                    f"{where}: all images must have one size and kind, {pictures[0][0]} has {model.shape} and "
                    f"{picture[0]} {pixels.shape}"
                )
            images[index] = pixels

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(fill, range(0, len(pictures), TOGETHER)):
            pass
    return images


def read_files(
    labelled: Sequence[tuple[Path, int]], where: Path, prepare: Prepare | None = None
) -> tuple[Array, npt.NDArray[np.int64]]:
    """The images of files (see :func:`read`), and the labels given with them."""
    images = read([(str(path), partial(Path, path)) for path, _ in labelled], str(where), prepare)
    return images, np.array([label for _, label in labelled], np.int64)


def resized(image: Image.Image, size: int, resampling: Image.Resampling = Image.Resampling.BICUBIC) -> Image.Image:
    """Resize an image to ``size`` x ``size`` pixels."""
    return image.resize((size, size), resampling)


def _pixels(picture: Picture, prepare: Prepare | None) -> Array:
    name, content = picture
    source = content()
    # In memory, as reading in steps from a file would allocate whatever a length in it says.
    with io.BytesIO(files.content(source, CURE)) if isinstance(source, Path) else source as file:
        try:
            with Image.open(file, formats=FORMATS) as image:
                _check_size(image, file)
                plain = _plain(image)
                return np.asarray(plain if prepare is None else prepare(plain))
        except RequestError as error:
            raise RequestError(f"{name} {error}") from error
        except MemoryError:
            raise
        except Image.UnidentifiedImageError:
            raise RequestError(f"{name} is damaged, or no image of a known format") from None
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise RequestError(f"{name} {_TOO_LARGE}") from None
        except Exception as error:  # a damaged image makes Pillow raise almost anything
            raise RequestError(f"{name} is damaged: {error}") from error


def _check_size(image: Image.Image, file: BinaryIO) -> None:
    """Raise a RequestError if the file says that it has more pixels than are safe, or than so few bytes hold."""
    place = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(place)
    if image.width * image.height > min(Image.MAX_IMAGE_PIXELS or np.inf, SMALL + PIXELS_A_BYTE * size):
        raise RequestError(_TOO_LARGE)


def _plain(image: Image.Image) -> Image.Image:
    """As 8-bit grey or RGB; modes with more bits are refused."""
    if image.mode not in GREY + COLOUR:
        raise RequestError(f"has pixels of mode {image.mode}: convert it to 8-bit grey or RGB")
    return image.convert("L" if image.mode in GREY else "RGB")


_TOO_LARGE = "has too many pixels to be decoded safely: make it smaller, or leave it out"
