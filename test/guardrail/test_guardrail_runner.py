"""The runner fails closed: whatever a guard does, unjudged pixels do not leave, and the next goal is served."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from cosmos_ros.device.placement import DeviceMemory
from cosmos_ros.errors import (
    Canceled,
    GuardrailError,
    GuardrailUnavailable,
    ModelUnavailable,
    PromptBlocked,
    SettingError,
    VideoBlocked,
)
from cosmos_ros.guardrail import Guardrail, watched_thread
from cosmos_ros.guardrail.guard import PASSED, VIDEO_GUARD, ContentGuard, FrameFilter, Guards, Judgement, PromptGuard
from cosmos_ros.guardrail.guardrail import WARM_UP_PROMPT
from cosmos_ros.guardrail.screening import Screening
from cosmos_ros.guardrail.watched_thread import queued_s
from cosmos_ros.guardrail_report import Verdict
from cosmos_ros.rollout import Clip, Crop, GuardedRollout

SECOND = 1_000_000_000
CROP = Crop(2, 0, 24, 16)
NUMBERS = itertools.count()


@dataclass(frozen=True)
class Spec:
    directory: Path = Path("models/a-model")
    name: str = "a-model"
    published: bool = False
    takes_prompt: bool = True
    frame_size: tuple[int, int] = (16, 24)


def clip() -> Clip:
    return Clip(np.zeros((9, 16, 28, 3), np.uint8), tuple(SECOND + k * SECOND // 10 for k in range(9)), 10.0)


def noise(n: int = 8, seed: int = 0, height: int = 16, width: int = 24) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def predict(guardrail: Guardrail, prompt: str = "a red cube", chunks=None) -> GuardedRollout:
    """What Foresight.predict does, with given frames in the model's place."""
    with guardrail.screen(prompt, CROP) as screening:
        screening.admit_prompt()
        for frames in [noise(seed=k) for k in range(3)] if chunks is None else chunks:
            screening.inspect(frames)
        return screening.release(clip(), model="a-model", seed=7, timing=lambda: ())


class Prompts(PromptGuard):
    name, weights = "prompts", "0" * 64

    def __init__(self, act=lambda prompt: PASSED, settings: str = "") -> None:
        self._act = act
        self.settings = settings or f"guard {next(NUMBERS)}"  # a verdict of one test is not another's
        self.asked = 0

    def judge(self, prompt):
        self.asked += 1
        return self._act(prompt)


class Contents(ContentGuard):
    name, weights = "contents", "1" * 64

    def __init__(self, act=lambda frames: PASSED) -> None:
        self._act = act

    def judge(self, frames):
        return self._act(frames)


class Filters(FrameFilter):
    name, weights = "filters", "2" * 64

    def __init__(self, act=lambda frames: (frames, PASSED)) -> None:
        self._act = act

    def filter(self, frames):
        return self._act(frames)


def guardrail_of(prompts=None, contents=None, filters=None, takes_prompt=True, timeout_s=60.0) -> Guardrail:
    guards = Guards("embedded", (prompts or Prompts(),), (contents or Contents(),), (filters or Filters(),))
    return Guardrail(guards, takes_prompt, timeout_s)


def fail(error):
    def act(_):
        raise error

    return act


def hang(_):
    watched_thread.time.wind(3600)
    time.sleep(1.0)
    return PASSED


ANSWERS = {
    "an exception": fail(RuntimeError("broken")),
    "an exit": fail(SystemExit(0)),
    "memory": fail(MemoryError()),
    "a timeout": hang,
    "nothing": lambda _: None,
    "a bool": lambda _: True,
    "a number for a verdict": lambda _: Judgement(0),
    "NaN for a verdict": lambda _: Judgement(float("nan")),
    "an unknown verdict": lambda _: Judgement(99),
}
FILTERED = {
    "the wrong shape": lambda frames: (frames[:, :8], PASSED),
    "too few frames": lambda frames: (frames[:4], PASSED),
    "no frames": lambda frames: (frames[:0], PASSED),
    "floats": lambda frames: (frames.astype(np.float32), PASSED),
    "NaN": lambda frames: (np.full(frames.shape, np.nan), PASSED),
    "a list": lambda frames: (list(frames), PASSED),
    "no judgement": lambda frames: frames,
    "a refusal": lambda frames: (frames, Judgement(Verdict.REFUSED)),
    "a frame written in place": lambda frames: (frames.fill(0), PASSED),
}


