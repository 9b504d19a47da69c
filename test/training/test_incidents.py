"""Labelled recordings: the same each time, as without the incident until it begins, and different from then on."""

from __future__ import annotations

import numpy as np
import pytest

import cosmos_ros.training  # noqa: F401  (before MuJoCo: it chooses an OpenGL without a display)

mujoco = pytest.importorskip("mujoco", reason="simulating needs requirements/train.txt")

from cosmos_ros.training.labelled_recordings import CAMERA, SCENES, Shot, labels_csv, record, shots  # noqa: E402
from cosmos_ros.training.scenes.incidents import Incident, with_incident  # noqa: E402
from cosmos_ros.training.simulation import simulate  # noqa: E402

AT_S = 0.25


def course(incident: Incident | None, scene_kind, n_frames: int = 6) -> list[np.ndarray]:
    """What decides the pictures, at 10 Hz: where things and cameras are, and the light."""
    scene = scene_kind(np.random.default_rng(5))
    if incident is not None:
        scene = with_incident(scene, incident, CAMERA, AT_S, np.random.default_rng(6))
    states = []
    for model, data in simulate(scene, n_frames, 10.0):
        eye = data.cam(CAMERA)
        states.append(np.concatenate([model.light_diffuse.ravel(), eye.xpos, eye.xmat, *positions(model, data)]))
    return states


def positions(model, data) -> list[np.ndarray]:
    """Of the scene's own bodies, and last of what an incident adds, within the picture's reach."""
    added = [data.body(name).xpos for name in ("dropped", "person") if mujoco.mj_name2id(model, 1, name) >= 0]
    own = [data.body(i).xpos for i in range(1, model.nbody) if model.body(i).name not in ("dropped", "person")]
    return [*own, np.array([sum(np.linalg.norm(place) < 5 for place in added)])]


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
@pytest.mark.parametrize("incident", [each for each in Incident if each is not Incident.FROZEN_CAMERA])
def test_nothing_is_different_until_the_incident_begins(incident, scene):
    quiet, strange = course(None, scene), course(incident, scene)
    same = [np.allclose(a, b) for a, b in zip(quiet, strange, strict=True)]
    assert same[:3] == [True] * 3 and not any(same[3:])
    assert all(np.array_equal(a, b) for a, b in zip(strange, course(incident, scene), strict=True))


def test_more_recordings_of_one_purpose_leave_the_others_as_they_are(tmp_path):
    few, many = shots(tmp_path, 0, 2, 2, 1), shots(tmp_path, 0, 5, 3, 2)
    assert set(few) < set(many) and len({(shot.purpose, shot.number) for shot in many}) == len(many)
    assert few[0].stream().random() != few[1].stream().random()


def test_a_frozen_camera_repeats_its_picture(tmp_path, monkeypatch):
    from cosmos_ros.recordings.opening import open_recording
    from cosmos_ros.training import labelled_recordings

    monkeypatch.setattr(labelled_recordings, "BEGINS_S", (0.3, 0.5))
    monkeypatch.setattr(labelled_recordings, "HEIGHT", 48)
    monkeypatch.setattr(labelled_recordings, "WIDTH", 64)
    try:
        begins_s = record(Shot(tmp_path / "bag", 0, 4, 0, Incident.FROZEN_CAMERA), seconds=0.8)
    except (RuntimeError, ImportError, AttributeError, mujoco.FatalError) as error:
        pytest.skip(f"no OpenGL without a display here: {error}")
    recording = open_recording(tmp_path / "bag")
    frames = [frame.load() for frame in recording.frames(recording.image_topic())]
    begins = round(begins_s * 10)
    assert len(frames) == 8 and 3 <= begins <= 5
    assert all(np.array_equal(frames[begins - 1], frame) for frame in frames[begins:])
    assert not np.array_equal(frames[0], frames[1]), "a sensor's noise, if nothing else"


def test_labels_have_the_columns_that_evaluate_reads():
    assert labels_csv([("drop_000", 3.5, 7.0, "drop")]) == "recording,start,end,label\ndrop_000,3.5,7.0,drop\n"
