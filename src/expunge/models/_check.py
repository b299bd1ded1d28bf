"""Checks of the shape of the inputs."""

from expunge.core.errors import RequestError

Shape = tuple[int, ...]


def image_shape(shape: Shape, least: int = 1) -> tuple[int, int, int]:
    """Channels, height and width; a RequestError unless they are those of an image of at least ``least`` pixels."""
    if len(shape) != 3 or min(shape) < 1 or min(shape[1:]) < least:
        raise RequestError(f"this model takes images (channels, height, width) of {least} pixels or more, got {shape}")
    return shape[0], shape[1], shape[2]
