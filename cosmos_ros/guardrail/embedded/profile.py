"""The guards that come with this package: nothing to download, and no claim beyond models/*/GUARDRAIL.md."""

from __future__ import annotations

from cosmos_ros.guardrail.embedded.blocklist import EmbeddedBlocklist
from cosmos_ros.guardrail.embedded.degenerate_video import DegenerateVideoGuard
from cosmos_ros.guardrail.embedded.haar_faces import CascadeFaceDetector
from cosmos_ros.guardrail.face_blur import FaceBlur
from cosmos_ros.guardrail.guard import Guards

EMBEDDED = "embedded"
# Faces are searched for at this many times the model's height and width, where the camera gives so much: a refiner
# copies more of the camera's detail than the model gives.
SEARCHED_TIMES_THE_MODEL = 3


def embedded_guards(frame_size: tuple[int, int]) -> Guards:
    """The guards for a model whose frames have this height and width, pixels.

    Raises GuardrailUnavailable where OpenCV came without its face cascades."""
    height, width = frame_size
    faces = FaceBlur(CascadeFaceDetector(), SEARCHED_TIMES_THE_MODEL**2 * height * width)
    return Guards(EMBEDDED, (EmbeddedBlocklist(),), (DegenerateVideoGuard(),), (faces,))
