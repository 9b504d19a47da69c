"""Tokenize clips of bags and videos with the model that ships, for bench/decode.py and bench/decode_exactness.py.

    PYTHONPATH=. python bench/clip_tokens.py --out clips.npz [--clips 100] RECORDING...

A recording is a bag folder or a video file. Clips of 9 frames are spread evenly over each of them, at the bag's own
rate (10 Hz in the sample bag) and at every third frame of a video (10 Hz of 30).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from cosmos_ros.recordings.bag import Bag
from cosmos_ros.world_model import WorldModel


def frames_of(path: Path) -> list[np.ndarray]:
    """uint8 [H, W, 3] RGB, about 10 a second."""
    if path.is_dir():
        recording = Bag(path)
        return [frame.load() for frame in recording.frames(recording.image_topic())]
    return [cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) for frame in _video(path)][::3]


def _video(path: Path) -> Iterator[np.ndarray]:
    video = cv2.VideoCapture(str(path))
    while (read := video.read())[0]:
        yield read[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recordings", nargs="+", type=Path)
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    model = WorldModel.from_checkpoint(device="cpu")
    tokens, names = [], []
    each = -(-args.clips // len(args.recordings))
    for path in args.recordings:
        frames = frames_of(path)
        for first in np.linspace(0, len(frames) - 9, each).astype(int):
            tokens.append(model.tokenize(np.stack(frames[first : first + 9])).numpy().astype(np.int16))
            names.append(path.stem)
    np.savez_compressed(args.out, tokens=np.stack(tokens)[: args.clips], names=np.array(names)[: args.clips])


if __name__ == "__main__":
    main()
