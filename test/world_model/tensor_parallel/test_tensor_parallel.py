"""The transformer cut over two processes on the CPU (gloo): the same tokens, and no way to hang."""

import os
import signal
from contextlib import closing
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cosmos_ros.errors import ModelUnavailable, RankLost, SettingError
from cosmos_ros.foresight import Foresight, ForesightConfig
from cosmos_ros.progress import Stage
from cosmos_ros.rollout import Clip
from cosmos_ros.world_model import Sampling, Transformer, TransformerConfig, WorldModel
from cosmos_ros.world_model.checkpoints.transformer_weights import shard_axis
from cosmos_ros.world_model.config import PUBLISHED_KINDS
from cosmos_ros.world_model.decoding.engine import PASSES_AHEAD, WindowDecoder, completed
from cosmos_ros.world_model.tensor_parallel import tensor_parallel
from cosmos_ros.world_model.tensor_parallel.sharded_transformer import load_share, require_divisible
from cosmos_ros.world_model.tensor_parallel.tensor_parallel import TensorParallelDecoder

pytestmark = pytest.mark.processes

BASE = TransformerConfig(
    n_layers=2,
    dim=48,
    n_heads=8,
    n_kv_heads=4,
    head_dim=8,
    ffn_hidden=96,
    vocab_in=64,
    vocab_out=64,
    latent_shape=(3, 4, 8),
)
TEXT = replace(BASE, vocab_in=128, context_dim=24)
GREEDY, SAMPLED = Sampling(5, 0.0, 1.0), Sampling(5, 1.0, 0.9)
CPU = torch.device("cpu")
CLIP = Clip(
    np.random.default_rng(0).integers(0, 256, (9, 32, 64, 3), dtype=np.uint8),
    tuple(100_000_000 * i for i in range(9)),
    10.0,
)


def transformer(config: TransformerConfig) -> Transformer:
    torch.manual_seed(0)
    return Transformer(config).eval().requires_grad_(False)


def write(folder, model: Transformer):
    save_file(model.state_dict(), folder / "model.safetensors")
    return folder


def decoder(folder, config: TransformerConfig, gpus: int = 2) -> TensorParallelDecoder:
    return TensorParallelDecoder(folder, config, gpus=gpus, device=CPU, dtype=torch.float32)


def prompt(seed: int = 1) -> torch.Tensor:
    return torch.randint(0, 64, (32,), generator=torch.Generator().manual_seed(seed))


def tokens_of(engine, seed: int = 1, sampling: Sampling = SAMPLED, samples: int = 1) -> torch.Tensor:
    return completed(engine.passes(prompt(seed).expand(samples, -1), sampling))


@pytest.fixture(scope="module")
def base():
    return transformer(BASE)


@pytest.fixture(scope="module")
def cut(base, tmp_path_factory):
    """The base model on two ranks. One for all tests of this file: starting it takes seconds."""
    engine = decoder(write(tmp_path_factory.mktemp("base"), base), BASE)
    yield engine
    engine.release()


@pytest.fixture(scope="module")
def cut_foresight(tiny_text_checkpoint):
    foresight = Foresight.from_config({"checkpoint": str(tiny_text_checkpoint), "device": "cpu", "gpus": 2})
    yield foresight
    foresight.unload()


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_two_ranks_draw_the_tokens_of_one(base, cut, sampling):
    for seed in (1, 2):
        assert torch.equal(tokens_of(cut, seed, sampling), tokens_of(WindowDecoder(base), seed, sampling))


def test_two_ranks_draw_several_samples_as_one_does(base, cut):
    assert torch.equal(tokens_of(cut, samples=3), tokens_of(WindowDecoder(base), samples=3))


def test_every_pass_is_told_once_in_order(cut):
    passes = list(cut.passes(prompt()[None], SAMPLED))
    assert [each.number for each in passes] == list(range(1, len(passes) + 1))
    done = [each.done[0] for each in passes]
    assert done == sorted(done) and done[-1] == 64 and len(passes) < 64


