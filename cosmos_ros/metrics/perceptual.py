"""LPIPS and FVD: distances computed by trained networks whose weights the user brings; off where no file is named.

LPIPS  Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018
FVD    Unterthiner et al., "Towards Accurate Generative Models of Video", arXiv:1812.01717, on the I3D network in the
       TorchScript form of Skorokhodov et al., StyleGAN-V, CVPR 2022

All frames are uint8 [n, H, W, 3] RGB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cosmos_ros.files import check_regular
from cosmos_ros.reading import reading
from cosmos_ros.torchscript import load_program

LPIPS_FILE = "torchvision's ImageNet weights of AlexNet, alexnet-owt-7be5be79.pth from download.pytorch.org/models"
FVD_FILE = "the I3D network as TorchScript, i3d_torchscript.pt, linked from github.com/universome/fvd-comparison"
FVD_CLIPS = 2048  # with fewer, the distance between two sets of clips mostly reflects their small number
SMALLEST = 31  # pixels, of an image from which AlexNet's second pooling still gives something

# The learned weight of each channel of AlexNet's five stages, under the BSD licence that NOTICE repeats.
_HEADS = Path(__file__).with_name("lpips_heads.safetensors")
# The mean and spread of ImageNet's colours, for channels in [-1, 1], as LPIPS was trained with.
_MEAN, _SPREAD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class BadWeights(Exception):
    """A file that does not hold the weights it was named for; the message says which file does, and where it is."""


class Perceptual:
    """The two distances, each only where the file of its weights is named. Raises BadWeights.

    lpips_weights, fvd_weights  paths, or "" for none
    """

    def __init__(self, lpips_weights: str, fvd_weights: str, device: torch.device | str) -> None:
        self._lpips = Lpips(lpips_weights, device) if lpips_weights else None
        self._i3d = VideoFeatures(fvd_weights, device) if fvd_weights else None

    def per_step(self, frames: np.ndarray, truth: np.ndarray) -> dict[str, list[float | None]]:
        """{"lpips": of each frame}, or nothing."""
        return {"lpips": self._lpips(frames, truth)} if self._lpips else {}

    def of_videos(self, videos: Mapping[str, Sequence[np.ndarray]]) -> dict[str, dict[str, list[list[float]]]]:
        """{"video_features": row -> what FVD is computed from, of each of the row's videos}, or nothing."""
        if self._i3d is None:
            return {}
        return {"video_features": {row: [self._i3d(frames) for frames in each] for row, each in videos.items()}}


class Lpips:
    """LPIPS 0.1 on AlexNet: 0 for the same image. Raises BadWeights."""

    def __init__(self, weights: str | Path, device: torch.device | str) -> None:
        backbone = _alexnet_features()
        with reading(weights, BadWeights, fault="cannot serve LPIPS", remedy=f"expected {LPIPS_FILE}"):
            check_regular(weights)
            state = torch.load(weights, map_location="cpu", weights_only=True)
            own = {key.removeprefix("features."): value for key, value in state.items() if key.startswith("features.")}
            backbone.load_state_dict(own)
        self._backbone = backbone.requires_grad_(False).to(device)
        heads = load_file(_HEADS, device=str(device))
        self._heads = [heads[f"lin{stage}"][:, None, None] for stage in range(5)]
        self._mean, self._spread = (torch.tensor(values, device=device)[:, None, None] for values in (_MEAN, _SPREAD))

    def __call__(self, predicted: np.ndarray, true: np.ndarray) -> list[float | None]:
        """Of each frame; None where the frames are smaller than the network can see."""
        if min(true.shape[1:3]) < SMALLEST:
            return [None] * len(true)
        with _exact():
            return [self._distance(np.stack(pair)) for pair in zip(predicted, true, strict=True)]

    def _distance(self, pair: np.ndarray) -> float:
        images = torch.from_numpy(pair).to(self._mean.device).permute(0, 3, 1, 2) / 127.5 - 1
        distance = 0.0
        for features, head in zip(self._features((images - self._mean) / self._spread), self._heads, strict=True):
            one, other = features / (features.square().sum(1, keepdim=True) + 1e-8).sqrt()
            distance += float((head * (one - other).square()).sum(0).mean())
        return distance

    def _features(self, images: Tensor) -> list[Tensor]:
        """The output of each of the five stages, [2, channels, h, w]."""
        outputs = []
        for layer in self._backbone:
            images = layer(images)
            if isinstance(layer, nn.ReLU):
                outputs.append(images)
        return outputs


class VideoFeatures:
    """What I3D, trained on Kinetics-400, sees in a video: 400 numbers. Raises BadWeights."""

    def __init__(self, weights: str | Path, device: torch.device | str) -> None:
        self._device = device
        with reading(weights, BadWeights, fault="cannot serve FVD", remedy=f"expected {FVD_FILE}"):
            self._network = load_program(Path(weights), device)
            features = self._network_on(np.zeros((16, 32, 32, 3), np.uint8))
            if features.ndim != 2 or len(features) != 1:
                raise ValueError(f"for one video it gives {list(features.shape)}, not [1, features]")

    def __call__(self, frames: np.ndarray) -> list[float]:
        return [round(value, 6) for value in self._network_on(frames)[0].tolist()]

    def _network_on(self, frames: np.ndarray) -> Tensor:
        video = torch.from_numpy(np.ascontiguousarray(frames)).to(self._device).permute(3, 0, 1, 2)[None].float()
        with _exact():
            # It brings levels to [-1, 1] and frames to 224x224 by itself, whatever their aspect.
            return self._network(video, rescale=True, resize=True, return_features=True)


def frechet_distance(features: np.ndarray, others: np.ndarray) -> float:
    """Between the Gaussians of two sets of features, [n, d] and [m, d], n and m at least 2."""
    root, other_root = _covariance_root(features), _covariance_root(others)
    # tr((AB)^1/2) of covariances A = P'P and B = Q'Q is the sum of PQ's singular values: no root of a nearly singular
    # matrix, whose rounding errors make FVD jump where there are fewer clips than features.
    overlap = np.linalg.norm(root @ other_root.T, "nuc")
    spread = np.square(root).sum() + np.square(other_root).sum() - 2 * overlap
    return float(np.square(features.mean(axis=0) - others.mean(axis=0)).sum() + max(0.0, spread))


def _covariance_root(features: np.ndarray) -> np.ndarray:
    """R with R'R the covariance of features [n, d]: [min(n, d), d]."""
    return np.linalg.qr(features - features.mean(axis=0), mode="r") / np.sqrt(len(features) - 1)


def _alexnet_features() -> nn.Sequential:
    """Krizhevsky, arXiv:1404.5997, up to its last convolution; layers are numbered as torchvision numbers them."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
    )


def _exact() -> AbstractContextManager[None]:
    """No TF32 and no choice of algorithm by speed: the same numbers on whichever GPU of a kind."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
