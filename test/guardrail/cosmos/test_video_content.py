"""The video content filter: logits as transformers' own SigLIP and processor give them, classes by name."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

transformers = pytest.importorskip("transformers", reason="needs requirements/guardrail.txt")

from safetensors.torch import load_file, save_file  # noqa: E402

from cosmos_ros.device.placement import DeviceMemory  # noqa: E402
from cosmos_ros.errors import GuardrailUnavailable  # noqa: E402
from cosmos_ros.guardrail.cosmos.video_content import CLASSES, VideoContentGuard, _clear, logits_of  # noqa: E402

CPU = DeviceMemory("cpu")


@pytest.fixture(scope="module")
def folder(published, tmp_path_factory):
    """The folder with a classifier at random, whose logits depend on what is seen."""
    folder = tmp_path_factory.mktemp("video") / "video_content_safety_filter"
    shutil.copytree(published / "video_content_safety_filter", folder)
    stored = torch.load(folder / "safety_filter.pt", weights_only=True)
    generator = torch.Generator().manual_seed(0)
    for name, value in stored["model"].items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.is_floating_point():
            value.normal_(0, 0.3, generator=generator)
    torch.save(stored, folder / "safety_filter.pt")
    return folder


def network(stored: dict[str, torch.Tensor]) -> nn.Module:
    """The published classifier, written out."""
    layers = nn.Sequential(
        nn.Linear(32, 512),
        nn.BatchNorm1d(512),
        nn.ReLU(),
        nn.Linear(512, 256),
        nn.BatchNorm1d(256),
        nn.ReLU(),
        nn.Linear(256, 7),
    )
    layers.load_state_dict({name.removeprefix("network.layers."): value for name, value in stored.items()})
    return layers.eval()


@pytest.fixture(scope="module")
def guard(folder) -> VideoContentGuard:
    return VideoContentGuard(folder, CPU)


def reference_logits(folder, frames: np.ndarray) -> torch.Tensor:
    """Frame by frame, as published: processor, get_image_features, L2 norm, classifier."""
    snapshot = next((folder / "models--google--siglip-so400m-patch14-384" / "snapshots").iterdir())
    processor_class = getattr(transformers, "SiglipImageProcessorPil", None) or transformers.SiglipImageProcessor
    processor = processor_class.from_pretrained(snapshot)
    model = transformers.SiglipModel.from_pretrained(snapshot).eval()
    classifier = network(torch.load(folder / "safety_filter.pt", weights_only=True)["model"])
    logits = []
    with torch.inference_mode():
        for frame in frames:
            pixels = processor(images=Image.fromarray(frame), return_tensors="pt")["pixel_values"]
            features = model.get_image_features(pixel_values=pixels)
            features = getattr(features, "pooler_output", features)  # transformers 5 gives an output object
            logits.append(classifier(features / features.norm(dim=-1, keepdim=True))[0])
    return torch.stack(logits)


@pytest.mark.parametrize("size", [(64, 96), (360, 640), (97, 55)])
def test_logits_are_the_references(folder, guard, size):
    frames = np.random.default_rng(0).integers(0, 256, (5, *size, 3), dtype=np.uint8)
    logits = guard.logits(frames)
    assert logits.std() > 0.5, "logits that do not vary show nothing"
    assert (logits - reference_logits(folder, frames)).abs().max() < 1e-4


def test_siglip_may_lie_in_a_bin_file(folder, guard, noise, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "video"))
    file = next(copy.glob("models--*/snapshots/*/model.safetensors"))
    torch.save(load_file(file), file.with_name("pytorch_model.bin"))
    file.unlink()
    assert torch.equal(VideoContentGuard(copy, CPU).logits(noise(2)), guard.logits(noise(2)))


@pytest.mark.parametrize("network, name", [(0, "post_layernorm.weight"), (1, "layers.1.running_mean")])
def test_a_weight_that_is_not_finite_refuses_by_its_name(guard, folder, network, name, monkeypatch, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "video"))
    file = next(copy.glob("models--*/snapshots/*/model.safetensors")) if network == 0 else copy / "safety_filter.pt"
    stored = load_file(file) if network == 0 else torch.load(file, weights_only=True)
    tensors = stored.get("model", stored)
    tensors[next(key for key in tensors if key.endswith(name) and "text_model" not in key)][-1] = float("nan")
    save_file(stored, file, metadata={"format": "pt"}) if network == 0 else torch.save(stored, file)
    with pytest.raises(GuardrailUnavailable, match=rf"not finite: {network}\..*{name}$"):
        VideoContentGuard(copy, CPU)


@pytest.mark.parametrize("label", range(7))
def test_classes_go_by_name(folder, guard, monkeypatch, noise, label):
    logits = torch.zeros(4, 7)
    logits[:, 0] = 1.0
    logits[2, label] = 2.0
    monkeypatch.setattr(guard, "logits", lambda frames: logits)
    judgement = guard.judge(noise(4))
    assert (judgement.detail, judgement.frame) == (("", None) if label == 0 else (CLASSES[label], 2))


def test_half_precision_decides_only_what_is_clear(guard, noise):
    assert _clear(torch.tensor([[5.0, 0, 0, 0, 0, 0, 0]])).tolist() == [True]
    assert _clear(torch.tensor([[5.0, 4.5, 0, 0, 0, 0, 0], [5.0, float("nan"), 0, 0, 0, 0, 0]])).tolist() == [False] * 2
    pixels = guard._preparation(noise(4))
    with torch.inference_mode(), guard._networks.in_use() as networks:
        half, full = (logits_of(networks, pixels, dtype) for dtype in (torch.bfloat16, torch.float32))
    assert 0 < (half - full).abs().max() < 1.0