@pytest.mark.parametrize("last", [1, 3, 1000], ids=["first", "third", "all"])
def test_a_cancel_is_passed_on_and_the_same_processes_take_the_next_goal(base, cut, last):
    with closing(cut.passes(prompt(2)[None], SAMPLED)) as passes:
        for _ in islice(passes, last):
            pass
    processes = cut._group._processes
    assert torch.equal(tokens_of(cut), tokens_of(WindowDecoder(base)))
    assert cut._group._processes is processes, "the same processes went on"


def test_ranks_end_a_canceled_goal_after_the_same_few_passes(cut):
    cut.start()
    group = cut._group
    canceled = group._goals + 1
    group.stop(canceled)  # asked before it begins, so that where it ends depends on no process's speed
    assert group.begin(prompt()[None], SAMPLED, None, None) == canceled
    following = group.begin(prompt()[None], SAMPLED, None, None)
    messages = [group.next_message(30.0)]
    while not (messages[-1].goal == following and messages[-1].done == (64,)):
        messages.append(group.next_message(30.0))
    assert [m.number for m in messages if m.goal == canceled] == list(range(1, 1 + PASSES_AHEAD + 3))
    numbers = [m.number for m in messages if m.goal == following]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.fixture
def struck(cut, monkeypatch):
    """struck(signal): rank 1 gets it once the next goal has been sent; held until then, it has made no pass of it."""

    def strike(number: int) -> None:
        cut.start()
        group, begin = cut._group, cut._group.begin

        def begin_and_strike(*goal):
            os.kill(group._processes[1].pid, signal.SIGSTOP)
            sent = begin(*goal)
            os.kill(group._processes[1].pid, number)
            return sent

        monkeypatch.setattr(group, "begin", begin_and_strike)

    return strike


def test_a_killed_rank_ends_the_goal_and_the_next_one_works(base, cut, struck):
    struck(signal.SIGKILL)
    with pytest.raises(RankLost, match=r"rank 1 on cpu died \(SIGKILL\).*anew"):
        tokens_of(cut)
    expected = tokens_of(WindowDecoder(base))
    assert torch.equal(tokens_of(cut), expected)


def test_a_hung_rank_ends_the_goal_and_all_processes(cut, struck, monkeypatch):
    struck(signal.SIGSTOP)
    processes = cut._group._processes
    monkeypatch.setattr(tensor_parallel, "PASS_PATIENCE", 2.0)
    with pytest.raises(RankLost, match="no sign of life for 2 s"):
        tokens_of(cut)
    assert not any(process.is_alive() for process in processes)


def test_a_rank_that_dies_while_it_loads_is_told_and_the_others_do_not_wait_for_it(base, tmp_path, monkeypatch):
    groups, start_group = [], tensor_parallel._Group

    def start_and_kill(shares):
        groups.append(start_group(shares))
        os.kill(groups[0]._processes[1].pid, signal.SIGKILL)
        return groups[0]

    monkeypatch.setattr(tensor_parallel, "_Group", start_and_kill)
    with pytest.raises(RankLost, match=r"rank 1 on cpu died \(SIGKILL\)"):
        decoder(write(tmp_path, base), BASE).start()
    assert not any(process.is_alive() for process in groups[0]._processes)


def test_a_rank_tells_what_is_wrong_with_its_share(base, tmp_path):
    weights = {name: weight.clone() for name, weight in base.state_dict().items()}
    weights["layers.1.feed_forward.w1.weight"][-1, 0] = float("nan")  # in the second rank's half
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ModelUnavailable, match=r"not finite: layers.1.feed_forward.w1.weight"):
        decoder(tmp_path, BASE).start()


@pytest.mark.parametrize("files", [1, 2, 4])
@pytest.mark.parametrize("config", [BASE, TEXT], ids=["base", "text"])
def test_each_rank_holds_its_slice_alone(config, files, tmp_path):
    """From a whole checkpoint, from shards for as many ranks, and from shards for more."""
    model = transformer(config)
    weights = model.state_dict()
    for file in range(files):
        share = {
            name: weight
            if files == 1 or shard_axis(name) is None
            else weight.chunk(files, dim=shard_axis(name))[file].clone()
            for name, weight in weights.items()
        }
        torch.save(share, tmp_path / ("model.pt" if files == 1 else f"model_model_mp_{file}.pt"))
    for rank in range(2):
        held = load_share(tmp_path, config, rank, 2, CPU, torch.float32).state_dict()
        assert held.keys() == weights.keys()
        for name, weight in weights.items():
            axis = shard_axis(name)
            torch.testing.assert_close(
                held[name], weight if axis is None else weight.chunk(2, dim=axis)[rank], rtol=0, atol=0
            )


