"""The text encoder on a tiny T5 of the published format, in both layouts, loaded by the code that loads the 11B."""

import contextlib
import json
import logging
import os
import resource
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cosmos_ros.device.out_of_memory import out_of_memory_as_error
from cosmos_ros.device.placement import DeviceMemory, Part
from cosmos_ros.device.plan import MemoryPlan
from cosmos_ros.errors import InvalidGoal, ModelUnavailable, OutOfMemory
from cosmos_ros.pipeline import PIPELINE
from cosmos_ros.world_model.t5 import T5, find_t5, identity_of, reading_t5, t5_need
from cosmos_ros.world_model.text_encoder import TextEncoder, write_embeddings

transformers = pytest.importorskip("transformers", reason="the text extra is not installed (requirements/text.txt)")
sentencepiece = pytest.importorskip("sentencepiece", reason="the text extra is not installed (requirements/text.txt)")

PROMPT = "a robot arm moves a red cube over the table"
WIDTH = 16
TOO_LONG = "x" * 300  # no file system looks up such a name: an error even for root, whom permissions do not stop
LAYOUTS = {
    "predict1": "google-t5/t5-11b",
    "cosmos-1.0": "models--google-t5--t5-11b/snapshots/90f37703b3334dfe9d2b009bfcbfbf1ac9d28ea3",
}


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory):
    """A T5 of two layers with random weights, encoder and decoder in pytorch_model.bin, and a sentencepiece model."""
    folder = tmp_path_factory.mktemp("t5")
    text = folder / "text.txt"
    text.write_text("\n".join([PROMPT, "the camera drives along a corridor", "boxes fall from a shelf"] * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "spiece"),
        vocab_size=38,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    text.unlink()
    (folder / "spiece.vocab").unlink()
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=192, d_model=WIDTH, d_kv=4, d_ff=32, num_layers=2, num_heads=4, feed_forward_proj="relu"
    )
    model = transformers.T5ForConditionalGeneration(config)
    config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder


@pytest.fixture
def place(t5_folder, tmp_path):
    """Put the T5 beside a checkpoint, in a layout; the checkpoint's directory."""

    def put(layout="predict1"):
        checkpoint = tmp_path / "checkpoints" / "Cosmos-1.0-Autoregressive-5B-Video2World"
        checkpoint.mkdir(parents=True)
        shutil.copytree(t5_folder, checkpoint.parent / LAYOUTS[layout])
        return checkpoint

    return put


def encoder(checkpoint, tmp_path, **options):
    return TextEncoder.for_checkpoint(checkpoint, width=WIDTH, cache=tmp_path / "cache", **options)


def expected(folder, prompt):
    """The facts, step by step: 512 positions, the prompt's hidden states, zeros after them."""
    tokenizer = transformers.T5TokenizerFast.from_pretrained(str(folder))
    model = transformers.T5EncoderModel.from_pretrained(str(folder), dtype=torch.float32).eval()
    tokens = tokenizer(prompt, max_length=512, padding="max_length", truncation=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**tokens).last_hidden_state
    hidden[:, int(tokens["attention_mask"].sum()) :] = 0
    return hidden.bfloat16()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_context_is_the_published_one_in_both_layouts(layout, place, t5_folder, tmp_path):
    context = encoder(place(layout), tmp_path).encode(PROMPT)
    assert context.shape == (1, 512, WIDTH) and context.dtype == torch.bfloat16
    assert torch.equal(context, expected(t5_folder, PROMPT))
    n = int(context[0].abs().sum(-1).count_nonzero())
    assert 5 < n < 100 and not context[0, n:].any()


def test_a_long_prompt_is_cut_at_512_positions(place, t5_folder, tmp_path):
    prompt = " ".join([PROMPT] * 60)
    context = encoder(place(), tmp_path).encode(prompt)
    assert context[0].abs().sum(-1).count_nonzero() == 512
    assert torch.equal(context, expected(t5_folder, prompt))


