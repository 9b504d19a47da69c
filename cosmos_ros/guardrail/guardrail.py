"""The guards of one model: which are in force, where their weights wait, and the door to a screening."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from cosmos_ros.device.placement import Part
from cosmos_ros.device.plan import Need
from cosmos_ros.errors import ForesightError, GuardrailError, GuardrailUnavailable, SettingError
from cosmos_ros.guardrail.cosmos import folder as cosmos_folder
from cosmos_ros.guardrail.cosmos.profile import cosmos_guards
from cosmos_ros.guardrail.embedded.profile import embedded_guards
from cosmos_ros.guardrail.guard import PROMPT_GUARD, VIDEO_GUARD, FrameFilter, Guard, Guards
from cosmos_ros.guardrail.screening import Screening
from cosmos_ros.guardrail.watched_thread import Watch, WatchedThread

logger = logging.getLogger(__name__)

WARM_UP_PROMPT = "A robot arm moves over a table."
WARM_UP_LENIENCY = 6  # a guard may take this many times its limit for its first answer, from which it gets a fair one


class Checkpoint(Protocol):
    """What the guardrail needs to know of a checkpoint; `world_model.ModelSpec` is one."""

    @property
    def directory(self) -> Path: ...
    @property
    def published(self) -> bool: ...
    @property
    def takes_prompt(self) -> bool: ...


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
        cls, spec: Checkpoint, folder: str | Path = "", timeout_s: float = 10.0, device: str = "auto"
    ) -> Guardrail:
        """The guardrail under which a checkpoint may run.

        One of NVIDIA's published checkpoints runs under Cosmos-1.0-Guardrail alone: from `folder`, else from
        `Cosmos-1.0-Guardrail` beside the checkpoint's directory, else from `guardrail` inside it. Any other
        checkpoint runs under the embedded profile, or, where a folder is given, under the one in the folder.
        `device` ("auto", "cpu", "cuda", "cuda:1") is where the folder's guards compute.

        Raises GuardrailUnavailable where that cannot be had, with what to do about it.
        """
        if spec.published or folder:
            guards = cosmos_guards(spec.directory, folder, device, spec.takes_prompt)
        else:
            guards = embedded_guards()
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

    def hold(self, hold: Callable[[str, nn.Module], Part]) -> None:
        """Let `hold(name, network)` say where the guards' weights wait between judgements, before they are loaded.

        The name is PROMPT_GUARD or VIDEO_GUARD.
        """
        for guard in self._guards.everyone:
            guard.hold(partial(hold, PROMPT_GUARD if guard in self._guards.prompt else VIDEO_GUARD))

    def load(self) -> None:
        """Bring the guards' weights to where they wait, so that the first goal does not wait for it.

        Raises GuardrailUnavailable where one of them fails; running out of memory is passed on as it is.
        """
        self._each(_load)

    def warm_up(self, frames: np.ndarray) -> None:
        """Let every guard work once, so that the first goal is judged as quickly as the next, and time it.

        frames  as they will come: uint8 [k, h, w, 3], of the model's size

        What the guards answer does not count. One that fails is logged; a goal that asks it fails closed.
        """
        frames = frames.copy()
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
        self._each(lambda guard: guard.unload())

    @property
    def posture(self) -> str:
        """One line for the log: which guards run, with which weights."""
        return f"{self.profile}: " + ", ".join(f"{guard.name} {guard.weights}" for guard in self._guards.everyone)

    def screen(self, prompt: str) -> Screening:
        """A context in which one prediction is screened; the prompt guards start at once, on a thread of their own."""
        return Screening(self._guards, self.watch, prompt, self._takes_prompt)

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
        guard.load()
    except (ForesightError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise GuardrailUnavailable(f"guard {guard.name} cannot be loaded: {type(error).__name__}: {error}") from error
