"""The world model as a whole: camera frames in, predicted frames out. What guards it lies elsewhere."""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cosmos_ros.device.devices import FLOAT8, default_dtype, has_float8, resolve_device, resolve_dtype
from cosmos_ros.device.host_table import HostTable
from cosmos_ros.device.out_of_memory import return_memory
from cosmos_ros.device.placement import DeviceMemory
from cosmos_ros.device.threads import cpu_threads
from cosmos_ros.errors import NotFinite, SettingError
from cosmos_ros.rollout import Decoding
from cosmos_ros.world_model.checkpoints.transformer_weights import load_transformer
from cosmos_ros.world_model.decoding.engine import (
    DecodeEngine,
    Pass,
    WindowDecoder,
    stepwise,
)
from cosmos_ros.world_model.decoding.packed_products import pack
from cosmos_ros.world_model.decoding.sampling import Sampling
from cosmos_ros.world_model.diffusion_decoder.decoder import load_diffusion_decoder
from cosmos_ros.world_model.diffusion_decoder.sampler import PUBLISHED_STEPS
from cosmos_ros.world_model.frame_decoder import Conditions, Decoded, FrameDecoder, Frames, FrameThread
from cosmos_ros.world_model.model_spec import ModelSpec
from cosmos_ros.world_model.preprocessing import resized, to_model_input
from cosmos_ros.world_model.refiner import REFINER, Refiner
from cosmos_ros.world_model.tensor_parallel.tensor_parallel import TensorParallelDecoder
from cosmos_ros.world_model.text_encoder import CONTEXT_LENGTH, TextEncoder
from cosmos_ros.world_model.tokenizer.discrete_decoder import DiscreteDecoder
from cosmos_ros.world_model.tokenizer.programs import find_tokenizer
from cosmos_ros.world_model.tokenizer.video_tokenizer import (
    OUTPUT_FRAMES,
    TOKENIZER,
    VideoTokenizer,
    to_levels,
)
from cosmos_ros.world_model.transformer import TRANSFORMER, Transformer

WARM_UP_PASSES = 3

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """How far a batch of rollouts has come.

    passes        decoding passes so far
    done, total   new tokens of the sample that is last, and of each in the end
    frames_ready  predicted frames whose tokens are complete in every sample
    frames        decoded since the last step
    denoised, to_denoise  steps of the diffusion decoder, of all samples together; 0: there are none
    """

    passes: int
    done: int
    total: int
    frames_ready: int
    frames: list[Frames]
    denoised: int = 0
    to_denoise: int = 0