def test_safetensors_give_what_the_bin_gives(place, tmp_path):
    checkpoint = place()
    context = encoder(checkpoint, tmp_path).encode(PROMPT)
    folder = checkpoint.parent / LAYOUTS["predict1"]
    state = torch.load(folder / "pytorch_model.bin")
    (folder / "pytorch_model.bin").unlink()
    save_file({key: tensor.clone() for key, tensor in state.items()}, folder / "model.safetensors", {"format": "pt"})
    assert torch.equal(encoder(checkpoint, tmp_path / "other").encode(PROMPT), context)


def test_a_fast_tokenizer_file_gives_what_the_sentencepiece_model_gives(place, tmp_path):
    checkpoint = place()
    context = encoder(checkpoint, tmp_path).encode(PROMPT)
    folder = checkpoint.parent / LAYOUTS["predict1"]
    transformers.AutoTokenizer.from_pretrained(str(folder)).save_pretrained(folder)
    assert (folder / "tokenizer.json").is_file()
    (folder / "spiece.model").unlink()
    assert torch.equal(encoder(checkpoint, tmp_path / "other").encode(PROMPT), context)


def test_a_known_prompt_needs_no_t5_in_memory_or_after_a_restart(place, tmp_path, monkeypatch):
    checkpoint = place()
    first = encoder(checkpoint, tmp_path)
    context = first.encode(PROMPT)
    monkeypatch.setattr(T5, "_load", lambda self: pytest.fail("T5 was loaded for a prompt that is known"))
    assert torch.equal(first.encode(PROMPT), context)
    assert torch.equal(encoder(checkpoint, tmp_path).encode(PROMPT), context)


def test_other_weights_do_not_answer_from_the_cache(place, tmp_path):
    checkpoint = place()
    context = encoder(checkpoint, tmp_path).encode(PROMPT)
    file = checkpoint.parent / LAYOUTS["predict1"] / "pytorch_model.bin"
    identity = identity_of(file.parent)
    state = torch.load(file)
    torch.save({key: tensor + 0.1 for key, tensor in state.items()}, file)
    assert identity_of(file.parent) != identity
    assert not torch.equal(encoder(checkpoint, tmp_path).encode(PROMPT), context)


def test_a_damaged_cache_file_is_made_anew(place, tmp_path, caplog):
    checkpoint = place()
    context = encoder(checkpoint, tmp_path).encode(PROMPT)
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(file.read_bytes()[:-7])
    with caplog.at_level(logging.WARNING):
        assert torch.equal(encoder(checkpoint, tmp_path).encode(PROMPT), context)
    assert "cannot be used and is made anew" in caplog.text
    assert load_file(file)["embedding"].shape[1] == WIDTH


