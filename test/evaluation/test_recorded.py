"""What is said of recordings that have no window."""

from __future__ import annotations

from cosmos_ros.evaluation.recorded import Choice, RecordedWindows
from cosmos_ros.recordings.windows import Plan

PLAN = Plan(frame_rate=10.0, n_conditioning=9, n_future=24, every_s=1.0, max_age_s=0.0)
CHOICE = Choice("", 10**6, 0.0, (32, 64))


def why_none(*paths) -> str:
    recorded = RecordedWindows(list(map(str, paths)), PLAN, (), CHOICE, bags=[], skipped=[])
    assert list(recorded.windows()) == []
    return recorded.why_none()


def test_all_recordings_that_are_too_short_are_named_at_once(tmp_path, write_bag, moving_scene):
    def short(name: str, n: int):
        return write_bag(tmp_path / name, moving_scene(n, 32, 48), [10**18 + i * 10**8 for i in range(n)])

    bags = [short(f"short{i}", 16 + i) for i in range(4)]
    said = [f"short{i}: it lasts 1.{5 + i}0 s, and a window 3.20 s" for i in range(4)]
    why = why_none(*bags)
    assert "no recording has them; --frame-rate HZ" in why and why.endswith("; ".join(said))
    why = why_none(tmp_path / "nowhere", *bags)
    assert f"{tmp_path}/nowhere does not exist" in why and why.endswith("; ".join(said))


def test_of_very_many_recordings_the_first_are_named_and_the_others_counted(tmp_path):
    why = why_none(*(tmp_path / f"{i:02d}" for i in range(13)))
    assert all((f"{tmp_path}/{i:02d} does not exist" in why) == (i < 10) for i in range(13))
    assert why.endswith("; and 3 more")
