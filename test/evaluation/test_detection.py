"""Labels are read or refused; alarms are set against them: what was noticed, how soon, and what came for nothing."""

from __future__ import annotations

import pytest

from cosmos_ros.errors import SettingError
from cosmos_ros.evaluation.detection import Interval, alarms_in, read_labels, summarise, table, unseen
from cosmos_ros.planning.calibration import Nominal, Scale
from cosmos_ros.planning.monitor import Alarm

NOMINAL = Nominal({"whole": Scale(tuple(range(1, 25)), (0.0,) * 24, (1.0,) * 24)}, ((0.0, 0.0), (1.0, 0.9)), (1.0,))
FIRST = 5 * 10**9


def record(name: str, surprising: set[int], n: int = 60) -> dict:
    """Of 10 comparisons a second, those by number in `surprising` are; each was decided 0.1 s later."""
    return {
        "bag": name,
        "first_ns": FIRST,
        "comparisons": [
            {
                "step": 1 + i % 8,
                "stamp_ns": FIRST + i * 10**8,
                "decided_ns": FIRST + (i + 1) * 10**8,
                "model": {"whole": 2.0 if i in surprising else 0.0},
            }
            for i in range(n)
        ],
    }


def watched(surprising: set[int], *intervals: Interval):
    return alarms_in(record("a", surprising), "model", NOMINAL, 1.0, Alarm(2, 1.0), intervals)


DROP = Interval("a", 3.0, 4.0, "drop")


def test_an_alarm_within_an_interval_notices_it():
    found = watched({31, 32, 33}, DROP)
    assert [delay for _, delay in found.delays_s] == pytest.approx([0.3])  # frame 32, known at 3.3 s
    assert found.missed == [] and len(found.raised) == 1 and found.nominal_frames == 49


def test_an_alarm_outside_of_all_intervals_is_false():
    found = watched({10, 11, 50, 51}, DROP)
    assert [alarm.interval for alarm in found.raised] == [None, None] and found.missed == [DROP]


def test_a_false_alarm_that_still_stands_neither_notices_nor_hides():
    assert watched({28, 29}, DROP).missed == [DROP]
    assert len(watched({28, 29, 34, 35}, DROP).delays_s) == 1


def test_an_interval_in_which_nothing_was_compared_is_named():
    in_milliseconds = Interval("a", 3000.0, 4000.0, "drop")
    assert unseen(record("a", set()), [DROP, in_milliseconds]) == [in_milliseconds]


def test_the_summary_counts_by_label_and_by_the_hour():
    person = Interval("b", 1.0, 2.0, "person")
    recordings = [
        watched({31, 32}, DROP),
        alarms_in(record("b", {40, 41}), "model", NOMINAL, 1.0, Alarm(2, 1.0), [person]),
    ]
    summary = summarise(recordings, 10.0)
    assert summary["labels"]["drop"] == {
        "intervals": 1,
        "detected": 1,
        "median_delay_s": 0.3,
        "longest_delay_s": 0.3,
    }
    assert summary["labels"]["person"]["detected"] == 0 and summary["labels"]["person"]["median_delay_s"] is None
    assert summary["false_alarms"] == 1
    hours = 98 / 10 / 3600
    assert summary["false_alarms_per_hour"] == pytest.approx(1 / hours, abs=0.01)
    # The exact Poisson interval of a single event ends at 5.57.
    assert summary["false_alarms_per_hour_at_most"] == pytest.approx(5.5716 / hours, rel=1e-3)
    assert "| drop | 1 of 1, after 0.30 s (at most 0.30 s) |" in table({"model": summary})
    assert "| person | 0 of 1 |" in table({"model": summary})


HEAD = "recording,start,end,label\n"


def test_labels_are_read(tmp_path):
    (tmp_path / "labels.csv").write_text(HEAD + "a,3,4.0,drop\n")
    assert read_labels(tmp_path / "labels.csv", ["a", "b"]) == [DROP]
    (tmp_path / "labels.csv").write_text("\ufeff" + HEAD + "a,3,4.0,drop\na,4,5,drop\n")  # as a spreadsheet writes it
    assert read_labels(tmp_path / "labels.csv", ["a", "b"])[0] == DROP


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("recording,begin,end,label\na,1,2,x\n", "it has no start"),
        (HEAD + "a,1,2,x\nelsewhere,1,2,x\n", "not evaluated: elsewhere"),
        (HEAD + "a,1,soon,x\n", "line 2: expected a recording, a start and an end"),
        (HEAD + "a,3,2,x\n", "line 2"),
        (HEAD + "a,nan,2,x\n", "line 2"),
        (HEAD + "a,1\n", "line 2"),
        (HEAD + "a,1,2,\n", "line 2"),
        (HEAD + "a,-1,2,x\n", "line 2"),
        (HEAD + "a,1,2,x\nb,1,2,x\n", "names b, and several recordings have that name"),
        (HEAD + "a,4,6,drop\na,1,4.5,person\n", "in a drop begins at 4 s, before person ends at 4.5 s"),
        ("", "it has no recording, start, end, label"),
    ],
)
def test_what_are_no_labels_is_refused(tmp_path, text, says):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(SettingError, match=says):
        read_labels(tmp_path / "labels.csv", ["a", "b", "b"])


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(SettingError, match="cannot be read"):
        read_labels(tmp_path / "none.csv", [])
