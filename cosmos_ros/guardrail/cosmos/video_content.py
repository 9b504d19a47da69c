"""The video content safety filter: SigLIP features of every frame, and a classifier over seven classes.

Unlike the published code it fails closed: a frame that cannot be judged refuses the rollout, and so does a feature
that is not finite. All frames given are judged in one go.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from cosmos_ros.device.placement import DeviceMemory
from cosmos_ros.guardrail.cosmos.local_models import huggingface
from cosmos_ros.guardrail.guard import PASSED, VIDEO_GUARD, ContentGuard, Judgement, require_finite, sha256_of
from cosmos_ros.guardrail_report import Verdict

ENCODER = "google/siglip-so400m-patch14-384"
CLASSIFIER = "safety_filter.pt"
CLASSES = ("Safe", "Sexual_Content", "Violence", "Drugs", "Child_Abuse", "Hate_and_Harassment", "Self-Harm")
HIDDEN = (512, 256)
CLEAR = 1.0  # logits between the first class and the second; half precision moves logits by hundredths


class Classifier(nn.Module):
    """Features [n, width] -> logits [n, 7]; key names as in safety_filter.pt, below `network.`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in zip((width, HIDDEN[0]), HIDDEN, strict=True):
            layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(HIDDEN[-1], len(CLASSES)))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.layers(features)


class VideoContentGuard(ContentGuard):
    """SigLIP from a folder in Hugging Face's cache layout and the `safety_filter.pt` in it, in float32, as published.

    Raises GuardrailUnavailable where SigLIP is missing or incomplete or a weight is not finite, OSError or RuntimeError
    where the classifier's file cannot be read or does not fit.
    """

    name = "video_content"

    def __init__(self, folder: Path, memory: DeviceMemory) -> None:
        encoder, classifier = huggingface.snapshot(folder, ENCODER), folder / CLASSIFIER
        self.weights = sha256_of([*huggingface.files_of(encoder), classifier], folder)
        self._device = memory.device
        self._preparation = _Preparation(encoder / "preprocessor_config.json")
        siglip = huggingface.load(huggingface.transformers().SiglipVisionModel, encoder, dtype=torch.float32)
        networks = nn.ModuleList([siglip, _load_classifier(classifier, width=siglip.config.hidden_size)])
        require_finite(folder, networks)
        self._networks = memory.hold(VIDEO_GUARD, networks)
        self.parts = (self._networks,)

    def judge(self, frames: np.ndarray) -> Judgement:
        for index, logits in enumerate(self.logits(frames)):
            if (label := int(logits.argmax())) != 0:
                return Judgement(Verdict.REFUSED, CLASSES[label], frame=index)
        return PASSED

    @torch.inference_mode()
    def logits(self, frames: np.ndarray) -> torch.Tensor:
        """Logits [k, 7] on the host for frames uint8 [k, h, w, 3] RGB.

        On a GPU the encoder runs in half precision first, and again in float32 for a frame whose class is in doubt.
        Raises ValueError where a logit is not finite.
        """
        pixels = self._preparation(frames).to(self._device)
        with self._networks.in_use() as networks:
            if self._device.type == "cuda":
                logits = logits_of(networks, pixels, torch.float16)
                doubtful = ~_clear(logits)
                if doubtful.any():
                    logits[doubtful] = logits_of(networks, pixels[doubtful], torch.float32)
            else:
                logits = logits_of(networks, pixels, torch.float32)
        logits = logits.cpu()
        if logits.shape != (len(frames), len(CLASSES)) or not torch.isfinite(logits).all():
            raise ValueError(f"the classifier's logits {list(logits.shape)} are not finite, or too few")
        return logits


def logits_of(networks: Iterable[nn.Module], pixels: torch.Tensor, precision: torch.dtype) -> torch.Tensor:
    """Logits float32 [k, 7] of encoder and classifier for prepared frames [k, 3, size, size].

    The encoder runs in the precision, by autocast, which holds for this thread alone: torch's TF32 switch would reach
    into the world model's arithmetic.
    """
    encoder, classifier = networks
    with torch.autocast(pixels.device.type, dtype=precision, enabled=precision != torch.float32):
        features = encoder(pixel_values=pixels).pooler_output.float()
    return classifier(features / features.norm(dim=-1, keepdim=True))


def _clear(logits: torch.Tensor) -> torch.Tensor:
    """Which rows [k] of logits [k, 7] are finite with a first class well above the second."""
    first, second = logits.topk(2, dim=-1).values.unbind(-1)
    return torch.isfinite(logits).all(dim=-1) & (first - second > CLEAR)


class _Preparation:
    """Frames as SigLIP takes them: squashed to its square by PIL's bicubic (the aspect is not kept), normalised."""

    def __init__(self, config: Path) -> None:
        values = json.loads(config.read_text())
        self._size = int(values["size"]["width"]), int(values["size"]["height"])
        self._mean = torch.tensor(values["image_mean"]).view(3, 1, 1)
        self._std = torch.tensor(values["image_std"]).view(3, 1, 1)
        self._scale = float(values["rescale_factor"])

    def __call__(self, frames: np.ndarray) -> torch.Tensor:
        """float32 [k, 3, size, size] for frames uint8 [k, h, w, 3]."""
        with ThreadPoolExecutor(max_workers=len(frames)) as pool:  # PIL releases the GIL
            squashed = torch.from_numpy(np.stack(list(pool.map(self._squash, frames))))
        return (squashed.permute(0, 3, 1, 2) * self._scale - self._mean) / self._std

    def _squash(self, frame: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(frame).resize(self._size, Image.Resampling.BICUBIC))


def _load_classifier(file: Path, width: int) -> Classifier:
    stored = torch.load(file, map_location="cpu", weights_only=True)["model"]
    classifier = Classifier(width)
    classifier.load_state_dict({key.removeprefix("network."): value for key, value in stored.items()})
    return classifier.float().eval()
