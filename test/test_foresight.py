"""The public door: what goes in is checked; what comes out is stamped, cropped, reproducible, and ends when asked."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pytest

from cosmos_ros import Clip, Foresight
from cosmos_ros.errors import Canceled, InvalidGoal, ModelUnavailable, VideoBlocked
from cosmos_ros.foresight import LOADING
from cosmos_ros.guardrail.guard import Judgement
from cosmos_ros.guardrail.stretches import joined
from cosmos_ros.guardrail_report import Verdict
from cosmos_ros.progress import Stage
from cosmos_ros.rollout import NANOSECONDS, Crop

RATE = 10.0


@pytest.fixture(scope="module")
def foresight(tiny_checkpoint) -> Foresight:
    return Foresight.from_config({"checkpoint": str(tiny_checkpoint), "device": "cpu"})


@pytest.fixture(scope="module")
def text_foresight(tiny_text_checkpoint) -> Foresight:
    return Foresight.from_config({"checkpoint": str(tiny_text_checkpoint), "device": "cpu"})


def clip(n: int = 9, height: int = 48, width: int = 64) -> Clip:
    frames = np.random.default_rng(7).integers(0, 256, (n, height, width, 3), dtype=np.uint8)
    return Clip(frames, tuple(NANOSECONDS + round(k * NANOSECONDS / RATE) for k in range(n)), RATE)


def test_a_clip_becomes_24_stamped_frames_of_what_the_model_saw(foresight):
    given = clip(height=48, width=64)
    rollout = foresight.predict(given, seed=3)
    assert rollout.crop == Crop(x=0, y=8, width=64, height=32)  # the model's frames are 2 wide and 1 high
    assert rollout.frames.shape == (24, 32, 64, 3)
    assert rollout.stamps_ns == given.future_stamps_ns(24)
    assert rollout.conditioning_stamps_ns == given.stamps_ns
    assert (rollout.seed, rollout.frame_rate, rollout.model) == (3, RATE, "tiny")
    assert {time.stage for time in rollout.timing} >= {Stage.TOKENIZING, Stage.GENERATING, Stage.DECODING}


@pytest.mark.parametrize(("step", "after_a_clip", "after_an_image"), [(4, 12, 16), (1, 3, 4), (16, 48, 64)])
def test_a_model_of_another_compression_in_time_predicts_as_many_frames_as_its_chunk_holds(
    step, after_a_clip, after_an_image, make_checkpoint, tmp_path
):
    checkpoint = make_checkpoint(tmp_path / "tiny", step=step)
    foresight = Foresight.from_config({"checkpoint": str(checkpoint), "device": "cpu"})
    assert foresight.spec.conditioning_lengths == (1 + step, 1)
    given = clip(n=1 + step)
    assert foresight.predict(given, seed=0).stamps_ns == given.future_stamps_ns(after_a_clip)
    assert len(foresight.predict(clip(n=1), seed=0).frames) == after_an_image
    with pytest.raises(InvalidGoal, match=f"newest {1 + step} or 1 frames; the clip has 9"):
        foresight.predict(clip(), seed=0)


def test_an_image_becomes_32_frames(foresight):
    assert foresight.predict(clip(n=1), seed=0).frames.shape[0] == 32


@pytest.mark.parametrize("size", [(32, 64), (64, 128), (31, 97), (480, 640)])
def test_the_rollout_has_the_cameras_pixel_scale(foresight, size):
    rollout = foresight.predict(clip(1, *size), seed=0)
    assert rollout.frames.shape[1:3] == (rollout.crop.height, rollout.crop.width)
    assert rollout.crop.width == size[1] or rollout.crop.height == size[0]


def test_a_seed_gives_its_rollout_again_and_another_seed_another(foresight):
    first, again, other = (foresight.predict(clip(), seed=seed).frames for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_without_a_seed_one_is_drawn_and_reported(foresight):
    drawn = foresight.predict(clip())
    assert np.array_equal(foresight.predict(clip(), seed=drawn.seed).frames, drawn.frames)
    assert not any(drawn.seed % hypotheses for hypotheses in range(1, 17)), "a refiner's best guess, whatever it has"


def test_temperature_zero_does_not_ask_the_seed(foresight):
    first, other = (foresight.predict(clip(), seed=seed, temperature=0.0).frames for seed in (1, 2))
    assert np.array_equal(first, other)


def test_progress_only_rises_and_counts_whole_frames(foresight):
    reports = []
    foresight.predict(clip(), seed=0, on_progress=reports.append)
    fractions = [report.fraction for report in reports]
    assert fractions == sorted(fractions) and fractions[0] >= 0 and fractions[-1] <= 1
    stages = list(dict.fromkeys(report.stage for report in reports))
    assert stages == [
        Stage.TOKENIZING,
        Stage.PROMPT_GUARD,
        Stage.TEXT_ENCODING,
        Stage.GENERATING,
        Stage.DECODING,
        Stage.VIDEO_GUARD,
    ]
    ready = [report.frames_ready for report in reports if report.stage is Stage.GENERATING]
    assert ready == sorted(ready) and set(ready) <= {0, 8, 16, 24} and ready[-1] == 24


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage not in (Stage.WAITING, Stage.DENOISING)])
def test_canceling_at_any_stage_ends_the_prediction_and_leaves_the_next_one_whole(foresight, stage):
    expected = foresight.predict(clip(), seed=5).frames

    def cancel(progress):
        if progress.stage is stage:
            raise Canceled("enough")

    with pytest.raises(Canceled, match="enough"):
        foresight.predict(clip(), seed=5, on_progress=cancel)
    assert np.array_equal(foresight.predict(clip(), seed=5).frames, expected)


@pytest.mark.parametrize(
    "field, value",
    [
        ("seed", -1),
        ("seed", 2**63),
        ("temperature", -0.5),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("top_p", math.nan),
    ],
)
def test_a_number_out_of_range_is_refused_by_its_name(foresight, field, value):
    with pytest.raises(InvalidGoal, match=field):
        foresight.predict(clip(), **{field: value})


def test_a_clip_of_another_length_is_refused(foresight):
    with pytest.raises(InvalidGoal, match="9 or 1 frames; the clip has 8"):
        foresight.predict(clip(n=8))


def test_a_prompt_is_refused_where_the_model_takes_none(foresight):
    with pytest.raises(InvalidGoal, match="takes no prompt"):
        foresight.predict(clip(), "a red cube")


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_a_model_that_takes_text_needs_some(text_foresight, prompt):
    with pytest.raises(InvalidGoal, match="needs a prompt"):
        text_foresight.predict(clip(), prompt)


def test_a_long_prompt_is_refused_with_its_count(text_foresight):
    with pytest.raises(InvalidGoal, match="301 words"):
        text_foresight.predict(clip(), " word" * 301)


@pytest.mark.parametrize("predicting", ["predict", "reconstruct"])
def test_an_endless_word_is_refused_before_any_guard_reads_it(text_foresight, monkeypatch, predicting):
    monkeypatch.setattr(text_foresight.guardrail, "screen", None)
    given = clip() if predicting == "predict" else clip(n=33)
    with pytest.raises(InvalidGoal, match="2000000 characters; at most 4000"):
        getattr(text_foresight, predicting)(given, "x" * 2_000_000)


def test_a_prompt_travels_with_its_rollout(text_foresight, known_prompt):
    rollout = text_foresight.predict(clip(), known_prompt, seed=0)
    assert rollout.prompt == known_prompt
    assert [decision.guard for decision in rollout.guardrail.decisions][0] == "blocklist"


def test_unloading_gives_the_model_up_and_predicting_loads_it_again(tiny_checkpoint):
    foresight = Foresight.from_config({"checkpoint": str(tiny_checkpoint), "device": "cpu"})
    assert not foresight.loaded
    first = foresight.predict(clip(), seed=0).frames
    assert foresight.loaded
    foresight.unload()
    assert not foresight.loaded
    assert np.array_equal(foresight.predict(clip(), seed=0).frames, first)


def test_loading_says_how_far_it_has_come(tiny_checkpoint, monkeypatch, caplog):
    foresight = Foresight.from_config({"checkpoint": str(tiny_checkpoint), "device": "cpu"})
    seen, warm_up = [], foresight.guardrail.warm_up
    monkeypatch.setattr(foresight.guardrail, "warm_up", lambda *size: (seen.append(foresight.loading), warm_up(*size)))
    with caplog.at_level("INFO", "cosmos_ros"):
        foresight.load()
    said = [record.message for record in caplog.records if record.name == "cosmos_ros.foresight"]
    assert said == [f"tiny: {what} ({number} of 4)" for number, what in enumerate(LOADING, 1)]
    assert seen == ["trying the guards (4 of 4)"] and foresight.loading == ""


def test_a_checkpoint_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelUnavailable, match="nowhere"):
        Foresight.from_config({"checkpoint": str(tmp_path / "nowhere")})


def test_a_foresight_is_made_from_a_yaml_file(tmp_path, tiny_checkpoint):
    file = tmp_path / "foresight.yaml"
    file.write_text(f"checkpoint: {tiny_checkpoint}\ndevice: cpu\n")
    assert Foresight.from_config(file).spec.name == "tiny"


def test_samples_are_the_rollouts_of_their_seeds_alone(foresight):
    together = foresight.predict_samples(clip(), 3, seed=4, temperature=1.0)
    assert [(each.sample, each.seed) for each in together] == [(0, 4), (1, 5), (2, 6)]
    for each in together:
        assert np.array_equal(foresight.predict(clip(), seed=each.seed, temperature=1.0).frames, each.frames)
    assert len({each.frames.tobytes() for each in together}) == 3


@pytest.mark.parametrize(
    ("n", "given", "message"),
    [
        (0, {}, "samples must lie in 1..16; got 0"),
        (17, {}, "samples must lie in 1..16; got 17"),
        (2, {"temperature": 0.0}, "at temperature 0 all 2 samples would have the same tokens"),
        (2, {"seed": 2**63 - 1}, "seed must lie in"),
    ],
)
def test_samples_that_cannot_be_are_refused(foresight, n, given, message):
    with pytest.raises(InvalidGoal, match=message):
        foresight.predict_samples(clip(), n, **given)


@pytest.mark.parametrize(("wanted", "given"), [(8, 8), (16, 9), (24, 24)])
def test_as_many_frames_come_as_are_asked_for_in_whole_latent_frames(foresight, wanted, given):
    rollout = foresight.predict(clip(), seed=3, frames=given)
    assert len(rollout.frames) == len(rollout.stamps_ns) == wanted


@pytest.mark.parametrize(
    ("n", "asked", "lengths"),
    [(9, 24, [24]), (9, 25, [24, 8]), (9, 96, [24, 24, 24, 24]), (1, 33, [32, 8]), (1, 72, [32, 24, 16])],
)
def test_more_frames_than_the_model_has_come_in_stretches(foresight, n, asked, lengths):
    given = clip(n=n)
    stretches = [only for (only,) in foresight.predict_stretches(given, 1, seed=3, frames=asked)]
    assert [len(each.frames) for each in stretches] == lengths == list(foresight.stretch_lengths(n, asked))
    assert [each.first_frame for each in stretches] == [sum(lengths[:k]) for k in range(len(lengths))]
    assert [each.seams for each in stretches] == [(), *[(1,)] * (len(lengths) - 1)]
    assert {each.conditioning_stamps_ns for each in stretches} == {given.stamps_ns} and {e.seed for e in stretches} == {
        3
    }
    whole = foresight.predict(given, seed=3, frames=asked)
    assert np.array_equal(whole.frames, np.concatenate([each.frames for each in stretches]))
    assert whole.stamps_ns == given.future_stamps_ns(sum(lengths)) == sum((each.stamps_ns for each in stretches), ())
    assert whole.first_frame == 0 and whole.seams == tuple(each.first_frame + 1 for each in stretches[1:])
    assert whole.decoding.passes == sum(each.decoding.passes for each in stretches)
    assert [time.stage for time in whole.timing] == [time.stage for time in stretches[0].timing]
    assert not whole.frames.flags.writeable


def test_a_stretch_goes_on_from_the_last_frames_of_the_one_before(foresight, monkeypatch):
    """As they were before the guards, which here turn every frame that leaves to black."""
    foresight.load()
    expected = foresight.predict(clip(), seed=3, frames=48).frames
    given, model, filters = clip(), foresight._model, foresight.guardrail.guards.filters[0]
    tokenize, seen = model.tokenize, []
    monkeypatch.setattr(model, "tokenize", lambda frames, whole=False: seen.append(frames) or tokenize(frames, whole))

    def blacken(frames: np.ndarray) -> tuple[np.ndarray, Judgement]:
        return np.zeros_like(frames), Judgement(Verdict.MODIFIED, "blackened", changes=len(frames))

    monkeypatch.setattr(filters, "filter", blacken)
    rollout = foresight.predict(given, seed=3, frames=48)
    assert not rollout.frames.any()
    assert seen[0] is given.frames and np.array_equal(seen[1], expected[15:24])
    (decision,) = [each for each in rollout.guardrail.decisions if each.guard == filters.name]
    assert decision.verdict is Verdict.MODIFIED and decision.detail == "24 blackened"


def test_samples_of_a_long_prediction_are_those_of_their_seeds_alone(foresight):
    together = foresight.predict_samples(clip(), 3, seed=4, temperature=1.0, frames=40)
    for each in together:
        alone = foresight.predict(clip(), seed=each.seed, temperature=1.0, frames=40)
        assert np.array_equal(alone.frames, each.frames)
    assert len({each.frames[24:].tobytes() for each in together}) == 3


def test_progress_only_rises_through_all_stretches(foresight):
    reports = []
    foresight.predict(clip(), seed=0, frames=48, on_progress=reports.append)
    fractions, ready = ([getattr(report, name) for report in reports] for name in ("fraction", "frames_ready"))
    assert fractions == sorted(fractions) and fractions[0] == 0 and 0.9 < fractions[-1] <= 1
    assert ready == sorted(ready) and set(ready) <= set(range(0, 49, 8)) and ready[-1] == 48


def test_a_prediction_that_ends_in_a_later_stretch_keeps_what_has_left(foresight, monkeypatch):
    guard, judged = foresight.guardrail.guards.content[0], []
    judge = guard.judge

    def refuse_frame_30(frames: np.ndarray) -> Judgement:
        judged.append(len(frames))
        return Judgement(Verdict.REFUSED, "no", frame=5) if sum(judged) > 24 else judge(frames)

    foresight.load()
    monkeypatch.setattr(guard, "judge", refuse_frame_30)
    stretches = foresight.predict_stretches(clip(), 1, seed=3, frames=48)
    assert len(next(stretches)[0].frames) == 24
    with pytest.raises(VideoBlocked, match="refused predicted frame 30"):
        next(stretches)
    monkeypatch.undo()
    stretches = foresight.predict_stretches(clip(), 1, seed=3, frames=48, on_progress=lambda now: cancel(now))

    def cancel(progress):
        if progress.frames_ready > 24:
            raise Canceled("enough")

    assert len(next(stretches)[0].frames) == 24
    with pytest.raises(Canceled):
        next(stretches)
    assert len(foresight.predict(clip(), seed=3).frames) == 24


@pytest.mark.parametrize("frames", [0, -1, 10_001, 2**32])
def test_a_number_of_frames_that_cannot_be_is_refused_at_once(foresight, frames):
    with pytest.raises(InvalidGoal, match=f"frames must lie in 1..10000; got {frames}"):
        foresight.predict_stretches(clip(), 1, frames=frames)


def test_a_model_of_short_stretches_says_that_it_has_no_others(make_checkpoint, tmp_path):
    checkpoint = make_checkpoint(tmp_path / "tiny", latent_frames=3)
    foresight = Foresight.from_config({"checkpoint": str(checkpoint), "device": "cpu"})
    assert len(foresight.predict(clip(), seed=0).frames) == 8
    with pytest.raises(InvalidGoal, match="ask for at most 8 frames; got 9"):
        foresight.predict(clip(), frames=9)


def test_only_the_stretches_of_one_prediction_are_joined(foresight):
    first, second = (only for (only,) in foresight.predict_stretches(clip(), 1, seed=3, frames=48))
    other = foresight.predict(clip(), seed=4)
    for wrong in ([second, first], [first, first], [other, second]):
        with pytest.raises(InvalidGoal, match="not the stretches of one prediction"):
            joined(wrong)
    with pytest.raises(TypeError, match="only guarded rollouts"):
        joined([first, first.frames])
    assert joined([second]) is second


def test_a_mean_of_later_stretches_is_stamped_as_they_are(foresight):
    _, later = foresight.predict_stretches(clip(), 2, seed=3, temperature=1.0, frames=32)
    mean = foresight.mean(later)
    assert (mean.first_frame, mean.stamps_ns) == (24, later[0].stamps_ns)


def test_a_rollout_says_how_it_was_decoded(foresight):
    decoding = foresight.predict(clip(), seed=3).decoding
    assert (decoding.dtype, decoding.window, decoding.frame_decoder) == ("float32", 32, "discrete")
    assert 1 <= decoding.passes <= 24


@pytest.mark.parametrize("n", [1, 2])
def test_a_guard_that_refuses_the_last_group_refuses_everything(foresight, n, monkeypatch):
    """Though the first groups were decoded and judged, and passed, while later tokens were still being decided."""
    foresight.load()
    monkeypatch.setattr(foresight._model, "_by_groups", lambda: True)
    guard = foresight.guardrail.guards.content[0]
    judge, judged = guard.judge, []

    def refuse_the_last(frames: np.ndarray) -> Judgement:
        judged.append(len(frames))
        return Judgement(Verdict.REFUSED, "too late") if len(judged) == 3 * n else judge(frames)

    monkeypatch.setattr(guard, "judge", refuse_the_last)
    with pytest.raises(VideoBlocked, match="too late") as refused:
        foresight.predict_samples(clip(), n, seed=3, temperature=1.0)
    assert judged == [8] * 3 * n
    assert any(each.verdict is Verdict.REFUSED for each in refused.value.report.decisions)


def test_likelihood_is_of_the_tokens_of_the_true_frames(foresight):
    """Latent frame by latent frame, each given all before it."""
    given = clip()
    foresight.load()
    noise = np.random.default_rng(8).integers(0, 256, (24, 48, 64, 3), dtype=np.uint8)
    whole = foresight.likelihood(given, noise)
    assert whole.nats.shape == whole.expected.shape == whole.variance.shape == (3, 2, 4)
    assert whole.nats_per_token == pytest.approx(whole.nats.mean(axis=(1, 2)))
    assert whole.expected.min() > 0 and whole.expected.max() <= math.log(64) + 1e-5
    # Given what came before and nothing after: fewer frames change nothing about the first.
    first = foresight.likelihood(given, noise[:8])
    assert np.allclose(first.nats, whole.nats[:1], atol=1e-5)


@pytest.mark.parametrize("n", [0, 7, 32])
def test_likelihood_takes_whole_latent_frames_of_the_clips_size(foresight, n):
    foresight.load()
    with pytest.raises(InvalidGoal, match="a multiple of 8"):
        foresight.likelihood(clip(), np.zeros((n, 48, 64, 3), np.uint8))
    with pytest.raises(InvalidGoal, match="of its size"):
        foresight.likelihood(clip(), np.zeros((8, 32, 64, 3), np.uint8))


def test_likelihood_does_not_load_the_model_again(tiny_checkpoint):
    unloaded = Foresight.from_config({"checkpoint": str(tiny_checkpoint), "device": "cpu"})
    with pytest.raises(ModelUnavailable, match="not loaded"):
        unloaded.likelihood(clip(), np.zeros((8, 48, 64, 3), np.uint8))


def test_a_fingerprint_is_that_of_the_weights(foresight, tiny_checkpoint, tmp_path):
    same = shutil.copytree(tiny_checkpoint, tmp_path / "under another name")
    assert Foresight.from_config({"checkpoint": str(same), "device": "cpu"}).fingerprint == foresight.fingerprint
    weights = same / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert Foresight.from_config({"checkpoint": str(same), "device": "cpu"}).fingerprint != foresight.fingerprint
