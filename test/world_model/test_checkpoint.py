"""Every form in which a checkpoint comes, and every way in which it can be wrong."""

import json
import math
import os
import re
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from cosmos_ros.errors import ModelUnavailable
from cosmos_ros.world_model import ModelSpec, Transformer, TransformerConfig, Yarn, load_transformer
from cosmos_ros.world_model.checkpoint import shard_axis
from cosmos_ros.world_model.config import PUBLISHED_KINDS, transformer_shapes

BASE = TransformerConfig(
    n_layers=2, dim=16, n_heads=4, n_kv_heads=2, head_dim=6, ffn_hidden=20, vocab_in=24, vocab_out=24,
    latent_shape=(3, 2, 2),
)
YARN = Yarn(2, 4, 1, (2, 2, 2))
KINDS = {
    "4B": BASE,
    "5B": replace(BASE, vocab_in=40, context_dim=8),
    "12B": replace(BASE, dim=22, yarn=YARN),
    "13B": replace(BASE, dim=22, vocab_in=40, context_dim=8, yarn=YARN),
}


def make(config):
    torch.manual_seed(0)
    return Transformer(config).eval().requires_grad_(False)


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    return make(KINDS[request.param])


def published_weights(model, dtype=torch.bfloat16):
    """As in the published files: flat, prefixed, bfloat16."""
    return {f"model.{name}": tensor.to(dtype) for name, tensor in model.state_dict().items()}


def write_settings(directory, config):
    settings = {"latent_shape": config.latent_shape}
    if config.yarn:
        settings |= {"apply_yarn": True, "yarn_scale": 2, "yarn_beta_fast": 4, "yarn_beta_slow": 1,
                     "original_latent_shape": [2, 2, 2]}
    (directory / "config.json").write_text(json.dumps(settings))


def logits(model):
    n = model.config.sequence_length
    tokens = torch.arange(n).remainder(model.config.vocab_out)[None]
    context = torch.linspace(-1, 1, 40).view(1, 5, 8) if model.config.has_text else None
    return model(tokens, torch.arange(n), context=context)


def assert_loads_as(path, model, **how):
    loaded = load_transformer(path, **how)
    expected = Transformer(model.config).eval()
    expected.load_state_dict({name: tensor.bfloat16() for name, tensor in model.state_dict().items()})
    assert loaded.config == model.config
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    torch.testing.assert_close(logits(loaded), logits(expected), atol=1e-6, rtol=1e-6)


FORMS = {
    "flat": lambda weights: weights,
    "nested": lambda weights: {"model": weights, "optimizer": {"state": {0: torch.zeros(3)}}, "iteration": 7},
    "no prefix": lambda weights: {name.removeprefix("model."): tensor for name, tensor in weights.items()},
    "extra state": lambda weights: weights | {"model.layers.0.attention._extra_state": torch.zeros(4)},
}


@pytest.mark.parametrize("form", FORMS)
def test_model_pt_in_every_form(model, form, tmp_path):
    torch.save(FORMS[form](published_weights(model)), tmp_path / "model.pt")
    write_settings(tmp_path, model.config)
    assert_loads_as(tmp_path, model)
    assert_loads_as(tmp_path / "model.pt", model)


@pytest.mark.parametrize("form", ["flat", "no prefix", "extra state"])
def test_safetensors_in_every_form(model, form, tmp_path):
    save_file(FORMS[form](published_weights(model)), tmp_path / "model.safetensors")
    write_settings(tmp_path, model.config)
    assert_loads_as(tmp_path, model)
    assert_loads_as(tmp_path / "model.safetensors", model)


def cut(weights, ranks):
    """As the published scripts cut a checkpoint for tensor parallelism."""
    def part(name, tensor, rank):
        axis = shard_axis(name)
        return tensor if axis is None else tensor.chunk(ranks, dim=axis)[rank].clone()

    return [{name: part(name, tensor, rank) for name, tensor in weights.items()} for rank in range(ranks)]


