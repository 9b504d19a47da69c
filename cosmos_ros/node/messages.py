"""Our plain data as ROS messages. Pixels only ever come from a GuardedRollout."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict, fields

import numpy as np
from builtin_interfaces.msg import Duration, Time
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from unique_identifier_msgs.msg import UUID

from cosmos_ros.action import Predict
from cosmos_ros.errors import InvalidGoal
from cosmos_ros.guardrail_report import GuardDecision, GuardrailReport, Verdict
from cosmos_ros.msg import GuardDecision as GuardDecisionMessage
from cosmos_ros.msg import GuardrailStatus, Rollout, StageTime
from cosmos_ros.progress import Progress
from cosmos_ros.queue import Request
from cosmos_ros.recordings.contact_sheet import contact_sheet
from cosmos_ros.recordings.rollout_json import RolloutFacts
from cosmos_ros.rollout import MAX_SAMPLES, NANOSECONDS, Crop, Decoding, GuardedRollout
from cosmos_ros.samples import uncertainty


def time_message(stamp_ns: int) -> Time:
    seconds, nanoseconds = divmod(stamp_ns, NANOSECONDS)
    return Time(sec=seconds, nanosec=nanoseconds)


def duration_message(seconds: float) -> Duration:
    whole, nanoseconds = divmod(round(seconds * NANOSECONDS), NANOSECONDS)
    return Duration(sec=whole, nanosec=nanoseconds)


def nanoseconds_of(message: Time | Duration) -> int:
    return message.sec * NANOSECONDS + message.nanosec


def request_of(goal: Predict.Goal, max_frames: int) -> Request:
    """The goal's fields; negative and zero ones that leave the choice to the server become None. Raises InvalidGoal.

    max_frames  that a goal may ask for
    """
    if goal.condition not in (Predict.Goal.VIDEO, Predict.Goal.IMAGE):
        raise InvalidGoal(f"condition must be VIDEO (0) or IMAGE (1); got {goal.condition}")
    if goal.samples > MAX_SAMPLES:
        raise InvalidGoal(f"samples must lie in 0..{MAX_SAMPLES} (0: one); got {goal.samples}")
    if goal.frames > max_frames:
        raise InvalidGoal(
            f"frames must lie in 0..{max_frames} (0: the model's own number; the most is the parameter max_frames); "
            f"got {goal.frames}"
        )
    return Request(
        from_image=goal.condition == Predict.Goal.IMAGE,
        prompt=goal.prompt,
        seed=goal.seed if goal.seed >= 0 else None,
        temperature=_sampling_value("temperature", goal.temperature),
        top_p=_sampling_value("top_p", goal.top_p),
        until_ns=nanoseconds_of(goal.until) or None,
        samples=goal.samples or 1,
        frames=goal.frames or None,
    )


def _sampling_value(name: str, value: float) -> float | None:
    if not math.isfinite(value):
        raise InvalidGoal(f"{name} must be finite; got {value}")
    return from_float32(value) if value >= 0 else None


def from_float32(value: float) -> float:
    """The shortest decimal of a float32: 0.8, which is what the client wrote, and not 0.800000011920929."""
    return float(str(np.float32(value)))


def feedback_message(progress: Progress) -> Predict.Feedback:
    return Predict.Feedback(
        stage=int(progress.stage),
        progress=progress.fraction,
        frames_ready=progress.frames_ready,
        tokens_per_second=progress.tokens_per_second,
        remaining=duration_message(progress.remaining_s),
    )


def rollout_message(rollout: GuardedRollout, goal_id: UUID, frame_id: str) -> Rollout:
    """The rollout with all its frames, in the camera's frame_id. Raises TypeError for anything but a GuardedRollout."""
    _require_guarded(rollout)
    return Rollout(
        header=Header(stamp=time_message(rollout.conditioning_stamps_ns[-1]), frame_id=frame_id),
        goal_id=goal_id,
        model=rollout.model,
        seed=rollout.seed,
        prompt=rollout.prompt,
        frame_rate=rollout.frame_rate,
        conditioning_stamps=[time_message(stamp) for stamp in rollout.conditioning_stamps_ns],
        frames=frame_messages(rollout, frame_id),
        guardrail=guardrail_status(rollout.guardrail),
        timing=[StageTime(stage=time.stage.name.lower(), seconds=time.seconds) for time in rollout.timing],
        sample=rollout.sample,
        first_frame=rollout.first_frame,
        seams=rollout.seams,
        **asdict(rollout.decoding),  # the message has a field of each name
    )


def whole_messages(rollouts: Sequence[GuardedRollout], last: Sequence[Rollout]) -> list[Rollout]:
    """Whole rollouts of several stretches, as the messages of their last stretches were published."""
    messages = [
        rollout_message(rollout, message.goal_id, message.header.frame_id)
        for rollout, message in zip(rollouts, last, strict=True)
    ]
    for message, of_last in zip(messages, last, strict=True):
        message.lead = of_last.lead
    return messages


