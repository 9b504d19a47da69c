"""What may be asked of a model: clips, prompts and sampling, judged before any work. All raise InvalidGoal."""

from __future__ import annotations

import math
import secrets

from cosmos_ros.errors import InvalidGoal
from cosmos_ros.rollout import MAX_SAMPLES, Clip
from cosmos_ros.world_model import ModelSpec, Sampling

MAX_PROMPT_WORDS = 300  # the published model card's limit
MAX_PROMPT_CHARACTERS = 4000  # twice what 300 words of English take: guards must not be held up by one endless word
MAX_SEED = 2**63 - 1
# Drawn seeds are multiples of this, and so of every number of hypotheses up to 16: the first sample is then a refiner's
# best guess, see world_model/refiner.py. JSON keeps 2**31 of them exactly.
DRAWN_SEED_STEP = math.lcm(*range(1, MAX_SAMPLES + 1))


def sampling_of(
    spec: ModelSpec, seed: int | None, temperature: float | None, top_p: float | None, samples: int
) -> Sampling:
    """How so many samples are drawn; None: a seed is drawn, the rest is what the model's makers recommend."""
    seed = secrets.randbelow(2**31) * DRAWN_SEED_STEP if seed is None else seed
    temperature = spec.temperature if temperature is None else temperature
    top_p = spec.top_p if top_p is None else top_p
    if not 1 <= samples <= MAX_SAMPLES:
        raise InvalidGoal(f"samples must lie in 1..{MAX_SAMPLES}; got {samples}")
    if not 0 <= seed <= MAX_SEED - (samples - 1):
        raise InvalidGoal(f"seed must lie in 0..{MAX_SEED}, and those of all samples with it; got {seed}")
    if temperature == 0 and samples > 1:
        raise InvalidGoal(
            f"at temperature 0 all {samples} samples would have the same tokens; ask for one, or set it higher"
        )
    if not (math.isfinite(temperature) and 0 <= temperature <= 10):
        raise InvalidGoal(f"temperature must lie in 0 (greedy) .. 10; got {temperature}")
    if not (math.isfinite(top_p) and 0 < top_p <= 1):
        raise InvalidGoal(f"top_p must lie in (0, 1]; got {top_p}")
    return Sampling(seed=seed, temperature=temperature, top_p=top_p)


def check_goal(spec: ModelSpec, clip: Clip, prompt: str) -> None:
    """Whether the model can go on from a clip by a prompt."""
    n = len(clip.frames)
    if n not in spec.conditioning_lengths:
        expected = " or ".join(map(str, spec.conditioning_lengths))
        raise InvalidGoal(f"the model conditions on the newest {expected} frames; the clip has {n}")
    check_prompt(spec, prompt)


def check_prompt(spec: ModelSpec, prompt: str) -> None:
    if (words := len(prompt.split())) > MAX_PROMPT_WORDS:
        raise InvalidGoal(f"the prompt has {words} words; at most {MAX_PROMPT_WORDS} are allowed")
    if (characters := len(prompt)) > MAX_PROMPT_CHARACTERS:
        raise InvalidGoal(f"the prompt has {characters} characters; at most {MAX_PROMPT_CHARACTERS} are allowed")
    if prompt and not spec.takes_prompt:
        raise InvalidGoal(f"{spec.name} takes no prompt; leave it empty, or run a Video2World checkpoint")
    if not prompt.strip() and spec.takes_prompt:
        raise InvalidGoal(f"{spec.name} needs a prompt that describes the scene; it was empty")
