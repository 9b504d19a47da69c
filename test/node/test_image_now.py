"""~/image_now over real DDS and on a clock of the test's own: what is shown when, and when nothing is."""

from __future__ import annotations

import contextlib
import threading

import pytest
from cosmos_ros.action import Predict
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image

from cosmos_ros.foresight import Foresight
from cosmos_ros.guardrail.guard import Judgement
from cosmos_ros.guardrail_report import Verdict
from cosmos_ros.node.messages import nanoseconds_of
from cosmos_ros.planning.calibration import Calibration, Nominal, Scale, Validity, Way
from cosmos_ros.planning.surprise import STILL

RESULT = Predict.Result
MS = 1_000_000
START = 1_700_000_000 * 10**9


class World:
    """A robot and a node on a simulated clock, which `set_clock` moves; `heard` are the images that came."""

    def __init__(self, robot, node, wait_for) -> None:
        self.robot, self.node, self._wait_for = robot, node, wait_for
        self.heard: list[Image] = []
        self._clock = robot.ros.create_publisher(Clock, "/clock", 10)
        wait_for(self._clock.get_subscription_count, "the node's clock")

    def set_clock(self, ms: int) -> None:
        now_ns = START + ms * MS
        self.robot.set_clock(self._clock, self.node, now_ns)

    def see(self, *times_ms: int, frame_id: str = "camera_optical", **fields: object) -> None:
        """The clock goes on, and at each of these times a frame comes."""
        counts = self.node._configured.camera.counts
        for ms in times_ms:
            self.set_clock(ms)
            frame, before = self.robot.image(START + ms * MS, **fields), counts.total()
            frame.header.frame_id = frame_id
            self.robot.images.publish(frame)
            self._wait_for(lambda before=before: counts.total() > before, "the frame")

    def status(self, subject: str = "image_now") -> tuple[bytes, str]:
        (status,) = [each for each in self.node._statuses() if each.subject == subject]
        return status.level, status.summary


@pytest.fixture
def world(rig, ready, listening, wait_for, tiny_checkpoint):
    """world(**parameters) -> World"""
    with contextlib.ExitStack() as until_the_end:

        def make(**parameters: object) -> World:
            given = {"checkpoint": str(tiny_checkpoint), "use_sim_time": True, "when_busy": "queue"}
            robot, node = rig(**given, **parameters)
            ready(node, robot)
            made = World(robot, node, wait_for)
            topic = f"{node.get_namespace()}/foresight/image_now"
            until_the_end.enter_context(listening(robot, node, Image, topic, made.heard.append, 50))
            return made

        yield make


