"""Every form in which a checkpoint comes, and every way in which it can be wrong."""

import json
import math
import os
import random
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from cosmos_ros.errors import ModelUnavailable
from cosmos_ros.world_model import ModelSpec, Transformer, TransformerConfig, Yarn, load_transformer
from cosmos_ros.world_model.checkpoints import transformer_weights
from cosmos_ros.world_model.checkpoints.transformer_weights import shard_axis
from cosmos_ros.world_model.config import PUBLISHED_KINDS, transformer_shapes
from cosmos_ros.world_model.tensor_parallel.sharded_transformer import load_share

BASE = TransformerConfig(
    n_layers=2,
    dim=16,
    n_heads=4,
    n_kv_heads=2,
    head_dim=6,
    ffn_hidden=20,
    vocab_in=24,
    vocab_out=24,
    latent_shape=(3, 2, 2),
)
YARN = Yarn(2, 4, 1, (2, 2, 2))
KINDS = {
    "4B": BASE,
    "5B": replace(BASE, vocab_in=88, context_dim=8),
    "12B": replace(BASE, dim=22, yarn=YARN),
    "13B": replace(BASE, dim=22, vocab_in=88, context_dim=8, yarn=YARN),
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
        settings |= {
            "apply_yarn": True,
            "yarn_scale": 2,
            "yarn_beta_fast": 4,
            "yarn_beta_slow": 1,
            "original_latent_shape": [2, 2, 2],
        }
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
    assert load_transformer(tmp_path).config.latent_shape == (5, 40, 64)  # nothing said: as published
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


def spec_of(directory, config, settings=None):
    """Of a checkpoint with nothing but its header."""
    directory.mkdir()
    write_full_size_header(directory / "model.safetensors", config)
    if settings is not None:
        (directory / "config.json").write_text(json.dumps(settings))
    return ModelSpec.of_checkpoint(directory)


@pytest.mark.parametrize("kind", PUBLISHED_KINDS)
def test_a_published_checkpoint_is_recognised_whatever_its_directory_is_called(kind, tmp_path, caplog):
    known = PUBLISHED_KINDS[kind]
    spec = spec_of(tmp_path / "my_robot_model", known.config)
    assert (spec.name, spec.config, spec.published) == (known.name, known.config, True)
    assert (spec.frame_size, spec.frame_rate) == ((640, 1024), 25.0)
    assert (spec.temperature, spec.top_p) == (1.0, {"4B": 0.8, "5B": 0.7, "12B": 0.9, "13B": 0.8}[kind])
    assert spec.takes_prompt == (kind in ("5B", "13B"))
    assert [spec.new_frames(n) for n in spec.conditioning_lengths] == [24, 32]
    assert not caplog.records


@pytest.mark.parametrize("name", ["Cosmos-1.0-Autoregressive-5B-Video2World", "Cosmos-Predict1-5B-Video2World"])
def test_a_published_checkpoint_keeps_the_published_name_of_its_directory(name, tmp_path, caplog):
    spec = spec_of(tmp_path / name, PUBLISHED_KINDS["5B"].config, {"name": name})
    assert spec.name == name and spec.published and not caplog.records


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("Cosmos-Predict1-12B", {}),
        ("Cosmos-1.0-Autoregressive-4B-mine", {}),
        ("mine", {"name": "mine"}),
        ("mine", {"name": "Cosmos-Predict1-12B"}),
        ("mine", {"name": 17}),
        ("mine", {"name": ["x"]}),
    ],
)
def test_a_published_checkpoint_has_no_other_name_whatever_it_is_called(name, settings, tmp_path, caplog):
    spec = spec_of(tmp_path / name, PUBLISHED_KINDS["4B"].config, settings)
    assert (spec.name, spec.published) == ("Cosmos-1.0-Autoregressive-4B", True)
    [record] = caplog.records
    assert record.levelname == "WARNING" and repr(settings.get("name", name)) in record.getMessage()


@pytest.mark.parametrize(
    "nulls",
    [
        ["name"],
        ["compression", "temperature", "top_p", "frame_rate"],
        ["latent_shape", "rope_theta", "norm_eps", "yarn", "apply_yarn", "n_layers"],
    ],
)
@pytest.mark.parametrize("kind", PUBLISHED_KINDS)
def test_null_in_config_json_says_nothing(kind, nulls, tmp_path, caplog):
    spec = spec_of(tmp_path / "a", PUBLISHED_KINDS[kind].config, dict.fromkeys(nulls))
    assert replace(spec, directory=tmp_path / "b") == spec_of(tmp_path / "b", PUBLISHED_KINDS[kind].config)
    assert spec_of(tmp_path / "c", BASE, dict.fromkeys(nulls)).name == "c" and not caplog.records


