"""The published resize and centre crop, for every camera size."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from cosmos_ros.world_model.preprocessing import MAX_RESIZED_FRAMES, Fit, camera_view, to_model_input

PUBLISHED = (640, 1024)
camera_sizes = st.tuples(st.integers(1, 5000), st.integers(1, 5000))
model_sizes = st.sampled_from([PUBLISHED, (384, 640), (160, 256), (32, 64)])


@pytest.mark.parametrize(
    ("camera", "resized", "top", "left"),
    [
        ((640, 1024), (640, 1024), 0, 0),
        ((1050, 1680), (641, 1024), 0, 0),  # float64 arithmetic shows: 640.0000000000001 rows become 641
        ((588, 1100), (641, 1198), 0, 87),
        ((480, 640), (768, 1024), 64, 0),
        ((1080, 1920), (640, 1138), 0, 57),
        ((1, 1), (1024, 1024), 192, 0),
    ],
)
def test_sizes_are_rounded_as_published(camera, resized, top, left):
    assert Fit.of(camera, PUBLISHED) == Fit(*resized, top, left)


def test_the_crop_offset_rounds_half_to_even():
    offsets = {Fit.of((640, width), PUBLISHED).left: width - 1024 for width in range(1024, 1034)}
    assert offsets == {0: 1, 1: 2, 2: 5, 3: 6, 4: 9}  # left: the widest overhang with it; 0.5 -> 0, 1.5 -> 2, ...


@given(camera_sizes, model_sizes)
@example((1, 5000), PUBLISHED)
@example((5000, 1), PUBLISHED)
def test_the_image_covers_the_frame_and_the_view_lies_inside_the_image(camera, model):
    fit = Fit.of(camera, model)
    assert 0 <= fit.top <= fit.height - model[0] and 0 <= fit.left <= fit.width - model[1]
    assert fit.height == model[0] or fit.width == model[1] or min(fit.height - model[0], fit.width - model[1]) <= 1
    view = camera_view(camera, model)
    assert view.y >= 0 and view.height >= 1 and view.y + view.height <= camera[0]
    assert view.x >= 0 and view.width >= 1 and view.x + view.width <= camera[1]


@given(st.tuples(st.integers(200, 5000), st.integers(200, 5000)), model_sizes)
def test_the_view_has_the_models_aspect_and_lies_in_the_middle(camera, model):
    view = camera_view(camera, model)
    scale = max(model[0] / camera[0], model[1] / camera[1])
    # A camera pixel of rounding, and a model pixel where the resized size was rounded up or the crop's offset was.
    assert abs(view.height - model[0] / scale) <= 1 + 1 / scale and abs(view.width - model[1] / scale) <= 1 + 1 / scale
    assert abs(view.y - (camera[0] - view.y - view.height)) <= 2 + 2 / scale
    assert abs(view.x - (camera[1] - view.x - view.width)) <= 2 + 2 / scale


def test_a_frame_of_the_models_size_is_only_scaled():
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 64, 3), dtype=np.uint8)
    values = to_model_input(frames, (32, 64))
    assert values.shape == (1, 3, 2, 32, 64) and values.dtype == torch.float32
    expected = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 255 * 2 - 1
    assert torch.equal(values, expected)
    assert values.min() >= -1 and values.max() <= 1


def with_pillow(frame, model):
    """Resized by another implementation of the same filter: Pillow's, whose weights are float64; a level is 8e-3."""
    fit = Fit.of(frame.shape[:2], model)
    channels = [
        np.asarray(
            Image.fromarray(frame[..., c].astype(np.float32) / 255 * 2 - 1).resize(
                (fit.width, fit.height), Image.Resampling.BILINEAR
            )
        )
        for c in range(3)
    ]
    return np.stack(channels)[:, fit.top : fit.top + model[0], fit.left : fit.left + model[1]]


@settings(max_examples=25, deadline=None)
@given(st.tuples(st.integers(1, 150), st.integers(1, 150)), st.sampled_from([(32, 64), (48, 48)]), st.integers(0, 9))
@example((97, 31), (32, 64), 0)
@example((1, 1), (32, 64), 0)
@example((150, 150), (32, 64), 0)
def test_pixels_are_those_of_an_antialiased_bilinear_resize(camera, model, seed):
    fit = Fit.of(camera, model)
    assume(fit.height <= MAX_RESIZED_FRAMES * model[0] and fit.width <= MAX_RESIZED_FRAMES * model[1])
    frames = np.random.default_rng(seed).integers(0, 256, (1, *camera, 3), dtype=np.uint8)
    np.testing.assert_allclose(to_model_input(frames, model)[0, :, 0].numpy(), with_pillow(frames[0], model), atol=1e-4)


@pytest.mark.parametrize("camera", [(1, 5000), (5000, 1), (2, 4999), (3000, 7)])
def test_an_extremely_long_image_fits_into_memory_and_is_seen_in_its_middle(camera):
    """The whole of a 1x5000 image, resized to 640 rows, would be 24 GB a frame."""
    long = int(np.argmax(camera))
    ramp = np.linspace(0, 255, camera[long]).round().astype(np.uint8)
    frame = np.broadcast_to(np.expand_dims(ramp, 1 - long)[..., None], (*camera, 3))
    values = to_model_input(frame[None], PUBLISHED)
    assert values.shape == (1, 3, 1, *PUBLISHED)
    middle = (values[0, 0, 0, 319:321, 511:513].mean() + 1) / 2 * 255
    assert abs(middle - 127.5) <= 1


def test_frames_keep_their_order_and_do_not_mix():
    levels = [0, 100, 255]
    frames = np.stack([np.full((50, 90, 3), level, np.uint8) for level in levels])
    values = to_model_input(frames, (32, 64))
    for i, level in enumerate(levels):
        torch.testing.assert_close(values[0, :, i], torch.full((3, 32, 64), level / 255 * 2 - 1), atol=1e-6, rtol=0)


def test_views_of_a_larger_array_and_read_only_frames_are_taken():
    whole = np.random.default_rng(1).integers(0, 256, (1, 40, 80, 3), dtype=np.uint8)
    view = whole[:, ::-1, ::2]
    view.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PyTorch warns where it would write through a read-only array
        values = to_model_input(view, (32, 64))
    assert torch.equal(values, to_model_input(view.copy(), (32, 64)))
