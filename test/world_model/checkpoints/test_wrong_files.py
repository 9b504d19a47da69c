"""What is no transformer of this family is named for what it is."""

from pathlib import Path

import pytest

from cosmos_ros.errors import ModelUnavailable
from cosmos_ros.world_model.checkpoints.wrong_files import describe_directory, refuse_other_kind
from cosmos_ros.world_model.config import PUBLISHED_KINDS, transformer_shapes

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
    "SigLIP": ["vision_model.encoder.layers.0.self_attn.q_proj.weight", "text_model.head.weight"],
    "RetinaFace": ["module.body.conv1.weight", "fpn.output1.0.weight"],
    "video content filter": ["network.layers.0.weight"],
    "encoder-decoder in Hugging Face's": ["encoder.layers.0.self_attn.k_proj.weight"],
    "language model in Hugging Face's": ["embed_tokens.weight", "lm_head.weight", "layers.0.self_attn.q_proj.weight"],
    "diffusers": ["transformer_blocks.0.attn1.to_q.weight"],
    "T5": ["shared.weight", "encoder.block.0.layer.0.SelfAttention.q.weight"],
    "video tokenizer": [
        "encoder.conv_in.0.conv3d.weight",
        "decoder.up.0.block.0.norm1.weight",
        "encoder.patcher3d.wavelets",
        "quantizer._levels",
        "post_quant_conv.conv3d.weight",
        "encoder.entrance.weight",
    ],
    "optimizer": ["state", "exp_avg", "param_groups"],
    "trainer state": ["iteration", "grad_scaler"],
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
    "T5": [["config.json", "pytorch_model.bin", "spiece.model", "tokenizer.json"]],
    "NeMo": [["nemo", "README.md"], ["model_weights", "model_config.yaml"], ["cosmos-4b.nemo"]],
    "Cosmos diffusion": [["aux_vars.pt", "config.json"]],
    "diffusers": [["model_index.json", "unet", "vae"]],
    "Hugging Face cache": [["blobs", "refs", "snapshots"]],
    "Hugging Face's layout": [["model-00001-of-00002.safetensors", "config.json"], ["pytorch_model.bin"]],
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
    with pytest.raises(ModelUnavailable, match="optimizer state"):
        refuse_other_kind(Path("model.pt"), [*(f"optimizer.{n}" for n in range(30)), *ours])


@pytest.mark.parametrize("more", [[], ["rope.freqs"]])
def test_a_language_model_whose_names_are_a_transformers_is_named_for_what_it_is(more):
    names = transformer_shapes(PUBLISHED_KINDS["12B"].config)
    refuse_other_kind(Path("model.pt"), [name for name in names if "q_norm" not in name])
    llama = [name for name in names if not name.endswith(("q_norm.weight", "k_norm.weight"))]
    with pytest.raises(ModelUnavailable, match="language model in Meta's key format.*expected a Cosmos autoregressive"):
        refuse_other_kind(Path("model.pt"), [*llama, *more])


@pytest.mark.parametrize("kind", DIRECTORIES)
def test_a_directory_is_named_for_what_it_is(kind):
    for names in DIRECTORIES[kind]:
        assert kind in describe_directory(names, "model.pt")
