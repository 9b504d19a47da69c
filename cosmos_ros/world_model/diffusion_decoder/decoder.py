"""The diffusion decoder as a frame decoder: tokens to latents in a few guided steps, latents to pixels."""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from cosmos_ros.device.devices import empty_cache, has_float8
from cosmos_ros.device.placement import DeviceMemory, Part
from cosmos_ros.device.plan import Need
from cosmos_ros.device.threads import cpu_threads
from cosmos_ros.errors import NotFinite
from cosmos_ros.world_model.checkpoints.weight_files import is_directory
from cosmos_ros.world_model.diffusion_decoder.config import (
    CHUNK,
    COMPRESSION,
    PATCH,
    DiffusionDecoderConfig,
    tensor_shapes,
)
from cosmos_ros.world_model.diffusion_decoder.files import (
    FAMILIES,
    DiffusionDecoderFolders,
    load_diffusion_transformer,
    open_diffusion_decoder,
    read_text,
)
from cosmos_ros.world_model.diffusion_decoder.latent_decoder import (
    LATENT_DECODER,
    LatentDecoder,
    latent_decoder_need,
    load_latent_decoder,
)
from cosmos_ros.world_model.diffusion_decoder.network import Block, DiffusionTransformer
from cosmos_ros.world_model.diffusion_decoder.sampler import (
    PUBLISHED_STEPS,
    SIGMA_DATA,
    Sampling,
    Solver,
    require_steps,
)
from cosmos_ros.world_model.diffusion_decoder.windows import put_together, windows

DIFFUSION_DECODER = "diffusion decoder"  # the part's name in a memory plan
GUIDANCE = 1.8  # what a step goes beyond what it would do with tokens and text: cond + 1.8 * (cond - uncond)
NO_TOKEN = 0  # as published, guidance leads away from a video of this token alone, without a text

logger = logging.getLogger(__name__)


