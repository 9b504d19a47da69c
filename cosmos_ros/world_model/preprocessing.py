"""From the camera's pixels to the model's: the published resize and centre crop."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cosmos_ros.rollout import Crop

# An image that would be resized to more than this many model frames is cut at its unseen ends first.
MAX_RESIZED_FRAMES = 16


@dataclass(frozen=True)
class Fit:
    """A camera image resized to [height, width], of which the model sees its own size from (top, left) on."""

    height: int
    width: int
    top: int
    left: int

    @classmethod
    def of(cls, camera_size: tuple[int, int], model_size: tuple[int, int]) -> Fit:
        """Both sizes are (height, width). The image covers the model's frame; the excess is cropped evenly."""
        camera_height, camera_width = camera_size
        model_height, model_width = model_size
        scale = max(model_width / camera_width, model_height / camera_height)
        # Rounding as published, float64 and all: 1050x1680 becomes 641x1024 for a 640x1024 model.
        height, width = math.ceil(scale * camera_height), math.ceil(scale * camera_width)
        return cls(height, width, top=round((height - model_height) / 2), left=round((width - model_width) / 2))


def camera_view(camera_size: tuple[int, int], model_size: tuple[int, int]) -> Crop:
    """What the model sees of the camera's image, in whole camera pixels, inside the image.

    camera_size, model_size  (height, width)
    """
    fit = Fit.of(camera_size, model_size)
    y, height = _covered(fit.top, model_size[0], fit.height, camera_size[0])
    x, width = _covered(fit.left, model_size[1], fit.width, camera_size[1])
    return Crop(x=x, y=y, width=width, height=height)


def to_model_input(frames: np.ndarray, model_size: tuple[int, int]) -> Tensor:
    """Camera frames uint8 [n, H, W, 3] -> float32 [1, 3, n, h, w] in [-1, 1], on the CPU.

    Bilinear with antialiasing on the [-1, 1] values, then a centre crop; nothing is padded.
    """
    frames = _without_unseen_ends(frames, model_size)
    camera_size = frames.shape[1:3]
    fit = Fit.of(camera_size, model_size)
    rows, columns = slice(fit.top, fit.top + model_size[0]), slice(fit.left, fit.left + model_size[1])
    seen = torch.empty(len(frames), 3, *model_size)
    for frame, place in zip(frames, seen, strict=True):
        values = torch.from_numpy(np.array(frame, order="C")).permute(2, 0, 1)[None].float()
        values.div_(255).mul_(2).sub_(1)
        if (fit.height, fit.width) != camera_size:
            values = F.interpolate(values, size=(fit.height, fit.width), mode="bilinear", antialias=True)
        place.copy_(values[0, :, rows, columns])
    return seen.transpose(0, 1)[None]


def resized(frames: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Whole frames uint8 [n, H, W, 3] at another (height, width): float32 [1, 3, n, h, w] in [-1, 1], on the CPU.

    For frames that show what the model sees and no more, as predicted ones do: cutting them to the model's aspect would
    take off what was rounded, a little more each time.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1
    if frames.shape[1:3] != size:
        pixels = F.interpolate(pixels, size=size, mode="bilinear", antialias=True)
    return pixels.transpose(0, 1)[None]


def _covered(start: int, seen: int, resized: int, camera: int) -> tuple[int, int]:
    """First camera pixel and number of camera pixels under the seen part of one axis, rounded; at least one."""
    first = min(round(start * camera / resized), camera - 1)
    end = min(round((start + seen) * camera / resized), camera)
    return first, max(end - first, 1)


def _without_unseen_ends(frames: np.ndarray, model_size: tuple[int, int]) -> np.ndarray:
    """Cut an extremely long image down around its middle, so that resizing it does not fill the memory."""
    size = list(frames.shape[1:3])
    fit = Fit.of(tuple(size), model_size)
    for axis, resized in enumerate((fit.height, fit.width)):
        limit = MAX_RESIZED_FRAMES * model_size[axis]
        if resized > limit:
            keep = size[axis] * limit // resized
            keep += (size[axis] - keep) % 2  # both ends lose the same, so the middle stays the middle
            first = (size[axis] - keep) // 2
            frames = frames.take(range(first, first + keep), axis=axis + 1)
    return frames
