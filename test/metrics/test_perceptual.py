"""LPIPS against torchmetrics' own on the same weights, FVD against its formula, and files that are something else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

from cosmos_ros.metrics.perceptual import BadWeights, Lpips, Perceptual, VideoFeatures, frechet_distance

RNG = np.random.default_rng(4)


@pytest.fixture(scope="module")
def lpips(alexnet_weights) -> Lpips:
    return Lpips(alexnet_weights, "cpu")


def noisy(frames: np.ndarray, level: float) -> np.ndarray:
    return np.clip(frames + RNG.normal(0, level, frames.shape), 0, 255).astype(np.uint8)


def test_lpips_is_that_of_torchmetrics(lpips, alexnet_weights, moving_scene, monkeypatch):
    """On our weights in place of torchvision's, which does not come with PyTorch."""
    theirs = pytest.importorskip("torchmetrics.functional.image.lpips")
    state = torch.load(alexnet_weights)

    def features(net: str, pretrained: bool) -> nn.Sequential:
        assert (net, pretrained) == ("alexnet", True)
        conv = {
            layer: nn.Conv2d(*state[f"features.{layer}.weight"].shape[1::-1], size, stride, padding)
            for layer, size, stride, padding in ((0, 11, 4, 2), (3, 5, 1, 2), (6, 3, 1, 1), (8, 3, 1, 1), (10, 3, 1, 1))
        }
        layers = [conv.get(i, nn.MaxPool2d(3, 2) if i in (2, 5, 12) else nn.ReLU()) for i in range(13)]
        network = nn.Sequential(*layers)
        network.load_state_dict({k[9:]: v for k, v in state.items() if k.startswith("features.")})
        return network

    monkeypatch.setattr(theirs, "_get_tv_model_features", features)
    true = moving_scene(3, 96, 128)
    predicted = noisy(true, 20)
    a, b = (torch.from_numpy(frames).permute(0, 3, 1, 2) / 255 for frames in (predicted, true))
    expected = theirs.learned_perceptual_image_patch_similarity(a, b, "alex", reduction="none", normalize=True)
    assert lpips(predicted, true) == pytest.approx(expected.tolist(), rel=1e-4)


def test_lpips_is_nothing_for_the_same_and_grows_with_noise(lpips, moving_scene):
    true = np.repeat(moving_scene(1), 3, axis=0)
    same, little, much = lpips(np.stack([true[0], noisy(true[0], 5), noisy(true[0], 60)]), true)
    assert same == 0 and 0 < little < much


@pytest.mark.parametrize(("height", "told"), [(31, True), (30, False)])
def test_images_too_small_for_the_network_have_no_lpips(lpips, height, told):
    frames = RNG.integers(0, 256, (2, height, 40, 3), np.uint8)
    assert all((value is not None) is told for value in lpips(frames, frames))


def test_features_are_what_the_program_gives_for_the_whole_video(i3d_weights):
    frames = np.stack([np.full((20, 30, 3), (25 * t, 0, 255), np.uint8) for t in range(10)])
    features = np.reshape(VideoFeatures(i3d_weights, "cpu")(frames), (3, 5))  # of three channels at five times
    assert features[0] == pytest.approx([(25 * (2 * t + 0.5)) * 2 / 255 - 1 for t in range(5)], abs=2e-3)
    assert features[1] == pytest.approx([-1] * 5, abs=1e-5) and features[2] == pytest.approx([1] * 5, abs=1e-5)


def test_the_frechet_distance_is_that_of_its_formula():
    a = RNG.normal(0, 1, (50, 6)) @ RNG.normal(0, 1, (6, 6))
    b = RNG.normal(1, 2, (40, 6)) @ RNG.normal(0, 1, (6, 6))
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a + cov_b - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected) and frechet_distance(b, a) == pytest.approx(expected)


@pytest.mark.parametrize("n", [2, 5, 500])
def test_a_set_that_is_only_shifted_is_as_far_as_the_shift_however_few_its_members(n):
    features = RNG.normal(0, 3, (n, 400))
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(features, features + 0.5) == pytest.approx(400 * 0.25)


def test_without_weights_there_is_neither(moving_scene):
    off = Perceptual("", "", "cpu")
    assert off.per_step(moving_scene(2), moving_scene(2)) == {} == off.of_videos({"truth": [moving_scene(2)]})


def write_nothing(path: Path) -> None:
    path.write_bytes(b"")


def write_other_weights(path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3), "features.0.bias": torch.zeros(64)}, path)


def write_list(path: Path) -> None:
    torch.save([torch.zeros(3)], path)


class Other(nn.Module):
    def forward(self, x, rescale: bool, resize: bool, return_features: bool):
        return x


def write_other_program(path: Path) -> None:
    torch.jit.script(nn.Identity()).save(path)


def write_program_of_other_answers(path: Path) -> None:
    torch.jit.script(Other()).save(path)


@pytest.mark.parametrize("write", [write_nothing, write_other_weights, write_list, write_other_program])
def test_a_file_that_is_not_alexnet_is_said_with_the_one_that_is(tmp_path, write):
    write(tmp_path / "file.pth")
    with pytest.raises(BadWeights, match=r"file\.pth cannot serve LPIPS .*; expected .* alexnet-owt-7be5be79\.pth"):
        Lpips(tmp_path / "file.pth", "cpu")


@pytest.mark.parametrize(
    "write", [write_nothing, write_other_weights, write_other_program, write_program_of_other_answers]
)
def test_a_file_that_is_not_i3d_is_said_with_the_one_that_is(tmp_path, write):
    write(tmp_path / "file.pt")
    with pytest.raises(BadWeights, match=r"file\.pt cannot serve FVD .*; expected .* i3d_torchscript\.pt, linked"):
        VideoFeatures(tmp_path / "file.pt", "cpu")


@pytest.mark.parametrize("metric", [Lpips, VideoFeatures])
def test_a_file_that_is_not_there_is_said(tmp_path, metric):
    with pytest.raises(BadWeights, match="nowhere.*does not exist.*; expected"):
        metric(tmp_path / "nowhere", "cpu")
