"""What a rollout says of itself besides its pixels: one JSON form for all who write it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from cosmos_ros.guardrail_report import GuardrailReport
from cosmos_ros.rollout import Decoding, GuardedRollout


@dataclass(frozen=True)
class RolloutFacts:
    """A rollout without its frames, as it came from the model or in a message.

    frame_rate              Hz
    conditioning_stamps_ns  of the frames that the model saw, nanoseconds
    stamps_ns               of the predicted frames
    timing_s                stage, in lower case -> seconds
    sample                  which of the samples that were predicted together
    first_frame             predicted frames between the clip and these, in earlier stretches
    seams                   frames, 1..n, with which a stretch begins that was predicted from predicted frames
    """

    model: str
    seed: int
    prompt: str
    frame_rate: float
    conditioning_stamps_ns: tuple[int, ...]
    stamps_ns: tuple[int, ...]
    timing_s: dict[str, float]
    guardrail: GuardrailReport
    sample: int
    first_frame: int
    seams: tuple[int, ...]
    decoding: Decoding

    @classmethod
    def of(cls, rollout: GuardedRollout) -> RolloutFacts:
        return cls(
            model=rollout.model,
            seed=rollout.seed,
            prompt=rollout.prompt,
            frame_rate=rollout.frame_rate,
            conditioning_stamps_ns=rollout.conditioning_stamps_ns,
            stamps_ns=rollout.stamps_ns,
            timing_s={time.stage.name.lower(): time.seconds for time in rollout.timing},
            guardrail=rollout.guardrail,
            sample=rollout.sample,
            first_frame=rollout.first_frame,
            seams=rollout.seams,
            decoding=rollout.decoding,
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "seed": self.seed,
            "sample": self.sample,
            "prompt": self.prompt,
            "frame_rate": round(self.frame_rate, 6),
            "conditioning_stamps_ns": list(self.conditioning_stamps_ns),
            "stamps_ns": list(self.stamps_ns),
            "first_frame": self.first_frame,
            "seams": list(self.seams),
            "decoding": asdict(self.decoding),
            "timing_s": {stage: round(seconds, 4) for stage, seconds in self.timing_s.items()},
            "guardrail": {
                "profile": self.guardrail.profile,
                "decisions": [
                    {
                        "guard": decision.guard,
                        "verdict": decision.verdict.name,
                        "detail": decision.detail,
                        "weights": decision.weights,
                        "milliseconds": round(1000 * decision.seconds, 2),
                    }
                    for decision in self.guardrail.decisions
                ],
            },
        }
