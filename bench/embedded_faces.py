"""What the embedded face filter finds, and what it costs: the numbers of models/foresight-small/GUARDRAIL.md.

    PYTHONPATH=. python bench/embedded_faces.py [--quick]

Pictures come with scikit-image: the 100 faces and 100 other patches of `lfw_subset` (25 x 25 pixels, grey), enlarged
and pasted into a brick wall of 192 x 256, and photographs without faces that could be made out, cut into tiles of
160 x 256. A face counts as found where at least half of its pixels were changed. The time is that of 24 frames of
160 x 256, in groups of 8, of a photograph that moves. `--quick` looks at every tenth picture.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import skimage

from cosmos_ros.guardrail.embedded.haar_faces import CascadeFaceDetector
from cosmos_ros.guardrail.face_blur import FaceBlur

PICTURES = Path(skimage.__file__).parent / "data"
WITHOUT_FACES = ("coffee", "motorcycle_left", "chelsea", "brick", "coins", "clock_motion", "gravel", "grass", "rocket")
HEIGHT, WIDTH = 160, 256
WALL = (192, 256)  # height and width, pixels
BLUR = FaceBlur(CascadeFaceDetector(), WALL[0] * WALL[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="every tenth picture")
    step = 10 if parser.parse_args().quick else 1
    patches = (np.load(PICTURES / "lfw_subset.npy") * 255).astype(np.uint8)
    faces, others = patches[:100:step], patches[100::step]
    result = {
        "pictures": len(faces),
        "found_by_size": {size: found(pasted(face, size) for face in faces) for size in (20, 24, 32, 48, 80, 128)},
        "others_pixelated_by_size": {
            size: touched(pasted(other, size)[0] for other in others) for size in (20, 32, 80)
        },
        "found_at_48_tilted_by_degrees": {
            angle: found(pasted(face, 48, angle) for face in faces) for angle in (15, 30)
        },
        "found_at_48_blurred_by_2_pixels": found(pasted(face, 48, blur=2.0) for face in faces),
        "tiles_without_faces": sum(1 for _ in tiles(step)),
        "of_them_pixelated": touched(tiles(step)),
        "for_24_frames": seconds(),
    }
    print(json.dumps(result, indent=2))


def wall() -> np.ndarray:
    brick = cv2.imread(str(PICTURES / "brick.png"))
    return cv2.resize(brick[:384, :512], WALL[::-1], interpolation=cv2.INTER_AREA)


def pasted(patch: np.ndarray, size: int, angle: float = 0.0, blur: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
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


def found(pictures: Iterable[tuple[np.ndarray, np.ndarray]]) -> int:
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
