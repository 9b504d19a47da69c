"""The camera's frames held against what was predicted, as they come: ~/surprise, ~/surprise/map, and the alarm."""

from __future__ import annotations

import threading
import traceback
from dataclasses import dataclass

from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from unique_identifier_msgs.msg import UUID

from cosmos_ros.foresight import Foresight
from cosmos_ros.frame_buffer import FrameBuffer
from cosmos_ros.msg import Surprise as SurpriseMessage
from cosmos_ros.node.log import Complaints
from cosmos_ros.node.messages import float_image, time_message
from cosmos_ros.node.rollout_publisher import QUEUE
from cosmos_ros.planning.calibration import Calibration, Validity, Way
from cosmos_ros.planning.monitor import Alarm, Expectation, Surprise, SurpriseMonitor
from cosmos_ros.rollout import Clip, GuardedRollout
from cosmos_ros.settings import SurpriseConfig


@dataclass(frozen=True)
class Origin:
    """From what and how a prediction was made. epoch: SurpriseWatch.epoch, noted before the clip was taken."""

    clip: Clip
    way: Way
    epoch: int


class SurpriseWatch:
    """Compares on a thread of its own; `expect` and `frame_came` return at once.

    Nothing is compared unless there is a calibration, by which an alarm could come, or somebody listens.

    frame_rate  Hz, of the predictions

    Raises SettingError for a calibration of another model, or that cannot be read, or is too small for its alpha.
    """

    def __init__(
        self,
        node: LifecycleNode,
        buffer: FrameBuffer,
        foresight: Foresight,
        frame_rate: float,
        config: SurpriseConfig,
    ) -> None:
        self.calibration: Calibration | None = None
        nominal, limit = None, 0.0
        if config.surprise_calibration:
            self.calibration = Calibration.load(config.surprise_calibration)
            self.calibration.require(
                Validity(foresight.spec.name, foresight.fingerprint, foresight.spec.frame_size, frame_rate)
            )
            nominal, limit = self.calibration.model, self.calibration.model.limit(config.surprise_alpha)
        self.alarm = Alarm(config.surprise_frames, config.surprise_clear_after)
        likelihood = foresight.likelihood if config.surprise_likelihood else None
        self._monitor = SurpriseMonitor(
            buffer, self.alarm, nominal, limit, likelihood, latent=foresight.spec.compression[0]
        )
        self._node, self._log = node, node.get_logger().get_child("surprise")
        self._surprise = node.create_lifecycle_publisher(SurpriseMessage, "~/surprise", QUEUE)
        self._map = node.create_lifecycle_publisher(Image, "~/surprise/map", QUEUE)
        self._complaints = Complaints(self._log.error)
        self._woken, self._closing = threading.Event(), False
        self._at_work = threading.Lock()
        self._alarms_told = 0
        self._thread = threading.Thread(target=self._work, name="surprise", daemon=True)
        self._thread.start()

    @property
    def epoch(self) -> int:
        """Changes where the stamps begin anew."""
        return self._monitor.epoch

    @property
    def counts(self) -> dict[str, int]:
        return dict(self._monitor.counts)

    def expect(self, rollout: GuardedRollout, origin: Origin, goal_id: bytes) -> None:
        """Hold the frames that come against this prediction."""
        listeners = self._surprise.get_subscription_count() or self._map.get_subscription_count()
        if self.calibration is None and not listeners:
            return
        calibrated = self.calibration is not None and origin.way == self.calibration.way
        self._monitor.expect(Expectation(rollout, origin.clip, goal_id, calibrated), origin.epoch)
        self.frame_came()  # those that came already

    def frame_came(self) -> None:
        """A frame is in the buffer, and the next one is not yet."""
        self._monitor.follow()
        self._woken.set()

    def stop(self) -> None:
        """Forget every prediction and clear the alarm; the model is asked nothing more."""
        self._monitor.forget()  # so that it need not wait for more than the comparison that is just being made
        with self._at_work:
            self._monitor.forget()  # which may have raised the alarm anew

    def destroy(self) -> None:
        self.stop()
        self._closing = True
        self._woken.set()
        self._thread.join()
        self._node.destroy_lifecycle_publisher(self._surprise)
        self._node.destroy_lifecycle_publisher(self._map)

    def _work(self) -> None:
        while not self._closing:
            self._woken.wait()
            self._woken.clear()
            with self._at_work:
                try:
                    self._compare()
                except Exception:  # whatever it is, the next frame has its chance
                    self._complaints.say("comparison", f"a comparison failed:\n{traceback.format_exc()}")

    def _compare(self) -> None:
        for surprise in self._monitor.comparisons():
            self._surprise.publish(surprise_message(surprise))
            if self._map.get_subscription_count():
                self._map.publish(surprise_map_message(surprise))
            if self.alarm.count != self._alarms_told:
                self._alarms_told = self.alarm.count
                self._log.warning(f"the world goes another way than foreseen since {self.alarm.began_ns} ns")


def surprise_message(surprise: Surprise) -> SurpriseMessage:
    expectation, measured = surprise.expectation, surprise.measured
    rollout = expectation.rollout
    return SurpriseMessage(
        header=Header(stamp=time_message(surprise.stamp_ns), frame_id=surprise.frame_id),
        goal_id=UUID(uuid=list(expectation.goal_id)),
        predicted_from=time_message(expectation.from_ns),
        seed=rollout.seed,
        sample=rollout.sample,
        model=rollout.model,
        step=surprise.step,
        horizon=surprise.horizon_s,
        psnr=measured.psnr,
        ssim=measured.ssim,
        floor_psnr=measured.floor_psnr,
        floor_ssim=measured.floor_ssim,
        nats_per_token=surprise.nats_per_token,
        score=surprise.score,
        threshold=surprise.threshold,
        calibrated=surprise.calibrated,
        surprising=surprise.surprising,
    )


def surprise_map_message(surprise: Surprise) -> Image:
    """32FC1: the error alone, against the guarded prediction; none of the camera's pixels."""
    header = Header(stamp=time_message(surprise.stamp_ns), frame_id=surprise.frame_id)
    return float_image(surprise.error_map(), header)
