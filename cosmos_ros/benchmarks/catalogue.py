"""The benchmarks by name; only the one that is asked for is imported."""

from __future__ import annotations

import importlib

from cosmos_ros.benchmarks.benchmark import Benchmark

# name -> (module that has BENCHMARK, one line of help)
BENCHMARKS = {
    "3d": ("cosmos_ros.benchmarks.consistency", "is the predicted world one rigid scene seen by a moving camera"),
    "physics": (
        "cosmos_ros.benchmarks.physics",
        "do objects do what gravity, contact and momentum make the true ones do",
    ),
    "failures": ("cosmos_ros.benchmarks.failing", "how often does a rollout fail for all to see"),
}


def benchmark(name: str) -> Benchmark:
    return importlib.import_module(BENCHMARKS[name][0]).BENCHMARK
