"""Failures of a rollout and false alarms are counted by row."""

from __future__ import annotations

import numpy as np

from cosmos_ros.benchmarks import failing
from cosmos_ros.benchmarks.aggregate import summarise_clips
from cosmos_ros.evaluation.measure import Videos
from cosmos_ros.rollout import Crop


def videos(model: np.ndarray, frames: np.ndarray) -> Videos:
    camera, truth = frames[:9], frames[9:]
    rows = {name: truth for name in ("repeat_last_frame", "constant_flow", "tokenizer_round_trip")}
    return Videos(camera, camera, truth, {"model": model, **rows}, Crop(0, 0, 64, 48))


def test_a_grey_rollout_failed_and_the_truth_raised_no_alarm(moving_scene):
    frames = moving_scene(33)
    numbers = failing.measure(videos(np.full_like(frames[9:], 128), frames), None, None, None)
    assert numbers["model"]["failed"] and numbers["model"]["solid_colour"]
    assert not numbers["truth"]["failed"] and not numbers["tokenizer_round_trip"]["failed"]
    fine = failing.measure(videos(frames[9:], frames), None, None, None)
    assert not any(fine["model"].values())


def test_a_rollout_refused_for_its_solid_colour_failed_and_others_say_nothing():
    assert failing.refused({"reasons": ["Solid_Colour"]})["model"]["failed"] is True
    assert failing.refused({"reasons": ["Flicker"]}) == {} == failing.refused({"reasons": []})


def test_shares_count_over_the_clips_that_have_them():
    refusal = {"code": "BLOCKED_VIDEO", "message": "", "reasons": ["Solid_Colour"]}
    records = [
        {"bag": kind, "n_conditioning": n, "refused": refusal, "benchmark": failing.refused(refusal) if failed else {}}
        for kind, n, failed in (("a", 9, True), ("a", 9, False), ("b", 9, True), ("b", 1, False))
    ]
    summary = summarise_clips(records)
    assert list(summary) == ["9", "1"] and summary["1"]["numbers"] == {}
    share = summary["9"]["numbers"]["model"]["failed"]
    assert (share["mean"], share["count"], share["clips"], share["of"]) == (1.0, 2, 2, 2)
    assert summary["9"]["kinds"]["b"]["model"]["solid_colour"]["count"] == 1
    assert summary["9"]["evaluation"]["refused"] == 3