def test_a_cache_that_cannot_be_written_does_not_stop_the_prompt(place, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file where the directory should be")
    assert encoder(place(), tmp_path).encode(PROMPT).shape == (1, 512, WIDTH)
    assert "could not be kept" in caplog.text


def test_a_cache_that_cannot_be_looked_at_does_not_stop_the_prompt(place, tmp_path, caplog):
    text = TextEncoder.for_checkpoint(place(), width=WIDTH, cache=tmp_path / TOO_LONG)
    assert text.encode(PROMPT).shape == (1, 512, WIDTH)
    assert "cannot be used and is made anew" in caplog.text and "could not be kept" in caplog.text


def test_a_full_disk_does_not_stop_the_prompt_and_keeps_no_half_of_it(place, tmp_path, caplog):
    text = encoder(place(), tmp_path)
    text.encode(PROMPT)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        assert text.encode("boxes fall").shape == (1, 512, WIDTH)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "could not be kept" in caplog.text
    assert len(list((tmp_path / "cache").iterdir())) == 1, "the first prompt's file alone"


def test_nothing_but_whole_files_is_left_in_the_cache(place, tmp_path):
    text = encoder(place(), tmp_path)
    for prompt in (PROMPT, PROMPT + " slowly"):
        text.encode(prompt)
    files = sorted((tmp_path / "cache").iterdir())
    assert len(files) == 2 and all(file.suffix == ".safetensors" for file in files)


def test_t5_leaves_its_device_between_prompts_where_the_plan_parks_it(place, tmp_path):
    memory = DeviceMemory("cpu", MemoryPlan("balanced", (), PIPELINE, parked=frozenset({"text encoder"})))
    text = encoder(place(), tmp_path, memory=memory)
    context = text.encode(PROMPT)
    other = text.encode("boxes fall")
    assert not torch.equal(context, other)
    assert torch.equal(encoder(tmp_path / "checkpoints" / "x", tmp_path / "fresh").encode("boxes fall"), other)


def test_a_parked_t5_comes_block_by_block(place, tmp_path, monkeypatch):
    there, most = [], []

    class Watched(Part):
        @contextlib.contextmanager
        def in_use(self):
            with super().in_use() as network:
                there.append(network)
                most.append(len(there))
                yield network
                there.remove(network)

    monkeypatch.setattr("cosmos_ros.device.placement.Part", Watched)
    memory = DeviceMemory("cpu", MemoryPlan("low", (), PIPELINE, parked=frozenset({"text encoder"}), exclusive=True))
    encoder(place(), tmp_path, memory=memory).encode(PROMPT)
    assert most == [1, 2, 2], "the embedding with the last norm, and one block after the other"


def test_precomputed_embeddings_serve_without_t5(place, tmp_path):
    context = encoder(place(), tmp_path).encode(PROMPT)
    robot = tmp_path / "robot" / "checkpoint"
    robot.mkdir(parents=True)
    write_embeddings(robot / "text_embeddings.safetensors", {PROMPT: context})
    text = encoder(robot, tmp_path / "fresh")
    assert torch.equal(text.encode(PROMPT), context)
    with pytest.raises(ModelUnavailable, match="no precomputed embedding is named by this prompt.*t5-11b"):
        text.encode("another prompt")


def test_neither_t5_nor_embeddings_is_refused_at_once_with_the_remedy(tmp_path):
    with pytest.raises(ModelUnavailable, match="hf download google-t5/t5-11b"):
        encoder(tmp_path / "checkpoint", tmp_path)


@pytest.mark.parametrize(("file", "kind"), [("pytorch_model.bin", "weights"), ("spiece.model", "tokenizer")])
def test_a_t5_folder_that_is_not_whole_is_refused_at_once(file, kind, place, tmp_path):
    checkpoint = place()
    (checkpoint.parent / LAYOUTS["predict1"] / file).unlink()
    with pytest.raises(ModelUnavailable, match=f"holds no {kind} .+hf download google-t5/t5-11b"):
        encoder(checkpoint, tmp_path)


@pytest.mark.parametrize("file", ["pytorch_model.bin", "spiece.model"])
def test_an_empty_t5_file_is_refused_at_once(file, place, tmp_path):
    checkpoint = place()
    (checkpoint.parent / LAYOUTS["predict1"] / file).write_bytes(b"")
    with pytest.raises(ModelUnavailable, match=f"{file} is empty: .+hf download google-t5/t5-11b"):
        encoder(checkpoint, tmp_path)


def test_a_tokenizer_with_more_tokens_than_t5_knows_is_refused(place, tmp_path):
    """This one has 38 and, as T5's have, 100 extra."""
    checkpoint = place()
    file = checkpoint.parent / LAYOUTS["predict1"] / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"vocab_size": 137}))
    with pytest.raises(ModelUnavailable, match="tokenizer of 138 tokens, and its model knows 137: one .+hf download"):
        encoder(checkpoint, tmp_path).encode(PROMPT)


