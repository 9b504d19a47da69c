"""Films on the device, and the windows that training draws from them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cosmos_ros.training.datasets.clips import ClipStore, Views, resampled, shrunk, vary

CPU = torch.device("cpu")
SIZE = (24, 40)


@pytest.fixture
def store() -> ClipStore:
    """Two films whose pixels tell film and frame: 40 and 80 frames."""
    store = ClipStore(SIZE, CPU)
    for film, (length, kind) in enumerate([(40, "simulated"), (80, "recorded")]):
        frames = np.zeros((length, *SIZE, 3), np.uint8)
        frames[..., 0], frames[..., 1] = 100 * film, np.arange(length)[:, None, None]
        store.add(torch.from_numpy(frames), kind)
    return store


def test_a_film_that_is_too_short_is_not_taken_in(store):
    store.add(torch.zeros(32, *SIZE, 3, dtype=torch.uint8), "recorded")
    assert len(store) == 2 and store.n_frames == 120
    assert (store.count("recorded"), store.count("simulated")) == (1, 1)


@pytest.mark.parametrize(("shares", "films"), [({"simulated": 1.0}, {0}), ({"recorded": 1.0}, {100})])
def test_windows_stay_in_one_film_at_one_step(store, shares, films):
    frames = store.take(store.random_windows(64, shares, torch.Generator().manual_seed(0)))
    assert frames.shape == (64, 33, *SIZE, 3)
    assert set(frames[..., 0].unique().tolist()) == films
    steps = frames[:, :, 0, 0, 1].int().diff(dim=1)
    assert (steps == steps[:, :1]).all()
    assert set(steps.unique().tolist()) == (
        {1} if films == {0} else {1, 2}
    )  # recordings are at times taken at half rate


def test_the_same_generator_draws_the_same_windows(store):
    shares = {"simulated": 0.5, "recorded": 0.5}
    one, other = (store.random_windows(8, shares, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, other)


def test_windows_for_validation_do_not_overlap(store):
    windows = store.spread_windows(5)
    assert windows.shape == (1 + 2, 33)
    assert windows.unique().numel() == windows.numel()


@pytest.mark.parametrize("size", [(12, 20), (16, 16), (24, 40)])
def test_whole_views_are_what_the_node_makes_of_a_frame(size):
    frames = torch.randint(0, 256, (2, 3, *SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    video = resampled(frames, Views.whole(2, SIZE), size)
    pixels = frames.permute(0, 1, 4, 2, 3).flatten(0, 1).float() / 127.5 - 1
    expected = F.interpolate(pixels, size=size, mode="bilinear", antialias=True)
    torch.testing.assert_close(video.transpose(1, 2).flatten(0, 1), expected, atol=1e-4, rtol=0)
    again = shrunk(resampled(frames, Views.whole(2, SIZE), SIZE), size)
    torch.testing.assert_close(again, video, atol=1e-4, rtol=0)


def test_a_view_with_left_and_right_exchanged_is_mirrored():
    frames = torch.randint(0, 256, (1, 1, *SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    whole = Views.whole(1, SIZE)
    mirrored = Views(whole.top, whole.bottom, whole.right, whole.left)
    torch.testing.assert_close(resampled(frames, mirrored, (12, 20)), resampled(frames, whole, (12, 20)).flip(-1))


def test_random_views_lie_inside_the_picture():
    views = Views.random(200, SIZE, torch.Generator().manual_seed(4))
    left, right = torch.minimum(views.left, views.right), torch.maximum(views.left, views.right)
    assert (views.top >= 0).all() and (views.bottom <= SIZE[0] + 1e-4).all()
    assert (left >= 0).all() and (right <= SIZE[1] + 1e-4).all() and (right - left > 10).all()
    assert 0.3 < (views.left > views.right).float().mean() < 0.7


def test_variation_treats_all_frames_of_a_clip_alike():
    torch.manual_seed(0)
    video = (torch.rand(4, 3, 1, 6, 6) * 2 - 1).expand(4, 3, 5, 6, 6)
    varied = vary(video)
    assert varied.abs().max() <= 1 and not torch.allclose(varied, video)
    assert torch.equal(varied, varied[:, :, :1].expand_as(varied))
