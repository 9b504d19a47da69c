"""The guards that come with this package: nothing to download, and no claim beyond models/*/GUARDRAIL.md."""

from __future__ import annotations

from cosmos_ros.guardrail.embedded.blocklist import EmbeddedBlocklist
from cosmos_ros.guardrail.embedded.degenerate_video import DegenerateVideoGuard
from cosmos_ros.guardrail.embedded.haar_faces import CascadeFaceDetector
from cosmos_ros.guardrail.face_blur import FaceBlur
from cosmos_ros.guardrail.guard import Guards

EMBEDDED = "embedded"
# Faces are searched for at this many times the model's height and width, where the camera gives so much: a refiner
# copies more of the camera's detail than the model gives. A finer grid than the first one's does not make it search
# more closely than what bench/embedded_faces.py measured; but no model's own frames are reduced.
SEARCHED_TIMES_THE_MODEL = 3
MOST_SEARCHED = 288 * 480  # pixels


def embedded_guards(frame_size: tuple[int, int]) -> Guards:
    """The guards for a model whose frames have this height and width, pixels.

    Raises GuardrailUnavailable where OpenCV came without its face cascades."""
    height, width = frame_size
    searched = max(height * width, min(SEARCHED_TIMES_THE_MODEL**2 * height * width, MOST_SEARCHED))
    faces = FaceBlur(CascadeFaceDetector(), searched)
    return Guards(EMBEDDED, (EmbeddedBlocklist(),), (DegenerateVideoGuard(),), (faces,))