class WorldModel:
    """Tokenizer, transformer and decode engine on one device. Unguarded: use `cosmos_ros.Foresight` outside of it.

    memory     keeps the parts on the device, or brings them there while they work
    dtype      precision of the transformer, as rollouts carry it; "": the tokenizer's
    diffusion  turns tokens into frames; None: the tokenizer does
    """

    def __init__(
        self,
        spec: ModelSpec,
        tokenizer: VideoTokenizer,
        engine: DecodeEngine,
        text_encoder: TextEncoder | None,
        refiner: Refiner | None,
        memory: DeviceMemory,
        dtype: str = "",
        diffusion: FrameDecoder | None = None,
    ) -> None:
        self.spec = spec
        self._device = memory.device
        self._dtype = dtype or str(tokenizer.dtype).removeprefix("torch.")
        # Whether frames can be decoded while the transformer works: not where these take turns on the device.
        self._together = not memory.parks(TOKENIZER)
        self._frames = FrameThread(self._decode, memory.device)
        self._tokenizer, self._engine, self._text_encoder, self._refiner = tokenizer, engine, text_encoder, refiner
        self._refining = memory.hold(REFINER, refiner.program) if refiner is not None else None
        self._programs = memory.hold(TOKENIZER, nn.ModuleList([tokenizer.encoder, tokenizer.decoder]))
        self._transformer = memory.hold(TRANSFORMER, engine.module, on_leave=engine.release)
        self._frame_decoder = diffusion or DiscreteDecoder(tokenizer, self._programs)
        self._programs.rest()
        self._frame_decoder.rest()
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
        denoising_steps: int = 0,
        window: int = 0,
    ) -> WorldModel:
        """Load a checkpoint, its tokenizer, its frame decoder, its refiner if any and what encodes its prompts, if any.

        checkpoint  its directory, or what was read of it before; "": the model that ships with this package
        tokenizer   directory with encoder.jit and decoder.jit, or autoencoder.jit; "": looked for in and next to the
                    checkpoint
        device      "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1"
        dtype       "auto" (bfloat16 on CUDA, float32 on the CPU), "bfloat16", "float32", "fp8" (matrix products of the
                    transformer in 8 bits; as "auto" where the device cannot)
        memory      None: every part stays on the device
        gpus        over how many, from the device on, the transformer is cut; the rest is on the first
        denoising_steps  of the diffusion decoder, where the spec has one; 0: as published
        window      positions that a decoding pass looks at; 0: as many as suit the device

        Raises ModelUnavailable; SettingError for fp8 on several GPUs.
        """
        place = resolve_device(device)
        precision = resolve_dtype(dtype, place)
        memory = memory or DeviceMemory(place)
        spec = checkpoint if isinstance(checkpoint, ModelSpec) else ModelSpec.of_checkpoint(checkpoint)
        tokenizer_directory = find_tokenizer(spec.directory, tokenizer)
        text_encoder = None
        if spec.config.context_dim is not None:
            text_encoder = TextEncoder.for_checkpoint(
                spec.directory, place, width=spec.config.context_dim, memory=memory
            )
        # The tokenizer first: it is tried out when it is loaded, which takes more memory than it keeps.
        programs = VideoTokenizer.load(tokenizer_directory, spec.chunking, spec.config.vocab_out, place, precision)
        refiner = Refiner.load(spec.directory, spec.chunking, place, precision)
        diffusion: FrameDecoder | None = None
        if spec.diffusion_decoder is not None:
            steps = denoising_steps or PUBLISHED_STEPS
            diffusion = load_diffusion_decoder(
                spec.diffusion_decoder, dtype=precision, memory=memory, steps=steps, float8=dtype == FLOAT8
            )
        if gpus != 1 and dtype == FLOAT8:
            raise SettingError(f"dtype {FLOAT8} works on one GPU; leave gpus at 1, or take bfloat16")
        if gpus != 1:
            ranks = TensorParallelDecoder(
                spec.checkpoint, spec.config, gpus=gpus, device=place, dtype=precision, window=window
            )
            ranks.start()
            return cls(spec, programs, ranks, text_encoder, refiner, memory, diffusion=diffusion)
        transformer = load_transformer(spec.checkpoint, spec.config, device=place, dtype=precision)
        if not memory.parks(TRANSFORMER):  # what is parked is copied, which the packed layout does not bear
            pack(transformer)
        computes_in = FLOAT8 if dtype == FLOAT8 and in_float8(transformer, place) else ""
        if memory.tables_on_host:
            transformer.tok_embeddings = HostTable(transformer.get_parameter("tok_embeddings.weight"), place)
        engine = WindowDecoder(transformer, window)
        return cls(spec, programs, engine, text_encoder, refiner, memory, computes_in, diffusion)

    def warm_up(self) -> None:
        """Take every path once, so that the first prediction is as fast as the next: a few passes of each part."""
        spec = self.spec
        width = spec.config.context_dim
        context = None if width is None else torch.zeros(1, CONTEXT_LENGTH, width)
        sampling = Sampling(0, spec.temperature, spec.top_p)
        for n_conditioning in spec.conditioning_lengths:
            tokens = self.tokenize(np.zeros((n_conditioning, *spec.frame_size, 3), np.uint8))
            with closing(self.passes(tokens, context, sampling)) as passes:
                for _ in islice(passes, WARM_UP_PASSES):
                    pass
        with suppress(NotFinite), self._frame_decoder.brief():  # whatever this makes of tokens that nobody asked for
            tokens = torch.zeros(spec.config.n_tokens, dtype=torch.long)
            for n_conditioning in spec.conditioning_lengths:
                (camera,) = self._seen_by_refiner([np.zeros((n_conditioning, *spec.frame_size, 3), np.uint8)])
                for _ in self._decode(tokens, n_conditioning, Conditions(context, camera=camera)):
                    pass
                if self._refiner is None:
                    break
            self._by_groups()

    def release(self) -> None:
        """Give the device's memory back. The model is of no use afterwards."""
        self._frames.close()
        self._engine.release()
        del self._tokenizer, self._engine, self._text_encoder, self._programs, self._transformer
        del self._refiner, self._refining, self._frame_decoder
        return_memory()

    @cpu_threads()
    def tokenize(self, frames: np.ndarray, whole: bool = False) -> Tensor:
        """Tokens int64 [N] of camera frames uint8 [n, H, W, 3] of any size; n is 1 + 8k, oldest first.

        whole  they are frames of `roll_out`, which show what the model sees and no more
        """
        pixels = (resized if whole else to_model_input)(frames, self.spec.frame_size)
        with self._programs.in_use():
            return self._tokenizer.encode(pixels)

    def tokenize_batch(self, clips: Sequence[np.ndarray], whole: bool = False) -> Tensor:
        """Tokens int64 [samples, N] of each sample's frames, as `tokenize` takes them; the same clip only once."""
        tokens = {name: self.tokenize(clip, whole) for name, clip in {id(clip): clip for clip in clips}.items()}
        return torch.stack([tokens[id(clip)] for clip in clips])

    @cpu_threads()
    def codes(self, frames: np.ndarray) -> np.ndarray:
        """The tokenizer's codes float32 [n, codes, h', w'] of frames uint8 [n, H, W, 3] of any size, each by itself.

        Raises ModelUnavailable where its encoder gives none.
        """
        pixels = to_model_input(frames, self.spec.frame_size)
        with self._programs.in_use():
            return self._tokenizer.codes(pixels).numpy()

    @cpu_threads()
    def encode_text(self, prompt: str) -> Tensor | None:
        """The context [1, M, context_dim] of a prompt; None for a model that takes none.

        Raises ModelUnavailable where the text encoder is missing.
        """
        return self._text_encoder.encode(prompt) if self._text_encoder else None

    def passes(
        self,
        tokens: Tensor,
        context: Tensor | None,
        sampling: Sampling,
        samples: int = 1,
        n_tokens: int | None = None,
    ) -> Generator[Pass, None, None]:
        """Complete the video, as DecodeEngine.passes has it. Closing the iterator ends it.

        tokens   int64 [N] of the conditioning frames, as `tokenize` gives them, or [samples, N], each sample's own
        context  as `encode_text` gives it
        samples  rollouts of the same clip, with seeds from the sampling's on
        """
        with self._transformer.in_use():
            yield from stepwise(
                self._engine.passes(tokens.expand(samples, -1), sampling, context, n_tokens), cpu_threads
            )

    def surprisal(self, frames: np.ndarray, context: Tensor | None, given: int) -> np.ndarray | None:
        """How unlikely true frames are, as WindowDecoder.surprisal has it: float32 [3, latent frames, h, w].

        frames   uint8 [n, H, W, 3], n is 1 + 8k, of which the first `given` are the clip
        context  as `encode_text` gives it

        None where the engine has no single pass over true tokens: its transformer lies in other processes.
        """
        if not isinstance(self._engine, WindowDecoder):
            return None
        tokens = self.tokenize(frames)
        chunking = self.spec.chunking
        known = chunking.latent_frames(given) * chunking.tokens_per_latent_frame
        with self._transformer.in_use(), cpu_threads():
            found = self._engine.surprisal(tokens, known, context)
        return found.unflatten(1, (-1, *chunking.latent_shape[1:])).numpy()

    def roll_out(
        self,
        tokens: Tensor,
        context: Tensor | None,
        sampling: Sampling,
        n_conditioning: int,
        n_frames: int,
        samples: int = 1,
        camera: np.ndarray | Sequence[np.ndarray] | None = None,
        whole: bool = False,
    ) -> Generator[Step, None, None]:
        """Predict frames, the first of them decoded while later tokens are still being decided where that pays.

        tokens, context, sampling, samples  as `passes` takes them
        n_conditioning  frames that the tokens stand for
        n_frames        predicted frames wanted, at most `spec.new_frames(n_conditioning)`
        camera          the conditioning frames uint8 [n, H, W, 3] for the checkpoint's refiner, or each sample's own;
                        None: unrefined
        whole           these frames were predicted, see `tokenize`

        Closing the iterator ends the prediction. Raises NotFinite where a pixel or a logit is no finite number.
        """
        chunking, step = self.spec.chunking, self.spec.compression[0]
        by_groups = self._by_groups()
        latent_frames = chunking.latent_shape[0]
        if n_frames < self.spec.new_frames(n_conditioning) and self._decodes_by_groups:
            by_groups = True
            latent_frames = chunking.latent_frames(n_conditioning) + math.ceil(n_frames / step)
        cameras = [camera] * samples if camera is None or isinstance(camera, np.ndarray) else camera
        conditions = [
            Conditions(context, sampling.noise_seed(sample), seen, self.hypothesis(sampling.seed + sample))
            for sample, seen in enumerate(self._seen_by_refiner(cameras, whole))
        ]
        frames = self._frames.rollout(chunking, n_conditioning, n_frames, by_groups, conditions)
        at_once = by_groups and self._together
        to_denoise = samples * self._frame_decoder.evaluations(chunking.latent_shape[0])
        try:
            for passed in self.passes(
                tokens, context, sampling, samples, latent_frames * chunking.tokens_per_latent_frame
            ):
                if at_once:
                    frames.take(passed)
                done = min(passed.done)
                ready = min(done // chunking.tokens_per_latent_frame * step, n_frames)
                now = Step(passed.number, done, passed.total, ready, frames.ready(), to_denoise=to_denoise)
                yield now
            frames.take(passed)
            for decoded in frames.rest():
                yield replace(now, frames=decoded, denoised=frames.steps)
        finally:
            frames.drop()

    def decode(self, tokens: Tensor, first: int, conditions: Conditions | None = None) -> Iterator[np.ndarray]:
        """Frames uint8 [k, h, w, 3] RGB at the model's resolution, in order, after the first ones of the video.

        They come as they are converted and copied from the device, so that the first can be judged meanwhile.
        """
        unrefined = replace(conditions or Conditions(), camera=None)
        yield from (some.pixels for some in self._decode(tokens, first, unrefined) if some is not None)

    def decode_truth(self, tokens: Tensor, frames: np.ndarray, context: Tensor | None = None) -> Iterator[Decoded]:
        """What a rollout of exactly these frames would look like, from the second frame on.

        These tokens are right: of a refiner's hypotheses the one refines that trusts them.

        tokens   of a whole chunk of true frames, as `tokenize` gives them
        frames   the chunk, uint8 [n, H, W, 3]. A refiner sees the first of them, then, for the frames after the longest
                 clip, that clip
        context  as `encode_text` gives it
        """
        clip, step = self.spec.conditioning_lengths[0], self.spec.compression[0]

        def decoded(first: int) -> Iterator[Decoded]:
            (camera,) = self._seen_by_refiner([frames[:first]])
            seen = Conditions(context, camera=camera, hypothesis=self.trusting)
            return filter(None, self._decode(tokens, first, seen))

        if self._refiner is None:
            yield from decoded(1)
            return
        yield from islice(decoded(1), (clip - 1) // step)
        yield from decoded(clip)

    def _seen_by_refiner(self, cameras: Sequence[np.ndarray | None], whole: bool = False) -> list[Tensor | None]:
        """What the refiner sees of each sample's conditioning frames; what several have in common is there once."""
        seen: dict[int, Tensor | None] = {}
        for camera in cameras:
            if id(camera) not in seen:
                if camera is None or self._refiner is None:
                    seen[id(camera)] = None
                else:
                    seen[id(camera)] = self._refiner.conditioning(camera, whole)
        return [seen[id(camera)] for camera in cameras]

    def _decode(self, tokens: Tensor, first: int, conditions: Conditions) -> Iterator[Decoded | None]:
        """Frames after the first ones, and None after each step that gave none.

        Refined, in groups of one latent frame, where there is a camera.
        """
        video = tokens.view(-1, *self.spec.chunking.latent_shape[1:])
        decoded = yield from self._frame_decoder.pixels(video, conditions.context, conditions.seed)
        if conditions.camera is None or self._refiner is None or self._refining is None:
            for some in decoded[:, first:].split(OUTPUT_FRAMES, dim=1):
                yield Decoded(_rgb(some))
            return
        step = self.spec.compression[0]
        for end in range(first + step, decoded.shape[1] + 1, step):
            with self._refining.in_use(), cpu_threads():
                refined = self._refiner.refine(decoded[:, :end], conditions.camera, conditions.hypothesis)
            yield Decoded(refined.numpy(), _rgb(decoded[:, end - step : end]))

    def hypothesis(self, seed: int) -> int:
        """Which of the refiner's refines the sample of this seed, in all its stretches."""
        return seed % self._refiner.hypotheses if self._refiner is not None else 0

    @property
    def trusting(self) -> int:
        """Which of the refiner's hypotheses refines round trips of true frames."""
        return self._refiner.trusting if self._refiner is not None else 0

    @property
    def decoding(self) -> Decoding:
        """How rollouts are made, as they carry it; `passes` and `hypothesis` are each one's own."""
        refined = self._refiner is not None
        decoder = self._frame_decoder
        return Decoding(self._dtype, self._engine.window, 0, decoder.name, refined, decoder.steps)

    def _by_groups(self) -> bool:
        """Whether each latent frame is decoded as soon as it is complete.

        The decoder then works on all earlier ones again. A GPU does that beside the passes; a CPU has no core for it.
        """
        if self._device.type == "cpu" or not self._together:
            return False
        return self._decodes_by_groups

    @cached_property
    def _decodes_by_groups(self) -> bool:
        """Whether the first latent frames can be decoded before the others are known; measured on the device."""
        if not (found := self._frame_decoder.by_groups):
            name = self._frame_decoder.name
            logger.info("the %s decoder looks at later tokens: frames are decoded once all of them are there", name)
        return found


def _rgb(pixels: Tensor) -> np.ndarray:
    """uint8 [k, h, w, 3] of pixels [3, k, h, w] in [-1, 1]."""
    return to_levels(pixels).permute(1, 2, 3, 0).contiguous().cpu().numpy()


def in_float8(transformer: Transformer, device: torch.device) -> bool:
    """Let the transformer multiply in 8 bits; False, and said in the log, where the device or a package cannot."""
    if not has_float8(device):
        logger.warning("%s does not multiply in 8 bits; the transformer computes in %s", device, default_dtype(device))
        return False
    try:
        from cosmos_ros.world_model.decoding.float8 import to_float8
    except ImportError:  # Triton comes with PyTorch's CUDA builds, and not with all of them
        logger.warning("multiplying in 8 bits needs Triton; the transformer computes in %s", default_dtype(device))
        return False
    to_float8(transformer)
    return True
