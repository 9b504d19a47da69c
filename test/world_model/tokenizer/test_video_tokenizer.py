"""The tokenizer's contract, with small real TorchScript programs of every published form."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cosmos_ros.errors import ModelUnavailable, NotFinite
from cosmos_ros.world_model.tokenizer.chunking import Chunking
from cosmos_ros.world_model.tokenizer.video_tokenizer import VideoTokenizer, to_levels

CHUNKING = Chunking(latent_shape=(5, 2, 3), compression=(8, 16, 16))
VOCABULARY = 64
CPU = torch.device("cpu")


class Levels(nn.Module):
    """A token is the mean brightness of 16x16 pixels over one latent frame, in 64 levels."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))

    def latent(self, frames: Tensor) -> Tensor:
        frames = (frames * self.gain).float()
        first, rest = frames[:, :, :1], frames[:, :, 1:]
        means = nn.functional.avg_pool3d(first, [1, 16, 16])
        if rest.shape[2] > 0:
            means = torch.cat([means, nn.functional.avg_pool3d(rest, [8, 16, 16])], dim=2)
        return means.mean(dim=1)

    def tokens(self, latent: Tensor) -> Tensor:
        return torch.round((latent * 0.5 + 0.5).clamp(0, 1) * 63).int()

    def forward(self, frames: Tensor) -> Tensor:
        return self.tokens(self.latent(frames))


class CodesFirst(Levels):
    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        latent = self.latent(frames)
        return latent[:, None].expand(-1, 6, -1, -1, -1), self.tokens(latent)


class CodesLast(Levels):
    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        latent = self.latent(frames)
        return self.tokens(latent), latent[:, None].expand(-1, 6, -1, -1, -1)


class Continuous(Levels):
    def forward(self, frames: Tensor) -> Tensor:
        return self.latent(frames)


class SeesTheFuture(Levels):
    """Every latent frame leans towards the last one."""

    def forward(self, frames: Tensor) -> Tensor:
        latent = self.latent(frames)
        return self.tokens(latent + 0.5 * (latent[:, -1:] - latent))


class LeansALittle(Levels):
    """As much as shifts a token in some clips only."""

    def forward(self, frames: Tensor) -> Tensor:
        latent = self.latent(frames)
        return self.tokens(latent + 0.01 * (latent[:, -1:] - latent))


class DimsByTheBrightest(Levels):
    """As normalisation over time does; in clips of little contrast it changes nothing."""

    def forward(self, frames: Tensor) -> Tensor:
        latent = self.latent(frames)
        return self.tokens(latent / latent.abs().amax().clamp(min=0.9))


class WholeChunksOnly(Levels):
    def forward(self, frames: Tensor) -> Tensor:
        assert frames.shape[2] == 33, "traced for 33 frames"
        return self.tokens(self.latent(frames))


class Coarse(Levels):
    """Of another compression."""

    def forward(self, frames: Tensor) -> Tensor:
        return self.tokens(self.latent(frames))[:, ::2]


class LargeVocabulary(Levels):
    def forward(self, frames: Tensor) -> Tensor:
        return self.tokens(self.latent(frames)) + 1000


