"""The grid of bench/decode_exactness.py: what it counts, and that it goes on where it was interrupted."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[3] / "bench"
MADE_WITH = {"weights": ["a"], "window": 32}


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    return importlib.import_module("decode_exactness")


def row(same: int, same_as_alone: int) -> dict:
    return {
        "seeds": 3,
        "same": same,
        "alone": 3,
        "same_as_alone": same_as_alone,
        "passes": 9,
        "new_tokens": 64,
        "seconds": 2,
    }


def test_every_cell_has_a_name_of_its_own_and_all_together_500_seeds(bench):
    cells = bench.cells()
    assert sum(cell.batch for cell in cells) == 504
    assert len({str(cell) for cell in cells}) == len(cells) == 324


def test_a_second_start_goes_on_and_counts_each_cell_once(bench, tmp_path):
    first, second, third = bench.cells()[:3]
    tally = bench.Tally(tmp_path / "exactness.json", MADE_WITH)
    tally.add(first, row(3, 3))
    tally.add(second, row(2, 0))
    again = bench.Tally(tmp_path / "exactness.json", MADE_WITH)
    assert [cell in again for cell in (first, second, third)] == [True, True, False]
    assert again.result["differing"] == 4
    again.add(third, row(3, 3))
    assert again.result["cells"] == [3, 324]
    assert again.result["models"] == {
        first.model: {key: 3 * n for key, n in row(0, 0).items()} | {"same": 8, "same_as_alone": 6}
    }


def test_cells_of_other_weights_are_refused(bench, tmp_path):
    bench.Tally(tmp_path / "exactness.json", MADE_WITH).add(bench.cells()[0], row(3, 3))
    with pytest.raises(SystemExit, match="exactness.cells.json holds cells of another measurement"):
        bench.Tally(tmp_path / "exactness.json", MADE_WITH | {"weights": ["b"]})
