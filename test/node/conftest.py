"""A robot around the node under test: its own DDS domain, a camera, a client. All of it real."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import domain_coordinator
import numpy as np
import pytest
import rclpy
from action_msgs.msg import GoalStatus
from builtin_interfaces.msg import Time
from cosmos_ros.action import Predict
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.exceptions import InvalidHandle
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from cosmos_ros import images
from cosmos_ros.commands.ros_processes import free_domain
from cosmos_ros.node.foresight_node import ForesightNode, spin
from cosmos_ros.paths import executable

os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"

PERIOD_NS = 100_000_000  # the tiny checkpoint's: 10 Hz
SIZE = (48, 100)  # (height, width) of the camera: wider than the model's 1:2
_NUMBERS = itertools.count()
PATIENCE_S = 120.0  # for what must happen sooner or later; nothing here asserts how soon


def wait_for(condition: Callable[[], object], what: str) -> object:
    deadline = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.005)
    return value


class Said(NamedTuple):
    """A line of a log."""

    level: int
    name: str
    msg: str


LOG: list[Said] = []  # of all nodes of this process


@pytest.fixture(scope="session", autouse=True)
def _ear() -> Iterator[None]:
    """Hears what is logged as it is handed to rcl, which writes it and publishes it on /rosout.

    Nothing here waits for /rosout: Fast DDS sometimes gives a reader that comes late nothing of a transient-local topic
    (its issue 3822).
    """
    hand_over = rclpy_implementation.rclpy_logging_rcutils_log

    def heard(severity: int, name: str, message: str, *place: object) -> None:
        LOG.append(Said(int(severity), name, message))
        hand_over(severity, name, message, *place)

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(rclpy_implementation, "rclpy_logging_rcutils_log", heard)
        yield


class Robot:
    """Everything around the node, in one namespace: publishers, clients and what they heard."""

    def __init__(self, domain: int, namespace: str = "", image_type: type | None = Image) -> None:
        self.domain, self.namespace = domain, namespace
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.ros = rclpy.create_node("robot", namespace=namespace, context=self.context)
        self._log_begins = len(LOG)
        self.images = image_type and self.ros.create_publisher(image_type, "image", 50)
        self.infos = self.ros.create_publisher(CameraInfo, "camera_info", 10)
        self.action = ActionClient(self.ros, Predict, "foresight/predict")
        self.feedback: list[Predict.Feedback] = []
        self._filmed: dict[int, int] = {}  # stamp -> which frame of the film it is
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.ros)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        while not self._closing.is_set():
            # A test may destroy, from its own thread, what is just about to be waited for.
            with contextlib.suppress(InvalidHandle):
                self.executor.spin_once(timeout_sec=0.1)

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        # Destroyed, not only dropped: else its publishers haunt the domain for another 20 s.
        self.action.destroy()
        self.ros.destroy_node()
        gc.collect()  # rclpy's objects know each other in circles; what is left of them would stay in the graph
        rclpy.try_shutdown(context=self.context)

    def set_clock(self, clock: rclpy.publisher.Publisher, node: ForesightNode, now_ns: int) -> None:
        """Publish the time until the node has it: it hears its clock at best effort."""

        def told() -> bool:
            clock.publish(Clock(clock=self.time(now_ns)))
            return node.get_clock().now().nanoseconds == now_ns

        wait_for(told, "the time")

    def done(self, future: rclpy.Future) -> object:
        wait_for(future.done, "an answer")
        return future.result()

    def ask(self, request: Callable[[], rclpy.Future]) -> object:
        """The answer to a request of the action client, like handle.cancel_goal_async.

        Sent on the thread that hears the answer: the client drops one that comes before it has noted the request.
        """
        return self.done(self.done(self.executor.create_task(request)))

    def call(self, service_type: type, name: str, **request: object) -> object:
        client = self.ros.create_client(service_type, name)
        try:
            assert client.wait_for_service(timeout_sec=PATIENCE_S), f"no service {name}"
            return self.done(client.call_async(service_type.Request(**request)))
        finally:
            self.ros.destroy_client(client)

    def change_state(self, transition: int) -> bool:
        request = ChangeState.Request()
        request.transition.id = transition
        return self.call(ChangeState, "foresight/change_state", transition=request.transition).success

    def state(self) -> str:
        return self.call(GetState, "foresight/get_state").current_state.label

    # -- the camera ---------------------------------------------------------------------------------------------------

    @staticmethod
    def time(stamp_ns: int) -> Time:
        return Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)

    def image(self, stamp_ns: int, **fields: object) -> Image:
        """A colourful frame: another one for every stamp of a film, and for every film the same ones."""
        height, width = SIZE
        number = self._filmed.setdefault(stamp_ns, len(self._filmed))
        pixels = np.random.default_rng(number).integers(0, 255, (height, width, 3), dtype=np.uint8)
        message = Image(height=height, width=width, encoding="rgb8", step=3 * width, data=pixels.tobytes())
        message.header.stamp = self.time(stamp_ns)
        message.header.frame_id = "camera_optical"
        for name, value in fields.items():
            setattr(message, name, value)
        return message

    def picture(self, stamp_ns: int) -> Image | CompressedImage:
        """What this robot's camera publishes."""
        raw = self.image(stamp_ns)
        if self.images.msg_type is Image:
            return raw
        form, data = images.compress(images.to_rgb(raw))
        return CompressedImage(header=raw.header, format=form, data=data)

    def film(self, node: ForesightNode, n: int = 9, last_ns: int | None = None, goes_on: bool = False) -> list[int]:
        """n frames at the model's rate, the last of them stamped now; the node has them all, and no others.

        goes_on  after those that are there. Returns the stamps
        """
        last_ns = last_ns or time.time_ns()
        stamps = [last_ns - (n - 1 - i) * PERIOD_NS for i in range(n)]
        buffer = node._configured.buffer
        if not goes_on:
            buffer.clear()  # else the first may come as late ones of the last film
            self._filmed.clear()
        for stamp in stamps:
            self.images.publish(self.picture(stamp))
            wait_for(lambda stamp=stamp: buffer.state().newest_ns == stamp, "a frame in the buffer")
        return stamps

    # -- the client ---------------------------------------------------------------------------------------------------

    def send(self, **goal: object) -> object:
        """Send a goal; the handle."""
        fields = {"seed": 1, "temperature": -1.0, "top_p": -1.0} | goal
        assert self.action.wait_for_server(timeout_sec=PATIENCE_S)
        self.feedback = heard = []
        handle = self.ask(
            lambda: self.action.send_goal_async(
                Predict.Goal(**fields), feedback_callback=lambda message: heard.append(message.feedback)
            )
        )
        assert handle.accepted, "goals are accepted, and aborted with a reason"
        return handle

    def result(self, handle: object) -> object:
        """The answer: .status and .result."""
        return self.ask(handle.get_result_async)

    def predict(self, **goal: object) -> Predict.Result:
        return self.result(self.send(**goal)).result

    def expect(self, code: int, **goal: object) -> Predict.Result:
        """A goal that is aborted with this code, and says why."""
        answer = self.result(self.send(**goal))
        assert (answer.result.error_code, answer.status) == (code, GoalStatus.STATUS_ABORTED), answer.result.error_msg
        assert answer.result.error_msg
        return answer.result

    def logged(self, node: ForesightNode) -> list[Said]:
        """What the node has logged so far, since this robot is there."""
        return [said for said in LOG[self._log_begins :] if said.name.startswith(node.get_logger().name)]

    def warnings(self, node: ForesightNode, text: str) -> list[str]:
        """All that the node has logged so far with this text in it, warnings and worse."""
        return [said.msg for said in self.logged(node) if said.level >= 30 and text in said.msg]