class Paint(nn.Module):
    """Frames of flat patches; in whatever precision its weight has."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))

    def patches(self, tokens: Tensor) -> Tensor:
        grey = ((tokens.float() / 63 * 2 - 1) * self.gain)[:, None].expand(-1, 3, -1, -1, -1)
        frames = torch.cat([grey[:, :, :1], grey[:, :, 1:].repeat_interleave(8, dim=2)], dim=2)
        return frames.repeat_interleave(16, dim=3).repeat_interleave(16, dim=4).to(self.gain.dtype)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.patches(tokens)


class PaintAhead(Paint):
    """Every frame leans towards the last one."""

    def forward(self, tokens: Tensor) -> Tensor:
        frames = self.patches(tokens)
        return frames + 0.1 * (frames[:, :, -1:] - frames)


class PaintWholeChunks(Paint):
    def forward(self, tokens: Tensor) -> Tensor:
        assert tokens.shape[1] == 5, "traced for 5 latent frames"
        return self.patches(tokens)


class PaintByLength(Paint):
    """As normalisation over time does: no later token matters, but how many there are."""

    def forward(self, tokens: Tensor) -> Tensor:
        return self.patches(tokens) * (tokens.shape[1] / 5)


class PaintSmall(Paint):
    def forward(self, tokens: Tensor) -> Tensor:
        return torch.zeros(1, 3, 33, 16, 24)


class PaintPairs(Paint):
    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        frames = torch.zeros(1, 3, 33, 32, 48)
        return frames, frames


class PaintWholeNumbers(Paint):
    def forward(self, tokens: Tensor) -> Tensor:
        return torch.zeros(1, 3, 33, 32, 48, dtype=torch.uint8)


class PaintNumber(Paint):
    def forward(self, tokens: Tensor) -> int:
        return 3


class PaintNotANumber(Paint):
    def forward(self, tokens: Tensor) -> Tensor:
        return torch.full([1, 3, 33, 32, 48], float("nan"))


class PaintBlackAsNotANumber(Paint):
    def forward(self, tokens: Tensor) -> Tensor:
        return torch.full([1, 3, 33, 32, 48], float("nan") if bool((tokens == 0).all()) else 0.0)


class PaintFewTokens(Paint):
    def forward(self, tokens: Tensor) -> Tensor:
        return torch.zeros(8)[tokens]


class EmptyBatch(Levels):
    def forward(self, frames: Tensor) -> Tensor:
        return torch.zeros(0, 5, 2, 3, dtype=torch.int32)


class NoTokens(Levels):
    def forward(self, frames: Tensor) -> Tensor:
        return torch.zeros(1, 5, 0, 3, dtype=torch.int32)


class Number(Levels):
    def forward(self, frames: Tensor) -> int:
        return 3


class CodesNotANumber(Levels):
    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        codes = self.latent(frames) / 0.0
        return codes, self.tokens(codes)


def write(directory, encoder=None, decoder=None):
    directory.mkdir(exist_ok=True)
    torch.jit.script(encoder or Levels()).save(directory / "encoder.jit")
    torch.jit.script(decoder or Paint()).save(directory / "decoder.jit")
    return directory


def load(directory, dtype=torch.float32, chunking=CHUNKING, vocabulary=VOCABULARY):
    return VideoTokenizer.load(directory, chunking, vocabulary, CPU, dtype)


def clip(n, seed=0):
    return torch.rand(1, 3, n, 32, 48, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def filled_up(frames):
    return torch.cat([frames, frames[:, :, -1:].expand(-1, -1, 33 - frames.shape[2], -1, -1)], dim=2)


class CodesOfWholeChunks(CodesLast):
    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        assert frames.shape[2] == 33, "traced for 33 frames"
        latent = self.latent(frames)
        return self.tokens(latent), latent[:, None].expand(-1, 6, -1, -1, -1)


@pytest.mark.parametrize("encoder", [CodesFirst, CodesLast, CodesOfWholeChunks])
def test_codes_are_those_of_each_frame_by_itself(encoder, tmp_path):
    frames = clip(3)
    codes = load(write(tmp_path, encoder())).codes(frames)
    assert codes.dtype == torch.float32 and codes.shape == (3, 6, 2, 3)
    for i in range(3):
        assert torch.allclose(codes[i, 0], Levels().latent(frames[:, :, i : i + 1])[0, 0], atol=1e-6)


def test_an_encoder_without_codes_says_so(tmp_path):
    with pytest.raises(ModelUnavailable, match=r"gives int32 \[1, 1, 2, 3\], without the codes"):
        load(write(tmp_path, Levels())).codes(clip(1))


@pytest.mark.parametrize("encoder", [Levels, CodesFirst, CodesLast])
@pytest.mark.parametrize(("n_frames", "latent_frames"), [(1, 1), (9, 2), (33, 5)])
def test_a_causal_encoder_is_given_the_clips_frames_alone(encoder, n_frames, latent_frames, tmp_path):
    tokenizer = load(write(tmp_path, encoder()))
    assert tokenizer.looks_only_backwards
    tokens = tokenizer.encode(clip(n_frames))
    assert tokens.shape == (latent_frames * 6,) and tokens.dtype == torch.int64
    whole = Levels()(filled_up(clip(n_frames)))
    assert torch.equal(tokens, whole[0, :latent_frames].flatten())


@pytest.mark.parametrize("encoder", [SeesTheFuture, LeansALittle, DimsByTheBrightest, WholeChunksOnly])
@pytest.mark.parametrize(("n_frames", "latent_frames"), [(1, 1), (9, 2)])
def test_for_another_encoder_the_clip_is_filled_with_its_last_frame(encoder, n_frames, latent_frames, tmp_path):
    tokenizer = load(write(tmp_path, encoder()))
    assert not tokenizer.looks_only_backwards
    whole = encoder()(filled_up(clip(n_frames)))
    assert torch.equal(tokenizer.encode(clip(n_frames)), whole[0, :latent_frames].flatten())


@pytest.mark.parametrize(
    ("decoder", "by_groups"), [(Paint, True), (PaintAhead, False), (PaintWholeChunks, False), (PaintByLength, False)]
)
def test_frames_are_decoded_before_later_tokens_only_where_these_do_not_matter(decoder, by_groups, tmp_path):
    assert load(write(tmp_path, decoder=decoder())).by_groups is by_groups


@pytest.mark.parametrize("n", [0, 2, 8, 10, 34, 41])
def test_a_clip_that_ends_inside_a_latent_frame_is_refused(n, tmp_path):
    with pytest.raises(ValueError, match="1 \\+ 8k frames, at most 33"):
        load(write(tmp_path)).encode(clip(n))


@pytest.mark.parametrize(("n_conditioning", "n_new"), [(9, 24), (1, 32), (0, 33)])
def test_decoding_gives_the_frames_after_the_conditioning_ones(n_conditioning, n_new, tmp_path):
    tokenizer = load(write(tmp_path))
    tokens = torch.arange(5).repeat_interleave(6) * 15
    parts = list(tokenizer.decode(tokens, n_conditioning))
    frames = torch.cat(parts)
    assert frames.shape == (n_new, 32, 48, 3) and frames.dtype == torch.uint8
    assert max(map(len, parts)) <= 8
    latent_frame = [0] + [t for t in range(1, 5) for _ in range(8)]
    expected = [int((t * 15 / 63 * 2 - 1) * 127.5 + 127.5) for t in latent_frame[n_conditioning:]]
    assert np.abs(frames[:, 0, 0, 0].numpy().astype(int) - expected).max() <= 1


def test_what_decodes_can_be_encoded_again(tmp_path):
    tokenizer = load(write(tmp_path))
    tokens = torch.randint(0, 64, (30,), generator=torch.Generator().manual_seed(4))
    frames = torch.cat(list(tokenizer.decode(tokens, 0)))
    values = frames.permute(3, 0, 1, 2)[None].float() / 255 * 2 - 1
    assert torch.equal(tokenizer.encode(values), tokens)


def test_pixels_are_cut_off_in_the_tokenizers_own_precision():
    """The reference scales in bfloat16: in float32, 256 of all 32,514 values from -1 to 1 would be another level."""
    every = torch.arange(2**16).to(torch.uint16).view(torch.bfloat16)
    every = every[every.float().abs() <= 1]
    assert len(every) == 32_514
    levels = to_levels(every)
    assert int((levels != to_levels(every.float())).sum()) == 256
    assert levels.min() == 0 and levels.max() == 255
    assert to_levels(torch.tensor([-7.0, 7.0])).tolist() == [0, 255]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_programs_stored_in_half_precision_run_in_the_one_asked_for(dtype, tmp_path):
    tokenizer = load(write(tmp_path, Levels().half(), Paint().half()), dtype)
    assert {p.dtype for p in tokenizer.encoder.parameters()} == {dtype}
    frames = clip(9)
    assert torch.equal(tokenizer.encode(frames), Levels().to(dtype)(frames.to(dtype))[0].flatten().long())
    assert next(tokenizer.decode(torch.zeros(30, dtype=torch.long), 9)).max() == 0


def test_other_compressions_are_taken_when_the_config_says_so(tmp_path):
    chunking = Chunking(latent_shape=(5, 1, 3), compression=(8, 32, 16))
    assert (chunking.n_frames, chunking.frame_size) == (33, (32, 48))

    class Flat(Levels):
        def forward(self, frames: Tensor) -> Tensor:
            return self.tokens(nn.functional.avg_pool3d(self.latent(frames)[:, None], [1, 2, 1])[:, 0])

    class PaintFlat(Paint):
        def forward(self, tokens: Tensor) -> Tensor:
            grey = ((tokens.float() / 63 * 2 - 1) * self.gain)[:, None].expand(-1, 3, -1, -1, -1)
            frames = torch.cat([grey[:, :, :1], grey[:, :, 1:].repeat_interleave(8, dim=2)], dim=2)
            return frames.repeat_interleave(32, dim=3).repeat_interleave(16, dim=4)

    tokenizer = load(write(tmp_path, Flat(), PaintFlat()), chunking=chunking)
    assert tokenizer.encode(clip(9)).shape == (6,)
    assert next(tokenizer.decode(torch.zeros(15, dtype=torch.long), 9)).shape == (8, 32, 48, 3)


# --- what is wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoder", "decoder", "said"),
    [
        (Coarse, Paint, r"makes \[3, 2, 3\] tokens .* expects \[5, 2, 3\]"),
        (Continuous, Paint, r"gives float32 \[1, 5, 2, 3\], and whole-number tokens \[1, t, h, w\] were expected"),
        (EmptyBatch, Paint, r"gives int32 \[0, 5, 2, 3\], and whole-number tokens"),
        (NoTokens, Paint, r"gives int32 \[1, 5, 0, 3\], and whole-number tokens"),
        (Number, Paint, "gives int, and whole-number tokens"),
        (CodesNotANumber, Paint, "encoder gives codes that are not finite"),
        (LargeVocabulary, Paint, r"gives tokens 10\d\d..10\d\d, and the model knows only 64"),
        (Levels, PaintSmall, r"decodes to float32 \[1, 3, 33, 16, 24\], and .* floating-point \[1, 3, 33, 32, 48\]"),
        (Levels, PaintPairs, r"decodes to 2 outputs \(float32 \[1, 3, 33, 32, 48\], float32 .*floating-point \[1, 3"),
        (Levels, PaintWholeNumbers, r"decodes to uint8 \[1, 3, 33, 32, 48\], and the model expects floating-point"),
        (Levels, PaintNumber, "decodes to int, and the model expects floating-point"),
        (Levels, PaintNotANumber, "pixels that are not finite"),
        (Levels, PaintFewTokens, "cannot take a .* chunk: .*out of"),
    ],
)
def test_programs_that_do_not_fit_the_model_are_refused(encoder, decoder, said, tmp_path):
    with pytest.raises(ModelUnavailable, match=said) as refusal:
        load(write(tmp_path, encoder(), decoder()))
    assert str(refusal.value).startswith(f"{tmp_path}: ")


class LargeForWhite(Levels):
    def forward(self, frames: Tensor) -> Tensor:
        return self.tokens(self.latent(frames)) + (frames.min() > 0.9).int() * 5


def test_a_token_that_only_some_clips_give_is_refused_when_it_comes(tmp_path):
    tokenizer = load(write(tmp_path, LargeForWhite()))
    with pytest.raises(ModelUnavailable, match="gives tokens 68..68, and the model knows only 64"):
        tokenizer.encode(torch.ones(1, 3, 9, 32, 48))


def test_a_program_that_cannot_take_frames_is_refused(tmp_path):
    with pytest.raises(ModelUnavailable, match="cannot take a .* chunk"):
        load(write(tmp_path, nn.Linear(5, 5)))


def test_a_frame_size_beyond_all_numbers_is_refused(tmp_path):
    with pytest.raises(ModelUnavailable, match=r"cannot take a \[3, 33, 32, 16000000000000000\] chunk"):
        load(write(tmp_path), chunking=Chunking(latent_shape=(5, 2, 10**15), compression=(8, 16, 16)))


def test_pixels_that_only_some_tokens_make_not_finite_are_refused_when_they_come(tmp_path):
    tokenizer = load(write(tmp_path, decoder=PaintBlackAsNotANumber()))
    next(tokenizer.decode(torch.ones(30, dtype=torch.long), 9))
    with pytest.raises(NotFinite, match="no finite numbers"):
        next(tokenizer.decode(torch.zeros(30, dtype=torch.long), 9))
