"""What a user reads where a run cannot go on because its settings differ."""

from __future__ import annotations

import pytest

from cosmos_ros.other_settings import differences


def test_every_setting_that_differs_is_named_with_both_values_nested_ones_by_their_path():
    before = {"seed": 0, "topic": "", "config": {"width": 64, "levels": [8, 8], "decoder": {"depth": 2}}, "steps": 5}
    now = {"seed": 1, "topic": "/arm", "config": {"width": 96, "levels": (8, 6), "decoder": {"depth": 3}}, "steps": 5}
    assert differences(before, now).split("; ") == [
        "config.decoder.depth was 2, is 3 now",
        "config.levels was [8, 8], is [8, 6] now",
        "config.width was 64, is 96 now",
        "seed was 0, is 1 now",
        'topic was "", is "/arm" now',
    ]


def test_what_only_one_of_them_knows_is_not_set_in_the_other():
    before, now = {"robots": {"ur5e": "a1"}, "old": 1}, {"robots": {}, "new": ["a"], "newest": None}
    assert differences(before, now).split("; ") == [
        'new was not set, is "a" now',
        "old was 1, is not set now",
        'robots.ur5e was "a1", is not set now',
    ]


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (["a", "b"], ["b", "c"], 'bags: "a" only then, "c" only now'),
        ([], ["a", "b"], 'bags: "a", "b" only now'),
        (["a", "a"], ["a"], 'bags: "a" only then'),
        (["a", "b"], ["b", "a"], "bags in another order"),
        ([{"name": "a", "bytes": 1}], [{"bytes": 2, "name": "a"}],
         'bags: {"bytes": 1, "name": "a"} only then, {"bytes": 2, "name": "a"} only now'),
        ([str(i) for i in range(3000)], ["0"], 'bags: "1", "2", "3" and 2996 more only then'),
    ],
)  # fmt: skip
def test_of_recordings_those_are_named_that_only_one_of_them_has(before, now, said):
    assert differences({"bags": before}, {"bags": now}) == said


def test_the_same_settings_do_not_differ_however_they_are_written():
    settings = {"config": {"levels": (8, 6), "rate": 10.0}, "bags": ["a"], "robots": {}}
    assert differences({"robots": {}, "bags": ("a",), "config": {"rate": 10.0, "levels": [8, 6]}}, settings) == ""
