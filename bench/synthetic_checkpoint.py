"""Checkpoints of exactly the published format and size, with random weights: they cost what the real ones cost.

NVIDIA's weights are gated, so nothing here can be run on them by default; random ones take the same memory and time.
The tokenizer is this project's own network at about the published width, a stand-in for DV8x16x16's cost.
"""

from __future__ import annotations

import json
import mmap
import shutil
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from cosmos_ros.training.sizes import TokenizerSizes
from cosmos_ros.training.tokenizer_network import (
    Decoder,
    IndicesToPixels,
    PixelsToIndices,
    VideoTokenizer,
)
from cosmos_ros.world_model import TransformerConfig
from cosmos_ros.world_model.config import Shape, transformer_shapes
from cosmos_ros.world_model.diffusion_decoder.config import DiffusionDecoderConfig, tensor_shapes
from cosmos_ros.world_model.diffusion_decoder.files import FAMILIES

TOKENIZER = TokenizerSizes(
    channels=(256, 512, 512), encoder_blocks=(2, 2, 2), decoder_blocks=(3, 3, 3), levels=(8, 8, 8, 5, 5, 5)
)
# 8x8x8 pixels of a latent, 16 channels, about the published width.
LATENT_TOKENIZER = TokenizerSizes(channels=(256, 512), encoder_blocks=(2, 2), decoder_blocks=(3, 3), levels=(2,) * 16)
T5_11B = {
    "vocab_size": 32128,
    "d_model": 1024,
    "d_kv": 128,
    "d_ff": 65536,
    "num_layers": 24,
    "num_heads": 128,
    "feed_forward_proj": "relu",
}


def write_transformer(directory: Path, config: TransformerConfig, device: torch.device) -> Path:
    """model.pt: the flat dictionary of bfloat16 tensors, every key with its `model.` prefix, filled on the device."""
    return write_weights(directory, {f"model.{name}": s for name, s in transformer_shapes(config).items()}, device)


def write_diffusion_decoder(
    checkpoints: Path, config: DiffusionDecoderConfig, tokenizer: TokenizerSizes, device: torch.device
) -> Path:
    """Cosmos 1.0's folders: the decoder, and a stand-in for CV8x8x8 of the given channels and blocks."""
    decoder, latents = checkpoints / FAMILIES[0].decoder, checkpoints / FAMILIES[0].tokenizer
    write_weights(decoder, tensor_shapes(config), device)
    torch.save({"context": torch.randn(1, 512, config.context_dim, dtype=torch.bfloat16)}, decoder / "aux_vars.pt")
    latents.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    program = LatentsToPixels(tokenizer).eval().requires_grad_(False).to(torch.bfloat16)
    torch.jit.script(program).save(str(latents / "decoder.jit"))
    torch.save(
        (torch.zeros(config.latent_channels, 16), torch.ones(config.latent_channels, 16)), latents / "mean_std.pt"
    )
    return decoder


class LatentsToPixels(nn.Module):
    """Called as CV8x8x8's decoder is."""

    def __init__(self, sizes: TokenizerSizes) -> None:
        super().__init__()
        self.decoder = Decoder(sizes)

    def forward(self, latents: Tensor) -> Tensor:
        return self.decoder(latents.transpose(1, 2)).clamp(-1.0, 1.0)


def write_weights(directory: Path, shapes: dict[str, Shape], device: torch.device) -> Path:
    """model.pt: a flat dictionary of bfloat16 tensors, filled on the device."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "model.pt"
    state = {name: torch.empty(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
    # A file with room for the data, then the data straight into its pages: no second copy in host memory.
    with torch.serialization.skip_data():
        torch.save(state, file)
    torch.serialization.set_default_mmap_options(mmap.MAP_SHARED)
    try:
        for tensor in torch.load(file, mmap=True, weights_only=True).values():
            tensor.copy_(torch.ones_like(tensor) if tensor.ndim == 1 else random_weight(tensor.shape, device))
    finally:
        torch.serialization.set_default_mmap_options(mmap.MAP_PRIVATE)
    return file


def random_weight(shape: torch.Size, device: torch.device) -> torch.Tensor:
    """Rows of about unit length, so that activations stay in range through any number of layers."""
    return torch.randn(shape, device=device, dtype=torch.bfloat16) / shape[-1] ** 0.5


def write_tokenizer(directory: Path, config: TokenizerSizes = TOKENIZER) -> Path:
    """encoder.jit and decoder.jit in bfloat16."""
    directory.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    network = VideoTokenizer(config).eval().requires_grad_(False).to(torch.bfloat16)
    for name, program in (("encoder.jit", PixelsToIndices(network)), ("decoder.jit", IndicesToPixels(network))):
        torch.jit.script(program).save(str(directory / name))
    return directory


def write_t5(folder: Path, device: torch.device, sizes: dict | None = None) -> Path:
    """A T5 folder in Hugging Face's layout: config.json, model.safetensors in bfloat16, spiece.model."""
    import sentencepiece
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    words = folder / "words.txt"
    words.write_text("\n".join(["a robot arm moves a red cube over the table while the camera drives past"] * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(words),
        model_prefix=str(folder / "spiece"),
        vocab_size=29,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    config = transformers.T5Config(**(sizes or T5_11B))
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            model = transformers.T5EncoderModel(config)
    finally:
        torch.set_default_dtype(default)
    model.save_pretrained(folder)
    return folder


def device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def roomy_folder(room: float) -> str:
    """Shared memory where it has so many bytes, else the temporary folder."""
    shared = Path("/dev/shm")
    return str(shared) if shared.is_dir() and shutil.disk_usage(shared).free > room else tempfile.gettempdir()


def write_settings(directory: Path, settings: dict) -> None:
    (directory / "config.json").write_text(json.dumps(settings))