@pytest.mark.parametrize("kind", ["prompts", "contents", "filters"])
@pytest.mark.parametrize("fault", ANSWERS)
def test_a_faulty_guard_lets_no_pixel_out(wound, kind, fault):
    faulty = {
        "prompts": {"prompts": Prompts(ANSWERS[fault])},
        "contents": {"contents": Contents(ANSWERS[fault])},
        "filters": {"filters": Filters(ANSWERS[fault])},
    }[kind]
    with pytest.raises(GuardrailUnavailable) as refusal:
        predict(guardrail_of(**faulty))
    assert f"guard {kind} " in str(refusal.value)
    assert ("did not answer within 60 s" in str(refusal.value)) is (fault == "a timeout")
    decisions = {decision.guard: decision for decision in refusal.value.report.decisions}
    assert decisions[kind].verdict is Verdict.REFUSED and decisions[kind].detail == str(refusal.value)


@pytest.mark.parametrize("fault", FILTERED)
def test_a_filter_that_gives_back_something_else_lets_no_pixel_out(fault):
    with pytest.raises(GuardrailUnavailable, match="guard filters "):
        predict(guardrail_of(filters=Filters(FILTERED[fault])))


def test_warming_up_lets_every_guard_work_once_and_what_it_says_does_not_count():
    asked = []

    def refuse(subject):
        asked.append(getattr(subject, "shape", subject))
        return Judgement(Verdict.REFUSED, "Violence")

    guardrail = guardrail_of(Prompts(refuse), Contents(refuse), Filters(lambda frames: (frames, refuse(frames))))
    guardrail.warm_up(8, (16, 24))
    assert asked == [WARM_UP_PROMPT, (8, 16, 24, 3), (8, 16, 24, 3)]
    with pytest.raises(PromptBlocked):
        predict(guardrail, prompt=WARM_UP_PROMPT)


@pytest.mark.parametrize("fault", ["an exception", "an exit", "memory", "a timeout"])
def test_a_guard_that_fails_while_warming_up_is_told_and_refuses_the_goal(wound, fault, caplog):
    guardrail = guardrail_of(contents=Contents(ANSWERS[fault]))
    guardrail.warm_up(8, (16, 24))
    assert "while warming up: guard contents " in caplog.text
    with pytest.raises(GuardrailUnavailable, match="guard contents "):
        predict(guardrail)


def test_one_guard_that_fails_while_warming_up_does_not_keep_the_others_cold():
    asked = []
    contents = Contents(lambda frames: asked.append("contents") or PASSED)
    guardrail_of(Prompts(fail(RuntimeError("broken"))), contents).warm_up(8, (16, 24))
    assert asked == ["contents"]


def test_a_guard_that_cannot_be_loaded_is_named_and_missing_memory_stays_what_it_is():
    def unloadable(error):
        contents = Contents()
        contents.parts = (DeviceMemory("cpu").hold(VIDEO_GUARD, lambda: fail(error)(None)),)
        return guardrail_of(contents=contents)

    with pytest.raises(GuardrailUnavailable, match="guard contents cannot be loaded: RuntimeError: broken"):
        unloadable(RuntimeError("broken")).load()
    with pytest.raises(MemoryError):
        unloadable(MemoryError()).load()


@pytest.mark.parametrize("kind", ["prompt", "content", "filters"])
def test_no_guard_can_be_taken_away_later(kind):
    with pytest.raises(AttributeError):
        setattr(guardrail_of().guards, kind, ())
    with pytest.raises(AttributeError):
        guardrail_of().guards = Guards("embedded", (), (), ())