def test_the_axes_of_tensor_parallelism():
    rows = ("attention.wq", "attention.wk", "cross_attention.wv", "feed_forward.w1", "feed_forward.w3")
    assert [shard_axis(f"layers.1.{name}.weight") for name in rows] == [0] * 5
    assert [shard_axis(f"layers.1.{name}.weight") for name in ("attention.wo", "feed_forward.w2")] == [1, 1]
    norms = ("layers.1.attention_norm", "layers.1.cross_attention.q_norm", "norm")
    assert [shard_axis(f"{name}.weight") for name in norms] == [None] * 3
    assert [shard_axis(f"{name}.weight") for name in ("tok_embeddings", "output")] == [0, 0]


@pytest.mark.parametrize("stem", ["model_model_mp", "iter_000012000_model_mp"])
def test_shards_are_merged(model, stem, tmp_path):
    for rank, shard in enumerate(cut(published_weights(model), 2)):
        torch.save(shard, tmp_path / f"{stem}_{rank}.pt")
    write_settings(tmp_path, model.config)
    (tmp_path / "iter_000012000_optim_mp_0.pt").write_bytes(b"not looked at")
    assert_loads_as(tmp_path, model)


def test_what_a_config_says_outranks_what_the_directory_says(tmp_path):
    model = make(BASE)
    torch.save(published_weights(model), tmp_path / "model.pt")
    assert load_transformer(tmp_path).config.latent_shape == (5, 40, 64)        # nothing said: as published
    assert_loads_as(tmp_path, model, config=BASE)


def test_weights_come_in_the_precision_asked_for(tmp_path):
    torch.save(published_weights(make(KINDS["5B"])), tmp_path / "model.pt")
    write_settings(tmp_path, KINDS["5B"])
    loaded = load_transformer(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16} == {loaded.rope_cos.dtype}
    assert {p.dtype for p in load_transformer(tmp_path).parameters()} == {torch.float32}


def write_full_size_header(path, config):
    """A safetensors file of the published size: its data is a hole that takes no disk."""
    header, end = {}, 0
    for name, shape in transformer_shapes(config).items():
        begin, end = end, end + 2 * math.prod(shape)
        header[f"model.{name}"] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


@pytest.mark.parametrize("kind", PUBLISHED_KINDS)
def test_a_published_checkpoint_is_recognised_whatever_its_directory_is_called(kind, tmp_path):
    known = PUBLISHED_KINDS[kind]
    directory = tmp_path / "my_robot_model"
    directory.mkdir()
    write_full_size_header(directory / "model.safetensors", known.config)
    spec = ModelSpec.of_checkpoint(directory)
    assert (spec.name, spec.config, spec.published) == (known.name, known.config, True)
    assert (spec.frame_size, spec.frame_rate) == ((640, 1024), 25.0)
    assert (spec.temperature, spec.top_p) == (1.0, {"4B": 0.8, "5B": 0.7, "12B": 0.9, "13B": 0.8}[kind])
    assert spec.takes_prompt == (kind in ("5B", "13B"))
    assert [spec.new_frames(n) for n in spec.conditioning_lengths] == [24, 32]


@pytest.mark.parametrize("name", ["Cosmos-1.0-Autoregressive-4B", "Cosmos-Predict1-13B-Video2World"])
def test_a_directory_with_a_published_name_counts_as_published(name, tmp_path):
    directory = tmp_path / name
    directory.mkdir()
    torch.save(published_weights(make(BASE)), directory / "model.pt")
    spec = ModelSpec.of_checkpoint(directory)
    assert spec.published and spec.name == name


# --- what is wrong -------------------------------------------------------------------------------------------------

WEIGHTS = published_weights(make(KINDS["5B"]))


def refusal(path, **how):
    with pytest.raises(ModelUnavailable) as refused:
        load_transformer(path, **how)
    return str(refused.value)


