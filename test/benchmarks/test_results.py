"""A benchmark's files: what is there of an interrupted run, and published figures beside one's own."""

from __future__ import annotations

import json
from datetime import datetime, timezone

import pytest

from cosmos_ros.benchmarks import consistency, failing
from cosmos_ros.benchmarks.results import RESULT_FILES, SCHEMA, BenchmarkResults, numbers_csv, tables_of
from cosmos_ros.evaluation.measure import Outcome
from cosmos_ros.evaluation.store import Store

SETTINGS = {
    "schema": SCHEMA,
    "benchmark": "failures",
    "model": {"name": "a model", "frame_size": [32, 64], "guardrail": "embedded"},
    "frame_rate": 10.0,
    "seed": 0,
    "samples": 1,
    "simulated": {"set": "failures"},
    "temperature": 0.8,
    "top_p": 0.9,
}


def share(mean: float) -> dict:
    return {"mean": mean, "low": mean / 2, "high": 1.0, "clips": 4, "of": 4}


def measured(mean: float | None, clips: int) -> dict:
    return {"mean": mean, "low": None, "high": None, "clips": clips, "of": 4}


@pytest.mark.processes  # Python asks `uname` what the processor is
def test_a_run_that_was_interrupted_before_its_first_clip_has_a_report_that_says_so(tmp_path):
    store = Store(tmp_path / "out", SETTINGS, resume=False, results=RESULT_FILES)
    results = BenchmarkResults(tmp_path / "out", failing.BENCHMARK, SETTINGS, datetime.now(timezone.utc), [], [], set)
    assert results.write(store, "interrupted; go on with --resume") == {}
    found = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert not found["complete"] and found["windows"] == []
    assert "not complete</b>: interrupted" in (tmp_path / "out" / "report.html").read_text()


def test_published_figures_stand_in_the_same_table_in_the_same_unit():
    numbers = {"model": {"failed": share(0.25)}, "truth": {"failed": share(0.0)}}
    evaluation = {"rows": {"model": {}, "repeat_last_frame": {}}}
    summary = {"numbers": numbers, "kinds": {"free_fall": numbers}, "evaluation": evaluation}
    table, by_kind = tables_of(failing.BENCHMARK, summary, "image")
    lines = {line.label: line.cells[0] for line in table.lines}
    assert lines["Model"] == {"mean": 25.0, "low": 12.5, "high": 100.0, "note": ""}
    assert lines["Cosmos AR 4B, published"]["mean"] == 15 and "Constant optical flow" not in lines
    floor = [line.cells for line in table.lines if line.key == "repeat_last_frame"]
    assert floor == [[None] * 3], "it stands beside the others although nothing of it was measured"
    assert [line.cells for line in table.lines if "12B" in line.label][0][1] is None
    assert "looked at the rollouts" in " ".join(table.notes)
    assert [line.label for line in by_kind.lines] == ["free fall"]
    after_video = {line.label: line.cells[0] for line in tables_of(failing.BENCHMARK, summary, "video")[0].lines}
    assert after_video["Cosmos AR 4B, published"]["mean"] == 1


def test_a_number_that_is_missing_says_why():
    of_model = {"sampson": measured(None, 0), "place_error": measured(0.2, 3)}
    numbers = {"model": of_model, "truth": {"sampson": measured(0.5, 4), "place_error": measured(0.1, 4)}}
    table = tables_of(consistency.BENCHMARK, {"numbers": numbers, "kinds": {}, "evaluation": {"rows": {}}}, "video")[0]
    titles = [title for title, *_ in table.columns]
    cells = {line.label: dict(zip(titles, line.cells, strict=True)) for line in table.lines}
    assert cells["Model"]["Sampson error"] == {
        "mean": None,
        "low": None,
        "high": None,
        "note": "too few matches that move",
    }
    assert cells["Model"]["Place error"]["note"] == "3 of 4 clips, else no path found"
    assert cells["True frames"]["Place error"]["note"] == "" and "A dash alone" in table.notes[-1]


def test_clips_that_were_not_asked_for_stay_and_are_not_counted(tmp_path):
    store = Store(tmp_path / "out", SETTINGS, resume=False, results=RESULT_FILES)
    for kind in ("free_fall", "seesaw"):
        known = {"key": f"{kind}-000-9", "bag": kind, "scene_seed": 0, "time_ns": 1, "n_conditioning": 9}
        refusal = {"code": "BLOCKED_VIDEO", "message": "no", "reasons": []}
        record = known | {"truth_stamps_ns": [1, 2], "refused": refusal, "benchmark": {}}
        store.keep(Outcome(known["key"], record, ""))
    results = BenchmarkResults(
        tmp_path / "out",
        failing.BENCHMARK,
        SETTINGS,
        datetime.now(timezone.utc),
        [],
        [],
        {"free_fall-000-9"}.intersection,
    )
    assert results.write(store, "")["9"]["evaluation"]["refused"] == 1
    found = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert [window["bag"] for window in found["windows"]] == ["free_fall"] and len(store.keys()) == 2


def test_every_clip_has_a_line_with_all_rows_numbers_and_refused_ones_say_why():
    known = {"bag": "dominoes", "scene_seed": 3, "n_conditioning": 9}
    records = [
        known | {"key": "a", "benchmark": {"model": {"failed": True}, "truth": {"failed": False}}},
        known | {"key": "b", "benchmark": {}, "refused": {"code": "BLOCKED_VIDEO"}},
    ]
    assert numbers_csv(records).splitlines() == [
        "key,kind,scene_seed,n_conditioning,refused,model_failed,truth_failed",
        "a,dominoes,3,9,,True,False",
        "b,dominoes,3,9,BLOCKED_VIDEO,,",
    ]