@pytest.mark.parametrize("error", [Canceled("enough"), ModelUnavailable("gone"), PromptBlocked("no")])
def test_whatever_ends_a_screening_says_what_was_judged_by_then(error):
    with pytest.raises(type(error)) as ended, guardrail_of().screen("a red cube", CROP) as screening:
        screening.admit_prompt()
        raise error
    assert ended.value.report.profile == "embedded"
    assert [(d.guard, d.verdict) for d in ended.value.report.decisions] == [("prompts", Verdict.PASSED)]


def test_a_refusal_names_guard_class_and_frame_and_carries_the_report():
    def act(frames):
        dark = [k for k, frame in enumerate(frames) if not frame.any()]
        return Judgement(Verdict.REFUSED, "Violence", frame=dark[0]) if dark else PASSED

    last = noise(seed=2)
    last[3] = 0
    with pytest.raises(VideoBlocked, match="guard contents refused predicted frame 20: Violence") as refusal:
        predict(guardrail_of(contents=Contents(act)), chunks=[noise(seed=0), noise(seed=1), last])
    assert [d.verdict for d in refusal.value.report.decisions if d.guard == "contents"] == [Verdict.REFUSED]


def test_a_refused_rollout_is_noticed_while_frames_are_still_decoded():
    contents = Contents(lambda frames: Judgement(Verdict.REFUSED, "Drugs"))
    with guardrail_of(contents=contents).screen("a cube", CROP) as screening:
        screening.admit_prompt()
        with pytest.raises(VideoBlocked, match="Drugs"):
            for _ in range(6000):
                screening.inspect(noise())
                time.sleep(0.01)
        with pytest.raises(GuardrailUnavailable, match="over"):
            screening.release(clip(), "a-model", 0, tuple)


def test_a_good_rollout_leaves_with_every_decision():
    report = (rollout := predict(guardrail_of())).guardrail
    assert [(d.guard, d.verdict, d.weights[0]) for d in report.decisions] == [
        ("prompts", Verdict.PASSED, "0"),
        ("contents", Verdict.PASSED, "1"),
        ("filters", Verdict.PASSED, "2"),
    ]
    assert all(decision.seconds >= 0 for decision in report.decisions)
    assert np.array_equal(rollout.frames, np.concatenate([noise(seed=k) for k in range(3)]))
    assert rollout.stamps_ns == clip().future_stamps_ns(24) and rollout.crop == CROP and rollout.seed == 7


def test_only_the_guarded_frames_leave():
    filters = Filters(lambda frames: (255 - frames, Judgement(Verdict.MODIFIED, "faces pixelated", changes=2)))
    rollout = predict(guardrail_of(filters=filters))
    assert np.array_equal(rollout.frames, 255 - np.concatenate([noise(seed=k) for k in range(3)]))
    decision = rollout.guardrail.decisions[-1]
    assert (decision.verdict, decision.detail) == (Verdict.MODIFIED, "6 faces pixelated")


def test_nobody_changes_frames_after_they_were_judged():
    kept = []

    def keep(frames):
        kept.append(frames.copy())
        return kept[-1], PASSED

    given = [noise(seed=k) for k in range(3)]
    with guardrail_of(filters=Filters(keep)).screen("a cube", CROP) as screening:
        screening.admit_prompt()
        for frames in given:
            screening.inspect(frames)
            frames.fill(1)  # the model's buffer is used again
        rollout = screening.release(clip(), "a-model", 0, tuple)
    for frames in kept:
        frames.fill(2)  # a filter's buffer is used again
    assert np.array_equal(rollout.frames, np.concatenate([noise(seed=k) for k in range(3)]))
    with pytest.raises(ValueError, match="WRITEABLE"):
        rollout.frames.flags.writeable = True


