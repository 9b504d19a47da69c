"""What travels between the rooms of the house: clips in, guarded rollouts out. Plain data, no ROS, no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import NoReturn, SupportsIndex

import numpy as np

from cosmos_ros.errors import InvalidGoal
from cosmos_ros.guardrail_report import GuardrailReport
from cosmos_ros.progress import StageTime

NANOSECONDS = 1_000_000_000
MAX_SAMPLES = 16  # of one clip, predicted together
MAX_FRAMES = 10_000  # of one prediction, in stretches


@dataclass(frozen=True)
class Crop:
    """A rectangle of the camera's image, in whole camera pixels."""

    x: int
    y: int
    width: int
    height: int

    def of(self, frames: np.ndarray) -> np.ndarray:
        """The rectangle's view of frames [..., H, W, C]."""
        return frames[..., self.y : self.y + self.height, self.x : self.x + self.width, :]


@dataclass(frozen=True)
class Clip:
    """The conditioning frames, oldest first.

    frames      uint8 [n, H, W, 3], RGB, as the camera gave them; n is 9 (video) or 1 (image)
    stamps_ns   n acquisition times, nanoseconds, rising
    frame_rate  Hz, the rate of the frames and of the rollout that follows them
    frame_id    of the camera that took all of them

    Raises InvalidGoal where these do not fit together.
    """

    frames: np.ndarray
    stamps_ns: tuple[int, ...]
    frame_rate: float
    frame_id: str = ""

    def __post_init__(self) -> None:
        shape, dtype = self.frames.shape, self.frames.dtype
        if self.frames.ndim != 4 or shape[-1] != 3 or dtype != np.uint8 or 0 in shape:
            raise InvalidGoal(f"a clip needs uint8 frames [n, height, width, 3]; got {dtype} {list(shape)}")
        if len(self.stamps_ns) != shape[0]:
            raise InvalidGoal(f"a clip needs one stamp per frame; got {len(self.stamps_ns)} for {shape[0]} frames")
        if not all(a < b for a, b in pairwise(self.stamps_ns)):
            raise InvalidGoal(f"a clip's stamps must rise; got {list(self.stamps_ns)}")
        if not (np.isfinite(self.frame_rate) and self.frame_rate > 0):
            raise InvalidGoal(f"a clip's frame rate must be positive and finite, in Hz; got {self.frame_rate}")

    def future_stamps_ns(self, n: int, before: int = 0) -> tuple[int, ...]:
        """Stamps of n frames after the clip: the last conditioning stamp + k / frame_rate, k = before + 1..before + n.

        before  frames that lie between the clip and these
        """
        frames = range(before + 1, before + n + 1)
        return tuple(self.stamps_ns[-1] + round(k * NANOSECONDS / self.frame_rate) for k in frames)


@dataclass(frozen=True)
class Decoding:
    """How a rollout's tokens and frames were made.

    dtype            precision of the transformer
    window           positions that a decoding pass looked at; 0: nothing was predicted
    passes           forwards of the transformer
    frame_decoder    what turned tokens into frames: "discrete", "diffusion"
    refined          whether the refiner worked on the frames
    denoising_steps  of the diffusion decoder; 0: none
    hypothesis       of the refiner's, which refined the frames; 0: the best single guess
    """

    dtype: str = ""
    window: int = 0
    passes: int = 0
    frame_decoder: str = ""
    refined: bool = False
    denoising_steps: int = 0
    hypothesis: int = 0


@dataclass(frozen=True)
class Likelihood:
    """How likely the model finds true frames after a clip, each of their tokens given the true ones before it.

    nats      float32 [latent frames, h, w], negative log-likelihood of each token; NaN where it cannot be had
    expected  of the same shape: what `nats` would be on average if the world went as the model believes (the entropy)
    variance  of the same shape: of `nats`, likewise
    """

    nats: np.ndarray
    expected: np.ndarray
    variance: np.ndarray

    @property
    def nats_per_token(self) -> np.ndarray:
        """[latent frames]"""
        return self.nats.mean(axis=(1, 2))


# Held by the guardrail alone: whoever cannot present it cannot make a GuardedRollout.
_GUARDRAIL_SEAL = object()


@dataclass(frozen=True, eq=False)
class GuardedRollout:
    """Predicted frames that passed every guard. Only `cosmos_ros.guardrail` can make one; writers accept nothing else.

    frames                 uint8 [n, height, width, 3] RGB, read-only; n = 24 after 9 frames, 32 after an image,
                           unless another number was asked for; at the camera's pixel scale, covering `crop` of the
                           camera's image
    stamps_ns              n stamps: last conditioning stamp + (first_frame + k) / frame_rate, k = 1..n
    conditioning_stamps_ns of the clip that the camera took, for later stretches too
    first_frame            predicted frames that lie between the clip and these, in earlier stretches
    seams                  frames, 1..n, with which a stretch begins that was predicted from predicted frames

    It never changes: a copy of it is itself. It cannot be pickled, as its pixels could be exchanged on the way.

    Raises TypeError where anything but the guardrail tries to make one, and where a class would inherit from it.
    """

    frames: np.ndarray
    stamps_ns: tuple[int, ...]
    conditioning_stamps_ns: tuple[int, ...]
    frame_rate: float  # Hz
    crop: Crop
    model: str
    prompt: str
    seed: int
    guardrail: GuardrailReport
    timing: tuple[StageTime, ...]
    sample: int = 0  # which of the samples that were predicted together
    decoding: Decoding = Decoding()
    first_frame: int = 0
    seams: tuple[int, ...] = ()
    seal: object = field(repr=False, default=None)

    def __post_init__(self) -> None:
        if self.seal is not _GUARDRAIL_SEAL:
            raise TypeError("a GuardedRollout is made by the guardrail alone; use Foresight.predict")
        self.frames.flags.writeable = False
        # The seal does not travel with the rollout: dataclasses.replace() cannot swap the frames of a guarded one.
        object.__setattr__(self, "seal", None)

    def __init_subclass__(cls) -> NoReturn:
        raise TypeError("a GuardedRollout has no subclasses: one could be made without the guardrail")

    # What copy and pickle make of an object by default is a second one, with pixels that can be written to.

    def __copy__(self) -> GuardedRollout:
        return self

    def __deepcopy__(self, memo: dict) -> GuardedRollout:
        return self

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a GuardedRollout stays in its process; publish it, write it to a file, or send numbers")