def without(*names):
    return {name: tensor for name, tensor in WEIGHTS.items() if name not in names}


@pytest.mark.parametrize("save", [torch.save, save_file], ids=["pt", "safetensors"])
@pytest.mark.parametrize(("weights", "said"), [
    (without("model.layers.1.feed_forward.w2.weight"), [r"missing layers.1.feed_forward.w2.weight \[16, 20\]"]),
    (WEIGHTS | {"model.medusa_head.0.weight": torch.zeros(3)}, [r"unexpected medusa_head.0.weight \[3\]"]),
    (WEIGHTS | {"model.layers.1.attention.wq.weight": torch.zeros(24, 15)},
     [r"layers.1.attention.wq.weight is \[24, 15\], expected \[24, 16\]"]),
    (WEIGHTS | {"model.layers.1.attention.wk.weight": torch.zeros(5, 16), "model.norm.weight": torch.zeros(9)},
     [r"layers.1.attention.wk.weight is \[5, 16\], expected \[12, 16\]", r"norm.weight is \[9\], expected \[16\]"]),
    (WEIGHTS | {"model.output.weight": torch.zeros(24, 16, dtype=torch.int8)},
     ["output.weight is torch.(int8|uint8), expected torch.float"]),
], ids=["missing", "unexpected", "wrong shape", "several", "integers"])
def test_tensors_that_do_not_fit_are_named_with_what_was_expected(weights, said, save, tmp_path):
    file = tmp_path / ("model.pt" if save is torch.save else "model.safetensors")
    save(weights, file)
    for part in said:
        assert re.search(part, refusal(tmp_path))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_weight_that_is_not_finite_is_refused_by_name(value, tmp_path):
    weights = {name: tensor.clone() for name, tensor in WEIGHTS.items()}
    weights["model.layers.1.attention.wo.weight"][3, 5] = value
    torch.save(weights, tmp_path / "model.pt")
    write_settings(tmp_path, KINDS["5B"])
    said = refusal(tmp_path)
    assert "not finite" in said and "layers.1.attention.wo.weight" in said and "wq" not in said


