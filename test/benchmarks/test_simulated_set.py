"""Simulated clips: the same each time, kept, and never what a model was trained on."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import cosmos_ros.training  # noqa: F401  (before MuJoCo: it chooses an OpenGL without a display)

mujoco = pytest.importorskip("mujoco", reason="simulating needs requirements/benchmark.txt")

from cosmos_ros.benchmarks.scenes.physics import PHYSICS  # noqa: E402
from cosmos_ros.benchmarks.scenes.static_room import STATIC_ROOMS  # noqa: E402
from cosmos_ros.benchmarks.simulated_set import CannotFilm, Filming, SimulatedSet, stream  # noqa: E402
from cosmos_ros.training.episodes import SCENES, draw_scene  # noqa: E402
from cosmos_ros.training.opengl import NoOpenGL  # noqa: E402
from cosmos_ros.training.splits import Split, episode_stream  # noqa: E402

pytestmark = pytest.mark.slow  # as a whole

ROOT = Path(__file__).parents[2]
TINY = Filming(4, 4.0, (24, 40))


def test_a_clip_comes_back_from_the_cache_as_it_was_filmed(room):
    rooms, clip = room
    again = rooms.clip("passed_by", 0)
    for name in ("frames", "frame_rate"):
        assert np.array_equal(getattr(again, name), getattr(clip, name))
    for name in ("kind", "seed", "objects", "labels", "poses", "intrinsics"):
        assert np.array_equal(getattr(again.truth, name), getattr(clip.truth, name))
    assert rooms.bytes == sum(file.stat().st_size for file in rooms.folder.iterdir()) > 0


def test_a_damaged_file_of_the_cache_is_filmed_again(room):
    rooms, clip = room
    (file,) = rooms.folder.iterdir()
    whole = file.read_bytes()
    middle = len(whole) // 2
    bits = whole[:middle] + bytes(255 - byte for byte in whole[middle : middle + 64]) + whole[middle + 64 :]
    flags = whole.index(b"PK\x01\x02") + 8  # of the first entry in the archive's directory
    locked = whole[:flags] + b"\x01" + whole[flags + 1 :]  # which says that it is encrypted
    other = replace(clip, truth=replace(clip.truth, seed=1)).to_bytes()
    for damaged in (whole[:middle], b"", b"nothing of the kind", bits, locked, other):
        file.write_bytes(damaged)
        assert np.array_equal(rooms.clip("passed_by", 0).frames, clip.frames)
    assert file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_said_with_the_remedy(room, tmp_path, monkeypatch):
    _, clip = room
    (tmp_path / "file").write_text("")
    elsewhere = SimulatedSet("rooms", STATIC_ROOMS, 1, Filming(8, 2.0, (192, 320)), tmp_path / "file")
    monkeypatch.setattr(elsewhere, "_film", lambda *_: clip)
    with pytest.raises(CannotFilm, match="a part of its path is a file.*XDG_CACHE_HOME"):
        elsewhere.clip("passed_by", 0)


def test_nothing_moves_in_a_room_except_the_camera():
    """Two cameras of the same room that look from the same place see the same, whenever they look."""
    for kind, stage in STATIC_ROOMS.items():
        scene = stage(stream(kind, 0)).scene
        model = mujoco.MjModel.from_xml_string(scene.xml, scene.textures)
        assert model.nv == 0, "nothing has a joint"
        assert model.nmocap == 1, "only the camera is put elsewhere"


def test_the_camera_stays_in_the_room_and_clear_of_things():
    for kind, stage in STATIC_ROOMS.items():
        for seed in range(4):
            scene = stage(stream(kind, seed)).scene
            model = mujoco.MjModel.from_xml_string(scene.xml, scene.textures)
            data = mujoco.MjData(model)
            for time_s in (0.0, 1.6, 3.3, 6.6):
                data.time = time_s
                scene.aim(model, data)
                mujoco.mj_forward(model, data)
                eye, nearest = data.camera("camera").xpos, np.zeros(1, np.int32)
                for direction in np.eye(3)[:2]:
                    for sign in (-1, 1):
                        distance = mujoco.mj_ray(model, data, eye, sign * direction, None, 1, -1, nearest)
                        assert distance > 0.15, f"{kind} {seed}: the camera is in a wall or a thing"


def test_kinds_take_turns_and_fewer_clips_are_the_first_of_more(tmp_path):
    few, more = (SimulatedSet("some", STATIC_ROOMS, n, TINY, tmp_path).scenes() for n in (4, 7))
    assert few == more[:4] and few[3] == ("driven_into", 1)
    assert len(set(more)) == 7


def test_no_training_scene_and_no_training_seed_is_a_benchmarks():
    stages = {**STATIC_ROOMS, **PHYSICS}
    assert not {scene.__name__ for scene in SCENES} & stages.keys()
    ours = {stream(kind, seed).integers(2**63) for kind in stages for seed in range(20)}
    assert len(ours) == 20 * len(stages)
    trained = {
        episode_stream(split, i).integers(2**63) for split in Split if split != Split.BENCHMARK for i in range(50)
    }
    assert not ours & trained
    with pytest.raises(ValueError, match="their own scenes"):
        draw_scene(Split.BENCHMARK, 0)


def test_training_knows_nothing_of_the_benchmarks():
    """What draws training's scenes can name neither the benchmarks' room nor their split."""
    for module in [*(ROOT / "cosmos_ros" / "training").rglob("*.py"), ROOT / "cosmos_ros" / "commands" / "train.py"]:
        tree = ast.parse(module.read_text())
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not any(name and name.startswith("cosmos_ros.benchmarks") for name in imported), module
        if module.name not in ("splits.py", "episodes.py"):
            assert "BENCHMARK" not in {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}, module


@pytest.mark.parametrize("frame_rate", [1000.0, 0.1])
def test_a_rate_at_which_the_scenes_mean_nothing_is_refused(frame_rate):
    with pytest.raises(CannotFilm, match=r"clips of 0.5 to 8 s: choose another --frame-rate, 4.1 to 66 Hz"):
        Filming(33, frame_rate, (24, 40))


def test_a_machine_that_cannot_draw_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.delattr(mujoco, "GLContext", raising=False)
    rooms = SimulatedSet("rooms", STATIC_ROOMS, 1, TINY, tmp_path)
    with pytest.raises(NoOpenGL, match="apt install libegl1.*MUJOCO_GL=osmesa"):
        rooms.clip("driven_into", 0)
    assert not list(tmp_path.rglob("*.npz"))