class DiffusionDecoder:
    """Network, sampler and latent decoder on a device. As a FrameDecoder it is the diffusion one.

    latent_decoder  None: latents are all that it gives
    text            [1, M, context_dim], for models that take no prompt
    memory          keeps network and latent decoder on the device, or brings them there while they work; a network
                    that waits in host memory comes in pieces, block by block

    A rollout's noise is that of its seed, drawn on the CPU: the same on every device.
    """

    name = "diffusion"
    by_groups = False  # every frame sees all tokens

    def __init__(
        self,
        network: DiffusionTransformer,
        latent_decoder: LatentDecoder | None,
        text: Tensor,
        solver: Solver,
        memory: DeviceMemory,
        dtype: torch.dtype,
        steps: int = PUBLISHED_STEPS,
    ) -> None:
        require_steps(steps)
        self.config, self.solver, self.steps = network.config, solver, steps
        self._text, self._memory, self._dtype = text, memory, dtype
        self._parts = [memory.hold(DIFFUSION_DECODER, block) for block in network.blocks]
        network.blocks = cast("Sequence[Block]", nn.ModuleList(map(_HeldBlock, self._parts)))
        self._network = memory.hold(DIFFUSION_DECODER, network)
        self._parts.append(self._network)
        self._latent_decoder = None if latent_decoder is None else memory.hold(LATENT_DECODER, latent_decoder)
        if self._latent_decoder is not None:
            self._parts.append(self._latent_decoder)

    def rest(self) -> None:
        """Bring everything to where it waits between rollouts."""
        for part in self._parts:
            part.rest()

    @contextmanager
    def brief(self) -> Iterator[None]:
        """Meanwhile one step is enough."""
        steps, self.steps = self.steps, 1
        try:
            yield
        finally:
            self.steps = steps

    def evaluations(self, latent_frames: int) -> int:
        return len(windows(latent_frames)) * (self.steps + self.solver.extra)

    def noise(self, seed: int, latent_frames: int, height: int, width: int) -> Tensor:
        """Standard normal float32 [chunks, channels, 8, height, width] of a video; height and width of its latents."""
        shape = (len(windows(latent_frames)), self.config.latent_channels, CHUNK, height, width)
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    def pixels(self, tokens: Tensor, context: Tensor | None, seed: int) -> Generator[None, None, Tensor]:
        """All frames float [3, n, H, W] in [-1, 1], on the device, as FrameDecoder has it; None after every evaluation.

        tokens   int64 [T, h, w] of a whole video
        context  the prompt's [1, M, context_dim]; None: the model takes none
        seed     of the noise
        """
        if self._latent_decoder is None:
            raise ValueError("this decoder was loaded without its tokenizer, and gives latents alone")
        length, height, width = tokens.shape
        latents = []
        # Each of the two needs gigabytes, and PyTorch keeps what others used, on other streams, until it is told.
        empty_cache(self._memory.device)
        for chunk, noise in zip(windows(length), self.noise(seed, length, 2 * height, 2 * width), strict=True):
            latents.append((yield from self._sample(tokens[chunk.places], noise, context, self.steps)))
        empty_cache(self._memory.device)
        with self._latent_decoder.in_use() as decoder, cpu_threads():
            return put_together([decoder.pixels(each, self._dtype) for each in latents], length)

    def denoise(self, tokens: Tensor, noise: Tensor, context: Tensor | None = None, steps: int | None = None) -> Tensor:
        """Sampled latents float32 [channels, 8, 2h, 2w] of one chunk, as the latent decoder takes them.

        tokens   int64 [8, h, w]
        noise    standard normal [channels, 8, 2h, 2w], before it is scaled to the first noise level
        context  text embedding [1, M, context_dim]; None: the one that came with the decoder
        steps    of the solver; None: as set

        Raises ValueError for what has other sizes, tokens that it does not know and fewer than one step.
        """
        self._require(tokens, noise, context)
        return _result(self._sample(tokens.long(), noise, context, self.steps if steps is None else steps))

    def _require(self, tokens: Tensor, noise: Tensor, context: Tensor | None) -> None:
        """Before a GPU meets them: a token beyond the vocabulary would end the whole process's work there."""
        config, whole = self.config, not (tokens.is_floating_point() or tokens.is_complex())
        if not whole or tokens.ndim != 3 or len(tokens) != CHUNK or not tokens.numel():
            raise ValueError(f"tokens must be whole numbers [{CHUNK}, h, w]; got {tokens.dtype} {list(tokens.shape)}")
        if tokens.min() < 0 or tokens.max() >= config.vocabulary:
            raise ValueError(
                f"tokens must lie in 0..{config.vocabulary - 1}; got {int(tokens.min())}..{int(tokens.max())}"
            )
        expected = [config.latent_channels, CHUNK, *(PATCH * size for size in tokens.shape[1:])]
        if not noise.is_floating_point() or list(noise.shape) != expected:
            raise ValueError(f"noise must be floating-point {expected}; got {noise.dtype} {list(noise.shape)}")
        if not noise.isfinite().all():
            raise ValueError("noise must be finite numbers")
        if context is None:
            return
        shape = list(context.shape)
        if not (context.is_floating_point() and shape[1:2] > [0] and shape == [1, *shape[1:2], config.context_dim]):
            raise ValueError(
                f"context must be floating-point [1, positions, {config.context_dim}]; got {context.dtype} {shape}"
            )

    def _sample(self, tokens: Tensor, noise: Tensor, context: Tensor | None, steps: int) -> Sampling:
        device = self._memory.device
        text = (self._text if context is None else context).to(device, self._dtype)
        both = torch.stack([tokens, torch.full_like(tokens, NO_TOKEN)]).to(device)

        def denoise(x: Tensor, sigma: float) -> Tensor:
            return self._denoised(x, sigma, both, text)

        latents = yield from self.solver.sample(noise.to(device), steps, denoise)
        if not latents.isfinite().all():
            raise NotFinite("the diffusion decoder gave latents that are no finite numbers; its weights may be damaged")
        return latents.float()

    @torch.inference_mode()
    def _denoised(self, x: Tensor, sigma: float, tokens: Tensor, text: Tensor) -> Tensor:
        """What the guided network takes for the latents without noise: the EDM parametrisation of Karras et al."""
        scale = math.hypot(sigma, SIGMA_DATA)
        given = (x / scale).to(self._dtype).expand(2, *x.shape)
        with self._network.in_use() as network, cpu_threads():
            seen, unseen = network(given, math.log(sigma) / 4, tokens, text).double()
            if self._memory.device.type == "cuda":  # a GPU's queue holds whole steps: who cancels would wait for them
                torch.cuda.current_stream(self._memory.device).synchronize()
        guided = seen + GUIDANCE * (seen - unseen)
        return x * (SIGMA_DATA / scale) ** 2 + guided * (sigma * SIGMA_DATA / scale)


def _result(sampling: Sampling) -> Tensor:
    """What a generator returns in the end."""
    while True:
        try:
            next(sampling)
        except StopIteration as end:
            return end.value


