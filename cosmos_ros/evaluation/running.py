"""Runs an evaluation: windows over workers, outcomes kept as they come, and why it ended before the end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from cosmos_ros.errors import ForesightError
from cosmos_ros.evaluation import workers
from cosmos_ros.evaluation.cluster import over_ray
from cosmos_ros.evaluation.measure import Outcome, Settings

INTERRUPTED = 130


@dataclass(frozen=True)
class Spread:
    """Over what the work is spread.

    workers      processes; 0: one per GPU, or per core up to 4
    ray          over the Ray cluster that is connected, not over processes of this machine
    model_bytes  of the checkpoint's files: by them the number of workers is chosen
    """

    workers: int
    ray: bool
    model_bytes: int


def measure_all(
    windows: Iterable[Any],
    evaluator: workers.Evaluator,
    settings: Settings,
    spread: Spread,
    keep: Callable[[Outcome], None],
) -> tuple[int, str]:
    """Evaluate and keep everything: exit status, and in words what kept it from being complete.

    evaluator  made of the settings by each worker
    """
    try:
        if spread.ray:
            outcomes = over_ray(windows, settings, spread.workers, evaluator)
        else:
            n = spread.workers or workers.default_workers(settings.foresight, spread.model_bytes)
            outcomes = workers.over_processes(windows, settings, n, evaluator)
        with contextlib.closing(outcomes):
            for outcome in outcomes:
                keep(outcome)
    except KeyboardInterrupt:
        return INTERRUPTED, "interrupted; go on with --resume"
    except workers.WorkerDied:
        return 1, "a worker process died (out of memory?); try fewer --workers, then --resume"
    except ForesightError as error:
        return 1, str(error)
    return 0, ""
