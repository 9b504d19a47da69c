"""From latents to pixels: the decoder of the continuous tokenizer CV8x8x8, a TorchScript program as published."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from cosmos_ros.device.plan import Need
from cosmos_ros.errors import ModelUnavailable, NotFinite
from cosmos_ros.world_model.diffusion_decoder.config import CHUNK, LATENT_COMPRESSION
from cosmos_ros.world_model.diffusion_decoder.files import PROGRAM, REMEDY, STATISTICS, read_statistics
from cosmos_ros.world_model.diffusion_decoder.sampler import SIGMA_DATA
from cosmos_ros.world_model.tokenizer.programs import load_network, run_program, trying_out

LATENT_DECODER = "latent decoder"  # the part's name in a memory plan
CHUNK_FRAMES = 1 + (CHUNK - 1) * LATENT_COMPRESSION[0]  # pixel frames of a chunk: 57
WORK_BYTES_PER_PIXEL = 190  # in bfloat16, for each pixel of a chunk: as bench/diffusion_decoder.py's stand-in took


class LatentDecoder(nn.Module):
    """The program, and the statistics by which its latents were normalised.

    program     float [1, channels, 8, h, w] -> float [1, 3, 57, 8h, 8w] in [-1, 1]
    statistics  mean and standard deviation [channels, 8, 1, 1] of latents at each place of a chunk
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, program: nn.Module, statistics: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.program = program
        self.register_buffer("mean", statistics[0])
        self.register_buffer("deviation", statistics[1])

    def pixels(self, latents: Tensor, dtype: torch.dtype) -> Tensor:
        """Pixels [3, 57, H, W] in [-1, 1] of a chunk of sampled latents [channels, 8, h, w], computed in a precision.

        Raises NotFinite, and ModelUnavailable where the program gives another shape.
        """
        unscaled = latents.to(self.mean.device, dtype) / SIGMA_DATA
        pixels = run_program(self.program, (unscaled * self.deviation.to(dtype) + self.mean.to(dtype))[None])
        height, width = (size * LATENT_COMPRESSION[1] for size in latents.shape[-2:])
        expected = [1, 3, CHUNK_FRAMES, height, width]
        if not (isinstance(pixels, Tensor) and pixels.is_floating_point() and list(pixels.shape) == expected):
            got = list(pixels.shape) if isinstance(pixels, Tensor) else type(pixels).__name__
            raise ModelUnavailable(
                f"the continuous tokenizer decodes {list(latents.shape)} to {got}, and floating-point {expected} was "
                f"expected, as CV8x8x8 gives: it is a tokenizer of another kind; {REMEDY}"
            )
        if not pixels.isfinite().all():
            raise NotFinite("the continuous tokenizer decoded pixels that are no finite numbers")
        return pixels[0].clamp(-1, 1)


def load_latent_decoder(
    directory: str | Path,
    channels: int,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> LatentDecoder:
    """From a folder with decoder.jit and mean_std.pt. Raises ModelUnavailable where one is missing, damaged or unfit.

    channels  of the latents
    """
    directory = Path(directory)
    statistics = read_statistics(directory, channels, CHUNK)
    program = load_network(directory / PROGRAM, torch.device(device), dtype, fetch=REMEDY)
    decoder = LatentDecoder(program, statistics).to(device)
    with trying_out(
        f"{directory / PROGRAM} is no decoder of the continuous tokenizer CV8x8x8, or {STATISTICS} not its own"
    ):
        decoder.pixels(torch.zeros(channels, CHUNK, 8, 8), dtype)
    return decoder


def latent_decoder_need(directory: Path, frame_size: tuple[int, int], bytes_per_weight: int) -> Need:
    """Of the program in a folder, for frames of this height and width.

    bytes_per_weight  2 in bfloat16, 4 in float32
    """
    file = directory / PROGRAM
    pixels = CHUNK_FRAMES * frame_size[0] * frame_size[1]
    return Need(
        LATENT_DECODER,
        weights=file.stat().st_size if file.is_file() else 0,
        work=WORK_BYTES_PER_PIXEL * pixels * bytes_per_weight // 2,
    )
