"""Where a diffusion decoder is looked for, and what is refused of its files."""

import pickle
from dataclasses import replace

import pytest
import torch

from cosmos_ros.errors import ModelUnavailable
from cosmos_ros.world_model.diffusion_decoder.config import (
    COMPRESSION,
    PUBLISHED,
    config_from_shapes,
    require_decodable,
    tensor_shapes,
)
from cosmos_ros.world_model.diffusion_decoder.decoder import load_diffusion_decoder
from cosmos_ros.world_model.diffusion_decoder.files import (
    FAMILIES,
    PROGRAM,
    STATISTICS,
    TEXT,
    find_diffusion_decoder,
    load_diffusion_transformer,
    open_diffusion_decoder,
    read_text,
)
from cosmos_ros.world_model.diffusion_decoder.sampler import EULER, MULTISTEP
from cosmos_ros.world_model.tokenizer.chunking import Chunking

COSMOS_1, PREDICT_1 = FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_either_releases_folders_are_found_and_bring_its_sampler(family, write_diffusion_decoder, tmp_path):
    folder = write_diffusion_decoder(tmp_path, family)
    found = find_diffusion_decoder(tmp_path / "my model")
    assert (found.weights.parent, found.tokenizer) == (folder, tmp_path / family.tokenizer)
    assert found.solver is (MULTISTEP if family is COSMOS_1 else EULER)
    assert load_diffusion_decoder(folder).solver is found.solver


@pytest.mark.parametrize(
    ("checkpoint", "family"),
    [("Cosmos-1.0-Autoregressive-4B", COSMOS_1), ("Cosmos-Predict1-4B", PREDICT_1), ("my own", PREDICT_1)],
)
def test_of_two_decoders_the_checkpoints_own_release_is_taken(checkpoint, family, write_diffusion_decoder, tmp_path):
    for each in FAMILIES:
        write_diffusion_decoder(tmp_path, each)
    assert find_diffusion_decoder(tmp_path / checkpoint).weights.parent.name == family.decoder


def test_a_decoder_inside_the_checkpoint_and_the_tokenizer_of_the_other_release_will_do(
    write_diffusion_decoder, tmp_path
):
    write_diffusion_decoder(tmp_path / "model", COSMOS_1)
    (tmp_path / "model" / COSMOS_1.tokenizer).rename(tmp_path / "model" / PREDICT_1.tokenizer)
    assert find_diffusion_decoder(tmp_path / "model").tokenizer.name == PREDICT_1.tokenizer


def test_what_is_missing_is_named_with_where_it_was_looked_for_and_how_to_fetch_it(write_diffusion_decoder, tmp_path):
    with pytest.raises(ModelUnavailable, match=f"needs a diffusion decoder: no {tmp_path}") as refusal:
        find_diffusion_decoder(tmp_path / "model")
    assert all(family.decoder in str(refusal.value) for family in FAMILIES)
    assert f"hf download nvidia/{COSMOS_1.decoder}" in str(refusal.value)
    write_diffusion_decoder(tmp_path)
    (tmp_path / COSMOS_1.tokenizer).rename(tmp_path / "elsewhere")
    with pytest.raises(ModelUnavailable, match=f"needs the continuous tokenizer: no .*{PREDICT_1.tokenizer}"):
        find_diffusion_decoder(tmp_path / "model")


@pytest.mark.parametrize(
    "part", ["decoder/model.pt", "decoder/aux_vars.pt", "tokenizer/decoder.jit", "tokenizer/mean_std.pt"]
)
def test_a_folder_without_one_of_its_files_is_refused_before_anything_is_loaded(
    part, write_diffusion_decoder, tmp_path
):
    write_diffusion_decoder(tmp_path)
    kind, name = part.split("/")
    (tmp_path / getattr(COSMOS_1, kind) / name).unlink()
    with pytest.raises(ModelUnavailable, match=f"{name} does not exist; .*hf download"):
        find_diffusion_decoder(tmp_path / "model")


def test_a_config_comes_from_the_shapes_and_the_published_one_is_known():
    published = tensor_shapes(PUBLISHED)
    assert config_from_shapes(published) == PUBLISHED
    own = replace(PUBLISHED, n_blocks=3, dim=64, n_heads=2, head_dim=32, hidden=96)
    assert config_from_shapes(tensor_shapes(own)) == own


