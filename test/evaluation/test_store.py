"""What is in an evaluation's folder when it is resumed, and what is not ours there."""

from __future__ import annotations

import pytest

from cosmos_ros.evaluation.measure import Outcome
from cosmos_ros.evaluation.results import summed_up
from cosmos_ros.evaluation.store import OtherEvaluation, Store

SETTINGS = {"schema": "cosmos_ros/evaluation/2", "seed": 0}


def outcome(bag: int, time_ns: int) -> Outcome:
    key = f"{bag:03d}-{time_ns}"
    return Outcome(key, {"key": key, "time_ns": time_ns, "samples": []}, '{"camera": []}')


def refused(bag: int, time_ns: int) -> Outcome:
    key = f"{bag:03d}-{time_ns}"
    return Outcome(key, {"key": key, "time_ns": time_ns, "refused": {"code": "BLOCKED_VIDEO"}}, "")


def measured() -> dict:
    """A window's record, as one of three steps."""
    curves = {name: [20.0, 19.0, 18.0] for name in ("psnr", "moving_psnr", "ssim", "motion_error", "sampson")}
    return {
        "key": "000-20",
        "bag": "drive",
        "time_ns": 20,
        "conditioning_stamps_ns": [10, 20],
        "moving_share": 0.1,
        "samples": [curves | {"seed": 0, "hypothesis": 0, "failures": [], "modified_by_guards": []}],
        "repeat_last_frame": dict(curves),
        "constant_flow": dict(curves),
        "tokenizer_round_trip": curves | {"failures": []},
        "truth": {"sampson": curves["sampson"], "failures": []},
    }


def test_windows_come_back_in_the_order_of_bags_and_times(tmp_path):
    store = Store(tmp_path / "out", SETTINGS, resume=False)
    for bag, time_ns in ((1, 5), (0, 100), (0, 20)):
        store.keep(outcome(bag, time_ns))
    again = Store(tmp_path / "out", SETTINGS, resume=True)
    assert [record["key"] for record in again.records()] == ["000-20", "000-100", "001-5"]
    assert again.keys() == {"000-20", "000-100", "001-5"} and again.pictures("001-5") == {"camera": []}


def test_a_window_without_its_pictures_is_not_done_unless_it_was_refused_and_has_none(tmp_path):
    store = Store(tmp_path / "out", SETTINGS, resume=False)
    for each in (outcome(0, 20), outcome(0, 30), refused(0, 40)):
        store.keep(each)
    (tmp_path / "out" / "windows" / "000-20.pictures.json").unlink()
    again = Store(tmp_path / "out", SETTINGS, resume=True)
    assert again.keys() == {"000-30", "000-40"}
    assert [record["key"] for record in again.records()] == ["000-30", "000-40"], "a report of what is whole"
    again.keep(outcome(0, 20))
    assert again.keys() == {"000-20", "000-30", "000-40"}


@pytest.mark.parametrize("content", ["{cut off", "[]", ""])
def test_a_damaged_record_is_named_with_the_remedy(tmp_path, content):
    store = Store(tmp_path / "out", SETTINGS, resume=False)
    store.keep(outcome(0, 20))
    for file, read in (("000-20.json", store.records), ("000-20.pictures.json", lambda: store.pictures("000-20"))):
        (tmp_path / "out" / "windows" / file).write_text(content)
        with pytest.raises(OtherEvaluation, match=f"{file} is damaged.*: delete .*go on with --resume"):
            read()


@pytest.mark.parametrize("kind", ["evaluation", "benchmark"])
def test_what_a_folder_holds_is_called_what_it_is(tmp_path, kind):
    settings = {"schema": f"cosmos_ros/{kind}/1", "seed": 0}
    Store(tmp_path / "out", settings, resume=False).keep(outcome(0, 20))
    with pytest.raises(OtherEvaluation, match=f"holds a previous {kind}: go on with --resume"):
        Store(tmp_path / "out", settings, resume=False)


@pytest.mark.parametrize(
    "path",
    [
        ("samples", 0, "hypothesis"),
        ("samples", 0, "moving_psnr"),
        ("samples", 0, "modified_by_guards"),
        ("constant_flow",),
        ("tokenizer_round_trip", "failures"),
        ("moving_share",),
        ("conditioning_stamps_ns",),
        ("time_ns",),
    ],
    ids=lambda path: path[-1],
)
def test_windows_of_a_release_that_did_not_measure_yet_what_the_summary_needs_are_refused(tmp_path, path):
    record = measured()
    store = Store(tmp_path / "out", SETTINGS, resume=False)
    store.keep(Outcome(record["key"], record, "{}"))
    Store(tmp_path / "out", SETTINGS, resume=True, summarise=summed_up)
    *into, lacking = path
    part = record
    for name in into:
        part = part[name]
    del part[lacking]
    store.keep(Outcome("000-20", record, "{}"))
    with pytest.raises(
        OtherEvaluation,
        match=f"a previous evaluation that another release began: .* have no '{lacking}', .*; choose another --out",
    ):
        Store(tmp_path / "out", SETTINGS, resume=True, summarise=summed_up)


def test_of_windows_that_have_the_same_only_one_is_looked_at(tmp_path):
    store = Store(tmp_path / "out", SETTINGS, resume=False)
    for each in (outcome(0, 20), outcome(0, 30), refused(0, 40), refused(0, 50), outcome(0, 60)):
        store.keep(each)
    looked_at = []
    Store(tmp_path / "out", SETTINGS, resume=True, summarise=looked_at.extend)
    assert sorted("refused" in record for record in looked_at) == [False, True]


def test_a_folder_of_other_settings_or_of_somebody_else_is_refused(tmp_path):
    Store(tmp_path / "out", SETTINGS, resume=False).keep(outcome(0, 20))
    with pytest.raises(OtherEvaluation, match=r"other settings \(seed was 0, is 1 now\)"):
        Store(tmp_path / "out", SETTINGS | {"seed": 1}, resume=True)
    (tmp_path / "out" / "settings.json").write_text("{cut off")
    with pytest.raises(OtherEvaluation, match="holds files of somebody else"):
        Store(tmp_path / "out", SETTINGS, resume=True)
