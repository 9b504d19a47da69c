"""The robot: ROS's middleware, and the camera's topic as the node would hear it."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cosmos_ros.commands.doctor.finding import Finding, fail, imported, note, ok
from cosmos_ros.commands.ros_processes import MIDDLEWARE_REMEDY, middleware_fault
from cosmos_ros.settings import ClipConfig, NodeConfig

if TYPE_CHECKING:
    from cosmos_ros.node.camera_probe import CameraReport

# Of the model's rate, by which a camera may be slower: over the 8 periods of a clip 5 % add up to 0.4 of a period,
# and each frame may lie half a period from its time.
SLOWER = 0.05
LOSSY = 0.1  # of the images: a share from which on the losses are a fault


@dataclass(frozen=True)
class Wanted:
    """What the model wants of a camera.

    frame_rate            Hz, of clips; 0: not known, as where no checkpoint could be read
    conditioning_lengths  frames that a clip may have
    """

    frame_rate: float = 0.0
    conditioning_lengths: Collection[int] = (9, 1)


def findings(topic: str, wanted: Wanted, clips: ClipConfig, node: NodeConfig) -> Iterator[Finding]:
    """The middleware, then the camera's topic, or which there are."""
    # Before anything else: where the middleware is missing, importing rclpy ends the process.
    if importlib.util.find_spec("rclpy") and (fault := middleware_fault(os.environ)):
        yield fail("ROS", fault, MIDDLEWARE_REMEDY)
        return
    rclpy, finding = imported("rclpy", "ROS", "source /opt/ros/jazzy/setup.bash or pip install -r requirements/ros.txt")
    if rclpy is None:
        yield finding
        return
    try:
        from cosmos_ros.node import camera_probe

        distribution, domain = os.environ.get("ROS_DISTRO", "from wheels"), os.environ.get("ROS_DOMAIN_ID", "0")
        yield ok("ROS", f"{distribution}, RMW {camera_probe.middleware()}, domain {domain}")
        if topic:
            seen = camera_probe.camera(
                topic,
                frame_rate=wanted.frame_rate or 10.0,
                conditioning_lengths=wanted.conditioning_lengths,
                max_age_s=clips.max_age,
                max_pixels=clips.max_pixels,
                reliability=node.image_reliability,
            )
            yield from camera(topic, seen, wanted.frame_rate, node.image_transport)
        elif topics := camera_probe.image_topics():
            yield note("camera", f"image topics: {', '.join(topics)}", "name one with --image-topic")
        else:
            yield note("camera", "no image topic is published", "start the camera; check ROS_DOMAIN_ID")
    except ValueError as error:
        yield fail("camera", str(error), "name the topic as `ros2 topic list` does")
    except (ImportError, RuntimeError) as error:
        yield fail("ROS", f"{type(error).__name__}: {error}", "install this package and its interfaces: pip install .")


def camera(topic: str, seen: CameraReport, model_rate: float, transport: str = "raw") -> Iterator[Finding]:
    """What was seen of a camera, and what it means for the node.

    model_rate  Hz, of clips; 0: not known
    transport   the setting `image_transport`
    """
    if not seen.publishers:
        yield fail("camera", f"nobody publishes {topic}", "start the camera; check the topic and ROS_DOMAIN_ID")
        return
    if not seen.transport:
        yield fail("camera", f"{topic} carries {', '.join(seen.types)}", "name a topic of sensor_msgs/Image")
        return
    if len(seen.publishers) > 1:
        who = f"{len(seen.publishers)} publish {topic}: {', '.join(seen.publishers)}"
        yield note("camera", who, "give each camera a topic of its own: their frames cannot be told apart")
    qos = f"{topic} ({seen.transport}): publisher's QoS {seen.theirs}, ours {seen.ours}"
    yield ok("camera", qos) if seen.compatible else fail("camera", qos, "set image_reliability: auto")
    if seen.transport != transport:
        yield note("camera", f"{topic} is {seen.transport}", f"set image_transport: {seen.transport}")
    if seen.lost:
        yield losses(topic, seen)
    yield images(topic, seen, model_rate)


def losses(topic: str, seen: CameraReport) -> Finding:
    sent = seen.lost + seen.arrived
    remedy = "give both processes more shared memory (config/fastdds_large_images.xml)"
    if seen.ours == "best effort":
        remedy = f"publish reliably, or {remedy}"
    judge = fail if seen.lost > LOSSY * sent else note
    return judge("camera", f"{topic}: {seen.lost} of {sent} images got lost on the way", remedy)


def images(topic: str, seen: CameraReport, model_rate: float) -> Finding:
    """Whether the node could predict from what arrived."""
    rates = f"{seen.rate:.2f} images/s" + (f"; the model's rate is {model_rate:g} Hz" if model_rate else "")
    if not seen.arrived:
        return fail("camera", f"{topic}: no image arrived", "see that the camera runs and the network lets it through")
    if not seen.images:
        return fail("camera", f"{topic}: {seen.trouble}", "see to the camera's driver, which sends images like that")
    if seen.rate < (1 - SLOWER) * model_rate:
        return fail("camera", f"{topic}: {seen.images}, {rates}", "raise the camera's rate, or set frame_rate to it")
    if seen.trouble and model_rate:
        remedy = "" if ";" in seen.trouble else "see that images come evenly and carry the time of this computer"
        return fail("camera", f"{topic}: {seen.images}, {rates}, and no clip: {seen.trouble}", remedy)
    return ok("camera", f"{topic}: {seen.images}, {rates}")
