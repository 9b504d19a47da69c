"""The guards of one model: which are in force, where their weights wait, and the door to a screening."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from cosmos_ros.device.memory import PROMPT_GUARD, VIDEO_GUARD, Part
from cosmos_ros.errors import ForesightError, GuardrailError, GuardrailUnavailable
from cosmos_ros.guardrail import profiles
from cosmos_ros.guardrail.guard import ContentGuard, FrameFilter, Guard, PromptGuard
from cosmos_ros.guardrail.screening import Screening
from cosmos_ros.guardrail.watched_thread import WatchedThread

logger = logging.getLogger(__name__)

WARM_UP_PROMPT = "A robot arm moves over a table."


class Model(Protocol):
    """What the guardrail needs to know of a checkpoint; `world_model.ModelSpec` is one."""

    directory: Path
    name: str
    published: bool
    takes_prompt: bool


@dataclass(frozen=True)
class GuardPosture:
    """One guard that is in force, and the SHA-256 over its files."""

    name: str
    weights: str


class Guardrail:
    """The guards of one model. There is no way to run a model without them, and no way to switch one off.

    profile  "embedded" or "Cosmos-1.0-Guardrail"
    guards   posture: every guard in force, in the order in which they judge

    Raises GuardrailUnavailable where a kind of guard is missing.
    """

    def __init__(
        self,
        profile: str,
        prompt_guards: Sequence[PromptGuard],
        content_guards: Sequence[ContentGuard],
        filters: Sequence[FrameFilter],
        takes_prompt: bool,
        timeout_s: float = 10.0,
    ) -> None:
        needed = {"content guard": content_guards, "face filter": filters}
        if takes_prompt:
            needed["prompt guard"] = prompt_guards
        if missing := [kind for kind, guards in needed.items() if not guards]:
            raise GuardrailUnavailable(f"the {profile} guardrail has no {' and no '.join(missing)}; nothing may leave")
        if not timeout_s > 0:
            raise GuardrailUnavailable(f"a guard's time must be positive, in seconds; got {timeout_s}")
        self.profile = profile
        self.timeout_s = timeout_s
        self.takes_prompt = takes_prompt
        self._prompt_guards = tuple(prompt_guards)
        self._content_guards = tuple(content_guards)
        self._filters = tuple(filters)
        self._everyone: tuple[Guard, ...] = (*prompt_guards, *content_guards, *filters)
        self.guards = tuple(GuardPosture(guard.name, guard.weights) for guard in self._everyone)
        # A guard judges one thing at a time, whoever asks: OpenCV's cascades, for one, do not bear two threads.
        self.locks = {guard.name: threading.Lock() for guard in self._everyone}

    @classmethod
    def for_model(
        cls, spec: Model, folder: str | Path = "", timeout_s: float = 10.0, device: str = "auto"
    ) -> Guardrail:
        """The guardrail under which a checkpoint may run.

        One of NVIDIA's published checkpoints runs under Cosmos-1.0-Guardrail alone: from `folder`, else from
        `Cosmos-1.0-Guardrail` beside the checkpoint's directory, else from `guardrail` inside it. Any other
        checkpoint runs under the embedded profile, or, where a folder is given, under the one in the folder.
        `device` ("auto", "cpu", "cuda", "cuda:1") is where the folder's guards compute.

        Raises GuardrailUnavailable where that cannot be had, with what to do about it.
        """
        if spec.published or folder:
            profile, guards = profiles.published(spec, folder, device)
        else:
            profile, guards = profiles.embedded()
        return cls(profile, *guards, takes_prompt=spec.takes_prompt, timeout_s=timeout_s)

    # Not to be set: a list that was emptied later would let everything pass.
    @property
    def prompt_guards(self) -> tuple[PromptGuard, ...]:
        return self._prompt_guards

    @property
    def content_guards(self) -> tuple[ContentGuard, ...]:
        return self._content_guards

    @property
    def filters(self) -> tuple[FrameFilter, ...]:
        return self._filters

    def hold(self, hold: Callable[[str, nn.Module], Part]) -> None:
        """Let `hold(name, network)` say where the guards' weights wait between judgements, before they are loaded.

        The name is PROMPT_GUARD or VIDEO_GUARD.
        """
        for guard in self._everyone:
            guard.hold(partial(hold, PROMPT_GUARD if guard in self.prompt_guards else VIDEO_GUARD))

    def load(self) -> None:
        """Bring the guards' weights to where they wait, so that the first goal does not wait for it.

        Raises GuardrailUnavailable where one of them fails; running out of memory is passed on as it is.
        """
        self._each(_load)

    def warm_up(self, frames: np.ndarray) -> None:
        """Let every guard work once, so that the first goal is judged as quickly as the next.

        frames  as they will come: uint8 [k, h, w, 3], of the model's size

        What the guards answer does not count. One that fails is told in the log; a goal that asks it fails closed.
        """
        frames = frames.copy()
        frames.flags.writeable = False
        for guard in self._everyone:
            act = guard.filter if guard in self.filters else guard.judge
            subject = WARM_UP_PROMPT if guard in self.prompt_guards else frames
            thread = WatchedThread("warm-up", self.locks, self.timeout_s)
            thread.submit(partial(thread.call, guard, partial(act, subject)))
            try:
                thread.wait()
            except GuardrailError as error:
                logger.warning("while warming up: %s", error)
            finally:
                thread.close()

    def unload(self) -> None:
        """Give the device's memory back; the guards stay in force, and bring what they need when they are asked."""
        self._each(lambda guard: guard.unload())

    @property
    def posture(self) -> str:
        """One line for the log: which guards run, with which weights."""
        return f"{self.profile}: " + ", ".join(f"{guard.name} {guard.weights}" for guard in self.guards)

    def screen(self, prompt: str) -> Screening:
        """A context in which one prediction is screened; the prompt guards start at once, on a thread of their own."""
        return Screening(self, prompt)

    def _each(self, act: Callable[[Guard], None]) -> None:
        """Act on every guard, but for one that hangs: the node must not hang with it."""
        for guard in self._everyone:
            if self.locks[guard.name].acquire(timeout=self.timeout_s):
                try:
                    act(guard)
                finally:
                    self.locks[guard.name].release()


def _load(guard: Guard) -> None:
    try:
        guard.load()
    except (ForesightError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise GuardrailUnavailable(f"guard {guard.name} cannot be loaded: {type(error).__name__}: {error}") from error