@pytest.mark.parametrize("name", ["Cosmos-1.0-Autoregressive-4B", "Cosmos-Predict1-13B-Video2World"])
@pytest.mark.parametrize("where", ["directory", "config.json"])
def test_whatever_has_a_published_name_counts_as_published(name, where, tmp_path):
    spec = spec_of(tmp_path / (name if where == "directory" else "mine"), BASE, {"name": name})
    assert spec.published and spec.name == name


def test_what_is_left_of_a_published_checkpoint_is_refused(tmp_path):
    """And never taken for a model of somebody's own, of which no guardrail would be asked."""
    with pytest.raises(ModelUnavailable, match=r"model.safetensors is an incomplete or altered Cosmos-1.0-.*layers.15"):
        spec_of(tmp_path / "short", replace(PUBLISHED_KINDS["4B"].config, n_layers=15))


# --- what is wrong -------------------------------------------------------------------------------------------------

WEIGHTS = published_weights(make(KINDS["5B"]))


def refusal(path, **how):
    with pytest.raises(ModelUnavailable) as refused:
        load_transformer(path, **how)
    return str(refused.value)


def without(*names):
    return {name: tensor for name, tensor in WEIGHTS.items() if name not in names}


@pytest.mark.parametrize("save", [torch.save, save_file], ids=["pt", "safetensors"])
@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (without("model.layers.1.feed_forward.w2.weight"), [r"missing layers.1.feed_forward.w2.weight \[16, 20\]"]),
        (WEIGHTS | {"model.medusa_head.0.weight": torch.zeros(3)}, [r"unexpected medusa_head.0.weight \[3\]"]),
        (
            WEIGHTS | {"model.layers.1.attention.wq.weight": torch.zeros(24, 15)},
            [r"layers.1.attention.wq.weight is \[24, 15\], expected \[24, 16\]"],
        ),
        (
            WEIGHTS | {"model.layers.1.attention.wk.weight": torch.zeros(5, 16), "model.norm.weight": torch.zeros(9)},
            [
                r"layers.1.attention.wk.weight is \[5, 16\], expected \[12, 16\]",
                r"norm.weight is \[9\], expected \[16\]",
            ],
        ),
        (
            WEIGHTS | {"model.output.weight": torch.zeros(24, 16, dtype=torch.int8)},
            ["holds what is no tensor of float64, .*: output.weight is (int8|I8)$"],
        ),
    ],
    ids=["missing", "unexpected", "wrong shape", "several", "integers"],
)
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


def test_a_checkpoint_of_another_kind_is_named_for_what_it_is(tmp_path):
    torch.save({"net.x_embedder.weight": torch.zeros(2, 2)}, tmp_path / "model.pt")
    assert "is a Cosmos diffusion model" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["model_model_mp_0.pt", "iter_000000010_model_mp_1.pt"], "shards of several checkpoints"),
        (["README.md"], "holds no model.pt or model.safetensors or shards .* it holds README.md"),
        ([], "it holds nothing"),
        (["encoder.jit", "decoder.jit"], "is a video tokenizer's directory"),
    ],
)
def test_a_directory_that_is_no_checkpoint_says_what_it_holds(names, said, tmp_path):
    for name in names:
        (tmp_path / name).touch()
    assert re.search(said, refusal(tmp_path))


def corrupted(whole, dice):
    """Some bytes changed, in the file's headers more often than elsewhere; or a stretch zeroed, or cut out."""
    content = bytearray(whole)
    if dice.random() < 0.75:
        reach = min(len(content), dice.choice([64, 600, 10**6]))
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(reach)
            content[dice.choice([at, -at - 1])] = dice.randrange(256)
    else:
        begin = dice.randrange(len(content))
        end = min(len(content), begin + dice.randrange(1, 600))
        content[begin:end] = bytes(dice.choice([0, end - begin]))
    return bytes(content)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_of_a_damaged_file_comes_nothing_but_a_refusal(name, tmp_path):
    """Or a transformer, where the damage hit the weights' values or nothing that is read."""
    dice, file, refused = random.Random(7), tmp_path / name, 0
    (torch.save if file.suffix == ".pt" else save_file)(published_weights(make(replace(BASE, n_layers=1))), file)
    write_settings(tmp_path, BASE)
    whole = file.read_bytes()
    for _ in range(200):
        file.write_bytes(corrupted(whole, dice))
        try:
            load_transformer(tmp_path)
        except ModelUnavailable:
            refused += 1
    assert refused > 80


