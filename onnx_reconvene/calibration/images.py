"""Folders of images as samples: resized, cropped and standardized."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_reconvene.errors import UsageError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")
IMAGENET = {"mean": "0.485,0.456,0.406", "std": "0.229,0.224,0.225", "order": "rgb"}
GRAY = {"mean": "0.5", "std": "0.5"}
SHORT_SIDE = 256 / 224  # of what is cropped, as in the usual evaluation on ImageNet


@dataclass(frozen=True)
class Preparation:
    """How an image becomes a sample: its shorter side is resized to `resize` pixels, `crop` (height, width) are cut from its
    centre, values in 0 to 1 are standardized by mean and std per channel."""

    resize: int
    crop: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    order: str  # rgb or bgr
    channels_last: bool

    def __str__(self) -> str:
        """Return how images are prepared, in one line."""
        mean, std = ("/".join(f"{x:g}" for x in values) for values in (self.mean, self.std))
        size = "x".join(map(str, self.crop))
        return f"images: resize {self.resize}, crop {size}, mean {mean}, std {std}, order {self.order}"


def preparation(shape: Sequence[int | None], given: Mapping[str, str]) -> Preparation:
    """Return how images become samples of a network input of this shape, [n, channels, height, width] or [n, height, width,
    channels]; given may name resize, crop, mean, std and order, other than the values usual for ImageNet."""
    unknown = given.keys() - {"resize", "crop", "mean", "std", "order"}
    if unknown:
        raise UsageError(f"--image {min(unknown)}: not one of resize, crop, mean, std, order")
    last = len(shape) == 4 and shape[1] not in (1, 3) and shape[3] in (1, 3)
    channels = shape[3 if last else 1] if len(shape) == 4 else None
    if channels not in (1, 3):
        raise UsageError(f"--data: the network takes {'x'.join(str(d or 'n') for d in shape)}, which is no image")
    usual = IMAGENET if channels == 3 else IMAGENET | GRAY
    text = usual | dict(given)
    height, width = shape[1:3] if last else shape[2:]
    try:
        size = [int(n) for n in given["crop"].replace("x", ",").split(",")] if "crop" in given else [height or 224, width or 224]
        crop = (size[0], size[-1])
        resize = int(given["resize"]) if "resize" in given else round(min(crop) * SHORT_SIDE)
        mean, std = (tuple(float(x) for x in text[key].split(",")) for key in ("mean", "std"))
    except ValueError as error:
        raise UsageError(f"--image: {error}") from error
    if len(mean) != channels or len(std) != channels or min(std) <= 0 or text["order"] not in ("rgb", "bgr"):
        raise UsageError(f"--image: mean and std (above 0) take {channels} numbers, order rgb or bgr")
    if (height or crop[0], width or crop[1]) != crop or resize < 1:
        raise UsageError(f"--image crop={'x'.join(map(str, crop))}: the network takes {height}x{width}")
    return Preparation(resize, crop, mean, std, text["order"], last)


def paths_in(folder: str) -> list[str]:
    """Return the images in folder and below, in the order in which they are read."""
    return sorted(
        os.path.join(place, file) for place, _, files in os.walk(folder) for file in files if file.lower().endswith(SUFFIXES)
    )


def chunks(folder: str, name: str, how: Preparation) -> Callable[[int], Iterator[dict[str, NDArray[Any]]]]:
    """Return a function that yields the images in folder and below, in the order of their paths, one at a time."""
    paths = paths_in(folder)
    if not paths:
        raise UsageError(f"--data {folder}: has no images ({', '.join(SUFFIXES)})")

    def read(size: int) -> Iterator[dict[str, NDArray[Any]]]:
        for path in paths:
            yield {name: sample(path, how)[None]}

    return read


def sample(path: str, how: Preparation) -> NDArray[np.float32]:
    """Return one image as the network takes it. Raises UsageError where it cannot be read."""
    try:
        from PIL import Image
    except ImportError as error:
        raise UsageError("--data: folders of images need Pillow: pip install 'onnx-reconvene[images]'") from error
    try:
        with Image.open(path) as image:
            picture = image.convert("RGB" if len(how.mean) == 3 else "L")
    except Exception as error:  # Pillow raises what its decoders raise
        raise UsageError(f"--data: {path} cannot be read as an image: {error}") from error
    height, width = how.crop
    scale = max(how.resize / min(picture.size), height / picture.height, width / picture.width)
    size = (max(round(picture.width * scale), width), max(round(picture.height * scale), height))
    picture = picture.resize(size, Image.Resampling.BILINEAR)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    pixels = np.asarray(picture.crop((left, top, left + width, top + height))).reshape(height, width, len(how.mean))
    ordered = pixels if how.order == "rgb" else pixels[..., ::-1]
    found = np.asarray((ordered / 255 - np.asarray(how.mean)) / np.asarray(how.std), np.float32)
    return found if how.channels_last else found.transpose(2, 0, 1)
