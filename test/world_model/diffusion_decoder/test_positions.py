"""Rotary positions, and that they are as rounded as in the published pipeline."""

import torch

from cosmos_ros.world_model.diffusion_decoder.positions import rotation_table


def test_in_bfloat16_angles_are_off_by_what_was_measured_of_the_published_pipeline():
    grid = (8, 40, 64)
    (cosines, sines), (rounded_cosines, rounded_sines) = (
        rotation_table(grid, 128, dtype) for dtype in (torch.float32, torch.bfloat16)
    )
    assert cosines.shape == (8 * 40 * 64, 64) and rounded_cosines.dtype == torch.float32
    between = torch.atan2(
        sines * rounded_cosines - cosines * rounded_sines, cosines * rounded_cosines + sines * rounded_sines
    )
    assert 0.3 < between.abs().max() < 0.34


def test_a_patch_at_the_origin_is_not_turned():
    cosines, sines = rotation_table((2, 3, 4), 12, torch.float32)
    assert (cosines[0] == 1).all() and (sines[0] == 0).all()
    assert (cosines[1:] != 1).any(dim=1).all()