def test_a_prompt_that_is_no_text_is_an_invalid_goal(place, tmp_path):
    text = encoder(place(), tmp_path)
    with pytest.raises(InvalidGoal, match=r"character 2 is '\\ud800'.+UTF-8"):
        text.encode("a\ud800b")
    assert text.encode("\N{ROBOT FACE} \0 \u65e5").shape == (1, 512, WIDTH)


@pytest.mark.parametrize(
    ("tensor", "complaint"),
    [
        (torch.zeros(4, WIDTH + 1), r"shape \[4, 17\]; the model expects \[1..512, 16\]"),
        (torch.zeros(513, WIDTH), r"shape \[513, 16\]"),
        (torch.full((4, WIDTH), float("nan")), "not finite"),
        (torch.ones(4, WIDTH, dtype=torch.int8), "an embedding of torch.int8; the model expects floating-point"),
    ],
)
def test_precomputed_embeddings_of_another_kind_are_refused_by_name(tensor, complaint, tmp_path):
    file = tmp_path / "embeddings.safetensors"
    save_file({PROMPT: tensor}, file)
    with pytest.raises(ModelUnavailable, match=complaint):
        encoder(tmp_path / "checkpoint", tmp_path, embeddings=file)


def test_a_t5_of_another_width_is_refused(place, tmp_path):
    text = TextEncoder.for_checkpoint(place(), width=32, cache=tmp_path / "cache")
    with pytest.raises(ModelUnavailable, match=r"the model expects \[1..512, 32\]"):
        text.encode(PROMPT)


def test_a_t5_that_lacks_a_tensor_is_refused_by_its_name(place, tmp_path):
    checkpoint = place()
    file = checkpoint.parent / LAYOUTS["predict1"] / "pytorch_model.bin"
    state = torch.load(file)
    del state["encoder.block.1.layer.0.SelfAttention.q.weight"]
    torch.save(state, file)
    with pytest.raises(ModelUnavailable, match=r"missing keys .*encoder\.block\.1\.layer\.0\.SelfAttention\.q\.weight"):
        encoder(checkpoint, tmp_path).encode(PROMPT)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "spiece.model", "config.json"])
def test_a_truncated_t5_file_is_model_unavailable(name, place, tmp_path):
    checkpoint = place()
    file = checkpoint.parent / LAYOUTS["predict1"] / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ModelUnavailable, match="cannot be read"):
        encoder(checkpoint, tmp_path).encode(PROMPT)


def test_t5_weights_that_cannot_be_read_are_named(place, tmp_path):
    checkpoint = place()
    file = checkpoint.parent / LAYOUTS["predict1"] / "pytorch_model.bin"
    file.unlink()
    file.symlink_to("/proc/self/mem")  # opens, and gives an error when it is read
    with pytest.raises(ModelUnavailable, match=r"pytorch_model\.bin cannot be read: Input/output error"):
        encoder(checkpoint, tmp_path)


@pytest.mark.parametrize("name", ["google-t5", "google-t5/t5-11b", "google-t5/t5-11b/pytorch_model.bin"])
def test_what_this_user_may_not_read_is_named_with_the_remedy(name, place, tmp_path, without_permission):
    checkpoint = place()
    for file in checkpoint.parent.rglob("*"):
        file.chmod(0o755)  # what transformers writes is its user's alone
    with (
        without_permission(checkpoint.parent / name),
        pytest.raises(ModelUnavailable, match=f"{name}.+Permission denied.+let this user read it"),
    ):
        encoder(checkpoint, tmp_path)


def test_a_place_that_cannot_be_looked_at_is_named(tmp_path):
    with pytest.raises(ModelUnavailable, match=r"x/.* cannot be read: File name too long"):
        find_t5(tmp_path / TOO_LONG / "checkpoint")


