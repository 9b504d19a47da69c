"""What `/diagnostics` says once a second: camera, buffer, model, guardrail, memory, rollouts, the last error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node

from cosmos_ros.device.devices import resolve_device
from cosmos_ros.foresight import Foresight
from cosmos_ros.frame_buffer import FrameBuffer
from cosmos_ros.guardrail import Guardrail
from cosmos_ros.guardrail_report import Verdict
from cosmos_ros.msg import GuardrailStatus
from cosmos_ros.node.camera_subscription import CameraSubscription
from cosmos_ros.node.continuous import Continuous
from cosmos_ros.node.image_now import ImageNow
from cosmos_ros.node.predict_action import PredictAction
from cosmos_ros.node.surprise import SurpriseWatch
from cosmos_ros.node.timers import steady_timer
from cosmos_ros.planning.monitor import CALIBRATED, COMPARED
from cosmos_ros.queue import PredictionQueue
from cosmos_ros.rollout import NANOSECONDS

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
PERIOD_S = 1.0


@dataclass(frozen=True)
class Status:
    """One entry of /diagnostics: its subject, its level, a summary in one line, and the values behind it."""

    subject: str
    level: bytes
    summary: str
    values: Mapping[str, object] = field(default_factory=dict)


class Diagnostics:
    """Publishes what `statuses` returns, every second, in every lifecycle state."""

    def __init__(self, node: Node, statuses: Callable[[], list[Status]]) -> None:
        self._node, self._statuses = node, statuses
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        steady_timer(node, PERIOD_S, self._publish, MutuallyExclusiveCallbackGroup())

    def _publish(self) -> None:
        name = self._node.get_fully_qualified_name().lstrip("/")
        message = DiagnosticArray()
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.status = [
            DiagnosticStatus(
                level=status.level,
                name=f"{name}: {status.subject}",
                message=status.summary,
                values=[KeyValue(key=key, value=str(value)) for key, value in status.values.items()],
            )
            for status in self._statuses()
        ]
        self._publisher.publish(message)


def node_status(state: str, trouble: str) -> Status:
    """The lifecycle state, and why the last transition failed."""
    return Status("node", ERROR if trouble else OK, trouble or state, {"state": state})


def camera_status(camera: CameraSubscription, frame_buffer: FrameBuffer, now_ns: int) -> Status:
    """What arrives, what became of it, what the buffer holds."""
    buffer, trouble = frame_buffer.state(), camera.trouble
    if full := frame_buffer.full:
        trouble = trouble or f"the buffer is full, with {full}"
    summary = trouble or f"{camera.rate:.1f} images/s"
    values = {
        "topic": camera.topic,
        "reliability": camera.reliability,
        "images per second": f"{camera.rate:.1f}",
        "buffered frames": buffer.frames,
        "camera_info": camera.why_no_info() or ("has not come yet" if camera.info is None else "is there"),
    }
    if buffer.newest_ns is not None and buffer.oldest_ns is not None:
        values["buffered seconds"] = f"{(buffer.newest_ns - buffer.oldest_ns) / NANOSECONDS:.2f}"
        values["newest frame's age in seconds"] = f"{(now_ns - buffer.newest_ns) / NANOSECONDS:.2f}"
    values |= {f"images {fate}": count for fate, count in sorted(camera.counts.items())}
    return Status("camera", WARN if trouble else OK, summary, values)


def model_status(foresight: Foresight) -> Status:
    """Which model, whether it is loaded or how far that has come, and what of the GPU's memory is taken."""
    spec, loaded = foresight.spec, foresight.loaded
    values = {
        "checkpoint": spec.directory,
        "frame rate in Hz": f"{spec.frame_rate:g}",
        "frame size": f"{spec.frame_size[1]}x{spec.frame_size[0]}",
        "takes a prompt": spec.takes_prompt,
        **(_gpu_memory(resolve_device(foresight.config.device)) if loaded else {}),
    }
    state = "loaded" if loaded else foresight.loading or "not loaded"
    return Status("model", OK, f"{spec.name}, {state}", values)


