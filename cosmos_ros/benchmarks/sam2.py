"""SAM 2 (Ravi et al., 2024): finds objects again by its trained networks, where the user brings their weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from cosmos_ros.errors import ForesightError

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels, as it was trained with
WEIGHTS = "model.safetensors"
EXPECTED = (
    "expected a folder in the layout of facebook/sam2.1-hiera-tiny on Hugging Face: config.json, model.safetensors"
)


class NoSam2(ForesightError):
    """SAM 2 cannot be loaded; the message says why."""


class Sam2:
    """Of a local folder in the layout of the transformers library. Raises NoSam2."""

    def __init__(self, folder: Path, device: str) -> None:
        if not (folder / WEIGHTS).is_file():
            raise NoSam2(f"--sam2 {folder} holds no {WEIGHTS}; {EXPECTED}")
        try:
            from transformers import Sam2VideoModel

            self._model, found = Sam2VideoModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True, dtype=torch.float32
            )
        except Exception as error:  # which differ from version to version
            raise NoSam2(f"--sam2 {folder}: {error}; {EXPECTED}") from error
        if missing := sorted(found["missing_keys"]):  # the library would leave them random
            raise NoSam2(f"--sam2 {folder} lacks weights of SAM 2 ({', '.join(missing[:3])}); {EXPECTED}")
        self._model.to(device).eval()
        self._device, self._size = device, (self._model.image_size,) * 2

    @torch.inference_mode()
    def __call__(self, frame: np.ndarray, mask: np.ndarray, frames: np.ndarray) -> np.ndarray:
        """Where the objects of one frame are in those that follow it: uint8 [n, h, w], as in its mask.

        frame   uint8 [H, W, 3] RGB
        mask    uint8 [h, w]: object i is labelled i + 1; one that is not seen here is not looked for
        frames  uint8 [n, H, W, 3]
        """
        labels = np.zeros((len(frames), *mask.shape), np.uint8)
        objects = [int(label) for label in np.unique(mask) if label]
        if not objects:
            return labels
        session = self._session(frame, mask, objects)
        for k, each in enumerate(frames, start=1):
            logits = self._model(session, frame=self._pixels(each), frame_idx=k).pred_masks[:, 0]
            labels[k - 1] = _labels(logits, objects, mask.shape)
        return labels

    def _session(self, frame: np.ndarray, mask: np.ndarray, objects: Sequence[int]) -> Any:
        """That has been shown the objects."""
        from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

        session = Sam2VideoInferenceSession(
            video_height=mask.shape[0],
            video_width=mask.shape[1],
            inference_device=self._device,
            inference_state_device=self._device,
            dtype=torch.float32,
        )
        for label in objects:
            own = torch.from_numpy(cv2.resize((mask == label).astype(np.float32), self._size))
            session.add_mask_inputs(session.obj_id_to_idx(label), 0, (own >= 0.5).float()[None, None])
        session.obj_with_new_inputs = list(objects)
        self._model(session, frame=self._pixels(frame), frame_idx=0)
        return session

    def _pixels(self, frame: np.ndarray) -> Tensor:
        """float32 [1, 3, side, side], normalised."""
        picture = torch.from_numpy(cv2.resize(frame, self._size, interpolation=cv2.INTER_LINEAR))
        pixels = (picture / 255 - torch.tensor(MEAN)) / torch.tensor(DEVIATION)
        return pixels.permute(2, 0, 1)[None].to(self._device)


def _labels(logits: Tensor, objects: Sequence[int], size: tuple[int, ...]) -> np.ndarray:
    """uint8 [h, w] of one frame's logits [objects, side, side]; where several want a pixel, the surest has it."""
    large = torch.nn.functional.interpolate(logits[None].float(), size=size, mode="bilinear", align_corners=False)[0]
    surest, index = large.max(dim=0)
    return np.where((surest > 0).cpu(), np.array(objects, np.uint8)[index.cpu()], 0).astype(np.uint8)
