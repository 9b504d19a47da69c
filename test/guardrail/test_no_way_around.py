"""There is no way around the guardrail: not by any order of calls, and not by a forged rollout.

Who may hold what could lead around it is in test_ways_out.py.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import os
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cosmos_ros.foresight
from cosmos_ros.errors import GuardrailError
from cosmos_ros.guardrail import Guardrail
from cosmos_ros.guardrail.guard import PASSED, ContentGuard, FrameFilter, Guards, Judgement, PromptGuard
from cosmos_ros.guardrail_report import Verdict
from cosmos_ros.rollout import Clip, Crop, GuardedRollout

FRAME = (2, 2, 3)
numbers = itertools.count()
CROP = Crop(0, 0, 2, 2)


class Log:
    """What guards have seen, and what each is to answer at its next calls."""

    def __init__(self, answers: dict[str, list[str]]) -> None:
        self._answers = {name: list(reversed(todo)) for name, todo in answers.items()}
        self.prompts: list[str] = []
        self.judged: list[int] = []
        self.filtered: list[int] = []

    def answer(self, name: str) -> Judgement:
        what = self._answers[name].pop() if self._answers[name] else "pass"
        if what == "raise":
            raise RuntimeError("broken")
        return {"pass": PASSED, "refuse": Judgement(Verdict.REFUSED), "nothing": None}[what]


class Prompts(PromptGuard):
    name, weights = "prompts", ""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.settings = str(
            next(numbers)
        )  # a prompt that a guard of these settings has passed is not asked about again

    def judge(self, prompt):
        answer = self.log.answer("prompt")
        self.log.prompts.append(prompt)
        return answer


class Contents(ContentGuard):
    name, weights = "contents", ""

    def __init__(self, log: Log) -> None:
        self.log = log

    def judge(self, frames):
        answer = self.log.answer("content")
        self.log.judged += [int(frame[0, 0, 0]) for frame in frames]
        return answer


class Filters(FrameFilter):
    name, weights = "filters", ""

    def __init__(self, log: Log) -> None:
        self.log = log

    def filter(self, frames):
        answer = self.log.answer("filter")
        self.log.filtered += [int(frame[0, 0, 0]) for frame in frames]
        return 255 - frames, answer  # the mark of a frame that went through here


ANSWER = st.lists(st.sampled_from(["pass"] * 6 + ["refuse", "raise", "nothing"]), max_size=4)
CALL = st.sampled_from(["admit", "inspect", "inspect", "inspect wrong", "release", "leave"])


@settings(max_examples=150, deadline=None)
@given(
    answers=st.fixed_dictionaries({name: ANSWER for name in ("prompt", "content", "filter")}),
    calls=st.lists(CALL, max_size=9),
)
def test_whatever_is_called_in_whatever_order_only_judged_frames_leave(answers, calls):
    log = Log(answers)
    guardrail = Guardrail(Guards("embedded", (Prompts(log),), (Contents(log),), (Filters(log),)), takes_prompt=True)
    shown, rollouts = [], []
    clip = Clip(np.zeros((1, *FRAME), np.uint8), (0,), 10.0)
    with guardrail.screen("a prompt", CROP) as screening:
        for call in [*calls, "release"]:
            try:
                if call == "admit":
                    screening.admit_prompt()
                elif call == "inspect":
                    screening.inspect(np.full((2, *FRAME), len(shown), np.uint8))
                    shown += [len(shown)] * 2
                elif call == "inspect wrong":
                    screening.inspect(np.full((2, *FRAME), np.nan))
                elif call == "leave":
                    screening.__exit__(None, None, None)
                else:
                    rollouts.append(screening.release(clip, "a model", 0, tuple))
            except GuardrailError:
                continue
    assert len(rollouts) <= 1
    for rollout in rollouts:
        assert log.prompts == ["a prompt"]
        assert log.judged == log.filtered == shown
        assert [int(frame[0, 0, 0]) for frame in rollout.frames] == [255 - shade for shade in shown]
        refused = {"refuse", "raise", "nothing"}
        asked = len(shown) // 2
        assert not refused & {
            *answers["prompt"][:1],
            *answers["content"][:asked],
            *answers["filter"][:asked],
        }


def takers_of_rollouts() -> list[tuple[str, str]]:
    """Every public function of the package with a parameter that is a GuardedRollout."""
    found = []
    root = Path(cosmos_ros.foresight.__file__).parent
    files = (Path(folder, name) for folder, _, names in os.walk(root, followlinks=True) for name in names)
    for file in sorted(file for file in files if file.suffix == ".py"):
        module = ".".join(("cosmos_ros", *file.relative_to(root).with_suffix("").parts))
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                annotations = [ast.unparse(arg.annotation) for arg in node.args.args if arg.annotation]
                if any("GuardedRollout" in annotation.split(" | ") for annotation in annotations):
                    found.append((module, node.name))
    return found


@pytest.mark.parametrize("module, name", takers_of_rollouts(), ids="::".join)
def test_writers_and_messages_take_no_forged_rollout(module, name, tmp_path):
    if ".node." in module:
        pytest.importorskip("rclpy", reason="needs ROS")
    clip = Clip(np.zeros((1, *FRAME), np.uint8), (0,), 10.0)
    values = {field.name: None for field in fields(GuardedRollout)}
    forged = SimpleNamespace(
        **{
            **values,
            "frames": np.zeros((2, *FRAME), np.uint8),
            "stamps_ns": (1, 2),
            "seed": 0,
            "conditioning_stamps_ns": (0,),
            "frame_rate": 10.0,
            "crop": CROP,
        }
    )
    function = getattr(importlib.import_module(module), name)
    given = {"rollout": forged, "clip": clip, "path": tmp_path / "out.mp4"}
    arguments = {parameter: given.get(parameter) for parameter in inspect.signature(function).parameters}
    with pytest.raises(TypeError, match="guarded|GuardedRollout"):
        function(**arguments)
    assert not list(tmp_path.iterdir())


def test_writers_and_messages_were_found():
    expected = {("cosmos_ros.recordings.rollout_writer", "mp4_of"), ("cosmos_ros.node.messages", "rollout_message")}
    assert expected <= set(takers_of_rollouts())