def test_a_revision_of_the_hub_cache_that_is_no_text_is_named(place):
    checkpoint = place("cosmos-1.0")
    revision = checkpoint.parent / "models--google-t5--t5-11b" / "refs" / "main"
    revision.parent.mkdir()
    revision.write_bytes(b"\xff\xfe")
    with pytest.raises(ModelUnavailable, match="refs/main cannot be read .+hf download"):
        find_t5(checkpoint)


def test_a_pipe_in_a_t5_folder_is_refused_and_not_waited_for(place, tmp_path):
    checkpoint = place()
    os.mkfifo(checkpoint.parent / LAYOUTS["predict1"] / "special_tokens_map.json")
    with pytest.raises(ModelUnavailable, match=r"special_tokens_map\.json is a named pipe, not an ordinary file"):
        encoder(checkpoint, tmp_path)


def test_several_snapshots_are_refused_unless_the_cache_says_which_counts(place, t5_folder):
    """The first by name was taken, which is as good as drawing one."""
    checkpoint = place("cosmos-1.0")
    cache = checkpoint.parent / "models--google-t5--t5-11b"
    shutil.copytree(t5_folder, cache / "snapshots" / "1234")
    with pytest.raises(ModelUnavailable, match=r"holds 2 usable snapshots of google-t5/t5-11b, where one is needed"):
        find_t5(checkpoint)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("1234\n")
    assert find_t5(checkpoint) == cache / "snapshots" / "1234"


def test_a_reader_without_memory_is_out_of_memory_and_not_a_damaged_file():
    with (
        pytest.raises(OutOfMemory, match="can't allocate memory"),
        out_of_memory_as_error("reading"),
        reading_t5(Path("pytorch_model.bin")),
    ):
        torch.empty(2**50, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("encoder.final_layer_norm.weight", float("nan")),
        ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", -float("inf")),  # its output is finite
    ],
)
def test_t5_weights_that_are_not_finite_are_refused_and_not_cached(name, value, place, tmp_path):
    checkpoint = place()
    file = checkpoint.parent / LAYOUTS["predict1"] / "pytorch_model.bin"
    state = torch.load(file)
    state[name].view(-1)[0] = value
    torch.save(state, file)
    with pytest.raises(ModelUnavailable, match=f"not finite: {name}"):
        encoder(checkpoint, tmp_path).encode(PROMPT)
    assert not (tmp_path / "cache").exists()


def test_the_size_of_t5_is_known_without_loading_it(t5_folder, tmp_path):
    module = transformers.T5EncoderModel.from_pretrained(str(t5_folder), dtype=torch.float32)
    actual = sum(p.nbytes for p in module.parameters())
    assert t5_need(t5_folder).weights == pytest.approx(actual, rel=0.1)  # norms and position biases are left out
    published = {"vocab_size": 32128, "d_model": 1024, "d_kv": 128, "d_ff": 65536, "num_layers": 24, "num_heads": 128}
    (tmp_path / "config.json").write_text(json.dumps(published))
    need = t5_need(tmp_path)
    assert need.weights == pytest.approx(19.46e9, rel=0.01)
    assert need.piece == pytest.approx(0.94e9, rel=0.01), "where it waits in host memory"


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (b'{"vocab_size": 32', "cannot be read"),
        (b'"T5"', "cannot be read"),
        (b"\xff\xfe{", "cannot be read"),
        (b"{}", "no positive whole number as vocab_size, d_model, d_kv, d_ff, num_layers, num_heads"),
        (
            b'{"vocab_size": 9, "d_model": 8, "d_kv": 4, "d_ff": 32, "num_layers": "2", "num_heads": 0}',
            "no positive whole number as num_layers, num_heads",
        ),
    ],
)
def test_a_damaged_config_of_t5_is_named_with_the_fault_and_the_remedy(config, complaint, tmp_path):
    (tmp_path / "config.json").write_bytes(config)
    with pytest.raises(ModelUnavailable, match=rf"config\.json .*{complaint}.+hf download"):
        t5_need(tmp_path)
