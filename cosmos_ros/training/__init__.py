"""Training on simulated robot cameras."""

import ctypes.util
import os

# MuJoCo chooses its OpenGL when it is imported: by default one that needs a display, and it fails where EGL is missing.
os.environ.setdefault("MUJOCO_GL", "egl" if ctypes.util.find_library("EGL") else "disabled")