def frame_messages(rollout: GuardedRollout, frame_id: str) -> list[Image]:
    """Its frames, stamped. Raises TypeError for anything but a GuardedRollout."""
    return [frame_message(rollout, index, frame_id) for index in range(len(rollout.frames))]


def frame_message(rollout: GuardedRollout, index: int, frame_id: str) -> Image:
    """One of its frames, stamped. Raises TypeError for anything but a GuardedRollout."""
    _require_guarded(rollout)
    return _rgb_image(rollout.frames[index], Header(stamp=time_message(rollout.stamps_ns[index]), frame_id=frame_id))


def uncertainty_messages(rollouts: Sequence[GuardedRollout], frame_id: str) -> list[Image]:
    """32FC1 images: the standard deviation over the samples, in grey levels, frame by frame."""
    return [
        float_image(spread, Header(stamp=time_message(stamp), frame_id=frame_id))
        for spread, stamp in zip(uncertainty(rollouts), rollouts[0].stamps_ns, strict=True)
    ]


def rollout_facts(message: Rollout) -> RolloutFacts:
    """Everything in a received rollout except its pixels."""
    return RolloutFacts(
        model=message.model,
        seed=message.seed,
        prompt=message.prompt,
        frame_rate=message.frame_rate,
        conditioning_stamps_ns=tuple(nanoseconds_of(stamp) for stamp in message.conditioning_stamps),
        stamps_ns=tuple(nanoseconds_of(frame.header.stamp) for frame in message.frames),
        timing_s={time.stage: time.seconds for time in message.timing},
        guardrail=GuardrailReport(
            message.guardrail.profile,
            tuple(
                GuardDecision(each.guard, Verdict(each.verdict), each.detail, each.weights, each.milliseconds / 1000)
                for each in message.guardrail.decisions
            ),
        ),
        sample=message.sample,
        first_frame=message.first_frame,
        seams=tuple(message.seams),
        decoding=Decoding(**{each.name: getattr(message, each.name) for each in fields(Decoding)}),
    )


def without_frames(message: Rollout) -> Rollout:
    """A copy of the rollout without its pixels."""
    bare = copy.copy(message)
    bare.frames = []
    return bare


def contact_sheet_message(rollout: GuardedRollout, header: Header) -> Image:
    """All frames in a grid. Raises TypeError for anything but a GuardedRollout."""
    _require_guarded(rollout)
    return _rgb_image(contact_sheet(rollout.frames), header)


def guardrail_status(report: GuardrailReport) -> GuardrailStatus:
    return GuardrailStatus(
        profile=report.profile,
        decisions=[
            GuardDecisionMessage(
                guard=decision.guard,
                verdict=int(decision.verdict),
                detail=decision.detail,
                weights=decision.weights,
                milliseconds=1000 * decision.seconds,
            )
            for decision in report.decisions
        ],
    )


def cropped_camera_info(info: CameraInfo, crop: Crop, camera_size: tuple[int, int]) -> CameraInfo:
    """The camera's calibration for images that show `crop` of its image, as image_proc's crop describes it.

    The matrices stay those of the full sensor; the crop goes into `roi`, in unbinned sensor pixels (REP 104).

    camera_size  (height, width) of the camera's image. Raises ValueError where `info` describes another size.
    """
    binning_x, binning_y = max(info.binning_x, 1), max(info.binning_y, 1)
    sensor_height, sensor_width = info.roi.height or info.height, info.roi.width or info.width
    if (sensor_height // binning_y, sensor_width // binning_x) != camera_size:
        raise ValueError(
            f"camera_info describes images of {sensor_width // binning_x}x{sensor_height // binning_y}, "
            f"the camera's are {camera_size[1]}x{camera_size[0]}"
        )
    cropped = copy.deepcopy(info)
    cropped.roi.x_offset += crop.x * binning_x
    cropped.roi.y_offset += crop.y * binning_y
    cropped.roi.width, cropped.roi.height = crop.width * binning_x, crop.height * binning_y
    if (crop.height, crop.width) != camera_size:
        cropped.roi.do_rectify = True
    return cropped


def _rgb_image(frame: np.ndarray, header: Header) -> Image:
    """uint8 [H, W, 3] RGB as an rgb8 image."""
    height, width, _ = frame.shape
    # bytes: the generated setter takes them in 1 ms per megapixel frame, but a NumPy array in 114 ms.
    return Image(header=header, height=height, width=width, encoding="rgb8", step=3 * width, data=frame.tobytes())


def float_image(values: np.ndarray, header: Header) -> Image:
    """float32 [H, W] as a 32FC1 image."""
    height, width = values.shape
    data = values.astype("<f4").tobytes()
    return Image(header=header, height=height, width=width, encoding="32FC1", step=4 * width, data=data)


def _require_guarded(rollout: GuardedRollout) -> None:
    if not isinstance(rollout, GuardedRollout):
        raise TypeError(f"only guarded frames may be published; got {type(rollout).__name__}")
