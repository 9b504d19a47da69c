"""Recordings watched for surprise: from which frame on a label's seconds count."""

from __future__ import annotations

from cosmos_ros.evaluation.surprise import RecordingWatcher, Task, WatchSettings
from cosmos_ros.settings import ForesightConfig

START = 1_700_000_000_000_000_000


def test_seconds_count_from_the_first_frame_that_has_a_stamp(moving_scene, write_bag, tiny_checkpoint, tmp_path):
    stamps = [0, *(START + i * 100_000_000 for i in range(14))]
    write_bag(tmp_path / "bag", moving_scene(15), stamps)
    model = ForesightConfig(checkpoint=str(tiny_checkpoint), device="cpu", dtype="float32")
    watch = RecordingWatcher(WatchSettings(model, frame_rate=10.0, every_s=0.8, likelihood=False))
    record = watch(Task(0, str(tmp_path / "bag"))).record
    assert record["first_ns"] == START and record["counts"]["predictions"] == 1
    assert [each["step"] for each in record["comparisons"]] == [1, 2, 3, 4, 5]
