"""Training on simulated robot cameras."""

import os

# MuJoCo chooses its OpenGL when it is imported, and by default one that needs a display.
os.environ.setdefault("MUJOCO_GL", "egl")
