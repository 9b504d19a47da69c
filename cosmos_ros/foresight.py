"""Foresight: clip (+ prompt) -> GuardedRollout. The public Python door, and the only one to the world model."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from cosmos_ros.device.devices import free_memory, resolve_device, resolve_dtype
from cosmos_ros.device.out_of_memory import out_of_memory_as_error
from cosmos_ros.device.placement import DeviceMemory
from cosmos_ros.device.plan import MemoryPlan, plan_memory
from cosmos_ros.errors import InvalidGoal, ModelUnavailable, OutOfMemory
from cosmos_ros.goal_checks import check_goal, check_prompt, sampling_of
from cosmos_ros.guardrail import Guardrail
from cosmos_ros.guardrail.screening import Screening
from cosmos_ros.guardrail.stretches import joined
from cosmos_ros.pipeline import PIPELINE, needs_of
from cosmos_ros.progress import Progress, Stage, StageClock
from cosmos_ros.rollout import MAX_FRAMES, Clip, Crop, GuardedRollout, Likelihood
from cosmos_ros.samples import mean_frames
from cosmos_ros.settings import ForesightConfig
from cosmos_ros.world_model import ModelSpec, Sampling, WorldModel
from cosmos_ros.world_model.checkpoints.weight_files import fingerprint, model_files
from cosmos_ros.world_model.diffusion_decoder.sampler import PUBLISHED_STEPS
from cosmos_ros.world_model.preprocessing import camera_view
from cosmos_ros.world_model.tokenizer.programs import find_tokenizer

logger = logging.getLogger(__name__)

LOADING = ("loading the world model", "loading the guards", "compiling and recording its passes", "trying the guards")


class Foresight:
    """A world model behind its guardrail.

    Making one loads the guardrail and reads what the checkpoint is; `load` brings the model to the device,
    `unload` gives the device back. `predict` loads where nobody has.

    Raises GuardrailUnavailable where the checkpoint's guardrail cannot be had, ModelUnavailable where the
    checkpoint cannot be read.
    """

    def __init__(self, config: ForesightConfig) -> None:
        self.config = config
        self.spec = ModelSpec.of_checkpoint(config.checkpoint).at(config.frame_size).decoded_by(config.frame_decoder)
        self._memory = DeviceMemory(resolve_device(config.device))
        with out_of_memory_as_error("loading the guardrail"):
            self.guardrail = Guardrail.for_model(self.spec, config.guardrail, config.guard_timeout, self._memory)
        self._model: WorldModel | None = None
        self._busy = threading.Lock()
        self.loading = ""  # which step of loading is being taken, in words; "": none is

    @classmethod
    def from_config(cls, source: str | Path | Mapping | None = None) -> Foresight:
        """From a mapping or a YAML file of ForesightConfig's fields; nothing given: the model that ships."""
        return cls(ForesightConfig() if source is None else ForesightConfig.of(source))

    @property
    def loaded(self) -> bool:
        return self._model is not None

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over what decides what the model computes: tells models apart, whatever they are called."""
        folders = (self.spec.directory, find_tokenizer(self.spec.directory, self.config.tokenizer))
        files = sorted({file for folder in folders for file in model_files(folder)})
        how = ""
        if (diffusion := self.spec.diffusion_decoder) is not None:
            files += diffusion.files
            how = f"{diffusion.solver.name} {self.config.denoising_steps or PUBLISHED_STEPS}"
        return hashlib.sha256("".join([*(each.name + fingerprint(each) for each in files), how]).encode()).hexdigest()

    def load(self) -> None:
        """Load and warm up the world model and the guards. Raises ModelUnavailable, OutOfMemory."""
        with self._busy:
            self._require_model()

    def unload(self) -> None:
        """Give the device's memory back; waits for a running prediction."""
        with self._busy:
            model, self._model = self._model, None
            if model is not None:
                model.release()
                self.guardrail.unload()

    def predict(
        self,
        clip: Clip,
        prompt: str = "",
        *,
        seed: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        frames: int | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> GuardedRollout:
        """Predict the frames that follow the clip.

        seed         same seed, clip, prompt, device, precision and window: same rollout. None: drawn; the rollout
                     carries it
        temperature  0 is greedy; None: what the model's makers recommend
        top_p        in (0, 1]; None: likewise
        frames       how many to predict, rounded up to whole latent frames; fewer take less time, more come in
                     stretches, see `predict_stretches`. None: 24 after 9 frames, 32 after an image
        on_progress  called at every stage and after every decoding pass; may raise Canceled to end the prediction

        Raises InvalidGoal, PromptBlocked, VideoBlocked, GuardrailUnavailable, ModelUnavailable, OutOfMemory, RankLost
        (with `gpus` above 1), and whatever on_progress raises.
        """
        return self.predict_samples(
            clip,
            1,
            prompt,
            seed=seed,
            temperature=temperature,
            top_p=top_p,
            frames=frames,
            on_progress=on_progress,
        )[0]

    def predict_samples(
        self,
        clip: Clip,
        n: int,
        prompt: str = "",
        *,
        seed: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        frames: int | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> list[GuardedRollout]:
        """Predict n futures of one clip together, with the seeds seed, seed + 1, ...; each as `predict` would give it.

        A guard that refuses one of them refuses all. Arguments and errors as `predict` has them.
        """
        stretches = self.predict_stretches(
            clip,
            n,
            prompt,
            seed=seed,
            temperature=temperature,
            top_p=top_p,
            frames=frames,
            on_progress=on_progress,
        )
        return [joined(sample) for sample in zip(*stretches, strict=True)]

    def predict_stretches(
        self,
        clip: Clip,
        n: int,
        prompt: str = "",
        *,
        seed: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        frames: int | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Generator[list[GuardedRollout], None, None]:
        """The same prediction stretch by stretch: each as soon as it has passed the guards, a rollout for each sample.

        The first goes on from the clip, each later one from the last frames that were predicted before it, as they
        were before the guards. So what a guard refuses ends the prediction and takes back nothing. Other predictions
        may be made between two stretches. Arguments are checked at once; arguments and errors as `predict` has them.
        """
        sampling = sampling_of(self.spec, seed, temperature, top_p, n)
        check_goal(self.spec, clip, prompt)
        return self._stretches(clip, n, prompt, sampling, self.stretch_lengths(len(clip.frames), frames), on_progress)

    def stretch_lengths(self, n: int, frames: int | None = None) -> tuple[int, ...]:
        """How many frames each stretch of a prediction from n camera frames has. Raises InvalidGoal."""
        after_clip = self.spec.new_frames(self.spec.conditioning_lengths[0])
        if frames is not None and not 1 <= frames <= MAX_FRAMES:
            raise InvalidGoal(f"frames must lie in 1..{MAX_FRAMES}; got {frames}")
        lengths = self.spec.stretches(n, frames or self.spec.new_frames(n))
        if len(lengths) > 1 and after_clip < self.spec.conditioning_lengths[0]:
            raise InvalidGoal(
                f"{self.spec.name} predicts {after_clip} frames at once, fewer than it goes on from: it has no "
                f"stretches, so ask for at most {lengths[0]} frames; got {frames}"
            )
        return lengths

    def _stretches(
        self,
        clip: Clip,
        n: int,
        prompt: str,
        sampling: Sampling,
        lengths: Sequence[int],
        on_progress: Callable[[Progress], None] | None,
    ) -> Generator[list[GuardedRollout], None, None]:
        seen, before = [clip.frames] * n, 0
        for number, length in enumerate(lengths):
            clock = StageClock(
                on_progress,
                length,
                n_before=before,
                n_after=sum(lengths[number + 1 :]),
                denoises=self.spec.diffusion_decoder is not None,
            )
            with self._busy:
                rollouts, seen = self._stretch(clip, prompt, sampling, number, before, seen, clock)
            yield rollouts
            before += length

    def _stretch(
        self,
        clip: Clip,
        prompt: str,
        sampling: Sampling,
        number: int,
        before: int,
        seen: Sequence[np.ndarray],
        clock: StageClock,
    ) -> tuple[list[GuardedRollout], list[np.ndarray]]:
        """One stretch of all samples, and what the next one goes on from: its last frames, as the guards got them.

        before  frames in earlier stretches
        seen    what each sample goes on from: the clip's frames, or predicted ones
        """
        model, drawn = self._require_model(), sampling.of_stretch(number)
        self._require_room(len(seen))
        last: dict[int, np.ndarray] = {}
        with clock, ExitStack() as under_watch, out_of_memory_as_error("predicting"):

            def screening() -> Screening:
                return under_watch.enter_context(self.guardrail.screen(prompt, self._view(clip), before))

            screenings = [screening()]
            clock.enter(Stage.TOKENIZING)
            tokens = model.tokenize_batch(seen, whole=number > 0)
            clock.enter(Stage.PROMPT_GUARD)
            screenings[0].admit_prompt(waiting=clock.report)
            for _ in seen[1:]:  # once the verdict is known, so that the guards are asked only once
                screenings.append(screening())
                screenings[-1].admit_prompt(waiting=clock.report)
            clock.enter(Stage.TEXT_ENCODING)
            context = model.encode_text(prompt)
            clock.enter(Stage.GENERATING)
            steps = model.roll_out(
                tokens,
                context,
                drawn,
                len(seen[0]),
                clock.n_new,
                samples=len(seen),
                camera=seen,
                whole=number > 0,
            )
            with closing(steps):
                for step in steps:
                    clock.passed(step.done, step.total, step.frames_ready)
                    clock.denoised(step.denoised, step.to_denoise)
                    for each in screenings:
                        each.raise_refusal()
                    for some in step.frames:
                        screenings[some.sample].inspect(some.pixels, some.unrefined)
                        together = np.concatenate([last.get(some.sample, some.pixels[:0]), some.pixels])
                        last[some.sample] = together[-self.spec.conditioning_lengths[0] :]
            clock.enter(Stage.VIDEO_GUARD)
            rollouts = [
                each.release(
                    clip,
                    model=self.spec.name,
                    seed=sampling.seed + sample,
                    sample=sample,
                    decoding=replace(
                        model.decoding, passes=step.passes, hypothesis=model.hypothesis(sampling.seed + sample)
                    ),
                    timing=clock.finish,
                    waiting=clock.report,
                )
                for sample, each in enumerate(screenings)
            ]
        return rollouts, [last[sample] for sample in range(len(seen))]

    def mean(self, rollouts: Sequence[GuardedRollout]) -> GuardedRollout:
        """The mean of several samples of one clip, judged again as a rollout of its own; `model` says what it is.

        Raises InvalidGoal for what are no samples of one clip, VideoBlocked, GuardrailUnavailable.
        """
        frames, first = mean_frames(rollouts), rollouts[0]
        stamps = first.conditioning_stamps_ns
        times = Clip(np.broadcast_to(frames[:1], (len(stamps), *frames.shape[1:])), stamps, first.frame_rate)
        with self._busy:
            self._require_model()  # the guards with it
            with self.guardrail.screen(first.prompt, first.crop, first.first_frame) as screening:
                screening.admit_prompt()
                screening.inspect(frames)
                return screening.release(
                    times,
                    model=f"{first.model} (mean of {len(rollouts)} samples)",
                    seed=first.seed,
                    decoding=first.decoding,
                    timing=tuple,
                )

    def likelihood(self, clip: Clip, frames: np.ndarray, prompt: str = "") -> Likelihood:
        """How likely the model finds the frames that truly followed the clip, in nats per token, by one pass.

        frames  uint8 [n, H, W, 3], as the camera gave them, at the clip's rate; n is a multiple of 8, at most 24 after
                9 frames and 32 after an image

        Numbers alone leave, so that no guard is asked. All NaN with `gpus` above 1. Raises InvalidGoal,
        ModelUnavailable where the model is not loaded, OutOfMemory.
        """
        check_goal(self.spec, clip, prompt)
        given, n, step = len(clip.frames), len(frames), self.spec.compression[0]
        if frames.shape[1:] != clip.frames.shape[1:] or n % step or not 0 < n <= self.spec.new_frames(given):
            raise InvalidGoal(
                f"the frames after a clip of {given} must be {step} to {self.spec.new_frames(given)}, a multiple of "
                f"{step}, and of its size {clip.frames.shape[1:]}; got {frames.shape}"
            )
        with self._busy, out_of_memory_as_error("computing a likelihood"):
            model = self._loaded_model()
            found = model.surprisal(np.concatenate([clip.frames, frames]), model.encode_text(prompt), given)
        if found is None:
            unknown = np.full((n // step, *self.spec.config.latent_shape[1:]), np.nan, np.float32)
            return Likelihood(unknown, unknown, unknown)
        return Likelihood(*found)

    def reconstruct(self, frames: Clip, prompt: str = "") -> GuardedRollout:
        """True frames through tokenizer and refiner: the best that a rollout of this model could look like.

        frames  a whole chunk, uint8 [1 + new_frames(1), H, W, 3]; those after the first come back

        Of a refiner's hypotheses the one refines that trusts the tokens. Nothing is predicted, but the pixels come from
        the model's decoder. So they pass the same guards and leave in the same form; `model` says what they are, and no
        seed is involved. Raises as `predict` does.
        """
        if len(frames.frames) != (chunk := 1 + self.spec.new_frames(1)):
            raise InvalidGoal(f"a reconstruction takes {chunk} true frames; got {len(frames.frames)}")
        check_prompt(self.spec, prompt)
        clip = Clip(frames.frames[:1], frames.stamps_ns[:1], frames.frame_rate)
        with self._busy:
            model = self._require_model()
            with self.guardrail.screen(prompt, self._view(clip)) as screening, out_of_memory_as_error("reconstructing"):
                tokens = model.tokenize(frames.frames)
                screening.admit_prompt()
                context = model.encode_text(prompt) if self.spec.diffusion_decoder is not None else None
                for some in model.decode_truth(tokens, frames.frames, context):
                    screening.inspect(some.pixels, some.unrefined)
                return screening.release(
                    clip,
                    model=f"{self.spec.name} (tokenizer round trip)",
                    seed=0,
                    sample=0,
                    decoding=replace(model.decoding, window=0, hypothesis=model.trusting),
                    timing=tuple,
                )

    def codes(self, frames: np.ndarray) -> np.ndarray:
        """Where frames lie in the space of the model's own tokenizer: float32 [n, codes, h, w], each frame by itself.

        frames  uint8 [n, H, W, 3], of which the centre is taken as a clip's would be

        Frames that look alike to the model lie near each other. Raises ModelUnavailable where the model is not loaded
        or its tokenizer's encoder gives tokens without codes, OutOfMemory.
        """
        with self._busy, out_of_memory_as_error("encoding"):
            return self._loaded_model().codes(frames)

    def _view(self, clip: Clip) -> Crop:
        """What the model sees of the camera's image."""
        return camera_view(clip.frames.shape[1:3], self.spec.frame_size)

    def _loaded_model(self) -> WorldModel:
        """For what only looks: loading it here would undo an `unload` that came first."""
        if self._model is None:
            raise ModelUnavailable("the model is not loaded: call `load`, or predict first")
        return self._model

    def _require_model(self) -> WorldModel:
        if self._model is None:
            try:
                with out_of_memory_as_error("loading the model"):
                    self._model = self._load()
            finally:
                self.loading = ""
        return self._model

    def _load(self) -> WorldModel:
        """Step by step, as loading a large model and compiling for it take a while; each is said in the log."""
        config, taken = self.config, enumerate(LOADING, 1)

        def next_step() -> None:
            number, what = next(taken)
            self.loading = f"{what} ({number} of {len(LOADING)})"
            logger.info("%s: %s", self.spec.name, self.loading)

        next_step()
        self._memory.follow(self._plan())
        model = WorldModel.from_checkpoint(
            self.spec,
            tokenizer=config.tokenizer,
            device=config.device,
            dtype=config.dtype,
            memory=self._memory,
            gpus=config.gpus,
            denoising_steps=config.denoising_steps,
            window=config.window,
        )
        next_step()
        self.guardrail.load()
        next_step()
        model.warm_up()
        next_step()
        self.guardrail.warm_up(self.spec.compression[0], self.spec.frame_size)
        return model

    def _require_room(self, samples: int) -> None:
        """Raises OutOfMemory where so many samples together are not expected to fit: before any work, not amid it."""
        plan = self._memory.plan
        if plan is None or samples == 1 or plan.peak_of(samples) <= plan.free:
            return
        most = max(n for n in range(1, samples) if n == 1 or plan.peak_of(n) <= plan.free)
        raise OutOfMemory(
            f"{samples} samples together are expected to take {plan.peak_of(samples) / 1e9:.1f} GB of the GPU, of "
            f"which {plan.free / 1e9:.1f} GB were free when the model was loaded; ask for at most {most}"
        )

    def _plan(self) -> MemoryPlan | None:
        """For the memory that is free now; None on the CPU, where a part has nowhere else to wait."""
        config, device = self.config, self._memory.device
        if device.type != "cuda":
            return None
        needs = needs_of(
            self.spec,
            tokenizer=config.tokenizer,
            guardrail=config.guardrail,
            bytes_per_weight=resolve_dtype(config.dtype, device).itemsize,
            gpus=config.gpus,
            window=config.window,
        )
        return plan_memory(needs, PIPELINE, free_memory(device), config.memory)
