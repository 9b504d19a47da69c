"""Plain data as messages: times, the crop in camera_info, and pixels from a GuardedRollout only."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, RegionOfInterest
from std_msgs.msg import Header
from unique_identifier_msgs.msg import UUID

from cosmos_ros.node.messages import (
    contact_sheet_message,
    cropped_camera_info,
    duration_message,
    nanoseconds_of,
    rollout_message,
    time_message,
)
from cosmos_ros.rollout import Crop


@pytest.mark.parametrize("stamp_ns", [0, 1, 999_999_999, 1_700_000_000_123_456_789])
def test_times_go_there_and_back(stamp_ns):
    assert nanoseconds_of(time_message(stamp_ns)) == stamp_ns


def test_a_duration_is_whole_nanoseconds():
    duration = duration_message(2.75)
    assert (duration.sec, duration.nanosec) == (2, 750_000_000)


def test_only_guarded_frames_become_a_message():
    forged = SimpleNamespace(frames=np.zeros((1, 2, 2, 3), np.uint8), stamps_ns=(1,))
    with pytest.raises(TypeError, match="guarded"):
        rollout_message(forged, UUID(), "camera")
    with pytest.raises(TypeError, match="guarded"):
        contact_sheet_message(forged, Header())


def camera_info(**fields: object) -> CameraInfo:
    k = [500.0, 0.0, 512.0, 0.0, 500.0, 320.0, 0.0, 0.0, 1.0]
    return CameraInfo(**{"height": 640, "width": 1024, "k": k} | fields)


def projected(info: CameraInfo, x: float, y: float, z: float) -> tuple[float, float]:
    """Where a point in front of the camera lies in the image that `info` describes (REP 104: roi, then binning)."""
    u = info.k[0] * x / z + info.k[2]
    v = info.k[4] * y / z + info.k[5]
    return (u - info.roi.x_offset) / max(info.binning_x, 1), (v - info.roi.y_offset) / max(info.binning_y, 1)


@pytest.mark.parametrize(
    ("info", "size"),
    [
        (camera_info(), (640, 1024)),
        (camera_info(binning_x=2, binning_y=2), (320, 512)),
        (camera_info(roi=RegionOfInterest(x_offset=100, y_offset=40, width=800, height=500)), (500, 800)),
        (
            camera_info(binning_x=2, binning_y=4, roi=RegionOfInterest(x_offset=4, y_offset=8, width=800, height=400)),
            (100, 400),
        ),
    ],
    ids=["full", "binned", "already cropped", "binned and cropped"],
)
def test_a_point_projects_to_the_same_scene_in_the_crop(info, size):
    crop = Crop(x=20, y=6, width=size[1] - 40, height=size[0] - 12)
    cropped = cropped_camera_info(info, crop, size)
    u, v = projected(info, 0.1, -0.2, 2.0)
    assert projected(cropped, 0.1, -0.2, 2.0) == pytest.approx((u - crop.x, v - crop.y))
    assert cropped.roi.width == crop.width * max(info.binning_x, 1)
    assert cropped.roi.height == crop.height * max(info.binning_y, 1)
    assert cropped.roi.do_rectify
    assert (cropped.height, cropped.width, list(cropped.k)) == (info.height, info.width, list(info.k))
    assert info.roi.do_rectify is False, "the camera's own message stays as it came"


def test_no_crop_leaves_rectification_alone():
    whole = cropped_camera_info(camera_info(), Crop(0, 0, 1024, 640), (640, 1024))
    assert not whole.roi.do_rectify


def test_an_uncalibrated_camera_stays_uncalibrated():
    cropped = cropped_camera_info(CameraInfo(height=640, width=1024), Crop(0, 20, 1024, 600), (640, 1024))
    assert cropped.k[0] == 0 and cropped.roi.y_offset == 20


def test_a_camera_info_of_another_size_is_refused():
    with pytest.raises(ValueError, match="1024x640.*512x320"):
        cropped_camera_info(camera_info(), Crop(0, 0, 512, 320), (320, 512))
