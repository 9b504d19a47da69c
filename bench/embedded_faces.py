"""What the embedded face filter finds, and what it costs: the numbers of models/foresight-small/GUARDRAIL.md.

    PYTHONPATH=. python bench/embedded_faces.py [--quick] [--clips VIDEO...]

Pictures come with scikit-image: the 100 faces and 100 other patches of `lfw_subset` (25 x 25 pixels, grey), enlarged
and pasted into a brick wall of 192 x 256 and, as a camera would give them, into frames of the sample bag at 180 x 300;
a profile (`camera`) and a face in colour (`astronaut`) at 26 scales, as they are and mirrored; and photographs without
faces that could be made out, cut into tiles of 160 x 256. A face counts as found where at least half of its pixels were
changed. False alarms are counted in `--clips`, videos in which nobody shows a face: every ninth frame, cut to 3:5 as
for the model that ships. All of that for several numbers of votes, 0 being the coarse search alone. The time is that
of 24 frames of 160 x 256, in groups of 8, of a photograph that moves. `--quick` looks at every tenth picture.

The result goes to bench/results/embedded_faces.json, unless it is quick.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
import skimage

from cosmos_ros.guardrail.embedded import haar_faces
from cosmos_ros.guardrail.embedded.haar_faces import FRONTAL_VOTES, PROFILE_VOTES, CascadeFaceDetector, Pose
from cosmos_ros.guardrail.embedded.profile import MOST_SEARCHED
from cosmos_ros.guardrail.face_blur import FaceBlur
from cosmos_ros.recordings.opening import open_recording

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "bench" / "results" / "embedded_faces.json"
PICTURES = Path(skimage.__file__).parent / "data"
WITHOUT_FACES = ("coffee", "motorcycle_left", "chelsea", "brick", "coins", "clock_motion", "gravel", "grass", "rocket")
# Where the face lies in these pictures of 512 x 512: left, top, right, bottom.
PORTRAITS = {"camera": (190, 100, 262, 196), "astronaut": (176, 70, 272, 166)}
HEIGHT, WIDTH = 160, 256
WALL = (192, 256)  # height and width, pixels
CAMERA = (180, 300)  # of a frame that leaves, as DROID's cameras of 320 x 180 give it
# Votes asked for on frontal faces and on profiles.
SETTINGS = ((0, 0), (5, 4), (8, 4), (10, 4), (10, 6), (10, 8), (15, 10), (20, 14))

Pasted = tuple[np.ndarray, np.ndarray]  # a picture uint8 [h, w, 3] and where in it the face is, bool [h, w]


class RememberingDetector(CascadeFaceDetector):
    """Looks at each picture once, however many settings it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple, np.ndarray] = {}

    def candidates(self, pose: Pose, grey: np.ndarray) -> np.ndarray:
        key = pose, grey.shape, grey.tobytes()
        if key not in self._seen:
            self._seen[key] = super().candidates(pose, grey)
        return self._seen[key].copy()


BLUR = FaceBlur(RememberingDetector(), MOST_SEARCHED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="every tenth picture")
    parser.add_argument("--clips", nargs="+", type=Path, default=[], help="videos in which nobody shows a face")
    args = parser.parse_args()
    step = 10 if args.quick else 1
    patches = (np.load(PICTURES / "lfw_subset.npy") * 255).astype(np.uint8)
    faces, others = patches[:100:step], patches[100::step]
    clips = [list(frames_of(clip)) for clip in args.clips[::step]]
    result = {
        "faces": len(faces),
        "tiles_without_faces": sum(1 for _ in tiles(step)),
        "clips": len(clips),
        "frames_of_clips": sum(map(len, clips)),
        "votes_in_use": [FRONTAL_VOTES, PROFILE_VOTES],
        "by_votes": [],
        "for_24_frames": seconds(),
    }
    for frontal, profile in SETTINGS:
        with patch.multiple(haar_faces, FRONTAL_VOTES=frontal, PROFILE_VOTES=profile):
            result["by_votes"].append({"votes": [frontal, profile], **measured(faces, others, clips, step)})
        print(json.dumps(result["by_votes"][-1]), flush=True)
    text = json.dumps(result, indent=1)
    print(text)
    if not args.quick:
        RESULT.write_text(text + "\n")