# --- what is wrong with shards ---------------------------------------------------------------------------------------

SHARDED = replace(KINDS["5B"], n_heads=16, n_kv_heads=8, ffn_hidden=24, vocab_in=88, vocab_out=24)
SHARDS = {ranks: cut(published_weights(make(SHARDED)), ranks) for ranks in (2, 4, 8)}


def write_shards(directory, shards):
    for rank, shard in shards.items():
        torch.save(shard, directory / f"model_model_mp_{rank}.pt")
    write_settings(directory, SHARDED)


@pytest.mark.parametrize(
    ("ranks", "there"),
    [
        (2, [0]),
        (2, [1]),
        (4, [0]),
        (4, [0, 1, 2]),
        (4, [0, 1, 3]),
        (4, [1, 2, 3]),
        (8, [0, 1, 2, 3, 4, 5]),
        (8, [0, 1, 2, 3, 4, 5, 7]),
    ],
)
def test_some_of_the_shards_are_refused_with_what_is_there_and_what_is_expected(ranks, there, tmp_path):
    write_shards(tmp_path, {rank: SHARDS[ranks][rank] for rank in there})
    names = ", ".join(f"model_model_mp_{rank}.pt" for rank in there)
    assert f"holds the shards {names}; expected one for each rank, 0 to N - 1 for N of 2, 4, 8." in refusal(tmp_path)


@pytest.mark.parametrize(("ranks", "there"), [(4, 2), (8, 2), (8, 4)])
def test_a_possible_number_of_the_shards_is_refused_where_sizes_tell(ranks, there, tmp_path):
    """Of a model with text the vocabularies tell, of one without config.json, of a published one its sizes."""
    write_shards(tmp_path, dict(enumerate(SHARDS[ranks][:there])))
    assert "in tok_embeddings.weight and" in refusal(tmp_path)
    base = cut(published_weights(make(replace(SHARDED, vocab_in=24, context_dim=None))), ranks)
    write_shards(tmp_path, dict(enumerate(base[:there])))
    (tmp_path / "config.json").write_text('{"n_heads": 16}')
    assert "holds less than its config.json says: n_heads is 16" in refusal(tmp_path)


def test_a_shard_that_is_there_twice_is_refused(tmp_path):
    write_shards(tmp_path, {0: SHARDS[2][0], 1: SHARDS[2][1], "01": SHARDS[2][1]})
    assert "holds the shards model_model_mp_0.pt, model_model_mp_01.pt, model_model_mp_1.pt" in refusal(tmp_path)


def test_a_shard_given_as_the_checkpoint_is_refused(tmp_path):
    write_shards(tmp_path, dict(enumerate(SHARDS[2])))
    assert "is one shard of several; give the directory" in refusal(tmp_path / "model_model_mp_0.pt")


def test_shards_of_different_checkpoints_are_refused(tmp_path):
    first, second = SHARDS[2]
    write_shards(tmp_path, {0: first, 1: second | {"model.norm.weight": torch.full((16,), 2.0)}})
    assert "disagree on norm.weight" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model.more.weight": torch.zeros(3)}, "unexpected more.weight [3]"),
        ({"model.output.weight": torch.zeros(12, 17)}, "output.weight is [12, 17], expected [12, 16]"),
        ({"model.layers.1.attention.wq.weight": torch.zeros(40, 16)}, "wq.weight is [40, 16], expected [48, 16]"),
    ],
)
def test_a_shard_that_differs_from_the_first_is_named_with_what_differs(change, said, tmp_path):
    write_shards(tmp_path, {0: SHARDS[2][0], 1: SHARDS[2][1] | change})
    refused = refusal(tmp_path)
    assert "mp_1.pt is no shard of the same checkpoint as model_model_mp_0.pt" in refused and said in refused