def test_a_filter_may_give_back_one_buffer_again_and_again():
    buffer = np.empty_like(noise())
    filters = Filters(lambda frames: (np.subtract(255, frames, out=buffer), PASSED))
    rollout = predict(guardrail_of(filters=filters))
    assert np.array_equal(rollout.frames, 255 - np.concatenate([noise(seed=k) for k in range(3)]))


def test_the_rollout_is_judged_and_comes_at_the_cameras_pixel_scale():
    seen = []
    contents = Contents(lambda frames: seen.append(frames.shape) or PASSED)
    filters = Filters(lambda frames: seen.append(frames.shape) or (frames, PASSED))
    guardrail = guardrail_of(contents=contents, filters=filters)
    for crop in (Crop(0, 0, 12, 8), Crop(4, 2, 96, 64)):
        with guardrail.screen("a cube", crop) as screening:
            screening.admit_prompt()
            screening.inspect(noise())
            rollout = screening.release(clip(), "a-model", 0, tuple)
        assert rollout.frames.shape == (8, crop.height, crop.width, 3)
        assert seen[-2:] == [rollout.frames.shape] * 2, "the guards judge what leaves"
        assert abs(rollout.frames.mean() - noise().mean()) < 3


@pytest.mark.parametrize(
    "frames",
    [
        np.full((8, 16, 24, 3), np.nan, np.float32),
        np.zeros((8, 16, 24, 3), np.float32),
        np.zeros((8, 16, 24), np.uint8),
        np.zeros((8, 16, 24, 4), np.uint8),
        np.zeros((0, 16, 24, 3), np.uint8),
        np.zeros((8, 8, 24, 3), np.uint8),
        None,
    ],
    ids=["NaN", "floats", "no channels", "four channels", "no frames", "another size", "None"],
)
def test_what_is_no_picture_is_refused(frames):
    with pytest.raises(VideoBlocked, match="the model gave|changed"):
        predict(guardrail_of(), chunks=[noise(), frames])


def test_no_frames_no_rollout():
    with pytest.raises(GuardrailUnavailable, match="no frames"):
        predict(guardrail_of(), chunks=[])


def test_frames_before_the_prompts_verdict_end_the_screening():
    for step in ("inspect", "release"):
        with guardrail_of().screen("a cube", CROP) as screening:
            with pytest.raises(GuardrailUnavailable, match="has not admitted"):
                screening.inspect(noise()) if step == "inspect" else screening.release(clip(), "", 0, tuple)
            screening.admit_prompt()
            with pytest.raises(GuardrailUnavailable, match="over"):
                screening.inspect(noise())


def test_a_rollout_leaves_once():
    with guardrail_of().screen("a cube", CROP) as screening:
        screening.admit_prompt()
        screening.inspect(noise())
        screening.release(clip(), "a-model", 0, tuple)
        with pytest.raises(GuardrailUnavailable, match="over"):
            screening.release(clip(), "a-model", 0, tuple)
        with pytest.raises(GuardrailUnavailable, match="over"):
            screening.inspect(noise())


def test_release_waits_for_a_slow_guard():
    let_go = threading.Event()
    filters = Filters(lambda frames: (frames, PASSED) if let_go.wait(60) else None)
    waits = []

    def waiting():
        waits.append(time.monotonic())
        let_go.set()

    with guardrail_of(filters=filters).screen("a cube", CROP) as screening:
        screening.admit_prompt()
        screening.inspect(noise())
        assert not let_go.is_set()
        rollout = screening.release(clip(), "a-model", 0, tuple, waiting=waiting)
    assert waits and len(rollout.frames) == 8


def test_waiting_for_a_guard_can_be_given_up():
    let_go = threading.Event()
    with pytest.raises(Canceled), guardrail_of(Prompts(lambda _: let_go.wait(60))).screen("a cube", CROP) as screening:
        screening.admit_prompt(waiting=lambda: fail(Canceled("enough"))(None))
    let_go.set()


def guard_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("guardrail")]