def measured(faces: np.ndarray, others: np.ndarray, clips: list[list[np.ndarray]], step: int) -> dict:
    sizes = (20, 24, 32, 48, 80, 128)
    amid = scenes()
    rng = np.random.default_rng(0)
    alarms = [touched(clip) for clip in clips]
    return {
        "found_on_wall_by_size": {size: found(pasted(face, size) for face in faces) for size in sizes},
        "found_in_scenes_by_size": {size: found(filmed(face, size, amid, rng) for face in faces) for size in sizes},
        "found_at_48_tilted_by_degrees": {a: found(pasted(face, 48, a) for face in faces) for a in (15, 30)},
        "found_at_48_blurred_by_2_pixels": found(pasted(face, 48, blur=2.0) for face in faces),
        "portraits": sum(1 for _ in portraits("camera")),
        "found_portraits": {name: found(portraits(name)) for name in PORTRAITS},
        "others_pixelated_by_size": {
            size: touched(pasted(other, size)[0] for other in others) for size in (20, 32, 80)
        },
        "tiles_pixelated": touched(tiles(step)),
        "frames_of_clips_pixelated": sum(alarms),
        "clips_with_a_frame_pixelated": sum(map(bool, alarms)),
    }


def scenes() -> list[np.ndarray]:
    """Every twelfth frame of the sample bag, BGR, as it leaves."""
    bag = open_recording(ROOT / "data" / "sample_bag")
    return [resized(frame.load()[..., ::-1]) for frame in list(bag.frames(bag.image_topic()))[::12]]


def frames_of(clip: Path) -> Iterator[np.ndarray]:
    """Every ninth frame of a video, BGR, as it leaves."""
    video = open_recording(clip)
    for number, frame in enumerate(video.frames(video.image_topic())):
        if number % 9 == 0:
            yield cut(frame.load()[..., ::-1])


def cut(picture: np.ndarray) -> np.ndarray:
    """The middle of the picture, three pixels high for every five of its width."""
    height, width = picture.shape[:2]
    high, wide = min(height, round(width * 3 / 5)), min(width, round(height * 5 / 3))
    top, left = (height - high) // 2, (width - wide) // 2
    return np.ascontiguousarray(picture[top : top + high, left : left + wide])


def resized(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(cut(picture), CAMERA[::-1], interpolation=cv2.INTER_AREA)


def filmed(patch: np.ndarray, size: int, amid: list[np.ndarray], rng: np.random.Generator) -> Pasted:
    """The patch somewhere in one of these frames, with soft edges, in another light, noisy and compressed."""
    frame = amid[rng.integers(len(amid))].astype(np.float32)
    top, left = (rng.integers(0, side - size + 1) for side in CAMERA)
    place = slice(top, top + size), slice(left, left + size)
    light = rng.uniform(0.5, 1.1) * np.array([0.9, 1.0, 1.1])
    enlarged = cv2.resize(patch, (size, size), interpolation=cv2.INTER_CUBIC)[..., np.newaxis] * light
    middle = (size - 1) / 2
    edge = np.abs(np.mgrid[:size, :size] - middle).max(axis=0)[..., np.newaxis]
    share = np.clip((1 - edge / (size / 2)) / 0.12, 0, 1)
    frame[place] = share * (enlarged + rng.uniform(0, 40)) + (1 - share) * frame[place]
    noisy = np.clip(frame + rng.normal(0, 3, frame.shape), 0, 255).astype(np.uint8)
    compressed = cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, 70])[1]
    mask = np.zeros(CAMERA, bool)
    mask[place] = True
    return cv2.imdecode(compressed, cv2.IMREAD_COLOR), mask


