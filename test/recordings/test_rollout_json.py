"""One JSON form of a rollout: what it says is the same from the model's hand and out of a message."""

from __future__ import annotations

import dataclasses
import json

import pytest
from unique_identifier_msgs.msg import UUID

from cosmos_ros.node.messages import rollout_facts, rollout_message
from cosmos_ros.recordings.rollout_json import RolloutFacts


@pytest.fixture
def told(guarded):
    """What a rollout says itself, and what its message does."""
    _, rollout = guarded()
    message = rollout_message(rollout, UUID(), "camera")
    return rollout, RolloutFacts.of(rollout).as_json(), rollout_facts(message).as_json()


def test_a_message_says_what_the_rollout_says(told):
    _, direct, received = told
    decisions = [facts["guardrail"].pop("decisions") for facts in (direct, received)]
    assert direct == received
    for one, other in zip(*decisions, strict=True):
        assert one.pop("milliseconds") == pytest.approx(other.pop("milliseconds"), abs=0.02)
        assert one == other


def test_it_says_everything_but_the_pixels_and_is_json(told):
    rollout, facts, _ = told
    assert json.loads(json.dumps(facts)) == facts
    assert facts["stamps_ns"] == list(rollout.stamps_ns) and facts["frame_rate"] == 10.0
    assert facts["guardrail"]["profile"] == "embedded"
    assert {decision["verdict"] for decision in facts["guardrail"]["decisions"]} <= {"PASSED", "MODIFIED"}
    assert {"model", "seed", "sample", "prompt", "conditioning_stamps_ns", "timing_s"} <= facts.keys()
    assert facts["decoding"] == dataclasses.asdict(rollout.decoding)
