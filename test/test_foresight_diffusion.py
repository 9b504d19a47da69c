"""The public door with the diffusion decoder: rollouts that say so, progress, cancel, refusals and memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cosmos_ros import Clip, Foresight
from cosmos_ros.device.placement import DeviceMemory
from cosmos_ros.device.plan import plan_memory
from cosmos_ros.errors import Canceled, GuardrailUnavailable, ModelUnavailable, NotFinite, OutOfMemory, VideoBlocked
from cosmos_ros.evaluation.results import describe_model
from cosmos_ros.guardrail.guard import Judgement
from cosmos_ros.guardrail_report import Verdict
from cosmos_ros.pipeline import PIPELINE, needs_of
from cosmos_ros.progress import Stage
from cosmos_ros.rollout import NANOSECONDS
from cosmos_ros.world_model import ModelSpec, Sampling, WorldModel
from cosmos_ros.world_model.diffusion_decoder.config import PUBLISHED
from cosmos_ros.world_model.diffusion_decoder.decoder import DIFFUSION_DECODER, load_diffusion_decoder
from cosmos_ros.world_model.diffusion_decoder.files import FAMILIES
from cosmos_ros.world_model.diffusion_decoder.latent_decoder import LATENT_DECODER
from cosmos_ros.world_model.tokenizer.video_tokenizer import to_levels

STEPS = 3
EVALUATIONS = STEPS + 1  # Cosmos 1.0's solver looks once more at the end


def clip(n: int = 9) -> Clip:
    frames = np.random.default_rng(7).integers(0, 256, (n, 32, 64, 3), dtype=np.uint8)
    return Clip(frames, tuple(NANOSECONDS + k * NANOSECONDS // 10 for k in range(n)), 10.0)


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint, write_diffusion_decoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    write_diffusion_decoder(folder)
    return make_checkpoint(folder / "tiny")


def settings(checkpoint, **others):
    return {
        "checkpoint": str(checkpoint),
        "device": "cpu",
        "frame_decoder": "diffusion",
        "denoising_steps": STEPS,
    } | others


@pytest.fixture(scope="module")
def foresight(checkpoint) -> Foresight:
    return Foresight.from_config(settings(checkpoint))


@pytest.mark.parametrize("n", [9, 1])
def test_a_rollout_is_what_the_decoder_makes_of_its_tokens_and_says_so(n, foresight, checkpoint):
    rollout = foresight.predict(clip(n), seed=3)
    assert rollout.frames.shape == (33 - n, 32, 64, 3)
    assert (rollout.decoding.frame_decoder, rollout.decoding.denoising_steps) == ("diffusion", STEPS)
    assert {time.stage for time in rollout.timing} >= {Stage.GENERATING, Stage.DENOISING, Stage.DECODING}

    model = WorldModel.from_checkpoint(checkpoint, device="cpu")
    given = model.tokenize(clip(n).frames)
    *_, last = model.passes(given, None, Sampling(3, model.spec.temperature, model.spec.top_p))
    folder = checkpoint.parent
    decoder = load_diffusion_decoder(
        folder / FAMILIES[0].decoder, tokenizer=folder / FAMILIES[0].tokenizer, steps=STEPS
    )
    pixels = None
    steps = decoder.pixels(last.tokens[0].view(5, 2, 4), None, seed=3)
    try:
        while True:
            next(steps)
    except StopIteration as end:
        pixels = end.value
    assert np.array_equal(rollout.frames, to_levels(pixels[:, n:]).permute(1, 2, 3, 0).numpy())


def test_a_seed_gives_its_rollout_again_and_each_sample_has_its_own(foresight):
    samples = foresight.predict_samples(clip(), 2, seed=4)
    for seed, sample in enumerate(samples, 4):
        assert np.array_equal(sample.frames, foresight.predict(clip(), seed=seed).frames)
    assert not np.array_equal(samples[0].frames, samples[1].frames)
    greedy = [foresight.predict(clip(), seed=seed, temperature=0.0).frames for seed in (1, 2)]
    assert not np.array_equal(*greedy), "the same tokens, and other noise"


def test_fewer_frames_are_the_first_of_all(foresight):
    whole = foresight.predict(clip(), seed=1).frames
    assert np.array_equal(foresight.predict(clip(), seed=1, frames=8).frames, whole[:8])


def test_a_longer_prediction_is_denoised_stretch_by_stretch_each_with_noise_of_its_own(foresight):
    reports = []
    rollout = foresight.predict(clip(), seed=1, frames=48, on_progress=reports.append)
    assert rollout.frames.shape == (48, 32, 64, 3)
    assert np.array_equal(rollout.frames[:24], foresight.predict(clip(), seed=1).frames)
    fractions = [report.fraction for report in reports]
    assert fractions == sorted(fractions) and fractions[-1] <= 1
    ready = {report.frames_ready for report in reports if report.stage is Stage.DENOISING}
    assert ready == {24, 48}


def test_a_fingerprint_tells_decoders_and_what_they_are_run_with_apart(foresight, checkpoint):
    others = [{"frame_decoder": "discrete"}, {"denoising_steps": STEPS + 1}]
    prints = {Foresight.from_config(settings(checkpoint, **other)).fingerprint for other in others}
    assert len(prints | {foresight.fingerprint}) == 3
    text = foresight.spec.diffusion_decoder.weights.parent / "aux_vars.pt"
    assert text in foresight.spec.diffusion_decoder.files
    assert f"{text.parent.name}/aux_vars.pt" in describe_model(foresight)["fingerprints"]


def test_progress_tells_of_every_step_and_only_rises(foresight):
    reports = []
    foresight.predict_samples(clip(), 2, seed=0, on_progress=reports.append)
    fractions = [report.fraction for report in reports]
    assert fractions == sorted(fractions) and fractions[-1] <= 1
    stages = list(dict.fromkeys(report.stage for report in reports))
    assert stages[-4:] == [Stage.GENERATING, Stage.DENOISING, Stage.DECODING, Stage.VIDEO_GUARD]
    denoising = [report for report in reports if report.stage is Stage.DENOISING]
    assert len({report.fraction for report in denoising}) > 1 and denoising[0].frames_ready == 24
    assert denoising[-1].remaining_s >= 0


def test_canceling_between_two_steps_makes_no_further_one_and_leaves_the_next_goal_whole(foresight, monkeypatch):
    expected = foresight.predict(clip(), seed=5).frames
    decoder = foresight._model._frame_decoder
    made, denoised = [], decoder._denoised

    def cancel(progress):
        if progress.stage is Stage.DENOISING and made:
            raise Canceled("enough")

    def counted(*given):
        made.append(given[1])
        return denoised(*given)

    monkeypatch.setattr(decoder, "_denoised", counted)
    monkeypatch.setattr(decoder, "steps", 50)
    with pytest.raises(Canceled, match="enough"):
        foresight.predict(clip(), seed=5, on_progress=cancel)
    foresight._model._frames._pool.submit(int).result()  # what was under way has ended
    assert 0 < len(made) < 50
    monkeypatch.undo()
    assert np.array_equal(foresight.predict(clip(), seed=5).frames, expected)


def test_running_out_of_memory_between_two_steps_is_its_code_and_the_next_goal_is_served(foresight, monkeypatch):
    expected = foresight.predict(clip(), seed=5).frames
    decoder = foresight._model._frame_decoder
    made, denoised = [], decoder._denoised

    def full(*given):
        made.append(given[1])
        if len(made) == 2:
            torch.empty(2**52, dtype=torch.uint8)  # 4 PB, which no host gives
        return denoised(*given)

    monkeypatch.setattr(decoder, "_denoised", full)
    with pytest.raises(OutOfMemory, match="out of memory while predicting") as refusal:
        foresight.predict(clip(), seed=5)
    assert refusal.value.code == "OUT_OF_MEMORY" and len(made) == 2
    monkeypatch.undo()
    assert np.array_equal(foresight.predict(clip(), seed=5).frames, expected)


def test_latents_that_are_no_numbers_leave_as_no_frames(foresight, monkeypatch):
    decoder = foresight._model._frame_decoder
    monkeypatch.setattr(decoder, "_denoised", lambda x, *_: torch.full_like(x, float("nan")))
    with pytest.raises(NotFinite, match="diffusion decoder"):
        foresight.predict(clip(), seed=5)


def test_its_frames_pass_the_guards_like_all_others(foresight, monkeypatch):
    guard = foresight.guardrail.guards.content[0]
    monkeypatch.setattr(guard, "judge", lambda frames: Judgement(Verdict.REFUSED, "not these"))
    with pytest.raises(VideoBlocked):
        foresight.predict(clip(), seed=5)


def test_true_frames_go_through_it_as_well(foresight):
    frames = np.random.default_rng(1).integers(0, 256, (33, 32, 64, 3), dtype=np.uint8)
    given = Clip(frames, tuple(NANOSECONDS * (k + 1) for k in range(33)), 10.0)
    rollout = foresight.reconstruct(given)
    assert rollout.frames.shape == (32, 32, 64, 3) and rollout.decoding.frame_decoder == "diffusion"


def test_a_model_with_prompts_decodes_by_the_prompt_and_not_by_the_decoders_own_text(
    make_checkpoint, write_diffusion_decoder, known_prompt, tiny_text_checkpoint, tmp_path
):
    write_diffusion_decoder(tmp_path)
    checkpoint = make_checkpoint(tmp_path / "tiny", context_dim=16)
    for file in tiny_text_checkpoint.glob("text_embeddings*"):
        (checkpoint / file.name).write_bytes(file.read_bytes())
    foresight = Foresight.from_config(settings(checkpoint))
    rollout = foresight.predict(clip(), known_prompt, seed=2)
    decoder = foresight._model._frame_decoder
    assert decoder._text.shape[1] == 12  # and a prompt's embedding has 512 positions
    decoder._text = torch.full_like(decoder._text, float("nan"))
    assert np.array_equal(foresight.predict(clip(), known_prompt, seed=2).frames, rollout.frames)


def test_without_its_files_configuring_is_refused_with_what_to_fetch(tiny_checkpoint):
    with pytest.raises(ModelUnavailable, match=f"hf download nvidia/{FAMILIES[0].decoder}"):
        Foresight.from_config(settings(tiny_checkpoint))


def test_a_model_of_other_tokens_is_refused_before_anybody_fetches_a_decoder_for_it():
    with pytest.raises(ModelUnavailable, match=r"the model's are \(8, 8, 8\).*Set frame_decoder to discrete"):
        Foresight.from_config(settings(""))


@pytest.mark.parametrize(
    ("sizes", "model", "message"),
    [
        ({"vocabulary": 65}, {}, "65 different tokens, and the model has 64"),
        ({"context_dim": 24}, {"context_dim": 16}, "text embeddings of width 24, and the model's prompts have 16"),
        ({}, {"step": 4}, r"tokens of \(8, 16, 16\) pixels .time, height, width., and the model's are \(4, 16, 16\)"),
    ],
)
def test_a_decoder_of_other_tokens_is_refused(
    sizes, model, message, make_checkpoint, write_diffusion_decoder, tmp_path
):
    write_diffusion_decoder(tmp_path, **sizes)
    with pytest.raises(ModelUnavailable, match=message):
        Foresight.from_config(settings(make_checkpoint(tmp_path / "tiny", **model)))


def test_the_published_decoder_brings_its_guardrail_with_it_whatever_it_decodes(checkpoint, monkeypatch):
    spec = ModelSpec.of_checkpoint(checkpoint).decoded_by("diffusion")
    assert not spec.published
    monkeypatch.setattr("cosmos_ros.world_model.diffusion_decoder.files.PUBLISHED", spec.diffusion_decoder.config)
    assert ModelSpec.of_checkpoint(checkpoint).decoded_by("diffusion").published
    with pytest.raises(GuardrailUnavailable, match="Cosmos-1.0-Guardrail"):
        Foresight.from_config(settings(checkpoint))
    assert spec.diffusion_decoder.config != PUBLISHED


def test_the_memory_plan_counts_it_and_lets_it_come_block_by_block(checkpoint):
    spec = ModelSpec.of_checkpoint(checkpoint).decoded_by("diffusion")
    needs = {need.name: need for need in needs_of(spec, bytes_per_weight=4)}
    decoder = load_diffusion_decoder(spec.diffusion_decoder)
    parts = [part.network for part in decoder._parts if part.name == DIFFUSION_DECODER]
    sizes = [sum(weight.nbytes for weight in part.parameters()) for part in parts]
    assert needs[DIFFUSION_DECODER].weights == sum(sizes)
    assert needs[DIFFUSION_DECODER].piece == sizes[-1] + max(sizes[:-1])
    assert needs[LATENT_DECODER].weights == (spec.diffusion_decoder.tokenizer / "decoder.jit").stat().st_size
    assert DIFFUSION_DECODER not in {need.name for need in needs_of(ModelSpec.of_checkpoint(checkpoint))}


def test_where_all_parts_take_turns_the_rollout_is_the_same(checkpoint, foresight):
    spec = ModelSpec.of_checkpoint(checkpoint).decoded_by("diffusion")
    plan = plan_memory(needs_of(spec), PIPELINE, 10**9, "low")
    memory = DeviceMemory("cpu", plan)
    model = WorldModel.from_checkpoint(spec, device="cpu", memory=memory, denoising_steps=STEPS)
    sampling = Sampling(3, spec.temperature, spec.top_p)
    steps = model.roll_out(model.tokenize(clip().frames), None, sampling, 9, 24)
    frames = np.concatenate([some.pixels for step in steps for some in step.frames])
    assert np.array_equal(frames, foresight.predict(clip(), seed=3).frames)
