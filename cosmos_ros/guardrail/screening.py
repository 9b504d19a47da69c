"""The watch over one stretch of a prediction: the only code that makes a GuardedRollout. It fails closed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import cv2
import numpy as np

from cosmos_ros.errors import ForesightError, GuardrailError, GuardrailUnavailable, PromptBlocked, VideoBlocked
from cosmos_ros.guardrail.guard import ContentGuard, FrameFilter, Guard, Guards, Judgement, PromptGuard
from cosmos_ros.guardrail.prompt_cache import VERDICTS
from cosmos_ros.guardrail.watched_thread import Watch, WatchedThread
from cosmos_ros.guardrail_report import GuardDecision, GuardrailReport, Verdict
from cosmos_ros.progress import StageTime
from cosmos_ros.rollout import _GUARDRAIL_SEAL, Clip, Crop, Decoding, GuardedRollout


class Screening:
    """The guards' watch over one stretch: admit_prompt, then inspect as frames are decoded, then release.

    Whatever goes wrong ends it: no frame leaves a screening that was refused, failed, timed out or left.
    """

    def __init__(
        self, guards: Guards, watch: Watch, takes_prompt: bool, prompt: str, crop: Crop, first_frame: int = 0
    ) -> None:
        self._guards = guards
        self._watch = watch
        self._takes_prompt = takes_prompt
        self._crop = crop
        self._prompt = prompt
        self._first_frame = first_frame
        self._tallies: dict[str, _Tally] = {}
        self._inspected = 0
        self._shape: tuple[int, ...] | None = None
        self._guarded: list[np.ndarray] = []
        self._admitted = False
        self._over = False

    def __enter__(self) -> Screening:
        self._prompt_thread = WatchedThread("prompt", self._watch)
        self._video_thread = WatchedThread("video", self._watch)
        if self._prompt or self._takes_prompt:
            self._prompt_thread.submit(self._judge_prompt)
        return self

    def __exit__(self, _: type | None, error: BaseException | None, __: object) -> None:
        if isinstance(error, ForesightError) and error.report is None:
            error.report = self.report  # whatever ended it, the client learns what was judged by then
        self._over = True
        self._prompt_thread.close()
        self._video_thread.close()
        self._guarded = []

    def admit_prompt(self, waiting: Callable[[], None] | None = None) -> None:
        """Wait for the prompt's verdict. `waiting` is called meanwhile and may raise to give up.

        Raises PromptBlocked, GuardrailUnavailable.
        """
        self._wait(self._prompt_thread, waiting)
        self._admitted = True

    def inspect(self, frames: np.ndarray, unrefined: np.ndarray | None = None) -> None:
        """Hand over predicted frames, uint8 [k, h, w, 3] RGB, in their order; they are judged while more are decoded.

        They are copied: nobody can change them after they were judged. The guards see them as they will leave, at the
        crop's size in camera pixels.

        unrefined  what a refiner made them of, which is judged as well and never leaves: a refiner that copies from
                   the camera must not hide that the model gave nothing

        Raises VideoBlocked where frames are no pictures or earlier ones were refused, GuardrailUnavailable.
        """
        self._check_open()
        self.raise_refusal()
        frozen = _frozen(self._checked(frames))
        first, self._inspected = self._inspected, self._inspected + len(frozen)
        if unrefined is not None:
            made_of = _frozen(self._picture(unrefined))
            self._video_thread.submit(lambda: self._judge_content(made_of, first))
        self._video_thread.submit(lambda: self._judge_frames(frozen, first))

    def raise_refusal(self) -> None:
        """End what cannot leave any more: for whoever generates further frames while earlier ones are judged.

        Raises VideoBlocked where frames were refused, GuardrailUnavailable where a guard failed or hangs.
        """
        try:
            self._video_thread.raise_failure()
        except GuardrailError as error:
            self._refuse(error, self._video_thread.failed_guard)

    def release(
        self,
        clip: Clip,
        model: str,
        seed: int,
        timing: Callable[[], tuple[StageTime, ...]],
        waiting: Callable[[], None] | None = None,
        sample: int = 0,
        decoding: Decoding | None = None,
    ) -> GuardedRollout:
        """Wait until every guard has judged every frame, and let the guarded frames out, once.

        They are stamped after the clip. `timing` is asked when the guards are done. `waiting` is called meanwhile and
        may raise to give up.

        Raises VideoBlocked, GuardrailUnavailable.
        """
        self._check_open()
        if not self._inspected:
            self._refuse(GuardrailUnavailable("the model gave no frames to judge; nothing can be released"))
        self._wait(self._video_thread, waiting)
        self._over = True
        frames, self._guarded = joined_frames(self._guarded), []
        if len(frames) != self._inspected:
            self._refuse(GuardrailUnavailable(f"{len(frames)} of {self._inspected} frames were judged"))
        return GuardedRollout(
            frames=frames,
            stamps_ns=clip.future_stamps_ns(len(frames), self._first_frame),
            conditioning_stamps_ns=clip.stamps_ns,
            frame_rate=clip.frame_rate,
            crop=self._crop,
            model=model,
            prompt=self._prompt,
            seed=seed,
            sample=sample,
            decoding=decoding or Decoding(),
            first_frame=self._first_frame,
            seams=(1,) if self._first_frame else (),
            guardrail=self.report,
            timing=timing(),
            seal=_GUARDRAIL_SEAL,
        )

    @property
    def report(self) -> GuardrailReport:
        """What was decided so far, in order."""
        return GuardrailReport(self._guards.profile, tuple(t.decision() for t in list(self._tallies.values())))

    # The jobs of the two threads

    def _judge_prompt(self) -> None:
        guards = self._guards.prompt
        if not guards:
            raise PromptBlocked("this model takes no prompt, so there is no guard for one; leave the prompt empty")
        for guard in guards:
            if (remembered := VERDICTS.get(guard, self._prompt)) is not None:
                judgement, seconds = remembered, 0.0
            else:
                judgement, seconds = self._prompt_thread.call(guard, partial(_judged, guard, self._prompt))
                VERDICTS.put(guard, self._prompt, judgement)
            self._tally_of(guard).add(judgement, seconds)
            if judgement.verdict is Verdict.REFUSED:
                raise PromptBlocked(f"guard {guard.name} refused the prompt: {judgement.detail}; reword it")

    def _judge_frames(self, frames: np.ndarray, first: int) -> None:
        frames = _resized(frames, self._crop)
        self._judge_content(frames, first)
        for each in self._guards.filters:
            (frames, judgement), seconds = self._video_thread.call(each, partial(_filtered, each, frames))
            self._tally_of(each).add(judgement, seconds)
        self._guarded.append(frames)

    def _judge_content(self, frames: np.ndarray, first: int) -> None:
        for guard in self._guards.content:
            judgement, seconds = self._video_thread.call(guard, partial(_judged, guard, frames))
            self._tally_of(guard).add(judgement, seconds)
            if judgement.verdict is Verdict.REFUSED:
                number = self._first_frame + first + 1
                where = "the frames" if judgement.frame is None else f"predicted frame {number + judgement.frame}"
                raise VideoBlocked(f"guard {guard.name} refused {where}: {judgement.detail}")

    def _tally_of(self, guard: Guard) -> _Tally:
        return self._tallies.setdefault(guard.name, _Tally(guard))

    # What ends a screening

    def _check_open(self) -> None:
        if self._over or not self._admitted:
            state = "is over" if self._over else "has not admitted the prompt"
            self._refuse(GuardrailUnavailable(f"this screening {state}; no frames can pass it"))

    def _wait(self, thread: WatchedThread, waiting: Callable[[], None] | None) -> None:
        try:
            thread.wait(waiting)
        except GuardrailError as error:
            self._refuse(error, thread.failed_guard)

    def _refuse(self, error: GuardrailError, failed: Guard | None = None) -> NoReturn:
        """End the screening. A guard that failed counts as one that refused."""
        self._over = True
        if failed is not None:
            self._tally_of(failed).add(Judgement(Verdict.REFUSED, str(error)), seconds=0.0)
        error.report = self.report  # of several samples it is this one's that tells why
        raise error

    def _checked(self, frames: np.ndarray) -> np.ndarray:
        """The frames, where they are pictures that continue the earlier ones."""
        frames = self._picture(frames)
        if self._shape not in (None, frames.shape[1:]):
            self._refuse(
                VideoBlocked(f"the frames' size changed from {self._shape} to {frames.shape[1:]} within a rollout")
            )
        self._shape = frames.shape[1:]
        return frames

    def _picture(self, frames: np.ndarray) -> np.ndarray:
        """The frames, where they are pictures."""
        fault = ""
        if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8:
            fault = f"the model gave {getattr(frames, 'dtype', type(frames).__name__)}, not uint8 pixels"
        elif frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
            fault = f"the model gave frames of shape {list(frames.shape)}, not [k, height, width, 3]"
        if fault:
            self._refuse(VideoBlocked(fault))
        return frames


@dataclass
class _Tally:
    """What one guard said so far."""

    guard: Guard
    verdict: Verdict = Verdict.PASSED
    detail: str = ""
    changes: int = 0
    seconds: float = 0.0

    def add(self, judgement: Judgement, seconds: float) -> None:
        self.verdict = max(self.verdict, judgement.verdict)
        self.detail = judgement.detail or self.detail
        self.changes += judgement.changes
        self.seconds += seconds

    def decision(self) -> GuardDecision:
        detail = f"{self.changes} {self.detail}" if self.verdict is Verdict.MODIFIED else self.detail
        return GuardDecision(self.guard.name, self.verdict, detail, self.guard.weights, self.seconds)


def _judged(guard: PromptGuard | ContentGuard, subject: Any) -> Judgement:
    """The guard's answer, where it is one."""
    return _known(guard, guard.judge(subject), Verdict.PASSED, Verdict.REFUSED)


