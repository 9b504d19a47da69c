"""Tokenize clips of bags and videos with the model that ships, for bench/decode.py and bench/decode_exactness.py.

    PYTHONPATH=. python bench/clip_tokens.py --out clips.npz [--clips 100] RECORDING...

A recording is a bag folder or a video file. Clips of 9 frames at about 10 Hz are spread evenly over each of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from cosmos_ros.recordings.opening import open_recording
from cosmos_ros.world_model import WorldModel


def frames_of(path: Path) -> list[np.ndarray]:
    """uint8 [H, W, 3] RGB, about 10 a second."""
    recording = open_recording(path)
    frames = list(recording.frames(recording.image_topic()))
    between_s = (frames[-1].stamp_ns - frames[0].stamp_ns) / 1e9 / (len(frames) - 1)
    return [frame.load() for frame in frames[:: max(1, round(0.1 / between_s))]]


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
    tokens, names = np.stack(tokens)[: args.clips], np.array(names)[: args.clips]
    np.savez_compressed(args.out, tokens=tokens, names=names)


if __name__ == "__main__":
    main()
