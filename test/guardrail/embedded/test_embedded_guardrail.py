"""The embedded profile: our own word lists, the content guard and the cascade's faces, behind the same runner."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
from hypothesis import given
from hypothesis import strategies as st

from cosmos_ros.errors import GuardrailUnavailable, PromptBlocked, VideoBlocked
from cosmos_ros.guardrail import Guardrail
from cosmos_ros.guardrail.embedded import haar_faces
from cosmos_ros.guardrail.embedded.blocklist import LOOK_ALIKES, EmbeddedBlocklist
from cosmos_ros.guardrail.embedded.degenerate_video import DegenerateVideoGuard
from cosmos_ros.guardrail.embedded.haar_faces import CascadeFaceDetector, Pose
from cosmos_ros.guardrail.embedded.lists import BLOCKED
from cosmos_ros.guardrail.embedded.profile import embedded_guards
from cosmos_ros.guardrail.face_blur import FaceBlur, reduced
from cosmos_ros.guardrail.guard import Guards
from cosmos_ros.guardrail_report import Verdict
from cosmos_ros.recordings.opening import open_recording
from cosmos_ros.rollout import Clip, Crop, GuardedRollout

ENTRIES = [(category, entry) for category, entries in BLOCKED.items() for entry in entries]
BLOCKLIST = EmbeddedBlocklist()
CROP = Crop(0, 0, 96, 64)


@dataclass(frozen=True)
class Spec:
    directory: Path = Path("models/foresight-small")
    name: str = "foresight-small"
    published: bool = False
    takes_prompt: bool = True
    frame_size: tuple[int, int] = (64, 96)


def predict(prompt: str, *chunks: np.ndarray) -> GuardedRollout:
    clip = Clip(np.zeros((1, 64, 96, 3), np.uint8), (0,), 10.0)
    with Guardrail.for_model(Spec()).screen(prompt, CROP) as screening:
        screening.admit_prompt()
        for frames in chunks:
            screening.inspect(frames)
        return screening.release(clip, "foresight-small", 0, tuple)


def test_harmless_frames_pass_unchanged(noise):
    rollout = predict("the arm lifts a red cube", noise(8, 0), noise(8, 1))
    assert np.array_equal(rollout.frames, np.concatenate([noise(8, 0), noise(8, 1)]))
    assert [(d.guard, d.verdict) for d in rollout.guardrail.decisions] == [
        (name, Verdict.PASSED) for name in ("blocklist", "degenerate_video", "face_blur")
    ]
    assert rollout.guardrail.profile == "embedded"
    assert all(len(d.weights) == 64 for d in rollout.guardrail.decisions)


def test_a_prompt_is_refused_with_guard_and_category():
    with pytest.raises(PromptBlocked, match="guard blocklist refused the prompt: violence: 'murder'"):
        predict("a murder in the kitchen")


@given(entry=st.sampled_from(ENTRIES), data=st.data())
def test_entries_are_found_in_any_case_with_look_alike_letters(entry, data):
    category, word = entry
    spelt = "".join(data.draw(st.sampled_from(LOOK_ALIKES.get(letter, letter) + letter.upper())) for letter in word)
    judgement = BLOCKLIST.judge(f"the robot: {spelt.replace(' ', data.draw(st.sampled_from([' ', '  ', '-', '_'])))}.")
    assert judgement.verdict is Verdict.REFUSED and judgement.detail.split(":")[0] in BLOCKED


@pytest.mark.parametrize(
    "text",
    [
        "m\u00fcrder",
        "\uff4d\uff55\uff52\uff44\uff45\uff52",
        "murd\u0435r",
        "MURDER!",
        "'murder'",
        "(murder)",
        "\U0001d40cURDER",
    ],
)
def test_neither_foreign_letters_nor_quotes_hide_a_word(text):
    assert BLOCKLIST.judge(f"a {text} at night").detail == "violence: 'murder'"


# Zero-width and control characters hide within a word, and part words too: T5's tokenizer reads some as spaces.
UNSEEN = "\u00ad\u034f\u200b\u200c\u200d\u200e\u202e\u2060\u2062\ufeff\ufe0f\U000e0041\x00\x07\x1f\x7f\x85"
BETWEEN = "\u2014\u2013\u2011\u2192\u2022\u00b7\u201c\u2019\u00bb\u2026\u2028\u3002\u3001\u2800\u65e5\U0001f916_|/\t\n"


@pytest.mark.parametrize("separator", BETWEEN + UNSEEN)
def test_whatever_stands_between_words_parts_them(separator):
    assert BLOCKLIST.judge(f"scene{separator}murder{separator}robot").detail == "violence: 'murder'"
    assert BLOCKLIST.judge(f"a child{separator}abuse case").verdict is Verdict.REFUSED


@pytest.mark.parametrize("hidden", UNSEEN + "\u0336\u20dd\x08\u2800\u65e5\u2014\u2028")
def test_what_is_not_seen_or_foreign_hides_no_word(hidden):
    assert BLOCKLIST.judge(f"a mur{hidden}der").detail == "violence: 'murder'"


@pytest.mark.parametrize("unseen", UNSEEN + "\u2800\u65e5\u2014\u2028")
def test_what_parts_words_and_hides_within_one_at_once_is_read_both_ways(unseen):
    prompt = f"a scene{unseen}mur{unseen}{unseen}der{unseen}at night"
    assert BLOCKLIST.judge(prompt).detail == "violence: 'murder'"


@pytest.mark.parametrize(
    "prompt",
    [
        "The gripper of the robot arm closes around a red cube and lifts it off the wooden table.",
        "A mobile base drives down a corridor with white walls, turns left and stops in front of a door.",
        "The hero in the scene uses a glue gun and a wire stripper; the execution of the grasp takes 3 s.",
        "A knife cuts a carrot on a chopping board, seen from the camera at the wrist.",
        "Scunthorpe, Essex and Sussex are grape growing places; a therapist analyses the skills class.",
    ],
)
def test_what_a_robot_sees_is_not_refused(prompt):
    assert BLOCKLIST.judge(prompt).verdict is Verdict.PASSED


@pytest.mark.parametrize("prompt", ["", "  ", "\u65e5\u672c\u8a9e", "\U0001f916", "...", "\u2014"])
def test_a_prompt_that_cannot_be_read_is_refused(prompt):
    assert BLOCKLIST.judge(prompt).verdict is Verdict.REFUSED


def test_other_lists_are_another_hash():
    """Verdicts are remembered by text and hash: those of other lists must not count."""
    other = EmbeddedBlocklist({"kitchen": ("cube",)})
    assert other.weights not in (BLOCKLIST.weights, EmbeddedBlocklist({"kitchen": ("knife",)}).weights)
    assert BLOCKLIST.weights == EmbeddedBlocklist().weights
    admitted = []
    for guard in (BLOCKLIST, other):
        guards = Guards("embedded", (guard,), (DegenerateVideoGuard(),), (FaceBlur(CascadeFaceDetector(), 64 * 96),))
        with (
            Guardrail(guards, takes_prompt=True).screen("a cube of other lists", CROP) as screening,
            suppress(PromptBlocked),
        ):
            screening.admit_prompt()
            admitted.append(guard)
    assert admitted == [BLOCKLIST]


@pytest.mark.parametrize("lists", [{}, {"violence": ()}, {"violence": ("murder",), "drugs": ()}])
def test_an_empty_blocklist_is_no_guard(lists):
    with pytest.raises(GuardrailUnavailable, match="empty"):
        EmbeddedBlocklist(lists)


@pytest.mark.parametrize("entry", ["", " ", "-", "murder ", "Murder", "m\u00fcrder", "mur*der"])
def test_an_entry_that_could_not_match_or_would_match_everything_is_no_entry(entry):
    with pytest.raises(GuardrailUnavailable, match="entry"):
        EmbeddedBlocklist({"violence": ("murder", entry)})


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (20, 200, 90)])
def test_a_frame_of_one_solid_colour_is_refused(colour, noise):
    frames = noise(8, 1)
    frames[3] = colour
    with pytest.raises(VideoBlocked, match="degenerate_video refused predicted frame 12: Solid_Colour"):
        predict("a cube", noise(8, 0), frames)


def test_a_solid_colour_with_a_little_noise_is_still_one():
    frames = np.full((2, 64, 96, 3), 90, np.uint8) + np.random.default_rng(0).integers(0, 3, (2, 64, 96, 3), np.uint8)
    assert DegenerateVideoGuard().judge(frames).detail == "Solid_Colour"


def test_a_rollout_that_stands_still_passes(noise):
    still = np.repeat(noise(1), 8, axis=0)
    assert np.array_equal(predict("a cube", still, still).frames, np.concatenate([still, still]))


def test_numbers_that_are_no_pixels_are_refused():
    with pytest.raises(VideoBlocked, match="not uint8"):
        predict("a cube", np.full((8, 64, 96, 3), np.nan, np.float32))


@pytest.mark.parametrize("name", CascadeFaceDetector.CASCADES)
@pytest.mark.parametrize(
    "fault",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: b"\xff\xfe" * 99,
        lambda data: b'<?xml version="1.0"?>\n<opencv_storage><a>1</a></opencv_storage>',
        None,
    ],
    ids=["empty", "cut", "garbled", "no cascade", "missing"],
)
def test_a_damaged_cascade_is_no_guard(monkeypatch, tmp_path, name, fault):
    for file in CascadeFaceDetector.CASCADES:
        shutil.copy(haar_faces._cascades_folder() / file, tmp_path / file)
    (tmp_path / name).write_bytes(fault((tmp_path / name).read_bytes())) if fault else (tmp_path / name).unlink()
    monkeypatch.setattr(haar_faces, "_cascades_folder", lambda: tmp_path)
    with pytest.raises(GuardrailUnavailable, match=name):
        Guardrail.for_model(Spec())


def test_the_cascades_boxes_lie_in_the_frame_and_none_is_seen_in_noise(noise):
    assert [len(boxes) for boxes in CascadeFaceDetector().detect(noise(2))] == [0, 0]


@pytest.fixture(scope="module")
def detector() -> CascadeFaceDetector:
    return CascadeFaceDetector()


def portrait(name: str, width: int) -> np.ndarray:
    """RGB, of 512 x 512 pixels at first."""
    picture = getattr(skimage.data, name)()
    picture = picture if picture.ndim == 3 else np.repeat(picture[..., np.newaxis], 3, axis=-1)
    return cv2.resize(picture, (width, width), interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(
    "name, width, face",
    [
        *[("astronaut", width, (176, 70, 272, 166)) for width in (120, 144, 200, 256, 400)],
        *[("camera", width, (190, 100, 262, 196)) for width in (160, 176, 288, 312, 512)],
    ],
)
def test_a_face_and_a_profile_are_covered_at_several_sizes_both_ways(detector, name, width, face, mirrored):
    """Of 22 to 75 pixels, and a profile of 22 to 72."""
    mask = np.zeros((width, width), bool)
    left, top, right, bottom = (round(side * width / 512) for side in face)
    mask[top:bottom, left:right] = True
    frame = portrait(name, width)
    if mirrored:
        frame, mask = np.ascontiguousarray(frame[:, ::-1]), mask[:, ::-1]
    (blurred,), judgement = FaceBlur(detector, width**2).filter(frame[np.newaxis])
    changed = (blurred != frame).any(axis=-1)
    assert judgement.verdict is Verdict.MODIFIED and changed[mask].mean() > 0.5


def test_frames_that_are_searched_at_the_same_time_give_what_they_give_alone(detector):
    frames = np.stack([portrait(name, width)[:120, :120] for name in ("astronaut", "camera") for width in (120, 160)])
    alone = [detector.detect(frame[np.newaxis])[0] for frame in frames]
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(3)
        together = detector.detect(frames)
    finally:
        cv2.setNumThreads(before)
    assert all(map(np.array_equal, together, alone)) and sum(map(len, alone))


def test_clutter_that_resembles_a_face_at_first_sight_is_left(detector):
    """A frame of the sample bag, in which the arm's joints make up a profile to the coarse search."""
    bag = open_recording(Path(__file__).parents[3] / "data" / "sample_bag")
    frame = next(frame for number, frame in enumerate(bag.frames(bag.image_topic())) if number == 234).load()[
        np.newaxis
    ]
    frame = reduced(frame, 288 * 480)
    grey = cv2.cvtColor(frame[0], cv2.COLOR_RGB2GRAY)
    assert sum(len(detector.candidates(pose, grey)) for pose in Pose) > 0
    assert FaceBlur(detector, 288 * 480).filter(frame)[1].verdict is Verdict.PASSED


