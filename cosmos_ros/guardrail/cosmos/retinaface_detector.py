"""The face detector of Cosmos-1.0-Guardrail: RetinaFace on whole frames, a batch at a time."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from cosmos_ros.device.placement import DeviceMemory
from cosmos_ros.errors import GuardrailUnavailable
from cosmos_ros.guardrail.cosmos.retinaface_network import RetinaFace
from cosmos_ros.guardrail.face_blur import FaceDetector
from cosmos_ros.guardrail.guard import VIDEO_GUARD, require_finite, sha256_of

MEAN_BGR = (104.0, 117.0, 123.0)
LEVELS = ((8, (16, 32)), (16, (64, 128)), (32, (256, 512)))  # stride, sizes of the anchors in each cell; pixels
VARIANCES = (0.1, 0.2)
MIN_CONFIDENCE = 0.7
MAX_OVERLAP = 0.4
TOP_BEFORE_NMS = 5000
TOP_AFTER_NMS = 750


class RetinaFaceDetector(FaceDetector):
    """The network in `Resnet50_Final.pth`, in float32.

    Raises GuardrailUnavailable where the file is missing, lacks a weight or has one that is not finite, RuntimeError
    or the unpickler's errors where it cannot be read or a weight has another shape.
    """

    def __init__(self, file: Path, memory: DeviceMemory) -> None:
        self.weights = sha256_of([file], file.parent)
        self._device = memory.device
        self._network = memory.hold(VIDEO_GUARD, load_network(file))
        self.parts = (self._network,)
        self._mean = torch.tensor(MEAN_BGR).view(3, 1, 1)

    @torch.inference_mode()
    def detect(self, frames: np.ndarray) -> list[np.ndarray]:
        """Raises ValueError where the network's output is not finite."""
        pixels = torch.from_numpy(frames.copy()).to(self._device).permute(0, 3, 1, 2).flip(1)
        with self._network.in_use() as network:
            offsets, scores = network(pixels.float() - self._mean.to(self._device))
        if not (torch.isfinite(offsets).all() and torch.isfinite(scores).all()):
            raise ValueError("the face detector's output is not finite")
        height, width = frames.shape[1:3]
        return find_boxes(offsets, scores, anchors(height, width).to(self._device), height, width)


def load_network(file: Path) -> RetinaFace:
    """RetinaFace with a file's weights, in eval mode. Other weights in the file (landmark heads) are ignored."""
    stored = torch.load(file, map_location="cpu", weights_only=True)
    stored = {key.removeprefix("module."): value for key, value in stored.get("state_dict", stored).items()}
    network = RetinaFace()
    # Not missing are the norms' counts of batches, which old files lack: only training asks for them.
    if missing := network.load_state_dict(stored, strict=False).missing_keys:
        raise GuardrailUnavailable(f"{file} is no RetinaFace with a ResNet-50: it lacks {', '.join(missing[:3])}")
    require_finite(file, network)
    return network.float().eval()


def find_boxes(
    offsets: torch.Tensor, scores: torch.Tensor, priors: torch.Tensor, height: int, width: int
) -> list[np.ndarray]:
    """Faces from the network's output for frames of height x width pixels.

    offsets [n, anchors, 4], scores [n, anchors], priors [anchors, 4] -> n arrays float32 [faces, 4] of x1, y1, x2, y2
    in pixels, the surest first.
    """
    scale = torch.tensor([width, height, width, height], dtype=offsets.dtype, device=offsets.device)
    found = []
    for frame_offsets, frame_scores in zip(offsets, scores, strict=True):
        sure = (frame_scores > MIN_CONFIDENCE).nonzero()[:, 0]
        boxes = (decode(frame_offsets[sure], priors[sure]) * scale).cpu().numpy()
        sureness = frame_scores[sure].cpu().numpy()
        order = sureness.argsort()[::-1][:TOP_BEFORE_NMS]
        boxes, sureness = boxes[order], sureness[order]
        found.append(boxes[suppress(boxes, sureness)][:TOP_AFTER_NMS])
    return found


def decode(offsets: torch.Tensor, priors: torch.Tensor) -> torch.Tensor:
    """Boxes [n, 4] (x1, y1, x2, y2) from offsets [n, 4] to priors [n, 4] (centre, size), all in parts of the frame."""
    centres = priors[:, :2] + offsets[:, :2] * VARIANCES[0] * priors[:, 2:]
    sizes = priors[:, 2:] * torch.exp(offsets[:, 2:] * VARIANCES[1])
    corners = centres - sizes / 2
    return torch.cat((corners, sizes + corners), dim=1)


def suppress(boxes: np.ndarray, scores: np.ndarray) -> list[int]:
    """Non-maximum suppression: indices of the boxes [n, 4] kept, the surest first. A box's last pixel belongs to it."""
    x1, y1, x2, y2 = boxes.T
    areas = (x2 - x1 + 1) * (y2 - y1 + 1)
    order = scores.argsort()[::-1]
    kept = []
    while order.size:
        best, order = order[0], order[1:]
        kept.append(int(best))
        width = np.maximum(0, np.minimum(x2[best], x2[order]) - np.maximum(x1[best], x1[order]) + 1)
        height = np.maximum(0, np.minimum(y2[best], y2[order]) - np.maximum(y1[best], y1[order]) + 1)
        shared = width * height
        overlap = shared / (areas[best] + areas[order] - shared)
        order = order[~(overlap > MAX_OVERLAP)]  # what overflowed to NaN stays
    return kept


@lru_cache(maxsize=4)
def anchors(height: int, width: int) -> torch.Tensor:
    """Anchors [n, 4] (centre x, centre y, width, height, in parts of the frame): by level, row, column and size."""
    levels = []
    for stride, sizes in LEVELS:
        rows, columns = math.ceil(height / stride), math.ceil(width / stride)
        y, x, size = np.meshgrid(np.arange(rows) + 0.5, np.arange(columns) + 0.5, sizes, indexing="ij")
        level = np.stack((x * stride / width, y * stride / height, size / width, size / height), axis=-1)
        levels.append(level.reshape(-1, 4))
    return torch.from_numpy(np.concatenate(levels).astype(np.float32))
