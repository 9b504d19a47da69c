"""SAM 2 is asked as its library wants to be asked. Its weights are not here: the networks are random, and small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

transformers = pytest.importorskip("transformers", minversion="4.57", reason="SAM 2 needs requirements/sam2.txt")

from cosmos_ros.benchmarks.sam2 import WEIGHTS, NoSam2, Sam2, _labels  # noqa: E402

pytestmark = pytest.mark.slow

SIDE, WIDTH = 128, 128
PICTURE = (40, 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A checkpoint of SAM 2 in miniature. Do not change its files."""
    folder = tmp_path_factory.mktemp("sam2")
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "image_size": [SIDE, SIDE],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 1, 1],
        "global_attention_blocks": [3],
    }
    vision = {
        "model_type": "sam2_vision_model",
        "backbone_config": backbone,
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[SIDE // 4] * 2, [SIDE // 8] * 2, [SIDE // 16] * 2],
        "fpn_hidden_size": WIDTH,
    }
    torch.manual_seed(0)
    config = transformers.Sam2VideoConfig(
        image_size=SIDE,
        vision_config=vision,
        prompt_encoder_config={"hidden_size": WIDTH, "image_size": SIDE},
        mask_decoder_config={"hidden_size": WIDTH, "mlp_dim": 32, "iou_head_hidden_dim": 32},
        memory_attention_hidden_size=WIDTH,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=32,
        memory_attention_rope_feat_sizes=[SIDE // 16] * 2,
        memory_encoder_hidden_size=WIDTH,
        mask_downsampler_embed_dim=WIDTH,
        memory_fuser_embed_dim=WIDTH,
        memory_fuser_intermediate_dim=32,
    )
    transformers.Sam2VideoModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sam2(folder) -> Sam2:
    return Sam2(folder, "cpu")


@pytest.fixture
def mask() -> np.ndarray:
    """Objects 1 and 3; another one, 2, is hidden."""
    mask = np.zeros(PICTURE, np.uint8)
    mask[4:20, 6:30], mask[18:36, 40:60] = 3, 1
    return mask


def test_the_objects_that_it_is_shown_are_those_of_the_mask(sam2, mask, moving_scene):
    (frame,) = moving_scene(1, *PICTURE)
    session = sam2._session(frame, mask, [1, 3])
    given = sam2._model(session, frame_idx=0).pred_masks[:, 0]
    told = _labels(given, [1, 3], mask.shape)
    assert (told != mask).mean() < 0.05, "except at their edges, which are of a coarser grid"


def test_it_looks_for_these_and_no_others_in_every_frame_always_alike(sam2, mask, moving_scene):
    frame, *frames = moving_scene(4, *PICTURE)
    found = sam2(frame, mask, np.stack(frames))
    assert found.shape == (3, *PICTURE) and found.dtype == np.uint8 and set(np.unique(found)) <= {0, 1, 3}
    assert np.array_equal(found, sam2(frame, mask, np.stack(frames)))
    assert np.array_equal(found[:2], sam2(frame, mask, np.stack(frames[:2]))), "what comes later decides nothing"
    assert not sam2(frame, np.zeros_like(mask), np.stack(frames)).any()


def test_who_is_surest_has_the_pixel():
    logits = torch.tensor([[[2.0, -1.0, 1.0]], [[1.0, -2.0, 3.0]]])
    assert _labels(logits, [4, 7], (1, 3)).tolist() == [[4, 0, 7]]


def test_a_folder_without_all_its_weights_is_refused(folder, tmp_path):
    with pytest.raises(NoSam2, match=f"holds no {WEIGHTS}; expected a folder in the layout of facebook/sam2"):
        Sam2(tmp_path, "cpu")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    weights = load_file(folder / WEIGHTS)
    del weights["no_memory_embedding"]
    save_file(weights, tmp_path / WEIGHTS, {"format": "pt"})
    with pytest.raises(NoSam2, match=r"lacks weights of SAM 2 \(no_memory_embedding\)"):
        Sam2(tmp_path, "cpu")
    (tmp_path / WEIGHTS).write_bytes(b"cut")
    with pytest.raises(NoSam2, match="--sam2 .*; expected a folder"):
        Sam2(tmp_path, "cpu")
