"""The queue's promises, without ROS: one at a time, each ends exactly once, policies, cancel, and who gives way."""

from __future__ import annotations

import gc
import random
import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from cosmos_ros.errors import Busy, Canceled, InvalidGoal, NotActive, Preempted, VideoBlocked
from cosmos_ros.progress import Progress, Stage
from cosmos_ros.queue import Job, PredictionQueue, Request

PATIENCE_S = 60.0


@dataclass(frozen=True)
class Part:
    words: str
    is_last: bool = True
    n_frames: int = 24


class Model:
    """Stands for the world model: works in passes, three for a stretch, and waits after each until it may go on."""

    def __init__(self) -> None:
        self.stretches = 1
        self.delivered: list[Job] = []
        self.passes = 0
        self.at_once = False  # waits for nobody
        self._go = threading.Semaphore(0)
        self._pass = threading.Semaphore(0)

    def predict(self, job: Job) -> Iterator[Part]:
        for number in range(1, self.stretches + 1):
            for done in range(3):
                self.passes += 1
                self._pass.release()
                if not self.at_once:
                    assert self._go.acquire(timeout=PATIENCE_S)
                job.report(Progress(Stage.GENERATING, done / 3))
            yield Part(f"frames for {job.request.prompt}", is_last=number == self.stretches)

    def deliver(self, job: Job, part: Part) -> str:
        self.delivered.append(job)
        return part.words

    def wait_for_a_pass(self) -> None:
        assert self._pass.acquire(timeout=PATIENCE_S)

    def go_on(self, passes: int = 1000) -> None:
        self._go.release(passes)


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def queue(model):
    queue = PredictionQueue(model.predict, model.deliver)
    queue.open()
    yield queue
    model.go_on()
    queue.destroy("the test is over")


def job(prompt: str = "", **callbacks: object) -> Job:
    return Job(Request(prompt=prompt), **callbacks)


def outcome(job: Job) -> object:
    assert job.ended.wait(PATIENCE_S), "never ended"
    return job.outcome


def running(queue: PredictionQueue, model: Model, prompt: str = "first") -> Job:
    """A job that is held in its first pass."""
    first = job(prompt)
    queue.submit(first, "reject")
    model.wait_for_a_pass()
    return first


def test_a_job_runs_and_says_how_far_it_is(queue, model):
    heard = []
    one = job("a", on_start=lambda: heard.append("start"), on_progress=heard.append, on_end=lambda: heard.append("end"))
    model.go_on()
    queue.submit(one, "reject")
    assert outcome(one) == ["frames for a"]
    assert model.delivered == [one] and one.started
    assert heard == ["start", Progress(Stage.GENERATING, 0.0), "end"], "one report per stage within a tenth of a second"


def test_reject(queue, model):
    first, second = running(queue, model), job("second")
    queue.submit(second, "reject")
    assert type(outcome(second)) is Busy and outcome(second).code == "BUSY" and not second.started
    model.go_on()
    assert outcome(first) == ["frames for first"]


def test_queue_keeps_the_order_and_says_who_waits(queue, model):
    first = running(queue, model)
    heard = {"b": [], "c": []}
    waiting = [job(name, on_progress=heard[name].append) for name in "bc"]
    for each in waiting:
        queue.submit(each, "queue")
    assert queue.state == "one goal runs, 2 waiting"
    queue.report_waiting()
    assert heard == {"b": [Progress(Stage.WAITING, 0.0)], "c": [Progress(Stage.WAITING, 0.0)]}
    model.go_on()
    assert [outcome(each) for each in waiting] == [["frames for b"], ["frames for c"]]
    assert model.delivered == [first, *waiting]


def test_preempt_ends_the_running_and_the_waiting_and_the_model_stops_after_its_pass(queue, model):
    first, second, third = running(queue, model), job("second"), job("third")
    queue.submit(second, "queue")
    queue.submit(third, "preempt")
    assert type(outcome(first)) is type(outcome(second)) is Preempted, "while the model is held"
    model.go_on()
    assert outcome(third) == ["frames for third"]
    assert model.delivered == [third]
    assert model.passes == 1 + 3


def test_cancel_does_not_wait_for_the_model(queue, model):
    first, second = running(queue, model), job("second")
    queue.submit(second, "queue")
    for each in (second, first):
        queue.cancel(each)
        assert type(outcome(each)) is Canceled
    third = job("third")
    queue.submit(third, "reject")  # the model is still in its pass for the first, but nobody waits for that any more
    model.go_on()
    assert outcome(third) == ["frames for third"]
    assert model.delivered == [third]


def test_a_dropped_job_is_not_run_and_not_ended(queue, model):
    first, second = running(queue, model), job("second")
    queue.submit(second, "queue")
    assert queue.drop(second) and not queue.drop(second) and not queue.drop(first)
    assert not second.ended.is_set()
    model.go_on()
    outcome(first)
    assert model.delivered == [first] and not second.started


def test_a_closed_queue_says_why(queue, model):
    first, second = running(queue, model), job("second")
    queue.submit(second, "queue")
    closing = threading.Thread(target=queue.close, args=("deactivated",))
    closing.start()
    for each in (first, second):
        assert type(outcome(each)) is NotActive and str(outcome(each)) == "deactivated"
    assert closing.is_alive(), "close waits until the model has let go"
    model.go_on()
    closing.join(PATIENCE_S)
    queue.refuse("it is loading")
    late = job()
    queue.submit(late, "reject")
    assert str(outcome(late)) == "it is loading"
    assert not queue.offer(job())
    queue.open()
    again = job("again")
    queue.submit(again, "reject")
    assert outcome(again) == ["frames for again"]


def test_an_offered_job_runs_while_nobody_else_wants_the_model(queue, model):
    model.go_on()
    offered = job("offered")
    assert queue.offer(offered)
    assert outcome(offered) == ["frames for offered"]