def _filtered(guard: FrameFilter, given: np.ndarray) -> tuple[np.ndarray, Judgement]:
    """The filter's answer, frozen, where it is one."""
    answer = guard.filter(given)
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise GuardrailUnavailable(f"guard {guard.name} answered something unknown: {answer!r:.200}")
    frames, judgement = answer
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.shape != given.shape:
        got = f"{getattr(frames, 'dtype', type(frames).__name__)} {list(getattr(frames, 'shape', ()))}"
        raise GuardrailUnavailable(f"guard {guard.name} gave back {got}, not uint8 {list(given.shape)}")
    known = _known(guard, judgement, Verdict.PASSED, Verdict.MODIFIED)
    return given if frames is given else _frozen(frames), known


def _known(guard: Guard, answer: object, *allowed: Verdict) -> Judgement:
    if not isinstance(answer, Judgement) or not any(answer.verdict is verdict for verdict in allowed):
        raise GuardrailUnavailable(f"guard {guard.name} answered something unknown: {answer!r:.200}")
    return answer


def _frozen(frames: np.ndarray) -> np.ndarray:
    """A copy that nobody can write to, not even by setting a flag: its memory belongs to an immutable object."""
    return np.frombuffer(frames.tobytes(), np.uint8).reshape(frames.shape)


def joined_frames(chunks: Sequence[np.ndarray]) -> np.ndarray:
    """The chunks' frames [n, h, w, 3] as one, frozen: copied once, as fresh memory costs more than the guards' sums."""
    together = b"".join(np.ascontiguousarray(chunk).data for chunk in chunks)
    return np.frombuffer(together, np.uint8).reshape(-1, *chunks[0].shape[1:])


def _resized(frames: np.ndarray, crop: Crop) -> np.ndarray:
    """Frozen frames [n, h, w, 3] at the crop's size, frozen."""
    height, width = frames.shape[1:3]
    if (height, width) == (crop.height, crop.width):
        return frames
    how = cv2.INTER_AREA if crop.height * crop.width < height * width else cv2.INTER_LINEAR
    size = (crop.width, crop.height)
    return joined_frames([cv2.resize(frame, size, interpolation=how)[np.newaxis] for frame in frames])
