"""Cutting a video into chunks along time, and putting it together where its frames belong."""

import pytest
import torch

from cosmos_ros.world_model.diffusion_decoder.decoder import load_diffusion_decoder
from cosmos_ros.world_model.diffusion_decoder.files import FAMILIES
from cosmos_ros.world_model.diffusion_decoder.windows import put_together, windows


def test_the_published_video_is_one_chunk_filled_up_by_reflection():
    (only,) = windows(5)
    assert (only.places, only.first) == ([0, 1, 2, 3, 4, 3, 2, 1], 0)


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (1, [[0] * 8]),
        (2, [[0, 1, 0, 1, 0, 1, 0, 1]]),
        (3, [[0, 1, 2, 1, 0, 1, 2, 1]]),
        (8, [[0, 1, 2, 3, 4, 5, 6, 7]]),
        (9, [[0, 1, 2, 3, 4, 5, 6, 7], [6, 7, 8, 7, 6, 7, 8, 7]]),
        (14, [[0, 1, 2, 3, 4, 5, 6, 7], [6, 7, 8, 9, 10, 11, 12, 13]]),
    ],
)
def test_lengths_at_which_the_published_code_fails_are_reflected_to_and_fro(length, expected):
    assert [window.places for window in windows(length)] == expected


@pytest.mark.parametrize("length", [*range(1, 23), 40])
def test_every_latent_frame_is_in_a_chunk_and_every_pixel_frame_comes_out_in_its_place(length):
    found = windows(length)
    assert {place for window in found for place in window.places} == set(range(length))
    # Each chunk shows at which pixel frame of the video it is; beyond the video's end it shows what is not there.
    chunks = [torch.arange(57.0).add(window.first).expand(3, 1, 1, 57).movedim(-1, 1) for window in found]
    video = put_together(chunks, length)
    assert torch.equal(video[0, :, 0, 0], torch.arange(1.0 + 8 * (length - 1)))


def test_where_two_chunks_overlap_one_fades_into_the_other():
    video = put_together([torch.zeros(3, 57, 1, 1), torch.ones(3, 57, 1, 1)], 14)[0, :, 0, 0]
    assert video[:49].sum() == 0 and (video[56:] == 1).all()
    assert torch.allclose(video[48:57], torch.linspace(0, 1, 9))


@pytest.mark.parametrize("length", [2, 5, 9])
def test_a_video_of_any_length_is_decoded_and_every_evaluation_counts(length, diffusion_decoder):
    tokenizer = diffusion_decoder.parent / FAMILIES[0].tokenizer
    decoder = load_diffusion_decoder(diffusion_decoder / "model.pt", tokenizer=tokenizer, steps=2)
    steps = decoder.pixels(torch.zeros(length, 2, 3, dtype=torch.long), None, seed=0)
    reports = 0
    try:
        while True:
            next(steps)
            reports += 1
    except StopIteration as end:
        assert end.value.shape == (3, 1 + 8 * (length - 1), 32, 48)
    assert reports == decoder.evaluations(length) == (3 if length <= 8 else 6)
