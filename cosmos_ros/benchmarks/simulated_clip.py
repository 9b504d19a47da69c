"""A simulated clip and what the simulator knows of it."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from dataclasses import dataclass

import numpy as np

from cosmos_ros.recordings.windows import Window
from cosmos_ros.rollout import NANOSECONDS, Clip


@dataclass(frozen=True)
class Contact:
    """Two things touch between the frame before `frame` and this one.

    things  their labels, the smaller one first; 0 is everything that is no object of interest
    place   where in the picture, (x, y) in pixels
    """

    frame: int
    things: tuple[int, int]
    place: tuple[float, float]


@dataclass(frozen=True)
class GroundTruth:
    """What the simulator knows of n frames of one camera.

    kind        of scene
    seed        the scene's number within its kind
    objects     names of the objects that are of interest; object i of them is labelled i + 1
    labels      uint8 [n, H, W]: which object each pixel shows; 0 is everything else
    poses       float64 [n, 4, 4]: camera to world, metres, the camera's axes as OpenCV has them (x right, y down,
                z forward)
    intrinsics  float64 [3, 3]: of the pinhole, pixels; a pixel's middle lies at half numbers
    contacts    of the objects, one per frame and pair, in the order of time
    """

    kind: str
    seed: int
    objects: tuple[str, ...]
    labels: np.ndarray
    poses: np.ndarray
    intrinsics: np.ndarray
    contacts: tuple[Contact, ...] = ()

    def mask(self, name: str) -> np.ndarray:
        """bool [n, H, W]: where this object is seen."""
        return self.labels == self.objects.index(name) + 1


@dataclass(frozen=True)
class SimulatedClip:
    """Frames uint8 [n, H, W, 3] RGB at frame_rate Hz, and their ground truth."""

    frames: np.ndarray
    frame_rate: float
    truth: GroundTruth

    def window(self, n_conditioning: int) -> Window:
        """What the model sees, the first n frames, and what really followed."""
        stamps = tuple(NANOSECONDS + round(k * NANOSECONDS / self.frame_rate) for k in range(len(self.frames)))
        whole = Clip(self.frames, stamps, self.frame_rate)
        return window_of(clip_key(self.truth.kind, self.truth.seed), self.truth.kind, whole, n_conditioning)

    def to_bytes(self) -> bytes:
        """As a compressed .npz."""
        truth, file = self.truth, io.BytesIO()
        words = {
            "kind": truth.kind,
            "seed": truth.seed,
            "objects": truth.objects,
            "frame_rate": self.frame_rate,
            "contacts": [(contact.frame, contact.things, contact.place) for contact in truth.contacts],
        }
        np.savez_compressed(
            file,
            frames=self.frames,
            labels=truth.labels,
            poses=truth.poses,
            intrinsics=truth.intrinsics,
            words=np.array(json.dumps(words)),
        )
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> SimulatedClip:
        """Raises ValueError for what is no such clip."""
        try:
            return cls._read(data)
        except (OSError, KeyError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"this is no simulated clip: {error}") from error

    @classmethod
    def _read(cls, data: bytes) -> SimulatedClip:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            words = json.loads(str(file["words"]))
            truth = GroundTruth(
                words["kind"],
                words["seed"],
                tuple(words["objects"]),
                file["labels"],
                file["poses"],
                file["intrinsics"],
                tuple(Contact(frame, tuple(things), tuple(place)) for frame, things, place in words["contacts"]),
            )
            return cls(file["frames"], words["frame_rate"], truth)


def clip_key(kind: str, seed: int) -> str:
    return f"{kind}-{seed:03d}"


def window_key(key: str, n_conditioning: int) -> str:
    """Of the clip with this key, shown to the model as so many frames."""
    return f"{key}-{n_conditioning}"


def window_of(key: str, name: str, whole: Clip, n_conditioning: int) -> Window:
    """A chunk of frames as a window of which the model sees the first n."""
    shown, future = (
        Clip(whole.frames[part], whole.stamps_ns[part], whole.frame_rate, whole.frame_id)
        for part in (slice(None, n_conditioning), slice(n_conditioning, None))
    )
    return Window(window_key(key, n_conditioning), name, shown.stamps_ns[-1], shown, future)
