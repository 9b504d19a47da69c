"""What is no transformer of this family is named for what it is."""

from pathlib import Path

import pytest

from cosmos_ros.errors import ModelUnavailable
from cosmos_ros.world_model.checkpoints.wrong_files import describe_directory, refuse_other_kind

FILES = {
    "Cosmos diffusion model": [
        "net.x_embedder.proj.1.weight",
        "net.t_embedder.1.linear_1.weight",
        "net.final_layer.linear.weight",
        "net.blocks.block0.blocks.0.block.attn.to_q.0.weight",
        "net.extra_pos_embedder.pos_emb_h",
        "net.affline_norm.weight",
    ],
    "TransformerEngine": ["layers.0.self_attention.layernorm_qkv.query_weight"],
    "NeMo (Megatron)": [
        "module.decoder.layers.0.self_attention.linear_qkv.weight",
        "decoder.layers.0.self_attention.linear_qkv.weight",
        "embedding.word_embeddings.weight",
    ],
    "video tokenizer": [
        "encoder.conv_in.0.conv3d.weight",
        "decoder.up.0.block.0.norm1.weight",
        "encoder.patcher3d.wavelets",
        "quantizer._levels",
        "post_quant_conv.conv3d.weight",
        "encoder.entrance.weight",
    ],
    "it holds something": ["something"],
    "it holds encoder": ["encoder.layer.0.attention.self.query.weight"],
    "it holds nothing": [],
}
DIRECTORIES = {
    "video tokenizer": [
        ["encoder.jit", "decoder.jit", "config.json"],
        ["autoencoder.jit"],
        ["mean_std.pt", "encoder.jit", "decoder.jit"],
    ],
    "Cosmos-1.0-Guardrail": [["aegis", "blocklist", "face_blur_filter", "video_content_safety_filter"], ["blocklist"]],
    "NeMo": [["nemo", "README.md"], ["model_weights", "model_config.yaml"], ["cosmos-4b.nemo"]],
    "Hugging Face cache": [["blobs", "refs", "snapshots"]],
    "holds no model.pt; it holds README.md": [["README.md"]],
    "it holds nothing": [[]],
}


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        *((kind, [name]) for kind, names in FILES.items() for name in names),
        *FILES.items(),
    ],
)
def test_a_file_is_named_for_what_it_is(kind, names):
    with pytest.raises(ModelUnavailable) as refused:
        refuse_other_kind(Path("model.pt"), names)
    assert kind in str(refused.value) and "Cosmos autoregressive transformer" in str(refused.value)


def test_a_file_is_of_another_kind_only_if_hardly_any_name_is_a_transformers():
    ours = [f"layers.{layer}.feed_forward.w1.weight" for layer in range(10)]
    refuse_other_kind(Path("model.pt"), ["optimizer", "scheduler", "lm_head.weight", *ours])
    with pytest.raises(ModelUnavailable, match="it holds optimizer.0"):
        refuse_other_kind(Path("model.pt"), [*(f"optimizer.{n}" for n in range(30)), *ours])


@pytest.mark.parametrize("kind", DIRECTORIES)
def test_a_directory_is_named_for_what_it_is(kind):
    for names in DIRECTORIES[kind]:
        assert kind in describe_directory(names, "model.pt")
