"""The Cosmos paper's benchmarks, for any checkpoint that the node can run: simulated clips, how a model does on them,
and the published figures beside it. What they show never trains a model: scenes and seeds are the benchmarks' own."""

import cosmos_ros.training  # noqa: F401  (before MuJoCo: it chooses an OpenGL without a display)
