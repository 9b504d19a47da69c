"""The ladder of memory modes: what stays, what is parked, and that the expected peak is the sum it claims to be."""

import logging
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosmos_ros.device import plan
from cosmos_ros.device.devices import free_memory
from cosmos_ros.device.placement import DeviceMemory
from cosmos_ros.device.plan import OVERHEAD, MemoryPlan, Need
from cosmos_ros.errors import SettingError
from cosmos_ros.pipeline import PIPELINE

GB = 1_000_000_000
PARTS = len(PIPELINE.parking_order)


def planned(needs: Iterable[Need], free: int, mode: str) -> MemoryPlan:
    return plan.plan_memory(needs, PIPELINE, free, mode)


def needs_5b() -> tuple[Need, ...]:
    """5B-Video2World with everything that guards it, about as published."""
    return (
        Need("transformer", int(9.17 * GB), work=2 * GB, tables=int(0.52 * GB)),
        Need("tokenizer", int(0.3 * GB), work=3 * GB),
        Need("text encoder", int(9.7 * GB), work=int(0.3 * GB)),
        Need("prompt guard", int(13.5 * GB), work=int(0.5 * GB)),
        Need("video guard", int(1.9 * GB), work=1 * GB),
    )


def test_fast_keeps_everything_and_its_peak_is_all_weights_and_the_busiest_phase():
    found = planned(needs_5b(), 80 * GB, "fast")
    assert found.parked == frozenset() and not found.exclusive and not found.tables_on_host
    weights = sum(need.weights for need in needs_5b())
    assert found.peak == weights + 6 * GB + OVERHEAD  # transformer, tokenizer and video guard work together
    assert found.host == 0


def test_balanced_parks_what_works_once_per_prompt():
    found = planned(needs_5b(), 80 * GB, "balanced")
    assert found.parked == {"text encoder", "prompt guard"}
    assert found.host == int(9.7 * GB) + int(13.5 * GB)
    stays = int(9.17 * GB) + int(0.3 * GB) + int(1.9 * GB)
    # The prompt guard comes while frames are tokenized.
    assert found.peak == stays + int(13.5 * GB) + int(0.5 * GB) + 3 * GB + OVERHEAD


def test_low_has_one_part_at_a_time_and_the_embedding_table_on_the_host():
    found = planned(needs_5b(), 16 * GB, "low")
    assert found.parked == {need.name for need in needs_5b()}
    assert found.exclusive and found.tables_on_host
    assert found.peak == 14 * GB + OVERHEAD  # the prompt guard is the largest part
    assert found.fits


def test_low_without_a_prompt_guard_peaks_in_the_transformer_without_its_table():
    found = planned(needs_5b()[:2], 16 * GB, "low")
    assert found.peak == int(9.17 * GB) - int(0.52 * GB) + 2 * GB + OVERHEAD


@pytest.mark.parametrize(
    ("free", "parked"),
    [
        (80, set()),
        (41, set()),
        (36, {"text encoder"}),
        (30, {"text encoder", "prompt guard"}),
        (27, {"text encoder", "prompt guard", "video guard"}),
    ],
)
def test_auto_parks_no_more_than_it_must(free, parked):
    found = planned(needs_5b(), free * GB, "auto")
    assert found.parked == parked and found.fits


def test_where_the_tokenizer_is_parked_frames_are_decoded_after_the_passes_and_not_while_they_are_made():
    needs = (Need("transformer", 9 * GB, work=2 * GB), Need("tokenizer", GB, work=3 * GB))
    beside = MemoryPlan("auto", needs, PIPELINE)
    after = MemoryPlan("auto", needs, PIPELINE, parked=frozenset({"tokenizer"}))
    assert beside.peak == (9 + 1 + 2 + 3) * GB + OVERHEAD
    assert after.peak == (9 + 1 + 3) * GB + OVERHEAD


def test_auto_ends_at_the_lowest_rung_where_nothing_fits():
    found = planned(needs_5b(), 8 * GB, "auto")
    assert found.exclusive and found.tables_on_host and not found.fits


def test_a_kv_cache_stays_with_its_transformer_while_other_parts_work():
    needs = (Need("transformer", 9 * GB, work=GB, kept=2 * GB), Need("video guard", 2 * GB, work=3 * GB))
    assert planned(needs, 80 * GB, "fast").peak == (9 + 2 + 1 + 2 + 3) * GB + OVERHEAD
    assert planned(needs, 80 * GB, "low").peak == (9 + 2 + 1) * GB + OVERHEAD


@given(
    weights=st.lists(st.integers(0, 30 * GB), min_size=PARTS, max_size=PARTS),
    work=st.lists(st.integers(0, 5 * GB), min_size=PARTS, max_size=PARTS),
    kept=st.lists(st.integers(0, 5 * GB), min_size=PARTS, max_size=PARTS),
    free=st.integers(0, 150 * GB),
)
def test_every_rung_down_needs_no_more_and_auto_fits_where_any_mode_fits(weights, work, kept, free):
    needs = [
        Need(name, w, k, kept=c) for name, w, k, c in zip(PIPELINE.parking_order, weights, work, kept, strict=True)
    ]
    fast, balanced, low, auto = (planned(needs, free, mode) for mode in ("fast", "balanced", "low", "auto"))
    assert fast.peak >= low.peak and balanced.peak >= low.peak
    assert auto.fits == any(found.fits for found in (fast, balanced, low, auto))
    assert low.peak <= auto.peak <= fast.peak


def test_an_unknown_mode_is_named_with_those_that_exist():
    with pytest.raises(SettingError, match="auto, fast, balanced, low; got 'tiny'"):
        planned(needs_5b(), GB, "tiny")


def test_the_plan_is_logged_and_a_plan_that_does_not_fit_warns(caplog):
    with caplog.at_level(logging.INFO, "cosmos_ros"):
        DeviceMemory("cpu", planned(needs_5b(), 80 * GB, "fast"))
        DeviceMemory("cpu", planned(needs_5b(), 1 * GB, "low"))
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    assert "expected peak 41.0 GB of 80.0 GB free" in caplog.records[0].message
    assert "transformer" in caplog.records[1].message.split("in host memory waits")[1]


def test_a_plan_without_parts_is_a_plan():
    assert MemoryPlan("fast", (), PIPELINE).peak == OVERHEAD


@pytest.mark.skipif("not __import__('torch').cuda.is_available()", reason="needs a GPU")
def test_free_memory_counts_what_pytorch_has_reserved_and_does_not_use():
    import torch

    before = free_memory(torch.device("cuda"))
    block = torch.empty(1 << 28, dtype=torch.uint8, device="cuda")
    del block
    assert abs(free_memory(torch.device("cuda")) - before) < 1 << 26