def test_an_offered_job_is_dropped_while_another_one_runs(queue, model):
    running(queue, model)
    assert not queue.offer(job())
    model.go_on()


@pytest.mark.parametrize("policy", ["reject", "preempt", "queue"])
def test_a_goal_goes_before_an_offered_job(queue, model, policy):
    offered, goal = job("offered"), job("goal")
    assert queue.offer(offered)
    model.wait_for_a_pass()
    assert queue.state == "a continuous prediction runs"
    queue.submit(goal, policy)
    assert type(outcome(offered)) is Preempted
    assert not queue.offer(job()), "a goal waits"
    model.go_on()
    assert outcome(goal) == ["frames for goal"]
    assert model.delivered == [goal]


def test_each_stretch_leaves_as_soon_as_it_is_there_and_stays_away_when_the_job_is_stopped(queue, model):
    model.stretches = 3
    one = running(queue, model)
    model.go_on(5)
    for _ in range(5):
        model.wait_for_a_pass()
    assert model.delivered == [one] and one.frames_left == 24 and not one.closed
    queue.cancel(one)
    model.go_on()
    assert type(outcome(one)) is Canceled and one.frames_left == 24
    queue.close("over")
    assert model.delivered == [one]


def test_a_later_stretch_that_fails_takes_back_nothing(model):
    def predict(job: Job) -> Iterator[Part]:
        yield Part("first", is_last=False)
        raise VideoBlocked("the second is not safe")

    queue = PredictionQueue(predict, model.deliver)
    queue.open()
    one = job()
    queue.submit(one, "reject")
    assert str(outcome(one)) == "the second is not safe"
    assert model.delivered == [one] and one.frames_left == 24
    queue.destroy("done")


def test_what_a_prediction_raises_ends_it_alone(model, caplog):
    def predict(job: Job) -> Iterator[Part]:
        if job.request.prompt == "invalid":
            raise InvalidGoal("no")
        if job.request.prompt == "broken":
            raise ZeroDivisionError("of all things")
        yield Part("frames")

    def deliver(job: Job, part: Part) -> str:
        if job.request.prompt == "unpublished":
            raise OSError("disk full")
        return part.words

    queue = PredictionQueue(predict, deliver)
    queue.open()
    jobs = [job(prompt) for prompt in ("invalid", "broken", "unpublished", "good")]
    for each in jobs:
        queue.submit(each, "queue")
    assert [getattr(outcome(each), "code", each.outcome) for each in jobs] == [
        "INVALID_GOAL",
        "INTERNAL",
        "INTERNAL",
        ["frames"],
    ]
    assert "ZeroDivisionError: of all things" in str(jobs[1].outcome)
    assert caplog.text.count("Traceback") == 2
    queue.destroy("done")


class Goal:
    """Knows its job, and the job knows it: as the action's goals do."""

    def __init__(self) -> None:
        self.job = Job(Request(), on_start=self.hear, on_progress=self.hear, on_end=self.hear)

    def hear(self, progress: Progress | None = None) -> None:
        pass


class Frames:
    """What a prediction holds megabytes of."""


@pytest.mark.parametrize("way", ["succeeds", "fails", "fails for two reasons", "is stopped"])
def test_nothing_of_a_job_waits_for_the_garbage_collector(way):
    """Which may come after many more goals, each of which holds a rollout."""
    held = []

    def predict(job: Job) -> Iterator[Part]:
        frames = Frames()
        held.append(weakref.ref(frames))
        if way == "fails":
            try:
                raise ValueError("a cause")
            except ValueError as error:
                raise VideoBlocked("no") from error
        if way == "fails for two reasons":
            try:
                raise ValueError("what went before")
            except ValueError:
                raise VideoBlocked("no") from KeyError("a cause")
        if way == "is stopped":
            job.stop(Canceled("stopped"))
        job.report(Progress(Stage.GENERATING, 0.0))
        yield Part("frames")

    def deliver(job: Job, part: Part) -> Frames:
        frames = Frames()
        held.append(weakref.ref(frames))
        return frames

    goal, queue = Goal(), PredictionQueue(predict, deliver)
    queue.open()
    gc.disable()
    try:
        queue.submit(goal.job, "reject")
        outcome(goal.job)
        queue.close("the worker has let go")
        del goal
        assert held and all(reference() is None for reference in held)
    finally:
        gc.enable()
        queue.destroy("the test is over")


def test_whatever_clients_do_each_job_ends_once_and_what_was_stopped_is_not_delivered(queue, model):
    model.at_once, model.stretches = True, 2
    ends: dict[Job, int] = {}
    jobs = []
    lock = threading.Lock()

    def client(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(100):
            one = job()

            def ended(one: Job = one) -> None:
                with lock:
                    ends[one] = ends.get(one, 0) + 1

            one._on_end = ended
            with lock:
                jobs.append(one)
            if dice.random() < 0.2:
                if not queue.offer(one):
                    with lock:
                        jobs.remove(one)
                continue
            queue.submit(one, dice.choice(["reject", "preempt", "queue"]))
            if dice.random() < 0.5:
                queue.cancel(one)

    clients = [threading.Thread(target=client, args=(seed,)) for seed in range(4)]
    for each in clients:
        each.start()
    for each in clients:
        each.join(PATIENCE_S)
    for each in jobs:
        outcome(each)
    queue.close("over")
    assert sorted(ends.values()) == [1] * len(jobs)
    left = Counter(model.delivered)
    assert all(each.frames_left == 24 * left[each] for each in jobs), "what is said to have left is what was delivered"
    assert {each for each in jobs if each.outcome == 2 * ["frames for "]} == {each for each in left if left[each] == 2}
    assert queue.idle