def guardrail_status(guardrail: Guardrail, last: GuardrailStatus) -> Status:
    """The posture: which guards are in force, with which weights, and what each decided about the last goal."""
    weights = {f"{guard.name} SHA-256": guard.weights for guard in guardrail.guards.everyone}
    decided = {
        f"{decision.guard} last": f"{Verdict(decision.verdict).name} {decision.detail}".rstrip()
        + f" in {decision.milliseconds:.1f} ms"
        for decision in last.decisions
    }
    return Status("guardrail", OK, guardrail.profile, weights | decided)


def goals_status(queue: PredictionQueue, action: PredictAction) -> Status:
    """What runs and waits, whose clients are gone, and what the last goal that failed ran into."""
    orphans = action.orphans
    summary = "; ".join((queue.state, *orphans))
    return Status("goals", WARN if orphans else OK, summary, {"last error": action.last_error or "none"})


def rollout_status(lead_s: float | None) -> Status:
    """Whether the last rollout still foretold anything when it was published."""
    if lead_s is None:
        return Status("rollout", OK, "none has been published yet")
    values = {"seconds from the clock to the last frame": f"{lead_s:.3f}"}
    if lead_s >= 0:
        return Status("rollout", OK, f"the last one reached {lead_s:.1f} s ahead", values)
    summary = (
        f"the last one was history: its last frame lay {-lead_s:.1f} s before the clock when it was published. "
        "Predicting takes longer than the frames reach, or they follow old images (`until`)"
    )
    return Status("rollout", WARN, summary, values)


def continuous_status(continuous: Continuous) -> Status:
    """How the continuous mode keeps up, and what it rests from."""
    counts = {f"predictions {fate}": count for fate, count in sorted(continuous.counts.items())}
    if not continuous.rate:
        return Status("continuous", OK, "off", counts)
    summary = f"{continuous.rate:g} predictions/s are due"
    if rest := continuous.rests_s:
        summary = f"rests for {rest:.0f} s: {continuous.last_error}"
    return Status("continuous", WARN if rest else OK, summary, counts)


def image_now_status(image_now: ImageNow) -> Status:
    """Whether there is a frame to show for now, and why not; a warning where somebody waits for one."""
    why_nothing = image_now.why_nothing
    values = {"seconds ahead": f"{image_now.ahead_s:g}", "listeners": image_now.listeners}
    if why_nothing:
        return Status("image_now", WARN if image_now.listeners else OK, f"nothing to show: {why_nothing}", values)
    return Status("image_now", OK, "a released prediction shows the present", values)


def surprise_status(watch: SurpriseWatch) -> Status:
    """Whether the alarm stands, since when, what raised it last, and how many frames were compared."""
    alarm, calibration = watch.alarm, watch.calibration
    values: dict[str, object] = {
        "calibration": "none" if calibration is None else f"{calibration.predictions} predictions"
    }
    values |= {"alarm stands": alarm.standing, "alarms": alarm.count}
    if alarm.count:
        values["last alarm began at"] = f"{alarm.began_ns / NANOSECONDS:.3f} s"
        values["last alarm ended at"] = "not yet" if alarm.standing else f"{alarm.ended_ns / NANOSECONDS:.3f} s"
        values["greatest score of the last alarm"] = f"{alarm.greatest:.4f}"
    values |= {fate: count for fate, count in sorted(watch.counts.items())}
    if alarm.standing:
        began = f"{alarm.began_ns / NANOSECONDS:.3f} s"
        return Status("surprise", ERROR, f"the world goes another way than foreseen since {began}", values)
    if calibration is None:
        return Status("surprise", OK, "uncalibrated: no alarm can come", values)
    if watch.counts.get(CALIBRATED):
        return Status("surprise", OK, "nominal", values)
    if watch.counts.get(COMPARED):
        return Status("surprise", WARN, f"no alarm can come: the calibration is for {calibration.way}", values)
    return Status("surprise", OK, "nothing has been compared yet", values)


def _gpu_memory(device: torch.device) -> dict[str, str]:
    if device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    sizes = {"of this node": torch.cuda.memory_reserved(device), "free": free, "in all": total}
    return {f"GPU memory {name}": f"{size / 1e9:.2f} GB" for name, size in sizes.items()}