def test_a_screening_that_is_left_early_leaves_no_thread_and_no_way_out():
    with pytest.raises(Canceled), guardrail_of().screen("a cube", CROP) as screening:
        screening.admit_prompt()
        screening.inspect(noise())
        raise Canceled("the caller asked for it")
    with pytest.raises(GuardrailUnavailable, match="over"):
        screening.release(clip(), "a-model", 0, tuple)
    with pytest.raises(GuardrailUnavailable):
        screening.admit_prompt()
    for thread in guard_threads():
        thread.join(60)
    assert not guard_threads()


def test_a_hung_guard_costs_its_goal_and_no_other(wound):
    hung, calls = threading.Event(), []

    def act(frames):
        calls.append(len(frames))
        if len(calls) == 1:
            watched_thread.time.wind(3600)
            hung.wait(60)
        return PASSED

    guardrail = guardrail_of(contents=Contents(act))
    with pytest.raises(GuardrailUnavailable, match="guard contents did not answer"):
        predict(guardrail)
    guardrail.watch.timeout_s = 2.0
    with pytest.raises(GuardrailUnavailable, match="guard contents"):  # it is still occupied
        predict(guardrail)
    assert len(calls) == 1
    hung.set()
    guardrail.watch.timeout_s = 60.0
    assert len(predict(guardrail).frames) == 24


def test_waiting_for_a_guard_that_another_rollout_asks_makes_it_no_later(wound):
    """The second rollout's guard takes 50 of its 60 seconds, after it has waited for 50 more."""
    others: list[Screening] = []

    def act(frames):
        while others and others[0]._video_thread._running is None:
            time.sleep(0.001)
        others.clear()
        watched_thread.time.wind(50)
        return PASSED

    guardrail = guardrail_of(contents=Contents(act))
    with guardrail.screen("a cube", CROP) as first, guardrail.screen("a cube", CROP) as second:
        others.append(second)
        for screening in (first, second):
            screening.admit_prompt()
            screening.inspect(noise())
        rollouts = [screening.release(clip(), "a-model", 0, tuple) for screening in (first, second)]
    assert [len(rollout.frames) for rollout in rollouts] == [8, 8]


def test_a_goal_that_was_left_while_it_waited_for_a_guard_does_not_ask_it():
    """Else a client that cancels and asks again would fill the guard's time with questions that nobody waits for."""
    let_go, asked = threading.Event(), []

    def act(prompt):
        asked.append(prompt)
        let_go.wait(60)
        return PASSED

    guardrail = guardrail_of(Prompts(act))
    with guardrail.screen("the first", CROP):
        while not asked:
            time.sleep(0.001)
    with guardrail.screen("the second", CROP) as screening:
        while screening._prompt_thread._running is None:
            time.sleep(0.001)
    let_go.set()
    for thread in guard_threads():
        thread.join(60)
    assert asked == ["the first"]


def test_each_answer_may_take_the_time_allowed(wound):
    """However long a rollout is: the limit is there for guards that hang."""
    contents = Contents(lambda frames: watched_thread.time.wind(45) or PASSED)
    assert len(predict(guardrail_of(contents=contents)).frames) == 24


def test_a_busy_machine_makes_no_guard_late(wound, monkeypatch):
    """The time in which a guard's thread waits for a free CPU is not the guard's."""
    queued = []

    def act(frames):
        watched_thread.time.wind(3600)
        queued.append(3600)
        return PASSED

    monkeypatch.setattr(watched_thread, "queued_s", lambda thread_id: sum(queued))
    assert len(predict(guardrail_of(contents=Contents(act))).frames) == 24
    monkeypatch.setattr(watched_thread, "queued_s", lambda thread_id: 0.0)
    with pytest.raises(GuardrailUnavailable, match="guard contents did not answer"):
        predict(guardrail_of(contents=Contents(act)))


