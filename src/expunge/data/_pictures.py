"""Decoding of images (PNG, JPEG, ...) to one array, in parallel threads, once (``_decode_cache.py``)."""

import hashlib
import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from PIL import __version__ as pillow

from expunge.core import files
from expunge.core.errors import RequestError
from expunge.data import _decode_cache
from expunge.data._assemble import Array, Part
from expunge.data._decode_cache import Entry

GREY = ("L", "1", "LA")
COLOUR = ("RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV")
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""The formats that are decoded: no others, some of which start programs."""
CURE = "replace it, or leave it out"
FEWER = "take fewer by limit, or smaller ones by size"
SMALL, PIXELS_A_BYTE = 2**20, 10_000
"""So many pixels any file may say that it has; more only if it has bytes for them, however well it is compressed."""
TOGETHER = 64
"""Images per task of a thread."""
CACHED = 2**22
"""Fewer bytes of pixels are not cached."""

Picture = tuple[str, Callable[[], Path | BinaryIO]]
"""The name of an image for messages, and a function that opens it."""
Unreadable = Literal["refuse", "skip"]
"""What is done about images that cannot be decoded."""


@dataclass(frozen=True)
class Resize:
    """Resize to ``size`` x ``size`` pixels, whatever the proportions."""

    size: int
    bilinear: bool = False
    """By bilinear interpolation; by default it is bicubic."""

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the resized image."""
        filters = Image.Resampling
        return image.resize((self.size, self.size), filters.BILINEAR if self.bilinear else filters.BICUBIC)