def test_a_model_whose_frames_are_larger_than_the_decoder_has_positions_for_is_refused():
    require_decodable(Chunking((5, 120, 120), COMPRESSION))
    with pytest.raises(ModelUnavailable, match=r"at most 1920 pixels along a side, and the model's are \(640, 1936\)"):
        require_decodable(Chunking((5, 40, 121), COMPRESSION))


def test_a_published_decoder_with_missing_or_altered_tensors_is_refused_as_such():
    shapes = tensor_shapes(PUBLISHED)
    cut = {name: shape for name, shape in shapes.items() if "block27" not in name}
    with pytest.raises(ValueError, match="incomplete or altered Cosmos diffusion decoder.*missing net.blocks.block27"):
        config_from_shapes(cut)
    with pytest.raises(ValueError, match=r"x_embedder.proj.1.weight is \[4096, 68\], expected \[4096, 196\]"):
        config_from_shapes(shapes | {"net.x_embedder.proj.1.weight": (4096, 68)})


def saved(folder, change):
    weights = torch.load(folder / "model.pt", weights_only=True)
    torch.save(change(weights), folder / "model.pt")
    return folder


@pytest.mark.parametrize("nested", [False, True])
def test_half_precision_extra_state_and_nesting_are_read(nested, diffusion_decoder, write_diffusion_decoder, tmp_path):
    def change(weights):
        weights = {name: weight.bfloat16() for name, weight in weights.items()}
        weights["net.blocks.block0.blocks.0.block.attn.to_q.1._extra_state"] = torch.zeros(0)
        weights["net.pos_embedder.dim_spatial_range"] = torch.zeros(2)
        return {"model": weights, "iteration": 3} if nested else weights

    network = load_diffusion_transformer(saved(write_diffusion_decoder(tmp_path), change), dtype=torch.float32)
    whole = load_diffusion_transformer(diffusion_decoder / "model.pt")
    for name, weight in whole.state_dict().items():
        assert torch.equal(network.state_dict()[name], weight.bfloat16().float()), name


QUERY = "net.blocks.block1.blocks.0.block.attn.to_q.0.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {k: v for k, v in w.items() if k != QUERY}, f"missing {QUERY}"),
        (lambda w: w | {"net.extra_pos_embedder.pos_emb_t": torch.zeros(2)}, "unexpected net.extra_pos_embedder"),
        (lambda w: w | {QUERY: w[QUERY][:, :5]}, rf"{QUERY} is \[32, 5\], expected \[32, 32\]"),
        (lambda w: w | {QUERY: w[QUERY].long()}, f"no tensor of float64.*{QUERY} is int64"),
        (lambda w: w | {QUERY: torch.ones(1).expand(32, 32)}, f"{QUERY} is repeated numbers"),
        (lambda w: w | {QUERY: w[QUERY] * float("inf")}, r"not finite: blocks.1.attention.wq.weight"),
        (lambda w: {"layers.0.attention.wq.weight": torch.zeros(2, 2)}, "missing, or not of any use: net."),
        (lambda w: [1, 2], "holds list"),
    ],
)
def test_weights_that_are_not_those_of_a_decoder_are_refused(change, message, write_diffusion_decoder, tmp_path):
    folder = saved(write_diffusion_decoder(tmp_path), change)
    with pytest.raises(ModelUnavailable, match=message) as refusal:
        load_diffusion_decoder(folder)
    assert "model.pt" in str(refusal.value)


class Hostile:
    def __reduce__(self):
        return (print, ("this would run",))


