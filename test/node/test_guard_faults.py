"""A guard that fails in a running node: the goal ends, no pixel leaves, the next goal is served."""

from __future__ import annotations

import contextlib
import threading

import pytest
from cosmos_ros.action import Predict
from cosmos_ros.msg import GuardDecision, Rollout, Surprise
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image

from cosmos_ros.guardrail.guard import Judgement
from cosmos_ros.guardrail_report import Verdict
from cosmos_ros.node.messages import nanoseconds_of
from cosmos_ros.node.player import Player

RESULT = Predict.Result
REFUSED = GuardDecision.REFUSED


def broken(_):
    raise RuntimeError("broken")


@pytest.fixture
def rollouts(robot, node, listening):
    """What the node has published since."""
    messages = []
    with listening(robot, node, Rollout, "/foresight/rollout", messages.append):
        yield messages


@pytest.mark.parametrize(
    ("kind", "method", "act"),
    [
        ("content", "judge", broken),
        ("content", "judge", lambda _: Judgement(99)),
        ("filters", "filter", broken),
        ("filters", "filter", lambda frames: (frames[:1], Judgement(0))),
    ],
)
def test_a_fault_ends_the_goal_and_the_next_is_served(robot, node, wait_for, rollouts, monkeypatch, kind, method, act):
    robot.film(node)
    guard = getattr(node._configured.foresight.guardrail.guards, kind)[0]
    with monkeypatch.context() as patch:
        patch.setattr(guard, method, act)
        result = robot.expect(RESULT.GUARDRAIL_UNAVAILABLE)
    assert f"guard {guard.name} " in result.error_msg
    assert (guard.name, REFUSED) in [(d.guard, d.verdict) for d in result.rollout.guardrail.decisions]
    assert not result.rollout.frames
    assert robot.predict(seed=5).error_code == RESULT.NONE
    wait_for(lambda: rollouts, "the good rollout")
    assert [rollout.seed for rollout in rollouts] == [5]


def test_a_guard_that_hangs_ends_the_goal_in_its_time(rig, ready, tiny_checkpoint, monkeypatch):
    robot, node = rig(checkpoint=str(tiny_checkpoint), guard_timeout=3.0)
    ready(node, robot)
    robot.film(node)
    guardrail = node._configured.foresight.guardrail
    guard, go_on = guardrail.guards.content[0], threading.Event()
    judge = guard.judge
    monkeypatch.setattr(guard, "judge", lambda frames: go_on.wait(60) and judge(frames))
    result = robot.expect(RESULT.GUARDRAIL_UNAVAILABLE)
    assert f"guard {guard.name} did not answer within 3 s" in result.error_msg
    go_on.set()
    monkeypatch.setattr(guardrail.watch, "timeout_s", 60.0)  # guards that do answer may be slow on a busy machine
    assert robot.predict().error_code == RESULT.NONE


# -- everything that comes out -----------------------------------------------------------------------------------------

OUTPUTS = {  # whatever shows, or is made of, what was predicted
    "rollout": Rollout,
    "image": Image,
    "image/compressed": CompressedImage,
    "contact_sheet": Image,
    "image_now": Image,
    "mean": Image,
    "uncertainty": Image,
    "surprise": Surprise,
    "surprise/map": Image,
}
START = 1_700_000_000 * 10**9
PERIOD_NS = 100_000_000  # the tiny checkpoint's
APART_NS = 100 * 10**9  # between two goals: so a message's stamp tells whose it is
go_on = threading.Event()  # ends what hangs
TWO = {"samples": 2, "temperature": 1.0, "top_p": 1.0}
FAULTS = {
    "raises": (broken, RESULT.GUARDRAIL_UNAVAILABLE),
    "refuses": (lambda _: Judgement(Verdict.REFUSED, "no"), RESULT.BLOCKED_VIDEO),
    "answers something unknown": (lambda _: Judgement(99), RESULT.GUARDRAIL_UNAVAILABLE),
    "hangs": (lambda _: go_on.wait(60), RESULT.GUARDRAIL_UNAVAILABLE),
}


class World:
    """A camera, a clock and a node that lives on it, and all that came out of the node, by its stamps."""

    def __init__(self, robot, node, clock, heard) -> None:
        self.robot, self.node, self.heard = robot, node, heard
        self._clock, self._goals = clock, 0

    def goal(self, code: int, **goal: object) -> int:
        """A goal that ends with this code, and the world that goes on after it; the goal's time."""
        self._goals += 1
        began_ns = START + self._goals * APART_NS
        self.robot.film(self.node, last_ns=self._until(began_ns))
        result = self.robot.predict(**TWO, **goal)
        assert result.error_code == code, result.error_msg
        return began_ns

    def go_on(self, began_ns: int, n: int) -> None:
        """n frames come after a goal's clip; whatever is played has had the time to begin."""
        for k in range(1, n + 1):
            self.robot.film(self.node, n=1, last_ns=self._until(began_ns + k * PERIOD_NS), goes_on=True)
        begun = threading.Event()
        Player(self.node).play(1e9 / PERIOD_NS, [begun.set])
        assert begun.wait(60)

    def came(self, topic: str, began_ns: int) -> list:
        """What came on a topic about the goal of that time."""
        return [message for message in list(self.heard[topic]) if 0 <= stamp_of(message) - began_ns < APART_NS]

    def silent(self, began_ns: int) -> set[str]:
        """The topics on which nothing came about the goal of that time."""
        return {topic for topic in OUTPUTS if not self.came(topic, began_ns)}

    def _until(self, stamp_ns: int) -> int:
        self.robot.set_clock(self._clock, self.node, stamp_ns)
        return stamp_ns