def test_the_second_look_at_the_frames_edge_is_as_large_as_any():
    """Else fewer windows could vote there, for the same number of votes."""
    picture = np.random.default_rng(0).integers(0, 255, (60, 90), np.uint8)
    inside = haar_faces._second_look(picture, np.array([30, 20, 50, 40]))
    for x, y in ((0, 0), (70, 0), (0, 40), (70, 40)):
        look = haar_faces._second_look(picture, np.array([x, y, x + 20, y + 20]))
        assert look.shape == inside.shape
        assert look[0 if y == 0 else -1, 0 if x == 0 else -1] == picture[0 if y == 0 else -1, 0 if x == 0 else -1]


@pytest.mark.parametrize("edge", ["left", "top", "right"])
def test_a_face_at_the_frames_edge_is_covered(detector, edge):
    """Where the second look has no surroundings on that side."""
    frame = portrait("astronaut", 256)
    part = {"left": np.s_[:, 88:], "top": np.s_[33:], "right": np.s_[:, :137]}[edge]
    (blurred,), judgement = FaceBlur(detector, 256**2).filter(np.ascontiguousarray(frame[part])[np.newaxis])
    assert judgement.verdict is Verdict.MODIFIED


@pytest.mark.parametrize(
    ("model", "searched"),
    [((48, 64), (144, 192)), ((96, 160), (288, 480)), ((112, 192), (288, 480)), ((320, 512), (320, 512))],
)
def test_faces_are_searched_for_as_closely_as_was_measured_and_no_model_is_reduced(model, searched, monkeypatch):
    (faces,) = embedded_guards(model).filters
    seen = []
    monkeypatch.setattr(
        faces._detector, "detect", lambda frames: seen.append(frames.shape[1:3]) or [np.empty((0, 4))] * len(frames)
    )
    height, width = (4 * side for side in searched)
    faces.filter(np.zeros((1, height, width, 3), np.uint8))
    faces.filter(np.zeros((1, *model, 3), np.uint8))
    assert seen == [searched, model]