@pytest.fixture(scope="module")
def domain() -> Iterator[int]:
    # Drawn, so that a run that was killed does not haunt the next one.
    with domain_coordinator.domain_id(free_domain) as domain:
        yield domain


@contextlib.contextmanager
def running_robot(*args: object) -> Iterator[Robot]:
    """Robot(...) until the end of the block."""
    robot = Robot(*args)
    try:
        yield robot
    finally:
        robot.close()


@contextlib.contextmanager
def listening(
    robot: Robot,
    node: ForesightNode,
    message_type: type,
    topic: str,
    hear: Callable[[object], None],
    qos: QoSProfile | int = 10,
) -> Iterator[None]:
    """The robot hears all that the node publishes on a topic until the end of the block; nobody else listens."""
    publisher = next(publisher for publisher in node.publishers if publisher.topic_name == topic)
    subscription = robot.ros.create_subscription(message_type, topic, hear, qos)
    try:
        wait_for(publisher.get_subscription_count, f"a listener on {topic}")
        yield
    finally:
        robot.ros.destroy_subscription(subscription)
        # Else the next listener would be taken for known while the node still knows this one.
        wait_for(lambda: not publisher.get_subscription_count(), f"nobody on {topic}")


@contextlib.contextmanager
def running_node(domain: int, namespace: str = "", **parameters: object) -> Iterator[ForesightNode]:
    """A node in a context of its own, spinning as `main` would let it spin."""
    context = Context()
    rclpy.init(context=context, domain_id=domain)
    given = {"image_reliability": "reliable", "cpu_threads": 1, "max_age": 30.0} | parameters
    overrides = [Parameter(name, value=value) for name, value in given.items()]
    node = ForesightNode(context=context, namespace=namespace, parameter_overrides=overrides)
    thread = threading.Thread(target=spin, args=(node,), daemon=True)
    thread.start()
    try:
        yield node
    finally:
        node.destroy_node()
        rclpy.try_shutdown(context=context)
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "the node does not stop"