def stamp_of(message) -> int:
    return nanoseconds_of(message.header.stamp)


@pytest.fixture(scope="module")
def world(domain, tiny_checkpoint, running_robot, running_node, ready, wait_for):
    with (
        running_robot(domain, "faults") as robot,
        running_node(domain, "faults", checkpoint=str(tiny_checkpoint), use_sim_time=True) as node,
    ):
        clock = robot.ros.create_publisher(Clock, "/clock", 10)
        ready(node, robot)
        wait_for(clock.get_subscription_count, "the node's clock")
        heard = {topic: [] for topic in OUTPUTS}
        for topic, kind in OUTPUTS.items():
            robot.ros.create_subscription(kind, f"foresight/{topic}", heard[topic].append, 200)
        for publisher in node.publishers:
            if publisher.topic_name.removeprefix("/faults/foresight/") in OUTPUTS:
                wait_for(publisher.get_subscription_count, f"a listener on {publisher.topic_name}")
        yield World(robot, node, clock, heard)


@pytest.fixture
def fail(world, monkeypatch):
    """with fail(fault, while_=lambda: True, kind="content"): a guard does this while the condition holds."""

    @contextlib.contextmanager
    def failing(fault, while_=lambda: True, kind="content"):
        guardrail = world.node._configured.foresight.guardrail
        guard, method = getattr(guardrail.guards, kind)[0], "judge" if kind == "content" else "filter"
        work, act = getattr(guard, method), FAULTS[fault][0]
        go_on.clear()
        with monkeypatch.context() as patch:
            patch.setattr(guard, method, lambda frames: act(frames) if while_() else work(frames))
            if fault == "hangs":
                patch.setattr(guardrail.watch, "timeout_s", 0.3)
            yield
            go_on.set()

    return failing


@pytest.mark.parametrize(("fault", "kind"), [*((fault, "content") for fault in FAULTS), ("raises", "filters")])
def test_nothing_comes_out_anywhere_of_what_a_guard_did_not_pass(world, wait_for, fail, fault, kind):
    with fail(fault, kind=kind):
        refused = world.goal(FAULTS[fault][1], frames=8)
        world.go_on(refused, 3)
    passed = world.goal(RESULT.NONE, frames=8)
    world.go_on(passed, 3)
    wait_for(lambda: not world.silent(passed), "the next goal on every topic")
    assert world.silent(refused) == OUTPUTS.keys()


@pytest.mark.parametrize(("fault", "kind"), [*((fault, "content") for fault in FAULTS), ("raises", "filters")])
def test_a_mean_that_a_guard_did_not_pass_comes_out_nowhere(world, wait_for, fail, monkeypatch, fault, kind):
    """The samples did pass: they are there, and a mean only of the next goal."""
    foresight, now = world.node._configured.foresight, []
    mean = foresight.mean

    def noted(rollouts):
        now.append(True)
        try:
            return mean(rollouts)
        finally:
            now.clear()

    monkeypatch.setattr(foresight, "mean", noted)
    with fail(fault, lambda: now, kind):
        refused = world.goal(RESULT.NONE, frames=8)
        world.go_on(refused, 3)
        wait_for(lambda: world.silent(refused) <= {"mean"}, "all the rest of it")
    passed = world.goal(RESULT.NONE, frames=8)
    wait_for(lambda: world.came("mean", passed), "the next goal's mean")
    assert world.silent(refused) == {"mean"}
    assert world.robot.warnings(world.node, "~/mean stays silent")


def test_frames_of_a_stretch_that_was_refused_are_not_even_compared(world, wait_for, fail, monkeypatch):
    guardrail = world.node._configured.foresight.guardrail
    screen, stretches = guardrail.screen, []
    monkeypatch.setattr(guardrail, "screen", lambda *given: stretches.append(given[2]) or screen(*given))
    with fail("refuses", lambda: stretches[-1] > 0):
        began = world.goal(RESULT.BLOCKED_VIDEO, frames=32)
        world.go_on(began, 26)
    passed = world.goal(RESULT.NONE, frames=32)
    world.go_on(passed, 26)
    wait_for(lambda: len(world.came("surprise", passed)) == len(world.came("surprise/map", passed)) == 26, "26 steps")
    assert [message.step for message in world.came("surprise", began)] == list(range(1, 25))
    assert len(world.came("surprise/map", began)) == 24
    assert max(map(stamp_of, world.came("image_now", began))) <= began + 24 * PERIOD_NS


def test_where_the_guards_are_missing_there_is_nothing_that_could_publish(rig, wait_for, tiny_checkpoint, tmp_path):
    robot, node = rig(None, checkpoint=str(tiny_checkpoint), guardrail=str(tmp_path))
    wait_for(lambda: "GUARDRAIL_UNAVAILABLE" in node._trouble and node.state == "unconfigured", "the refusal")
    assert "GUARDRAIL_UNAVAILABLE" in robot.expect(RESULT.NOT_ACTIVE).error_msg
    named = {publisher.topic_name.partition("/foresight/")[2] for publisher in node.publishers}
    assert not named & OUTPUTS.keys()