def stamps_of(images: list[Image]) -> list[int]:
    return [(nanoseconds_of(image.header.stamp) - START) // MS for image in images]


def test_the_frame_for_the_clocks_time_and_nothing_where_no_prediction_covers_it(world, wait_for):
    world = world()
    robot, node, heard = world.robot, world.node, world.heard
    world.set_clock(0)
    robot.film(node, last_ns=START)
    rollout = robot.predict(seed=3, include_frames=True).rollout
    assert len(rollout.frames) == 24
    for ms in (310, 420, 1000):
        world.set_clock(ms)
        wait_for(lambda ms=ms: heard and stamps_of(heard)[-1] == round(ms, -2), f"the frame for {ms} ms")
    assert heard == [rollout.frames[k - 1] for k in (3, 4, 10)], "each once, as it left, with the time that it shows"
    node.set_parameters([Parameter("latency_compensation", value=0.2)])
    wait_for(lambda: stamps_of(heard)[-1] == 1200, "the frame for the other end of the link")
    assert world.status() == (b"\x00", "a released prediction shows the present")
    world.set_clock(2600)
    wait_for(lambda: "ends 0.400 s before the time to show" in world.status()[1], "the reason")
    assert world.status()[0] == b"\x01", "somebody waits"
    before = len(heard)

    world.set_clock(0)  # a bag that loops
    wait_for(lambda: "the clock jumped back" in world.status()[1], "the reason")
    world.set_clock(900)
    robot.film(node, last_ns=START + 900 * MS)
    assert len(heard) == before
    robot.predict(seed=4, frames=8)
    world.set_clock(1000)
    wait_for(lambda: stamps_of(heard)[-1] == 1200, "predictions of the new time")


@pytest.fixture
def frozen_is_surprising(tiny_checkpoint, tmp_path) -> str:
    """The path of a calibration by which a camera that freezes is surprising, and nothing else."""
    foresight = Foresight.from_config({"checkpoint": str(tiny_checkpoint), "device": "cpu"})
    scale = Scale(tuple(range(1, 25)), (0.0,) * 24, (1.0,) * 24)
    nominal = Nominal({STILL: scale}, ((-1.0, 0.0), (1.0, 0.9)), (0.0,) * 50)
    validity = Validity("tiny", foresight.fingerprint, foresight.spec.frame_size, 10.0)
    way = Way.of(foresight.spec, 9, None, None)
    Calibration(validity, way, nominal, nominal, 1, 100).save(tmp_path / "calibration.json")
    return str(tmp_path / "calibration.json")


def test_while_a_surprise_alarm_stands_nothing_is_shown_and_then_it_is_again(world, frozen_is_surprising, wait_for):
    world = world(surprise_calibration=frozen_is_surprising, surprise_clear_after=0.5, device="cpu")
    robot, node, heard = world.robot, world.node, world.heard
    world.set_clock(0)
    robot.film(node, last_ns=START)
    assert robot.predict(seed=3).error_code == RESULT.NONE
    world.see(100, 200)
    wait_for(lambda: heard and stamps_of(heard)[-1] == 200, "the frame for 200 ms")
    world.see(300, 400, 500, data=robot.image(START).data)  # so that 400 and 500 are surprising, two in a row
    wait_for(lambda: world.status("surprise")[0] == b"\x02", "the alarm")
    why = "nothing to show: a surprise alarm stands: the world goes another way than predicted"
    assert world.status() == (b"\x01", why)
    world.see(600, 700, 800, 900)
    watch = node._configured.surprise
    wait_for(lambda: watch.counts["frames compared"] == 9, "the comparison of the frame at 900 ms")
    assert world.status() == (b"\x01", why), "nominal for 0.4 s"
    world.see(1000)
    wait_for(lambda: stamps_of(heard)[-1] == 1000, "the frame after the alarm")
    assert world.status("surprise") == (b"\x00", "nominal")
    assert [stamp for stamp in stamps_of(heard) if stamp > 500] == [1000]


def test_an_alarm_that_is_just_being_raised_does_not_outlive_the_deactivation(
    world, frozen_is_surprising, wait_for, monkeypatch
):
    world = world(surprise_calibration=frozen_is_surprising, surprise_frames=1, device="cpu")
    robot, node = world.robot, world.node
    world.set_clock(0)
    robot.film(node, last_ns=START)
    assert robot.predict(seed=3).error_code == RESULT.NONE
    assert world.status("surprise") == (b"\x00", "nothing has been compared yet")
    watch, reached, go_on = node._configured.surprise, threading.Event(), threading.Event()
    measure = watch._monitor._compare

    def hold(due):
        reached.set()
        assert go_on.wait(60)
        return measure(due)

    monkeypatch.setattr(watch._monitor, "_compare", hold)
    world.see(100, data=robot.image(START).data)  # as the clip's last frame
    assert reached.wait(60)
    deactivating = threading.Thread(target=node.trigger_deactivate)
    deactivating.start()
    wait_for(lambda: not watch._monitor._live, "all that was expected to be forgotten")
    go_on.set()
    deactivating.join(60)
    assert watch.alarm.count == 1 and not watch.alarm.standing


def test_predictions_that_the_calibration_does_not_know_are_a_warning(world, frozen_is_surprising, wait_for):
    world = world(surprise_calibration=frozen_is_surprising, device="cpu")
    world.set_clock(0)
    world.robot.film(world.node, last_ns=START)
    assert world.robot.predict(seed=3, temperature=0.5).error_code == RESULT.NONE
    world.see(100)
    wait_for(lambda: "no alarm can come" in world.status("surprise")[1], "the warning")
    level, summary = world.status("surprise")
    assert level == b"\x01" and "temperature" in summary


def test_another_cameras_frames_are_not_shown_under_this_ones_name(world, wait_for):
    world = world()
    robot, node, heard = world.robot, world.node, world.heard
    world.set_clock(0)
    robot.film(node, last_ns=START)
    assert robot.predict(seed=3).error_code == RESULT.NONE
    world.set_clock(100)
    wait_for(lambda: stamps_of(heard) == [100], "the frame for 100 ms")
    world.see(100, frame_id="another")
    wait_for(lambda: "the camera's images began anew" in world.status()[1], "the reason")
    world.see(*range(200, 1000, 100), frame_id="another")
    assert robot.predict(seed=4, frames=8).error_code == RESULT.NONE
    world.set_clock(1000)
    wait_for(lambda: stamps_of(heard)[-1] == 1000, "the frame for 1000 ms")
    world.set_clock(2000)
    wait_for(lambda: "ends 0.300 s before" in world.status()[1], "nothing of the first camera's, which goes to 2400 ms")
    assert [image.header.frame_id for image in heard] == ["camera_optical", "another"]


def test_what_a_guard_refuses_is_never_shown(world, wait_for, monkeypatch):
    world = world()
    robot, node, heard = world.robot, world.node, world.heard
    world.set_clock(0)
    robot.film(node, last_ns=START)
    guardrail = node._configured.foresight.guardrail
    guard, screen, stretches = guardrail.guards.content[0], guardrail.screen, []
    judge = guard.judge
    monkeypatch.setattr(guardrail, "screen", lambda *given: stretches.append(given[2:]) or screen(*given))
    refusal = Judgement(Verdict.REFUSED, "no")
    monkeypatch.setattr(guard, "judge", lambda frames: judge(frames) if stretches[-1] == (0,) else refusal)
    robot.expect(RESULT.BLOCKED_VIDEO, seed=3, frames=48)
    world.set_clock(2400)
    wait_for(lambda: heard, "the last frame of the stretch that passed")
    world.set_clock(2500)
    wait_for(lambda: "ends 0.100 s before" in world.status()[1], "the reason")
    assert stamps_of(heard) == [2400]
    world.node.trigger_deactivate()
    assert world.status()[1] == "nothing to show: no prediction has been released"
