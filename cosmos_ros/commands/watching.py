"""What `cosmos_ros calibrate` and `cosmos_ros evaluate --labels` have in common: recordings, watched by workers."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from cosmos_ros.commands.flags import config_of, require
from cosmos_ros.errors import SettingError
from cosmos_ros.evaluation.detection import Interval, alarms_in, read_labels, summarise, table, unseen
from cosmos_ros.evaluation.measure import Outcome
from cosmos_ros.evaluation.results import describe_bag, describe_model, hardware, versions
from cosmos_ros.evaluation.running import Spread, measure_all
from cosmos_ros.evaluation.store import Store
from cosmos_ros.evaluation.surprise import FLOOR, MODEL, RecordingWatcher, Task, WatchSettings
from cosmos_ros.files import write_whole
from cosmos_ros.foresight import Foresight
from cosmos_ros.planning.calibration import Calibration, Validity, Way
from cosmos_ros.planning.monitor import Alarm
from cosmos_ros.progress_bar import ProgressBar
from cosmos_ros.settings import ClipConfig, ForesightConfig, SamplingConfig, SurpriseConfig

SCHEMA = "cosmos_ros/evaluation/surprise/1"
RESULT = "surprise.json"


class Watching:
    """The recordings that a command was given, and how they are watched. Raises ForesightError, OSError."""

    def __init__(self, args: argparse.Namespace) -> None:
        require(args, steps=("every",), not_negative=("workers", "frames"))
        _require_once(args.bags)
        self._args = args
        model, clips = config_of(args, ForesightConfig), config_of(args, ClipConfig)
        surprise = config_of(args, SurpriseConfig)
        self.foresight = Foresight(model)
        spec = self.foresight.spec
        frame_rate = clips.frame_rate or spec.frame_rate
        sampling = config_of(args, SamplingConfig).chosen()
        self.settings = WatchSettings(
            model,
            seed=args.seed,
            prompt=args.prompt,
            temperature=sampling["temperature"],
            top_p=sampling["top_p"],
            frame_rate=frame_rate,
            every_s=args.every,
            frames=args.frames or None,
            max_age_s=clips.max_age,
            likelihood=surprise.surprise_likelihood,
            image_topic=args.image_topic,
            max_pixels=clips.max_pixels,
        )
        self.validity = Validity(spec.name, self.foresight.fingerprint, spec.frame_size, frame_rate)
        self.way = Way.of(spec, max(spec.conditioning_lengths), **sampling)
        self.tasks = [Task(index, path) for index, path in enumerate(args.bags)]

    def run(self, keep: Callable[[Outcome], None], done: set[str], doing: str) -> tuple[int, str]:
        """Watch what is not done yet: exit status, and what kept it from being complete."""
        spread = Spread(self._args.workers, self._args.ray is not None, describe_model(self.foresight)["bytes"])
        with ProgressBar(unit=" recordings", initial=len(done), total=len(self.tasks), desc=doing) as bar:

            def keep_and_show(outcome: Outcome) -> None:
                keep(outcome)
                bar.update()
                if error := outcome.record["error"]:
                    ProgressBar.write(f"{outcome.record['bag']}: {error}", file=sys.stderr)

            todo = [task for task in self.tasks if task.key not in done]
            return measure_all(todo, RecordingWatcher, self.settings, spread, keep_and_show)


def _require_once(bags: Sequence[str]) -> None:
    """Raises SettingError for a recording that was given twice: a calibration could not be held against itself."""
    places = [Path(bag).resolve() for bag in bags]
    if twice := sorted({str(bag) for bag, place in zip(bags, places, strict=True) if places.count(place) > 1}):
        raise SettingError(f"{', '.join(twice)}: give each recording once")


def evaluate_surprise(args: argparse.Namespace) -> int:
    """`cosmos_ros evaluate BAG... --labels CSV`. Raises ForesightError, OtherEvaluation, OSError."""
    config = config_of(args, SurpriseConfig)
    if not config.surprise_calibration:
        raise SettingError("--labels needs --surprise-calibration FILE, which cosmos_ros calibrate writes")
    calibration = Calibration.load(config.surprise_calibration)
    intervals = read_labels(args.labels, [Path(bag).name for bag in args.bags])
    watching = Watching(args)
    calibration.require(watching.validity)
    if watching.way != calibration.way:
        raise SettingError(f"the calibration was made with {calibration.way}, this is {watching.way}")
    limits = {
        MODEL: calibration.model.limit(config.surprise_alpha),
        FLOOR: calibration.floor.limit(config.surprise_alpha),
    }
    settings = {
        "schema": SCHEMA,
        "model": describe_model(watching.foresight),
        "bags": [describe_bag(Path(bag)) for bag in args.bags],
        "watching": {name: value for name, value in asdict(watching.settings).items() if name != "foresight"},
    }

    def labels_of(record: dict) -> list[Interval]:
        return [each for each in intervals if each.recording == record["bag"]]

    def rows_of(records: Sequence[dict]) -> dict[str, dict]:
        rows = {}
        for row, nominal in ((MODEL, calibration.model), (FLOOR, calibration.floor)):
            watched = [
                alarms_in(
                    record,
                    row,
                    nominal,
                    limits[row],
                    Alarm(config.surprise_frames, config.surprise_clear_after),
                    labels_of(record),
                )
                for record in records
            ]
            rows[row] = summarise(watched, watching.settings.frame_rate)
        return rows

    store = Store(args.out, settings, args.resume, (RESULT,), rows_of)
    status, trouble = watching.run(store.keep, store.keys(), "evaluating")
    records = store.records()
    rows = rows_of(records)
    _tell_unseen([(record, labels_of(record)) for record in records])
    result = {
        **settings,
        "complete": not trouble,
        "alarm": {name: value for name, value in asdict(config).items() if name != "surprise_calibration"},
        "calibration": {"recordings": calibration.recordings, "predictions": calibration.predictions},
        "rows": rows,
        "versions": versions(),
        "hardware": hardware(),
    }
    write_whole(args.out / RESULT, json.dumps(result, indent=1, allow_nan=False))
    print(table(rows), f"{args.out / RESULT}", sep="\n")
    if trouble:
        print(f"cosmos_ros evaluate: {trouble}", file=sys.stderr)
    return status


def _tell_unseen(labelled: Sequence[tuple[dict, list[Interval]]]) -> None:
    for each in (interval for record, own in labelled for interval in unseen(record, own)):
        print(
            f"{each.recording}: no frame was compared from {each.start:g} to {each.end:g} s, so that {each.label} "
            "counts as missed; are these seconds after the recording's first frame?",
            file=sys.stderr,
        )