@pytest.mark.skipif(not Path("/proc/thread-self/schedstat").exists(), reason="this kernel counts no waits for a CPU")
@pytest.mark.processes
def test_waiting_for_a_free_cpu_is_seen():
    """Two threads of two processes on one CPU wait for each other."""
    ours = os.sched_getaffinity(0)
    rival = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        for process in (0, rival.pid):
            os.sched_setaffinity(process, {min(ours)})
        before = queued_s(threading.get_native_id())
        while queued_s(threading.get_native_id()) < before + 0.05:
            pass
    finally:
        os.sched_setaffinity(0, ours)
        rival.kill()
        rival.wait()
    assert queued_s(None) == 0.0


def test_a_machine_on_which_a_guard_is_slow_to_warm_up_gives_it_more_time(wound):
    contents = Contents(lambda frames: watched_thread.time.wind(200) or PASSED)
    guardrail = guardrail_of(contents=contents)
    with pytest.raises(GuardrailUnavailable, match="guard contents did not answer within 60 s"):
        predict(guardrail)
    guardrail.warm_up(8, (16, 24))
    assert len(predict(guardrail).frames) == 24
    assert guardrail.watch.limit_s(guardrail.guards.filters[0]) == 60


def test_a_refusal_is_seen_without_handing_over_more_frames():
    refused = threading.Event()

    def act(frames):
        refused.set()
        return Judgement(Verdict.REFUSED, "Drugs")

    with guardrail_of(contents=Contents(act)).screen("a cube", CROP) as screening:
        screening.admit_prompt()
        screening.raise_refusal()
        screening.inspect(noise())
        refused.wait(60)
        with pytest.raises(VideoBlocked, match="Drugs"):
            while True:
                screening.raise_refusal()


STILL_COMPUTING = """
import threading
import cv2, numpy as np
from cosmos_ros.errors import GuardrailUnavailable
from cosmos_ros.guardrail import watched_thread
from cosmos_ros.guardrail.embedded.profile import embedded_guards
from cosmos_ros.guardrail.watched_thread import Watch, WatchedThread

guards = embedded_guards((160, 256))
frames = np.random.default_rng(0).integers(0, 256, (8, 160, 256, 3), dtype=np.uint8)
begun, calls = threading.Event(), cv2.cvtColor
cv2.cvtColor = lambda *args: begun.set() or calls(*args)
thread = WatchedThread("video", watch := Watch(guards.everyone, 60.0))
thread.submit(lambda: thread.call(guards.filters[0], lambda: [guards.filters[0].filter(frames) for _ in range(9)]))
begun.wait(60)
watch.timeout_s = 1e-9
try:
    thread.wait()
except GuardrailUnavailable as error:
    print(error)
watch.timeout_s = 60.0
"""


@pytest.mark.processes
def test_a_program_that_ends_while_a_guard_computes_ends_well():
    """OpenCV's thread that came back to an interpreter that had ended aborted the process."""
    run = subprocess.run([sys.executable, "-c", STILL_COMPUTING], capture_output=True, text=True, timeout=300)
    assert (run.returncode, run.stderr) == (0, "") and "did not answer" in run.stdout


HANGS_IN_A_LOOP = """
import sys, threading
import torch
from cosmos_ros.errors import GuardrailUnavailable
from cosmos_ros.guardrail.embedded.profile import embedded_guards
from cosmos_ros.guardrail.watched_thread import Watch, WatchedThread

guards, begun = embedded_guards((160, 256)), threading.Event()

def compute_for_ever():
    matrix = torch.rand(200, 200)
    while True:
        matrix @ matrix
        begun.set()

thread = WatchedThread("video", Watch(guards.everyone, 0.3))
thread.submit(lambda: thread.call(guards.filters[0], compute_for_ever))
begun.wait(60)
try:
    thread.wait()
except GuardrailUnavailable as error:
    print(error)
sys.exit(7)
"""


