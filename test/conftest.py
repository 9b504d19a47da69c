"""A whole world model in miniature, in the published layout: real safetensors, real TorchScript, random weights."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no fault of what is tested, and the same code is tested on the same examples every time.
settings.register_profile("steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")

LATENT_SHAPE = (5, 2, 4)        # so a frame is 32x64 pixels, and 9 frames are 16 of 40 tokens
LEVELS = 4                      # per colour channel: a vocabulary of 64


@pytest.fixture(scope="session")
def make_checkpoint() -> Callable[..., Path]:
    """make_checkpoint(directory, frame_rate=10.0, context_dim=None): writes model, config and tokenizer there."""
    import torch
    from safetensors.torch import save_file

    from cosmos_ros.world_model import Transformer, TransformerConfig

    def make(directory: Path, frame_rate: float = 10.0, context_dim: int | None = None) -> Path:
        vocabulary = LEVELS**3
        torch.manual_seed(0)
        transformer = Transformer(TransformerConfig(
            n_layers=2, dim=32, n_heads=4, n_kv_heads=2, head_dim=8, ffn_hidden=64,
            vocab_in=vocabulary + 64 * (context_dim is not None), vocab_out=vocabulary,
            latent_shape=LATENT_SHAPE, context_dim=context_dim,
        ))
        directory.mkdir(parents=True, exist_ok=True)
        save_file(transformer.state_dict(), directory / "model.safetensors")
        settings = {"latent_shape": LATENT_SHAPE, "frame_rate": frame_rate, "n_heads": 4, "name": "tiny"}
        (directory / "config.json").write_text(json.dumps(settings))
        _script_tokenizer(directory)
        return directory

    return make


@pytest.fixture(scope="session")
def tiny_checkpoint(make_checkpoint, tmp_path_factory) -> Path:
    """A checkpoint that takes no prompt, at 10 Hz. Do not change its files: others use it too."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="session")
def known_prompt() -> str:
    """The only prompt whose embedding the tiny text checkpoint holds."""
    return "a robot arm moves a red cube over the table"


@pytest.fixture(scope="session")
def tiny_text_checkpoint(make_checkpoint, known_prompt, tmp_path_factory) -> Path:
    """A checkpoint that needs a prompt. Do not change its files."""
    import torch

    from cosmos_ros.world_model.text_encoder import EMBEDDINGS_FILE, write_embeddings

    directory = make_checkpoint(tmp_path_factory.mktemp("text_checkpoint") / "tiny", context_dim=16)
    write_embeddings(directory / EMBEDDINGS_FILE, {known_prompt: torch.randn(7, 16)})
    return directory


def _script_tokenizer(directory: Path) -> None:
    """encoder.jit and decoder.jit: a token is the mean colour of 16x16 pixels of one latent frame, in few levels."""
    import torch
    from torch import Tensor, nn

    class Encoder(nn.Module):
        def __init__(self, levels: int) -> None:
            super().__init__()
            self.levels = levels

        def forward(self, frames: Tensor) -> Tensor:
            first, rest = frames[:, :, :1], frames[:, :, 1:]
            means = nn.functional.avg_pool3d(first, [1, 16, 16])
            if rest.shape[2] > 0:
                means = torch.cat([means, nn.functional.avg_pool3d(rest, [8, 16, 16])], dim=2)
            level = torch.round((means.float() * 0.5 + 0.5).clamp(0, 1) * (self.levels - 1)).long()
            return (level[:, 0] * self.levels + level[:, 1]) * self.levels + level[:, 2]

    class Decoder(nn.Module):
        def __init__(self, levels: int) -> None:
            super().__init__()
            self.levels = levels

        def forward(self, tokens: Tensor) -> Tensor:
            n = self.levels
            level = torch.stack([tokens // (n * n), tokens // n % n, tokens % n], dim=1)
            colours = level.float() / (n - 1) * 2 - 1
            frames = torch.cat([colours[:, :, :1], colours[:, :, 1:].repeat_interleave(8, dim=2)], dim=2)
            return frames.repeat_interleave(16, dim=3).repeat_interleave(16, dim=4)

    torch.jit.script(Encoder(LEVELS)).save(str(directory / "encoder.jit"))
    torch.jit.script(Decoder(LEVELS)).save(str(directory / "decoder.jit"))


@pytest.fixture
def without_permission() -> Callable[[Path], contextlib.AbstractContextManager[None]]:
    """with without_permission(path): nobody may read it; a superuser, whom that does not stop, is somebody else."""

    @contextlib.contextmanager
    def forbidden(path: Path) -> Iterator[None]:
        mode, user = path.stat().st_mode, os.geteuid()
        path.chmod(0)
        if user == 0:
            os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(user)
            path.chmod(mode)

    return forbidden