class _HeldBlock(nn.Module):
    """A block that comes to the device while it works. Its weights are the part's, and move with no other module."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.part = part

    def forward(self, *given: Any) -> Any:
        with self.part.in_use() as block:
            return block(*given)


def load_diffusion_decoder(
    source: str | Path | DiffusionDecoderFolders,
    config: DiffusionDecoderConfig | None = None,
    *,
    tokenizer: str | Path = "",
    solver: Solver | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    memory: DeviceMemory | None = None,
    steps: int = PUBLISHED_STEPS,
    float8: bool = False,
) -> DiffusionDecoder:
    """A diffusion decoder for inference.

    source     the folder that holds model.pt and aux_vars.pt, or model.pt in it, or what `find_diffusion_decoder` found
    config     of a folder; None: from the tensors' shapes
    tokenizer  of a folder: the one with decoder.jit and mean_std.pt; "": latents are all that it gives
    solver     of a folder; None: by its name, and Cosmos 1.0's where that says nothing
    memory     None: everything stays on the device
    float8     multiply matrices in 8 bits, where the device can: faster and less exact

    Raises ModelUnavailable where a file is missing, damaged or none of these.
    """
    if not isinstance(source, DiffusionDecoderFolders):
        folder = Path(source).absolute()
        folder = folder if is_directory(folder) else folder.parent
        names = (folder.name, folder.resolve().name)  # of a link, or of "..", what it leads to may say more
        solver = solver or next((each.solver for each in FAMILIES if each.decoder in names), FAMILIES[0].solver)
        source = open_diffusion_decoder(folder, Path(tokenizer) if tokenizer else None, solver, config)
    memory = memory or DeviceMemory(device)
    latent_decoder = None
    if source.tokenizer is not None:
        latent_decoder = load_latent_decoder(
            source.tokenizer, source.config.latent_channels, device=memory.device, dtype=dtype
        )
    text = read_text(source.weights.parent, source.config.context_dim)
    # Where its blocks wait in host memory there may be no room for all of them on the device.
    place = torch.device("cpu") if memory.parks(DIFFUSION_DECODER) else memory.device
    network = load_diffusion_transformer(source, device=place, dtype=dtype)
    speed_up(network, memory.device, float8)
    return DiffusionDecoder(network, latent_decoder, text, source.solver, memory, dtype, steps)


def speed_up(network: DiffusionTransformer, device: torch.device, float8: bool = False) -> None:
    """Let a network on a GPU take fewer and larger steps. Where Triton is missing it stays as it is."""
    if device.type != "cuda":
        return
    try:
        from cosmos_ros.world_model.diffusion_decoder import kernels
    except ImportError:  # Triton comes with PyTorch's CUDA builds, and not with all of them
        logger.warning("Triton is missing: the diffusion decoder takes longer")
        return
    network.between = kernels
    if float8 and has_float8(device):
        for block in network.blocks:
            kernels.to_float8(block, device)


def described(found: DiffusionDecoderFolders) -> str:
    """What was found, in words."""
    words = f"{found.weights.parent}, {found.weights.stat().st_size / 1e9:.1f} GB, sampled by {found.solver.name}"
    return words if found.tokenizer is None else f"{words}; latents by {found.tokenizer}"


def diffusion_decoder_needs(
    found: DiffusionDecoderFolders, frame_size: tuple[int, int], bytes_per_weight: int
) -> tuple[Need, ...]:
    """Of network and latent decoder, for frames of this height and width, with guidance as a batch of two.

    bytes_per_weight  2 in bfloat16, 4 in float32
    """
    config = found.config
    shapes = tensor_shapes(config)
    weights = sum(math.prod(shape) for shape in shapes.values()) * bytes_per_weight
    block = sum(math.prod(shape) for name, shape in shapes.items() if name.startswith("net.blocks.block0."))
    blocks = config.n_blocks * block * bytes_per_weight
    patches = 2 * CHUNK * frame_size[0] * frame_size[1] // (COMPRESSION[1] * COMPRESSION[2])
    # At its largest, in a feed-forward: the hidden channels, and what is read and written around them. An H100 took
    # 2.9 GB in bfloat16 at 640x1024 (bench/diffusion_decoder.py).
    work = patches * (5 * config.dim + config.hidden) * bytes_per_weight
    network = Need(DIFFUSION_DECODER, weights=weights, work=work, piece=weights - blocks + block * bytes_per_weight)
    if found.tokenizer is None:
        return (network,)
    return network, latent_decoder_need(found.tokenizer, frame_size, bytes_per_weight)
