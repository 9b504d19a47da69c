"""What a run says of itself: lines of JSON, and the same numbers for TensorBoard."""

from __future__ import annotations

import json
import sys

import pytest

from cosmos_ros.errors import SettingError
from cosmos_ros.training.journal import Journal


def test_the_first_rank_alone_writes_and_every_one_knows_the_last_loss(tmp_path, capsys):
    for speaks in (True, False):
        journal = Journal(tmp_path, speaks)
        journal.note("films", films=3)
        journal.note("refiner", step=20, loss=0.5, tokens_per_s=7)
        assert journal.last_loss == 0.5
    lines = [json.loads(line) for line in (tmp_path / "training.jsonl").read_text().splitlines()]
    assert [(line["stage"], line.get("step"), line.get("loss")) for line in lines] == [
        ("films", None, None), ("refiner", 20, 0.5),
    ]  # fmt: skip
    assert "films: films 3" in capsys.readouterr().out


def test_tensorboard_gets_every_number_with_a_step(tmp_path):
    pytest.importorskip("tensorboard", reason="an extra: requirements/tensorboard.txt")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    journal = Journal(tmp_path, tensorboard=True)
    for step in (20, 40):
        journal.note("refiner", step=step, loss=1 / step)
    journal.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(each.step, each.value) for each in events.Scalars("refiner/loss")] == [
        (20, pytest.approx(1 / 20)),
        (40, pytest.approx(1 / 40)),
    ]


def test_tensorboard_that_is_not_installed_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(SettingError, match=r"pip install -r requirements/tensorboard\.txt"):
        Journal(tmp_path, tensorboard=True)