@dataclass(frozen=True)
class CentreCrop:
    """Keep the central square of ``size`` x ``size`` pixels."""

    size: int

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the square; raise a RequestError if the image is smaller."""
        width, height = image.size
        if min(width, height) < self.size:
            raise RequestError(f"has {width} x {height} pixels, too few for a crop of {self.size}: give a smaller crop")
        left, top = (width - self.size) // 2, (height - self.size) // 2
        return image.crop((left, top, left + self.size, top + self.size))


Step: TypeAlias = Resize | CentreCrop


@dataclass(frozen=True)
class Decoding:
    """How images are decoded: the turn that their EXIF data ask for, then these steps."""

    steps: tuple[Step, ...] = ()
    colour: bool = False
    """Make grey images RGB even if all are grey."""
    unreadable: Unreadable = "refuse"
    """Whether an image that cannot be decoded is refused, or left out and counted."""


PLAIN = Decoding()


@dataclass(frozen=True)
class Reading:
    """What is read of the files of a set, where they offer a choice."""

    decoding: Decoding = PLAIN
    image: str = ""
    """The column of images; by default by its usual names."""
    label: str = ""
    """The column or list of labels; by default by its usual names."""
    tests: tuple[str, ...] = ("test", "valid", "validation")
    """The splits that are the test set; the first that is there."""


USUAL = Reading()


@dataclass(frozen=True)
class Decoded:
    """Images uint8 (n, height, width) if all are grey, else (n, height, width, 3)."""

    images: Array
    kept: npt.NDArray[np.int64]
    """Their places among those that were asked for, ascending."""
    converted: int = 0
    """How many grey ones were made RGB."""


def sized(size: int | None) -> tuple[Step, ...]:
    """The steps that resize to a size, if there is one."""
    return () if size is None else (Resize(size),)


def read(pictures: Sequence[Picture], where: str, decoding: Decoding = PLAIN) -> Decoded:
    """Decode images. Transparency is dropped, palettes and CMYK become RGB, and 16-bit pixels are refused.

    Memory: that of the result, stored channels first as in a Dataset, and one decoded image per thread.

    Raises:
        RequestError: There is no image; one is damaged, has more than 8 bits or too many pixels; or sizes differ.
    """
    if not pictures:
        raise RequestError(f"{where}: there are no images")
    shape = _first_shape(pictures, where, decoding)
    wanted = len(pictures) * int(np.prod(shape))
    files.check_room(wanted, where, FEWER)
    make = partial(_entry, pictures, where, decoding, shape)
    entry = make() if wanted < CACHED else _decode_cache.cached(_digest(pictures, decoding), make)
    kept = np.arange(len(entry.array)) if entry.about["kept"] is None else np.array(entry.about["kept"])
    images = entry.array.transpose(0, 2, 3, 1) if entry.array.ndim == 4 else entry.array
    return Decoded(images, kept.astype(np.int64), cast("int", entry.about["converted"]))


def part(
    pictures: Sequence[Picture],
    labels: Sequence[int] | Array,
    where: str,
    decoding: Decoding,
) -> Part:
    """The part of a set whose examples are these pictures, decoded on demand."""

    def some(positions: Sequence[int]) -> tuple[Array, Sequence[int], tuple[str, ...]]:
        found = read([pictures[position] for position in positions], where, decoding)
        kept = [positions[place] for place in found.kept.tolist()]
        notes: list[str] = []
        if found.converted:
            notes.append(f"{found.converted} grey images were converted to RGB")
        if missing := sorted({*positions} - {*kept}):
            first = ", ".join(pictures[position][0] for position in missing[:3])
            notes.append(f"{len(missing)} of {len(positions)} images cannot be read and are left out: {first}")
        return found.images, kept, tuple(notes)

    return Part(np.asarray(labels, np.int64), some)


def of_files(labelled: Sequence[tuple[Path, int]], root: Path, decoding: Decoding) -> Part:
    """The part of a set whose examples are these files, with their labels."""
    pictures = [(str(path), partial(Path, path)) for path, _ in labelled]
    return part(pictures, [label for _, label in labelled], str(root), decoding)


class _Coloured(Exception):
    """An image in colour among grey ones."""


def _first_shape(pictures: Sequence[Picture], where: str, decoding: Decoding) -> tuple[int, ...]:
    """The shape of the first image that can be decoded."""
    reason: RequestError | None = None
    for picture in pictures:
        try:
            shape = decode(picture, decoding.steps).shape
        except RequestError as error:
            if decoding.unreadable == "refuse":
                raise
            reason = reason or error
        else:
            return (*shape[:2], 3) if decoding.colour else shape
    raise RequestError(f"{where}: none of {len(pictures)} images can be read; {reason}")


def _entry(pictures: Sequence[Picture], where: str, decoding: Decoding, shape: tuple[int, ...]) -> Entry:
    """Decode as grey if the first image is; if one in colour turns up, decode everything again as RGB."""
    try:
        return _filled(pictures, where, decoding, shape, pictures[0][0])
    except _Coloured:
        return _filled(pictures, where, decoding, (*shape, 3), pictures[0][0])


def _filled(pictures: Sequence[Picture], where: str, decoding: Decoding, shape: tuple[int, ...], first: str) -> Entry:
    memory = np.empty((len(pictures), *shape[2:], *shape[:2]), np.uint8)
    images = memory.transpose(0, 2, 3, 1) if len(shape) == 3 else memory
    readable, converted = np.ones(len(pictures), bool), np.zeros(len(pictures), bool)

    def fill(start: int) -> None:
        for index, picture in enumerate(pictures[start : start + TOGETHER], start):
            try:
                pixels = decode(picture, decoding.steps)
            except RequestError:
                if decoding.unreadable == "refuse":
                    raise
                readable[index] = False
                continue
            if pixels.shape[:2] != shape[:2]:
                raise RequestError(
                    f"{where}: all images must have one size, {first} has {shape[:2]} and {picture[0]} "
                    f"{pixels.shape[:2]}: resize them by size=..."
                )
            if pixels.ndim > len(shape):
                raise _Coloured
            converted[index] = pixels.ndim < len(shape)
            images[index] = pixels[..., None] if converted[index] else pixels

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(fill, range(0, len(pictures), TOGETHER)):
            pass
    kept = None if readable.all() else np.flatnonzero(readable)
    about = {"kept": None if kept is None else kept.tolist(), "converted": int(converted.sum())}
    return Entry(memory if kept is None else memory[kept], about)


def _digest(pictures: Sequence[Picture], decoding: Decoding) -> str:
    """SHA-256 of the encoded images in order, how they are decoded, and by which program."""

    def of_some(start: int) -> bytes:
        found = b""
        for name, content in pictures[start : start + TOGETHER]:
            source = content()
            try:
                encoded = files.content(source, CURE) if isinstance(source, Path) else source.read()
            except RequestError:
                encoded = f"unreadable {name}".encode()
            found += hashlib.sha256(encoded).digest()
        return found

    whole = hashlib.sha256(f"1 {pillow} {decoding}".encode())
    with ThreadPoolExecutor() as pool:
        for part in pool.map(of_some, range(0, len(pictures), TOGETHER)):
            whole.update(part)
    return whole.hexdigest()


def decode(picture: Picture, steps: Sequence[Step] = ()) -> Array:
    """Decode one image, to uint8 (height, width) if it is grey, else (height, width, 3).

    Raises:
        RequestError: It is damaged, has more than 8 bits or too many pixels; the message begins with its name.
    """
    name, content = picture
    source = content()
    # In memory, as reading in steps from a file would allocate whatever a length in it says.
    with io.BytesIO(files.content(source, CURE)) if isinstance(source, Path) else source as file:
        try:
            with Image.open(file, formats=FORMATS) as image:
                _check_size(image, file)
                plain = _plain(image)
                for step in steps:
                    plain = step(plain)
                return np.asarray(plain)
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
    """Upright, as 8-bit grey or RGB; modes with more bits are refused."""
    if image.mode not in GREY + COLOUR:
        raise RequestError(f"has pixels of mode {image.mode}: convert it to 8-bit grey or RGB")
    ImageOps.exif_transpose(image, in_place=True)
    return image.convert("L" if image.mode in GREY else "RGB")


_TOO_LARGE = "has too many pixels to be decoded safely: make it smaller, or leave it out"
