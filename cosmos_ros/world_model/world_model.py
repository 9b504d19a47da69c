"""The world model as a whole: camera frames in, predicted frames out. What guards it lies elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cosmos_ros.device.devices import resolve_device, resolve_dtype
from cosmos_ros.device.host_table import HostTable
from cosmos_ros.device.out_of_memory import return_memory
from cosmos_ros.device.placement import DeviceMemory
from cosmos_ros.device.plan import Need
from cosmos_ros.device.threads import cpu_threads
from cosmos_ros.errors import NotFinite
from cosmos_ros.world_model.checkpoints.transformer_weights import load_transformer
from cosmos_ros.world_model.decoding.engine import PREFILL_TOKENS, DecodeEngine, SequentialDecoder
from cosmos_ros.world_model.decoding.sampling import Sampling
from cosmos_ros.world_model.model_spec import ModelSpec
from cosmos_ros.world_model.preprocessing import to_model_input
from cosmos_ros.world_model.tensor_parallel.sharded_transformer import share_need
from cosmos_ros.world_model.tensor_parallel.tensor_parallel import TensorParallelDecoder
from cosmos_ros.world_model.text_encoder import CONTEXT_LENGTH, TextEncoder, find_t5, text_encoder_need
from cosmos_ros.world_model.tokenizer.programs import find_tokenizer
from cosmos_ros.world_model.tokenizer.video_tokenizer import TOKENIZER, VideoTokenizer, tokenizer_need
from cosmos_ros.world_model.transformer import TRANSFORMER, transformer_need

WARM_UP_PASSES = 3

# After every decoding pass: new tokens done, new tokens in all, predicted frames complete. May raise, to stop.
OnPass = Callable[[int, int, int], None]


class _WarmedUp(Exception):
    """Ends the generation that only warms up."""


class WorldModel:
    """Tokenizer, transformer and decode engine on one device. Unguarded: use `cosmos_ros.Foresight` outside of it.

    memory  keeps the parts on the device, or brings them there while they work
    """

    def __init__(
        self,
        spec: ModelSpec,
        tokenizer: VideoTokenizer,
        engine: DecodeEngine,
        text_encoder: TextEncoder | None,
        memory: DeviceMemory,
    ) -> None:
        self.spec = spec
        self._tokenizer: VideoTokenizer | None = tokenizer
        self._engine: DecodeEngine | None = engine
        self._text_encoder: TextEncoder | None = text_encoder
        self._programs = memory.hold(TOKENIZER, nn.ModuleList([tokenizer.encoder, tokenizer.decoder]))
        self._transformer = memory.hold(TRANSFORMER, engine.module, on_leave=engine.release)
        self._programs.rest()
        self._transformer.rest()

    @classmethod
    @cpu_threads()
    def from_checkpoint(
        cls,
        checkpoint: str | Path | ModelSpec = "",
        tokenizer: str | Path = "",
        device: str = "auto",
        dtype: str = "auto",
        memory: DeviceMemory | None = None,
        gpus: int = 1,
    ) -> WorldModel:
        """Load a checkpoint, its tokenizer and, where it reads prompts, what encodes them.

        checkpoint  its directory, or what was read of it before; "": the model that ships with this package
        tokenizer   directory with encoder.jit and decoder.jit, or autoencoder.jit; "": looked for in and beside the
                    checkpoint
        device      "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1"
        dtype       "auto" (bfloat16 on CUDA, float32 on the CPU), "bfloat16", "float32"
        memory      None: every part stays on the device
        gpus        over how many, from the device on, the transformer is cut; the rest is on the first

        Raises ModelUnavailable.
        """
        place = resolve_device(device)
        precision = resolve_dtype(dtype, place)
        memory = memory or DeviceMemory(place)
        spec = checkpoint if isinstance(checkpoint, ModelSpec) else ModelSpec.of_checkpoint(checkpoint)
        tokenizer_directory = find_tokenizer(spec.directory, tokenizer)
        text_encoder = None
        if spec.takes_prompt:
            text_encoder = TextEncoder.for_checkpoint(
                spec.directory, place, width=spec.config.context_dim, memory=memory
            )
        # The tokenizer first: it is tried out when it is loaded, which takes more memory than it keeps.
        programs = VideoTokenizer.load(tokenizer_directory, spec.chunking, spec.config.vocab_out, place, precision)
        if gpus != 1:
            engine = TensorParallelDecoder(spec.directory, spec.config, gpus=gpus, device=place, dtype=precision)
            engine.start()
            return cls(spec, programs, engine, text_encoder, memory)
        transformer = load_transformer(spec.checkpoint, spec.config, device=place, dtype=precision)
        if memory.tables_on_host:
            transformer.tok_embeddings = HostTable(transformer.tok_embeddings.weight, place)
        return cls(spec, programs, SequentialDecoder(transformer), text_encoder, memory)

    def warm_up(self) -> None:
        """Take every path once, so that the first prediction is as fast as the next: a few passes of each part."""

        def enough(done: int, total: int, frames_ready: int) -> None:
            if done == WARM_UP_PASSES:
                raise _WarmedUp

        spec = self.spec
        context = torch.zeros(1, CONTEXT_LENGTH, spec.config.context_dim) if spec.takes_prompt else None
        sampling = Sampling(0, spec.temperature, spec.top_p)
        for n_conditioning in spec.conditioning_lengths:
            tokens = self.tokenize(np.zeros((n_conditioning, *spec.frame_size, 3), np.uint8))
            with contextlib.suppress(_WarmedUp):
                self.generate(tokens, context, sampling, enough)
        with contextlib.suppress(NotFinite):  # whatever this makes of tokens that nobody asked for
            for _ in self.decode(torch.zeros(spec.config.n_tokens, dtype=torch.long), n_conditioning=0):
                pass

    def release(self) -> None:
        """Give the device's memory back. The model is of no use afterwards."""
        if self._engine is not None:
            self._engine.release()
        self._tokenizer = self._engine = self._text_encoder = self._programs = self._transformer = None
        return_memory()

    @cpu_threads()
    def tokenize(self, frames: np.ndarray) -> Tensor:
        """Tokens int64 [N] of camera frames uint8 [n, H, W, 3] of any size; n is 1 + 8k, oldest first."""
        pixels = to_model_input(frames, self.spec.frame_size)
        with self._programs.in_use():
            return self._tokenizer.encode(pixels)

    def encode_text(self, prompt: str) -> Tensor | None:
        """The context [1, M, context_dim] of a prompt; None for a model that takes none.

        Raises ModelUnavailable where the text encoder is missing.
        """
        return self._text_encoder.encode(prompt) if self._text_encoder else None

    @cpu_threads()
    def generate(self, tokens: Tensor, context: Tensor | None, sampling: Sampling, on_pass: OnPass) -> Tensor:
        """All tokens of the video, int64 [t*h*w], the given ones first.

        tokens   of the conditioning frames, as `tokenize` gives them
        context  as `encode_text` gives it
        on_pass  called after every pass; what it raises ends the generation
        """
        per_latent_frame = self.spec.compression[0]
        with self._transformer.in_use():
            return self._engine.generate(
                tokens, sampling, context, lambda done, total, latent: on_pass(done, total, latent * per_latent_frame)
            )

    def decode(self, tokens: Tensor, n_conditioning: int) -> Iterator[np.ndarray]:
        """Frames uint8 [k, h, w, 3] RGB at the model's resolution, in order, after the first n of the video.

        They come as they are converted and copied from the device, so that the first can be judged meanwhile.
        """
        with self._programs.in_use(), cpu_threads():
            for frames in self._tokenizer.decode(tokens, n_conditioning):
                yield frames.numpy()


def needs_of(
    spec: ModelSpec, *, tokenizer: str | Path = "", bytes_per_weight: int = 2, gpus: int = 1
) -> tuple[Need, ...]:
    """What the parts of a world model take of the (first) device, known from headers before anything is loaded.

    tokenizer, gpus   as `WorldModel.from_checkpoint` takes them
    bytes_per_weight  2 in bfloat16, 4 in float32

    Raises ModelUnavailable where a part is missing or damaged.
    """
    transformer = transformer_need(
        spec.config, bytes_per_weight, tokens_per_pass=PREFILL_TOKENS, context_length=CONTEXT_LENGTH
    )
    needs = [
        transformer if gpus == 1 else share_need(transformer, gpus),
        tokenizer_need(find_tokenizer(spec.directory, tokenizer), spec.chunking, bytes_per_weight),
    ]
    if spec.takes_prompt and (t5 := find_t5(spec.directory)):
        needs.append(text_encoder_need(t5))
    return tuple(needs)