@pytest.mark.parametrize("name", ["model.pt", "aux_vars.pt"])
def test_a_file_that_could_run_code_or_was_cut_is_refused(name, write_diffusion_decoder, tmp_path, capsys):
    folder = write_diffusion_decoder(tmp_path)
    whole = (folder / name).read_bytes()
    torch.save({"context": Hostile()}, folder / name, pickle_module=pickle)
    with pytest.raises(ModelUnavailable, match="could run code when loaded; refused"):
        load_diffusion_decoder(folder)
    assert "this would run" not in capsys.readouterr().out
    (folder / name).write_bytes(whole[:-100])
    with pytest.raises(ModelUnavailable, match=f"{name} is damaged or cut short"):
        load_diffusion_decoder(folder)
    (folder / name).unlink()
    with pytest.raises(ModelUnavailable, match=f"{name} does not exist"):
        load_diffusion_decoder(folder)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"context_mask": torch.ones(1, 4)}, "no floating-point tensor `context`"),
        ({"context": torch.ones(1, 4, 16, dtype=torch.int64)}, "no floating-point tensor `context`"),
        ({"context": torch.ones(1, 4, 15)}, r"context is \[1, 4, 15\], expected \[1, positions, 16\]"),
        ({"context": torch.full((1, 4, 16), float("nan"))}, "no finite number"),
        ({"context": torch.ones(1, 4, 16).to(torch.float8_e4m3fn)}, "no floating-point tensor `context`"),
        ({"context": torch.ones(1, 4, 16).to_sparse()}, "no floating-point tensor `context`"),
        ({"context": torch.ones(1, 4, 16, device="meta")}, "no floating-point tensor `context`"),
        ({"context": torch.nested.nested_tensor([torch.ones(4, 16)])}, "no floating-point tensor `context`"),
        ({"context": torch.ones(1).expand(1, 10**12, 16)}, "no floating-point tensor `context`"),  # 64 TB in 1 kB
    ],
)
def test_a_text_that_is_none_is_refused(entries, message, tmp_path):
    torch.save(entries, tmp_path / "aux_vars.pt")
    with pytest.raises(ModelUnavailable, match=message):
        read_text(tmp_path, 16)


def test_weights_that_were_exchanged_since_they_were_recognised_are_refused(write_diffusion_decoder, tmp_path):
    found = open_diffusion_decoder(write_diffusion_decoder(tmp_path / "a"), None, EULER)
    write_diffusion_decoder(tmp_path / "b", hidden=64).joinpath("model.pt").replace(found.weights)
    with pytest.raises(ModelUnavailable, match="was replaced while it was in use"):
        load_diffusion_decoder(found)


@pytest.mark.parametrize(
    ("name", "entries"),
    [(TEXT, {"context": torch.ones(1, 4, 15)}), (f"../{COSMOS_1.tokenizer}/{STATISTICS}", [torch.ones(100)] * 2)],
)
def test_the_small_files_are_read_before_anything_is_loaded(name, entries, write_diffusion_decoder, tmp_path):
    torch.save(entries, write_diffusion_decoder(tmp_path) / name)
    with pytest.raises(ModelUnavailable, match=name):
        find_diffusion_decoder(tmp_path / "model")


def test_a_given_config_lets_no_other_kind_of_number_in(write_diffusion_decoder, tmp_path):
    folder = write_diffusion_decoder(tmp_path)
    config = open_diffusion_decoder(folder, None, EULER).config
    saved(folder, lambda w: w | {QUERY: w[QUERY].long()})
    with pytest.raises(ModelUnavailable, match=f"{QUERY} is int64"):
        load_diffusion_decoder(folder, config)


def test_a_link_to_a_decoder_brings_its_releases_sampler(write_diffusion_decoder, tmp_path):
    (tmp_path / "decoder").symlink_to(write_diffusion_decoder(tmp_path, PREDICT_1))
    assert load_diffusion_decoder(tmp_path / "decoder").solver is EULER


def test_a_program_that_is_cut_or_could_do_more_than_compute_is_refused_before_anything_is_loaded(
    write_diffusion_decoder, tmp_path
):
    class Writes(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch.save(x, "somewhere")
            return x

    write_diffusion_decoder(tmp_path)
    program = tmp_path / COSMOS_1.tokenizer / PROGRAM
    program.write_bytes(program.read_bytes()[:-100])
    with pytest.raises(ModelUnavailable, match="decoder.jit is no TorchScript program, or is damaged or cut short"):
        find_diffusion_decoder(tmp_path / "model")
    torch.jit.script(Writes()).save(str(program))
    with pytest.raises(ModelUnavailable, match="decoder.jit is refused: it holds a program that could"):
        find_diffusion_decoder(tmp_path / "model")
