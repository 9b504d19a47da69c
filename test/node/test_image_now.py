"""~/image_now over real DDS and on a clock of the test's own: what is shown when, and when nothing is."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from cosmos_ros.action import Predict
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image

from cosmos_ros.guardrail.guard import Judgement
from cosmos_ros.guardrail_report import Verdict
from cosmos_ros.node.messages import nanoseconds_of

RESULT = Predict.Result
MS = 1_000_000
START = 1_700_000_000 * 10**9


@pytest.fixture
def world(rig, ready, listening, wait_for, tiny_checkpoint):
    """A robot and a node on a simulated clock, which `set_clock` moves; `shown` are the images that came."""
    robot, node = rig(checkpoint=str(tiny_checkpoint), use_sim_time=True, when_busy="queue")
    clock = robot.ros.create_publisher(Clock, "/clock", 10)
    ready(node, robot)
    wait_for(clock.get_subscription_count, "the node's clock")

    def set_clock(stamp_ns: int) -> None:
        clock.publish(Clock(clock=robot.time(stamp_ns)))
        wait_for(lambda: node.get_clock().now().nanoseconds == stamp_ns, "the time")

    def status() -> tuple[bytes, str]:
        (status,) = [each for each in node._statuses() if each.subject == "image_now"]
        return status.level, status.summary

    with listening(robot, node, Image, f"{node.get_namespace()}/foresight/image_now", (heard := []).append, 50):
        yield SimpleNamespace(robot=robot, node=node, set_clock=set_clock, heard=heard, status=status)


def stamps_of(images: list[Image]) -> list[int]:
    return [(nanoseconds_of(image.header.stamp) - START) // MS for image in images]


def test_the_frame_for_the_clocks_time_and_nothing_where_no_prediction_covers_it(world, wait_for):
    robot, node, heard = world.robot, world.node, world.heard
    world.set_clock(START)
    robot.film(node, last_ns=START)
    rollout = robot.predict(seed=3, include_frames=True).rollout
    assert len(rollout.frames) == 24
    for ms in (310, 420, 1000):
        world.set_clock(START + ms * MS)
        wait_for(lambda ms=ms: heard and stamps_of(heard)[-1] == round(ms, -2), f"the frame for {ms} ms")
    assert heard == [rollout.frames[k - 1] for k in (3, 4, 10)], "each once, as it left, with the time that it shows"
    node.set_parameters([Parameter("latency_compensation", value=0.2)])
    wait_for(lambda: stamps_of(heard)[-1] == 1200, "the frame for the other end of the link")
    assert world.status() == (b"\x00", "a released prediction shows the present")
    world.set_clock(START + 2600 * MS)
    wait_for(lambda: "ends 0.400 s before the time to show" in world.status()[1], "the reason")
    assert world.status()[0] == b"\x01", "somebody waits"
    before = len(heard)

    world.set_clock(START)  # a bag that loops
    wait_for(lambda: "the clock jumped back" in world.status()[1], "the reason")
    world.set_clock(START + 900 * MS)
    robot.film(node, last_ns=START + 900 * MS)
    assert len(heard) == before
    robot.predict(seed=4, frames=8)
    world.set_clock(START + 1000 * MS)
    wait_for(lambda: stamps_of(heard)[-1] == 1200, "predictions of the new time")
    node._configured.image_now._frames._alarm = lambda: True
    world.set_clock(START + 1100 * MS)
    assert "a surprise alarm stands" in world.status()[1]
    world.set_clock(START + 1200 * MS)
    node._configured.image_now._frames._alarm = lambda: False
    wait_for(lambda: stamps_of(heard)[-1] == 1400, "the frame after the alarm")
    assert 1300 not in stamps_of(heard[before:])


def test_what_a_guard_refuses_is_never_shown(world, wait_for, monkeypatch):
    robot, node, heard = world.robot, world.node, world.heard
    world.set_clock(START)
    robot.film(node, last_ns=START)
    guardrail = node._configured.foresight.guardrail
    guard, screen, stretches = guardrail.guards.content[0], guardrail.screen, []
    judge = guard.judge
    monkeypatch.setattr(guardrail, "screen", lambda *given: stretches.append(given[2:]) or screen(*given))
    refusal = Judgement(Verdict.REFUSED, "no")
    monkeypatch.setattr(guard, "judge", lambda frames: judge(frames) if stretches[-1] == (0,) else refusal)
    robot.expect(RESULT.BLOCKED_VIDEO, seed=3, frames=48)
    world.set_clock(START + 2400 * MS)
    wait_for(lambda: heard, "the last frame of the stretch that passed")
    world.set_clock(START + 2500 * MS)
    wait_for(lambda: "ends 0.100 s before" in world.status()[1], "the reason")
    assert stamps_of(heard) == [2400]
    world.node.trigger_deactivate()
    assert world.status()[1] == "nothing to show: no prediction has been released"