@pytest.fixture(scope="module")
def robot(domain) -> Iterator[Robot]:
    with running_robot(domain) as robot:
        yield robot


@pytest.fixture(scope="module")
def node(domain, robot, tiny_checkpoint: Path) -> Iterator[ForesightNode]:
    """The node with the tiny checkpoint, active, hearing the robot's camera."""
    with running_node(domain, checkpoint=str(tiny_checkpoint)) as node:
        ready(node, robot)
        yield node


@pytest.fixture
def rig(domain) -> Iterator[Callable[..., tuple[Robot, ForesightNode]]]:
    """rig(image_type=Image, **parameters) -> (robot, node): for one test, in a namespace of their own.

    image_type None: the robot has no camera.
    """
    with contextlib.ExitStack() as cleanup:

        def make(image_type: type | None = Image, **parameters: object) -> tuple[Robot, ForesightNode]:
            namespace = f"rig{next(_NUMBERS)}"
            robot = cleanup.enter_context(running_robot(domain, namespace, image_type))
            return robot, cleanup.enter_context(running_node(domain, namespace, **parameters))

        yield make


def ready(node: ForesightNode, robot: Robot) -> None:
    wait_for(lambda: node.state == "active", "the active node")
    wait_for(lambda: robot.images.get_subscription_count() and robot.infos.get_subscription_count(), "its subscription")


@pytest.fixture(scope="session", name="ready")
def _ready() -> Callable[[ForesightNode, Robot], None]:
    return ready


@pytest.fixture(scope="session", name="running_node")
def _running_node() -> Callable[..., contextlib.AbstractContextManager[ForesightNode]]:
    return running_node


@pytest.fixture(scope="session", name="running_robot")
def _running_robot() -> Callable[..., contextlib.AbstractContextManager[Robot]]:
    return running_robot


@pytest.fixture(scope="session", name="listening")
def _listening() -> Callable[..., contextlib.AbstractContextManager[None]]:
    return listening


@pytest.fixture(scope="session", name="wait_for")
def _wait_for() -> Callable[[Callable[[], object], str], object]:
    return wait_for


@pytest.fixture
def parameter() -> Callable[..., contextlib.AbstractContextManager]:
    """with parameter(node, name, value): a parameter that has another value for a while"""

    @contextlib.contextmanager
    def changed(node: ForesightNode, name: str, value: object) -> Iterator[None]:
        before = node.get_parameter(name).value
        assert node.set_parameters([Parameter(name, value=value)])[0].successful
        try:
            yield
        finally:
            node.set_parameters([Parameter(name, value=before)])

    return changed


@pytest.fixture
def start(domain, tmp_path):
    """start(program, *arguments, through=()) -> the process, ended with the test; `said()` is all its output so far.

    through  a command in front of it
    """
    processes = []

    def run(program, *arguments, through=()):
        log = tmp_path / f"{program}.log"
        environment = os.environ | {
            "ROS_DOMAIN_ID": str(domain),
            "ROS_LOG_DIR": str(tmp_path / "ros"),
            "PYTHONWARNINGS": "ignore",
            "OMP_NUM_THREADS": "1",
        }
        command = [*through, sys.executable, executable(program), *map(str, arguments)]
        with log.open("wb") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
        process.said = log.read_text
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.wait()