@pytest.mark.processes
def test_a_program_that_ends_while_a_guard_hangs_keeps_its_exit_status():
    """PyTorch's thread that came back after its time aborted the process."""
    run = subprocess.run([sys.executable, "-c", HANGS_IN_A_LOOP], capture_output=True, text=True, timeout=300)
    assert (run.returncode, run.stderr) == (7, "") and "did not answer" in run.stdout


def test_a_late_answer_is_no_answer_though_nobody_was_waiting(wound):
    answered = threading.Event()

    def late(_):
        watched_thread.time.wind(3600)
        answered.set()
        return PASSED

    with guardrail_of(Prompts(late)).screen("a cube", CROP) as screening:
        assert answered.wait(60)
        with pytest.raises(GuardrailUnavailable, match="guard prompts did not answer"):
            screening.admit_prompt()


@pytest.mark.parametrize("missing", ["prompts", "contents", "filters"])
def test_an_empty_list_of_guards_is_no_guardrail(missing):
    guards = {"prompts": (Prompts(),), "contents": (Contents(),), "filters": (Filters(),), missing: ()}
    with pytest.raises(GuardrailUnavailable, match="has no"):
        Guardrail(Guards("embedded", *guards.values()), takes_prompt=True)


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("nan")])
def test_guards_need_time(timeout_s):
    with pytest.raises(SettingError, match="positive"):
        guardrail_of(timeout_s=timeout_s)


def test_a_model_without_text_needs_no_prompt_guard_and_admits_no_prompt():
    guardrail = Guardrail(Guards("embedded", (), (Contents(),), (Filters(),)), takes_prompt=False)
    assert len(predict(guardrail, prompt="").frames) == 24
    with pytest.raises(PromptBlocked, match="takes no prompt"):
        predict(guardrail, prompt="a cube")


def test_a_prompt_is_judged_once_under_the_same_weights_and_settings():
    first, same, other = Prompts(settings="A"), Prompts(settings="A"), Prompts(settings="B")
    prompt = f"a cube {id(first)}"
    for guard in (first, first, same, other):
        predict(guardrail_of(guard), prompt)
    assert (first.asked, same.asked, other.asked) == (1, 0, 1)


def test_a_refusal_is_remembered_and_a_failure_is_not():
    answers = [RuntimeError("broken"), Judgement(Verdict.REFUSED, "Violence"), PASSED]

    def act(_):
        answer = answers.pop(0)
        return fail(answer)(None) if isinstance(answer, Exception) else answer

    guardrail = guardrail_of(Prompts(act))
    outcomes = []
    for _ in range(3):
        with pytest.raises(GuardrailError) as refusal:
            predict(guardrail)
        outcomes.append(refusal.value.code)
    assert outcomes == ["GUARDRAIL_UNAVAILABLE", "BLOCKED_PROMPT", "BLOCKED_PROMPT"]


def test_a_published_checkpoint_without_its_guardrail_is_refused(tmp_path):
    checkpoint = tmp_path / "Cosmos-1.0-Autoregressive-4B"
    checkpoint.mkdir()
    spec = Spec(directory=checkpoint, published=True, takes_prompt=False)
    with pytest.raises(GuardrailUnavailable, match="hf download nvidia/Cosmos-1.0-Guardrail"):
        Guardrail.for_model(spec)
    (tmp_path / "Cosmos-1.0-Guardrail").mkdir()
    (checkpoint / "guardrail").mkdir()
    with pytest.raises(GuardrailUnavailable, match="hf download"):  # empty folders are no guardrail
        Guardrail.for_model(spec)
    with pytest.raises(GuardrailUnavailable, match="nowhere"):
        Guardrail.for_model(spec, folder=tmp_path / "nowhere")


def test_a_file_in_the_folders_place_is_no_guardrail(tmp_path):
    (tmp_path / "Cosmos-1.0-Guardrail").touch()
    with pytest.raises(GuardrailUnavailable, match="could be read at"):
        Guardrail.for_model(Spec(directory=tmp_path / "Cosmos-1.0-Autoregressive-4B", published=True))