def portraits(name: str) -> Iterator[Pasted]:
    """The portrait at widths of 192 to 392 pixels, each also mirrored."""
    portrait = cv2.imread(str(PICTURES / f"{name}.png"))
    for width in range(192, 393, 8):
        scaled = cv2.resize(portrait, (width, width), interpolation=cv2.INTER_AREA)
        left, top, right, bottom = (round(side * width / 512) for side in PORTRAITS[name])
        mask = np.zeros((width, width), bool)
        mask[top:bottom, left:right] = True
        yield from ((scaled, mask), (np.ascontiguousarray(scaled[:, ::-1]), mask[:, ::-1]))


def wall() -> np.ndarray:
    brick = cv2.imread(str(PICTURES / "brick.png"))
    return cv2.resize(brick[:384, :512], WALL[::-1], interpolation=cv2.INTER_AREA)


def pasted(patch: np.ndarray, size: int, angle: float = 0.0, blur: float = 0.0) -> Pasted:
    """(picture uint8 [h, w, 3], mask bool [h, w]) of the patch amid the wall, tilted by degrees or blurred."""
    picture, mask = wall(), np.zeros(WALL, np.uint8)
    rows, columns = (slice((side - size) // 2, (side + size) // 2) for side in WALL)
    picture[rows, columns] = cv2.resize(patch, (size, size), interpolation=cv2.INTER_CUBIC)[..., np.newaxis]
    mask[rows, columns] = 1
    if blur:
        picture[rows, columns] = cv2.GaussianBlur(picture, (0, 0), blur)[rows, columns]
    turn = cv2.getRotationMatrix2D((WALL[1] / 2, WALL[0] / 2), angle, 1.0)
    size_of_wall = WALL[::-1]
    return (
        cv2.warpAffine(picture, turn, size_of_wall, borderMode=cv2.BORDER_REFLECT),
        cv2.warpAffine(mask, turn, size_of_wall) > 0,
    )


def changed(picture: np.ndarray) -> np.ndarray:
    """bool [h, w]: which pixels the filter changes."""
    return (BLUR.filter(picture[np.newaxis])[0][0] != picture).any(axis=-1)


def found(pictures: Iterable[Pasted]) -> int:
    return sum(bool(changed(picture)[mask].mean() >= 0.5) for picture, mask in pictures)


def touched(pictures: Iterable[np.ndarray]) -> int:
    return sum(bool(changed(picture).any()) for picture in pictures)


def tiles(step: int) -> Iterator[np.ndarray]:
    """Tiles of the photographs at several scales, each also mirrored."""
    for name in WITHOUT_FACES:
        photograph = cv2.imread(str(next(PICTURES.glob(f"{name}.*"), "")))
        for width in () if photograph is None else range(256, 513, 64 * step):
            height = round(width * photograph.shape[0] / photograph.shape[1])
            scaled = cv2.resize(photograph, (width, height), interpolation=cv2.INTER_AREA)
            for top in range(0, height - HEIGHT + 1, HEIGHT):
                for left in range(0, width - WIDTH + 1, WIDTH):
                    tile = scaled[top : top + HEIGHT, left : left + WIDTH]
                    yield from (tile, tile[:, ::-1])


def seconds() -> dict[str, float]:
    """Medians of nine goals: by the clock, and of all CPUs together, which says more on a busy machine."""
    photograph = cv2.resize(cv2.imread(str(PICTURES / "motorcycle_left.png")), (320, 200), interpolation=cv2.INTER_AREA)
    frames = np.stack([photograph[k : k + HEIGHT, k : k + WIDTH] for k in range(24)])
    blur = FaceBlur(CascadeFaceDetector(), HEIGHT * WIDTH)
    times = []
    for _ in range(9):
        began = time.perf_counter(), time.process_time()
        for first in (0, 8, 16):
            blur.filter(frames[first : first + 8])
        times.append((time.perf_counter() - began[0], time.process_time() - began[1]))
    wall_s, cpu_s = (round(statistics.median(each), 3) for each in zip(*times, strict=True))
    return {"seconds": wall_s, "cpu_seconds": cpu_s, "threads": cv2.getNumThreads()}


if __name__ == "__main__":
    main()
