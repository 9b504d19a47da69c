"""The guards of one model: which are in force, where their weights wait, and the door to a screening."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from cosmos_ros.device.devices import resolve_device
from cosmos_ros.device.placement import DeviceMemory
from cosmos_ros.device.plan import Need
from cosmos_ros.errors import ForesightError, GuardrailError, GuardrailUnavailable, SettingError
from cosmos_ros.guardrail.cosmos import folder as cosmos_folder
from cosmos_ros.guardrail.cosmos.profile import cosmos_guards
from cosmos_ros.guardrail.embedded.profile import embedded_guards
from cosmos_ros.guardrail.guard import Checkpoint, FrameFilter, Guard, Guards
from cosmos_ros.guardrail.screening import Screening
from cosmos_ros.guardrail.watched_thread import Watch, WatchedThread
from cosmos_ros.rollout import Crop

logger = logging.getLogger(__name__)

WARM_UP_PROMPT = "A robot arm moves over a table."
WARM_UP_LENIENCY = 6  # a guard may take this many times its limit for its first answer, from which it gets a fair one


class Guardrail:
    """The guards of one model. There is no way to run a model without them, and no way to switch one off.

    guards        those in force
    takes_prompt  whether the model takes text
    timeout_s     seconds of its own work that a guard may take for an answer; see Watch.limit_s

    Raises GuardrailUnavailable where a kind of guard is missing, SettingError for a time that is none.
    """

    def __init__(self, guards: Guards, takes_prompt: bool, timeout_s: float = 10.0) -> None:
        needed: dict[str, tuple[Guard, ...]] = {"content guard": guards.content, "face filter": guards.filters}
        if takes_prompt:
            needed["prompt guard"] = guards.prompt
        if missing := [kind for kind, found in needed.items() if not found]:
            raise GuardrailUnavailable(
                f"the {guards.profile} guardrail has no {' and no '.join(missing)}; nothing may leave"
            )
        if not timeout_s > 0:
            raise SettingError(f"a guard's time must be positive, in seconds; got {timeout_s}")
        self._guards = guards
        self._takes_prompt = takes_prompt
        self.watch = Watch(guards.everyone, timeout_s)

    @classmethod
    def for_model(
        cls,
        spec: Checkpoint,
        folder: str | Path = "",
        timeout_s: float = 10.0,
        memory: DeviceMemory | None = None,
    ) -> Guardrail:
        """The guardrail under which a checkpoint may run.

        One of NVIDIA's published checkpoints runs under Cosmos-1.0-Guardrail alone: from `folder`, else from
        `Cosmos-1.0-Guardrail` beside the checkpoint's directory, else from `guardrail` inside it. Any other
        checkpoint runs under the embedded profile, or, where a folder is given, under the one in the folder.
        `memory` is where the folder's networks compute; None: on the GPU where there is one, else on the CPU.

        Raises GuardrailUnavailable where that cannot be had, with what to do about it.
        """
        if spec.published or folder:
            guards = cosmos_guards(spec, folder, memory or DeviceMemory(resolve_device("auto")))
        else:
            guards = embedded_guards(spec.frame_size)
        return cls(guards, spec.takes_prompt, timeout_s)

    @staticmethod
    def check(spec: Checkpoint, folder: str | Path = "") -> str:
        """Look whether the guards that `for_model` would load are there, by names alone; what was found, in words.

        Raises GuardrailUnavailable for what is missing.
        """
        if not (spec.published or folder):
            return "the embedded one, which comes with this package"
        home = cosmos_folder.find_folder(spec.directory, folder)
        cosmos_folder.require_whole(home, spec.takes_prompt)
        return str(home)

    @staticmethod
    def needs_for(spec: Checkpoint, folder: str | Path = "") -> tuple[Need, ...]:
        """What the guards that `for_model` would load take of the device; the embedded ones take nothing.

        Raises GuardrailUnavailable where the folder, or a network's snapshot in it, is not there.
        """
        if not (spec.published or folder):
            return ()
        return cosmos_folder.needs_of(cosmos_folder.find_folder(spec.directory, folder), spec.takes_prompt)

    @property
    def guards(self) -> Guards:
        """A property, so that nobody can set it: guards that were exchanged later could let everything pass."""
        return self._guards

    @property
    def profile(self) -> str:
        """The profile's name: "embedded" or "Cosmos-1.0-Guardrail"."""
        return self._guards.profile

    def load(self) -> None:
        """Bring the guards' networks to where they wait between judgements, so that no goal waits for it.

        Raises GuardrailUnavailable where one of them fails; running out of memory is passed on as it is.
        """
        self._each(_load)

    def warm_up(self, n_frames: int, frame_size: tuple[int, int]) -> None:
        """Let every guard work once, so that the first goal is judged as quickly as the next, and time it.

        n_frames, frame_size  a group of frames as they will come; height and width in pixels

        What the guards answer does not count. One that fails is logged; a goal that asks it fails closed.
        """
        # Noise, as a face detector is done with an empty picture at once.
        frames = np.random.default_rng(0).integers(0, 256, (n_frames, *frame_size, 3), dtype=np.uint8)
        frames.flags.writeable = False
        for guard in self._guards.everyone:
            act: Callable = guard.filter if isinstance(guard, FrameFilter) else guard.judge
            subject = WARM_UP_PROMPT if guard in self._guards.prompt else frames
            thread = WatchedThread("warm-up", self.watch, WARM_UP_LENIENCY)
            thread.submit(partial(self._warm_up_one, thread, guard, partial(act, subject)))
            try:
                thread.wait()
            except GuardrailError as error:
                logger.warning("while warming up: %s", error)
            finally:
                thread.close()

    def _warm_up_one(self, thread: WatchedThread, guard: Guard, ask: Callable[[], object]) -> None:
        _, seconds = thread.call(guard, ask)
        self.watch.warmed_up(guard, seconds)

    def unload(self) -> None:
        """Give the device's memory back; the guards stay in force, and bring what they need when they are asked."""
        self._each(_unload)

    @property
    def posture(self) -> str:
        """One line for the log: which guards run, with which weights."""
        return f"{self.profile}: " + ", ".join(f"{guard.name} {guard.weights}" for guard in self._guards.everyone)

    def screen(self, prompt: str, crop: Crop, first_frame: int = 0) -> Screening:
        """A context in which one stretch is screened; the prompt guards start at once, on a thread of their own.

        crop         what the frames show of the camera's image: they are judged and leave at its size
        first_frame  frames of the prediction that were screened before, in earlier stretches
        """
        return Screening(self._guards, self.watch, self._takes_prompt, prompt, crop, first_frame)

    def _each(self, act: Callable[[Guard], None]) -> None:
        """Act on every guard except one that hangs: the node must not hang with it."""
        for guard in self._guards.everyone:
            if (lock := self.watch.locks[guard.name]).acquire(timeout=self.watch.timeout_s):
                try:
                    act(guard)
                finally:
                    lock.release()


def _load(guard: Guard) -> None:
    try:
        for part in guard.parts:
            part.rest()
    except (ForesightError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise GuardrailUnavailable(f"guard {guard.name} cannot be loaded: {type(error).__name__}: {error}") from error


def _unload(guard: Guard) -> None:
    for part in guard.parts:
        part.leave()