SOME = torch.zeros(2, 2)
OTHER_KINDS = {
    "diffusion": {"net.x_embedder.proj.1.weight": SOME, "logvar.0.freqs": SOME},
    "Hugging Face": {"model.embed_tokens.weight": SOME, "model.layers.0.self_attn.q_proj.weight": SOME},
    "TransformerEngine": {"model.layers.0.self_attention.layernorm_qkv.query_weight": SOME},
    "diffusers": {"transformer_blocks.0.attn1.to_q.weight": SOME},
    "T5": {"shared.weight": SOME, "encoder.block.0.layer.0.SelfAttention.q.weight": SOME},
    "tokenizer": {"encoder.conv_in.weight": SOME, "quantizer._levels": SOME},
    "optimizer": {"state": {0: {"exp_avg": SOME}}, "param_groups": []},
    "trainer state": {"iteration": 3, "grad_scaler": {}},
    "it holds something": {"something": SOME},
    "holds Tensor": SOME,
    "list": [SOME],
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_a_checkpoint_of_another_kind_is_named_for_what_it_is(kind, tmp_path):
    torch.save(OTHER_KINDS[kind], tmp_path / "model.pt")
    assert kind in refusal(tmp_path)


def test_a_torchscript_program_is_named_for_what_it_is(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "model.pt")
    assert "TorchScript" in refusal(tmp_path)


def test_one_shard_of_a_published_checkpoint_is_named_for_what_it_is(tmp_path):
    whole = PUBLISHED_KINDS["4B"].config
    shard = replace(whole, n_heads=8, n_kv_heads=2, ffn_hidden=3584, vocab_in=16000, vocab_out=16000)
    write_full_size_header(tmp_path / "model.safetensors", shard)
    said = refusal(tmp_path)
    assert "tensor-parallel part of the 4B model" in said and "all its shards" in said


@pytest.mark.parametrize(("names", "said"), [
    (["model_model_mp_0.pt", "model_model_mp_2.pt"], "lacks the shard of rank 1"),
    (["model_model_mp_0.pt", "iter_000000010_model_mp_1.pt"], "shards of several checkpoints"),
    (["README.md"], "holds no model.pt or model.safetensors and no shards .* it holds README.md"),
    ([], "it holds nothing"),
])
def test_a_directory_that_is_no_checkpoint_says_what_it_holds(names, said, tmp_path):
    for name in names:
        (tmp_path / name).touch()
    assert re.search(said, refusal(tmp_path))


def test_shards_of_different_checkpoints_are_refused(tmp_path):
    first, second = cut(WEIGHTS, 2)
    torch.save(first, tmp_path / "model_model_mp_0.pt")
    torch.save(second | {"model.norm.weight": torch.full((16,), 2.0)}, tmp_path / "model_model_mp_1.pt")
    assert "disagree on norm.weight" in refusal(tmp_path)
    for other in ({"model.more.weight": SOME}, {"model.output.weight": torch.zeros(12, 17)}):
        torch.save({**second, **other}, tmp_path / "model_model_mp_1.pt")
        assert "hold other tensors" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_a_file_cut_short_is_refused(name, tmp_path):
    file = tmp_path / name
    (torch.save if file.suffix == ".pt" else save_file)(WEIGHTS, file)
    whole = file.read_bytes()
    for size in (0, 5, len(whole) // 2, len(whole) - 30):
        file.write_bytes(whole[:size])
        assert re.search("cut short|damaged", refusal(tmp_path))
        with pytest.raises(ModelUnavailable):
            ModelSpec.of_checkpoint(tmp_path)


def test_a_file_of_noise_is_refused(tmp_path):
    for name in ("model.pt", "model.safetensors"):
        (tmp_path / name).write_bytes(bytes(range(256)) * 50)
        assert "damaged" in refusal(tmp_path / name)


class Payload:
    def __reduce__(self):
        return os.system, ("exit 1",)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    torch.save(WEIGHTS | {"model.extra": Payload()}, tmp_path / "model.pt")
    assert "could run code" in refusal(tmp_path)


def test_a_missing_checkpoint_is_refused(tmp_path):
    assert "does not exist" in refusal(tmp_path / "nothing_here")


@contextmanager
def without_permission(path):
    """Nobody may read it; a superuser, whom that does not stop, is somebody else meanwhile."""
    mode, user = path.stat().st_mode, os.geteuid()
    path.chmod(0)
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        path.chmod(mode)


@pytest.mark.parametrize("what", ["model.pt", "model.safetensors", "."])
def test_a_checkpoint_without_read_permission_is_refused(what, tmp_path):
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.getuid():
            parent.chmod(parent.stat().st_mode | 0o111)
    file = tmp_path / ("model.safetensors" if "safetensors" in what else "model.pt")
    (torch.save if file.suffix == ".pt" else save_file)(WEIGHTS, file)
    with without_permission(tmp_path / what):
        assert "Permission denied" in refusal(tmp_path)


@pytest.mark.parametrize(("text", "said"), [
    ("{", "cannot be read as JSON"), ("[1]", "must hold a JSON object"), ('{"latent_shape": [1]}', "latent_shape"),
    ('{"frame_rate": "fast"}', "frame_rate"), ('{"frame_rate": 0}', "frame_rate"), ('{"top_p": 2}', "top_p"),
    ('{"compression": [8, 16]}', "compression"), ('{"temperature": true}', "temperature"),
])
def test_a_config_json_that_makes_no_sense_is_refused(text, said, tmp_path):
    torch.save(WEIGHTS, tmp_path / "model.pt")
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelUnavailable, match=said):
        ModelSpec.of_checkpoint(tmp_path)
