"""Training's configuration: from YAML, whole or in part, and what cannot be."""

import pytest

from cosmos_ros.errors import SettingError
from cosmos_ros.training.sizes import PublishedSizes, Sizes


def test_a_file_may_set_any_of_the_sizes(tmp_path):
    file = tmp_path / "sizes.yaml"
    file.write_text(
        "frame_size: [160, 256]\nframe_rate: 15\n"
        "tokenizer: {channels: [8, 12, 16], encoder_blocks: [1, 1, 1], decoder_blocks: [1, 1, 2]}\n"
    )
    sizes = Sizes.of(file)
    assert sizes.frame_size == (160, 256) and sizes.frame_rate == 15 and sizes.layers == Sizes().layers
    assert sizes.tokenizer.space_compression == 16 and sizes.latent_shape == (5, 10, 16)
    assert sizes.tokenizer.vocabulary == 4375


def test_without_a_file_it_is_the_model_that_ships():
    assert Sizes.of(None) == Sizes() and Sizes().latent_shape == (5, 14, 24)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("frame_size: [100, 160]", "two multiples of 16"),
        ("frame_size: 96", "frame_size must be a list of numbers; got 96"),
        ("frame_size: [96, wide]", "two multiples of 16; got [96, 'wide']"),
        ("refiner_channels: 1234", "refiner_channels must be a list of numbers; got 1234"),
        ("tokenizer: {levels: '75'}", "levels must be a list of numbers; got '75'"),
        ("frame_sizes: [96, 160]", "got ['frame_sizes']"),
        ("tokenizer: {channels: [8]}", "one number per level"),
        ("tokenizer: {encoder_blocks: [0, 3]}", "encoder_blocks and decoder_blocks must be positive whole numbers"),
        ("tokenizer: {decoder_blocks: [2, 0]}", "encoder_blocks and decoder_blocks must be positive whole numbers"),
        ("tokenizer: 3", "expected a mapping"),
        ("heads: 5", "width must be a multiple of heads"),
        ("heads: 96", "head_dim must be even and at least 6"),
        ("heads: 0", "must be positive whole numbers"),
        ("refiner_channels: [8, 8]", "the four refiner_channels must be positive"),
        ("refiner_hypotheses: 0", "refiner_hypotheses must be a whole number from 1 to 16; got 0"),
        ("refiner_hypotheses: 2.5", "refiner_hypotheses must be a whole number from 1 to 16; got 2.5"),
        ("refiner_hypotheses: 17", "refiner_hypotheses must be a whole number from 1 to 16; got 17"),
        ("refiner_hypotheses: eight", "refiner_hypotheses must be a whole number from 1 to 16; got 'eight'"),
        ("frame_rate: 0", "expected frame_rate 0.001 to 1000"),
        ("frame_rate:", "expected frame_rate 0.001 to 1000"),
        ("{temperature: hot, top_p: .nan}", "expected temperature 0 to 10, top_p 1e-09 to 1"),
        ("tokenizer: {levels: []}", "levels whole numbers from 2 on"),
        ("tokenizer: {channels: [8, 0]}", "channels, encoder_blocks and decoder_blocks must be positive"),
        ("[1, 2]", "expected a mapping"),
        ("a: [", "cannot be read as YAML"),
    ],
)
def test_what_cannot_be_is_said(tmp_path, text, said):
    file = tmp_path / "sizes.yaml"
    file.write_text(text)
    with pytest.raises(SettingError) as refusal:
        Sizes.of(file)
    assert said in str(refusal.value)


def test_what_the_checkpoint_says_may_be_left_to_it_and_nothing_else():
    assert PublishedSizes(frame_rate=None).frame_rate is None
    with pytest.raises(SettingError, match="expected learning_rate 1e-09 to 1"):
        PublishedSizes(learning_rate=None)


@pytest.mark.parametrize("number", [0, True, None, 17])
def test_a_published_models_refiner_has_hypotheses_too(number):
    assert PublishedSizes(refiner_hypotheses=3).refiner_hypotheses == 3
    with pytest.raises(SettingError, match="refiner_hypotheses must be a whole number from 1 to 16"):
        PublishedSizes(refiner_hypotheses=number)