@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.1.attention.wq.weight"])
@pytest.mark.parametrize("dtype", [torch.int32, torch.float8_e4m3fn])
def test_every_shards_dtypes_are_looked_at(name, dtype, tmp_path):
    odd = SHARDS[2][1] | {name: SHARDS[2][1][name].to(dtype)}
    write_shards(tmp_path, {0: SHARDS[2][0], 1: odd})
    said = f"model_model_mp_1.pt holds what is no tensor of .*: {name.removeprefix('model.')} is {str(dtype)[6:]}"
    assert re.search(said, refusal(tmp_path))
    with pytest.raises(ModelUnavailable, match=said):
        load_share(tmp_path, SHARDED, 1, 2, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("ranks", [[0], [0, 1]])
def test_a_norm_that_is_not_finite_is_told_as_that_and_not_as_a_disagreement(ranks, tmp_path):
    shards = dict(enumerate(SHARDS[2]))
    for rank in ranks:
        shards[rank] = shards[rank] | {"model.norm.weight": torch.full((16,), math.nan)}
    write_shards(tmp_path, shards)
    assert "holds weights that are not finite: norm.weight" in refusal(tmp_path)


# --- what is wrong with config.json ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read as JSON"),
        pytest.param("[" * 100000, "cannot be read as JSON", id="deep"),
        ("[1]", "must hold a JSON object"),
        ('{"latent_shape": [1]}', "config.json that makes no sense: latent_shape"),
        ('{"latent_shape": [2, 40, 64]}', r"latent_shape \[2, 40, 64\] leaves nothing to predict"),
        ('{"name": 17}', "name must be a text"),
        ('{"name": ""}', "name must be a text"),
        ('{"n_layers": 3}', "n_layers is 3 in config.json and 2 by the tensors"),
        ('{"frame_rate": "fast"}', "frame_rate"),
        ('{"frame_rate": 0}', "frame_rate"),
        ('{"top_p": 2}', "top_p"),
        ('{"top_p": NaN}', "top_p"),
        pytest.param(f'{{"frame_rate": 1{"0" * 400}}}', "frame_rate", id="endless"),
        ('{"compression": [8, 16]}', "compression"),
        ('{"temperature": true}', "temperature"),
    ],
)
def test_a_config_json_that_makes_no_sense_is_refused(text, said, tmp_path):
    torch.save(WEIGHTS, tmp_path / "model.pt")
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelUnavailable, match=said) as refused:
        ModelSpec.of_checkpoint(tmp_path)
    assert str(tmp_path) in str(refused.value), "there may be several checkpoints"


@pytest.mark.parametrize("save", [torch.save, save_file], ids=["pt", "safetensors"])
def test_a_file_that_was_replaced_after_it_was_recognised_is_refused(save, tmp_path):
    """The guardrail was chosen for the model that the file held before."""
    file = tmp_path / ("model.pt" if save is torch.save else "model.safetensors")
    save(published_weights(make(KINDS["4B"])), file)
    write_settings(tmp_path, KINDS["4B"])
    spec = ModelSpec.of_checkpoint(tmp_path)
    load_transformer(spec.checkpoint, spec.config)
    save(WEIGHTS, tmp_path / f"other{file.suffix}")
    (tmp_path / f"other{file.suffix}").replace(file)
    with pytest.raises(ModelUnavailable, match="was replaced while it was in use"):
        load_transformer(spec.checkpoint, spec.config)


def test_a_header_is_read_once_for_a_load(tmp_path, monkeypatch):
    save_file(published_weights(make(KINDS["4B"])), tmp_path / "model.safetensors")
    write_settings(tmp_path, KINDS["4B"])
    read = []
    headers = transformer_weights.read_headers
    monkeypatch.setattr(transformer_weights, "read_headers", lambda file: read.append(file) or headers(file))
    spec = ModelSpec.of_checkpoint(tmp_path)
    load_transformer(spec.checkpoint, spec.config)
    assert read == [tmp_path / "model.safetensors"]


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors", "config.json"])
def test_a_pipe_is_not_opened(name, tmp_path):
    if name == "config.json":
        save_file(WEIGHTS, tmp_path / "model.safetensors")
    os.mkfifo(tmp_path / name)
    assert re.search(rf"{name} is a named pipe, not an ordinary file", refusal(tmp_path))


def test_a_config_json_of_gigabytes_is_not_read(tmp_path):
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(1 << 32)
    assert "config.json is no settings file: 4294967296 bytes" in refusal(tmp_path)