def test_what_is_cut_is_all_but_the_norms(base, tmp_path):
    whole = sum(weight.numel() for weight in base.state_dict().values())
    norms = sum(weight.numel() for name, weight in base.state_dict().items() if "norm" in name)
    held = load_share(write(tmp_path, base), BASE, 1, 4, CPU, torch.float32)
    assert sum(weight.numel() for weight in held.parameters()) == (whole - norms) // 4 + norms


@pytest.mark.parametrize("gpus", [0, -1, 3, 8])
def test_numbers_that_do_not_divide_the_heads_are_refused(gpus, tmp_path):
    with pytest.raises(SettingError, match=rf"gpus must be 1 or 2 or 4, .* 4 key-value heads.*got {gpus}"):
        decoder(tmp_path, BASE, gpus)


@pytest.mark.parametrize("kind", PUBLISHED_KINDS)
def test_published_models_may_be_cut_in_2_4_and_8(kind):
    for gpus in (1, 2, 4, 8):
        require_divisible(PUBLISHED_KINDS[kind].config, gpus)
    for gpus in (3, 5, 6, 7, 16):
        with pytest.raises(SettingError, match="1 or 2 or 4 or 8"):
            require_divisible(PUBLISHED_KINDS[kind].config, gpus)


def test_with_text_two_ranks_draw_the_tokens_of_one(cut_foresight, tiny_text_checkpoint, known_prompt):
    cut_foresight.load()
    whole = WorldModel.from_checkpoint(tiny_text_checkpoint, device="cpu")
    tokens, context = whole.tokenize(CLIP.frames), whole.encode_text(known_prompt)
    for sampling in (GREEDY, SAMPLED):
        expected = completed(whole.passes(tokens, context, sampling))
        assert torch.equal(completed(cut_foresight._model.passes(tokens, context, sampling)), expected)


def test_foresight_predicts_on_two_ranks_what_it_does_on_one(cut_foresight, tiny_text_checkpoint, known_prompt):
    whole = Foresight.from_config({"checkpoint": str(tiny_text_checkpoint), "device": "cpu"})
    expected = whole.predict(CLIP, known_prompt, seed=4)
    stages = []
    rollout = cut_foresight.predict(CLIP, known_prompt, seed=4, on_progress=lambda told: stages.append(told.stage))
    assert np.array_equal(rollout.frames, expected.frames)
    assert 1 < stages.count(Stage.GENERATING) <= 1 + 24


def test_unloading_ends_the_processes(cut_foresight):
    cut_foresight.load()
    processes = cut_foresight._model._engine._group._processes
    assert all(process.is_alive() for process in processes)
    cut_foresight.unload()
    assert not any(process.is_alive() for process in processes)


def test_ranks_load_no_file_that_took_the_recognised_ones_place(tmp_path):
    """The guardrail was chosen for the model that the file held before."""
    engine = decoder(write(tmp_path, transformer(BASE)), BASE)
    (tmp_path / "other").mkdir()
    other = replace(BASE, vocab_in=BASE.vocab_in + 1, vocab_out=BASE.vocab_out + 1)
    write(tmp_path / "other", transformer(other))
    (tmp_path / "other" / "model.safetensors").replace(tmp_path / "model.safetensors")
    with pytest.raises(ModelUnavailable, match="was replaced while it was in use"):
        engine.start()


def test_more_gpus_than_there_are_are_refused():
    with pytest.raises(SettingError, match=r"gpus: 64 from cuda:0 on are not there"):
        TensorParallelDecoder(
            "",
            replace(BASE, n_heads=64, n_kv_heads=64, ffn_hidden=128),
            gpus=64,
            device=torch.device("cuda:0"),
            dtype=torch.float32,
        )


@pytest.mark.parametrize("gpus", [0, 1.5, "two"])
def test_what_is_no_number_of_gpus_is_refused(gpus):
    with pytest.raises(SettingError, match="gpus must be a whole number"):
        ForesightConfig(gpus=gpus)
