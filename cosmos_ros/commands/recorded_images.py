"""The sample bag's images, as the demos use them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cosmos_ros.rollout import NANOSECONDS, Clip

IMAGE_TOPIC, CAMERA_INFO_TOPIC = "/camera/image_raw/compressed", "/camera/camera_info"
HISTORY_S = 60.0  # the node keeps the whole bag: its model may still be loading at the goal's time


class RecordedImages:
    """The bag's images.

    frames   all of them, in order
    crop     what the model sees of them
    goal_ns  the latest time of a goal whose whole future is in the bag: just before the frame after the goal's last
    """

    def __init__(self, bag: Path) -> None:
        # Loaded here, while the node starts: torch takes its seconds.
        from cosmos_ros.recordings.bag import Bag
        from cosmos_ros.world_model import ModelSpec
        from cosmos_ros.world_model.preprocessing import camera_view

        self.frames = list(Bag(bag).frames(IMAGE_TOPIC))
        spec = ModelSpec.of_checkpoint()
        future_s = spec.new_frames(max(spec.conditioning_lengths)) / spec.frame_rate
        latest_ns = self.frames[-1].stamp_ns - round(future_s * NANOSECONDS)
        # Between two frames, so that no rounding decides which is the goal's last: every run sees the same.
        self.goal_ns = next(frame.stamp_ns for frame in self.frames if frame.stamp_ns > latest_ns) - 1
        self.crop = camera_view((self.frames[0].height, self.frames[0].width), spec.frame_size)

    def clip(self, stamps_ns: tuple[int, ...], frame_rate: float) -> Clip:
        """The images nearest to these times."""
        nearest = [min(self.frames, key=lambda frame: abs(frame.stamp_ns - stamp)) for stamp in stamps_ns]
        return Clip(np.stack([frame.load() for frame in nearest]), stamps_ns, frame_rate)
