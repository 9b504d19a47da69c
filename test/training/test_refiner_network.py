"""The refiner's network: what it begins as, what it may depend on, and that it can be scripted."""

import io
import re
import zipfile

import pytest
import torch

from cosmos_ros.training.export import program_bytes
from cosmos_ros.training.refiner_network import VECTORS, Refiner

CHANNELS = (4, 6, 8, 8)
HYPOTHESES = 3


@pytest.fixture
def refiner() -> Refiner:
    torch.manual_seed(0)
    refiner = Refiner(CHANNELS, HYPOTHESES).eval()
    refiner.set_apart(seed=0)
    for parameter in refiner.parameters():  # beyond the zeros that blocks begin with
        parameter.data += 0.05 * torch.randn_like(parameter)
    return refiner


def pictures(n: int, height: int, width: int, seed: int) -> torch.Tensor:
    return torch.rand(1, 3, n, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize(("n", "group"), [(9, 1), (9, 3), (1, 4)])
@pytest.mark.parametrize("size", [(32, 48), (50, 77)])
def test_a_group_comes_at_the_cameras_size(refiner, n, group, size):
    decoded, camera = pictures(n + 8 * group, 32, 48, 1), pictures(n, *size, 2)
    with torch.no_grad():
        assert refiner(decoded, camera).shape == (1, 3, 8, *size)


def test_it_begins_near_nothing_moves():
    torch.manual_seed(0)
    camera = pictures(9, 40, 60, 3)
    with torch.no_grad():
        refined = Refiner(CHANNELS)(torch.zeros(1, 3, 17, 32, 48), camera)
    likeness = torch.corrcoef(torch.stack([refined[0, :, 4].flatten(), camera[0, :, -1].flatten()]))[0, 1]
    assert likeness > 0.8


def test_the_same_camera_in_place_stays_sharp():
    """With the choice all on the last frame in place, nothing else touches a pixel."""
    refiner = Refiner(CHANNELS)
    with torch.no_grad():
        refiner.exit.weight.zero_()
        refiner.exit.bias.view(8, 15, 4)[:, 6] = 60.0
    camera = pictures(9, 50, 77, 4)
    refined = refiner(pictures(17, 32, 48, 5), camera)
    torch.testing.assert_close(refined, camera[:, :, -1:].expand_as(refined))


def test_what_hardly_changes_is_the_cameras_own_and_what_moves_is_kept(refiner):
    """Half a picture off by a level, the other half by a hundred: between the two the share of the change grows."""
    last = pictures(1, 64, 96, 10)[:, :, 0]
    refined = last[:, :, None].repeat(1, 1, 8, 1, 1)
    refined[..., :48] += 1 / 127.5
    refined[..., 48:] += 100 / 127.5
    with torch.no_grad():
        settled = refiner.settle(refined, last, torch.zeros(1, 120, 32, 48))
    assert torch.equal(settled[..., :24], last[:, :, None, :, :24].expand(-1, -1, 8, -1, -1))
    torch.testing.assert_close(settled[..., 56:], refined[..., 56:])


def test_scripted_it_gives_the_same(refiner):
    decoded, camera = pictures(17, 32, 48, 6), pictures(9, 40, 60, 7)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.script(refiner)(decoded, camera), refiner(decoded, camera))


def test_hypotheses_are_alike_until_they_are_set_apart_once():
    """A model of which only other parts were trained is not refined by random vectors."""
    one, other = Refiner(CHANNELS, HYPOTHESES).eval(), Refiner(CHANNELS, HYPOTHESES).eval()
    other.load_state_dict(one.state_dict())
    for refiner in (one, other):
        refiner.exit.get_parameter("weight").data.fill_(0.1)
    decoded, camera = pictures(17, 32, 48, 6), pictures(9, 40, 60, 7)
    with torch.no_grad():
        guess = one(decoded, camera)
        assert all(torch.equal(one(decoded, camera, number), guess) for number in range(1, HYPOTHESES))
        one.set_apart(seed=3)
        first = one(decoded, camera, 1)
        assert torch.equal(one(decoded, camera), guess) and not torch.equal(first, guess)
        assert torch.equal(one(decoded, camera, one.trusting), guess), "it does not compete"
        one.set_apart(seed=4)  # they have begun to compete
        other.set_apart(seed=3)
        assert torch.equal(one(decoded, camera, 1), first) and torch.equal(other(decoded, camera, 1), first)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_first_hypothesis_is_what_a_refiner_of_a_single_one_gives_and_the_others_differ(refiner, precision):
    alone = Refiner(CHANNELS).eval()
    alone.load_state_dict({name: w for name, w in refiner.state_dict().items() if name not in VECTORS}, strict=False)
    decoded, camera = pictures(17, 32, 48, 6), pictures(9, 40, 60, 7)
    with torch.no_grad():
        expected = alone.to(precision)(decoded, camera)
        refined = [refiner.to(precision)(decoded, camera, number) for number in range(HYPOTHESES)]
        assert torch.equal(refiner(decoded, camera), expected) and torch.equal(refined[0], expected)
    for number, one in enumerate(refined):
        assert all((one - other).abs().max() > 0.01 for other in refined[:number])


def test_the_hypotheses_that_a_batch_mixes_are_those_one_by_one_and_only_they_learn(refiner):
    decoded, camera = pictures(17, 32, 48, 6), pictures(9, 32, 48, 7)
    x = refiner.look(decoded, camera)
    mixed = refiner.plan(x.expand(3, -1, -1, -1), torch.tensor([0, 2, 2]))
    for row, number in enumerate((0, 2, 2)):
        torch.testing.assert_close(mixed[row], refiner.plan(x, torch.tensor([number]))[0])
    mixed.square().mean().backward()
    for vectors in map(refiner.get_parameter, VECTORS):
        assert not vectors.grad[0].any() and vectors.grad[1].any()


def test_round_trips_alone_are_for_the_best_guess_and_for_the_one_that_trusts_the_tokens(refiner):
    found = refiner.sure(40, torch.Generator().manual_seed(0))
    assert found.dtype == torch.int64 and set(found.tolist()) == {0, HYPOTHESES - 1}
    assert torch.equal(refiner.sure(40, torch.Generator().manual_seed(0)), found)
    assert not Refiner(CHANNELS).sure(40, torch.Generator().manual_seed(0)).any(), "the only one is both"


def test_its_program_says_how_many_hypotheses_it_has_and_gives_each_as_the_network_does(refiner):
    program = torch.jit.load(io.BytesIO(program_bytes(refiner)))
    assert (program.hypotheses, program.trusting) == (HYPOTHESES, HYPOTHESES - 1)
    decoded, camera = pictures(17, 32, 48, 6), pictures(9, 40, 60, 7)
    with torch.no_grad():
        for number in range(HYPOTHESES):
            expected = refiner(decoded, camera, number)
            torch.testing.assert_close(torch.jit.script(refiner)(decoded, camera, number), expected)
            torch.testing.assert_close(program(decoded, camera, number), expected)


def test_gradients_reach_the_decoded_frames(refiner):
    decoded = pictures(17, 32, 48, 8).requires_grad_()
    refiner(decoded, pictures(9, 40, 60, 9)).square().mean().backward()
    assert decoded.grad[:, :, 9:].abs().sum() > 0


def test_its_program_needs_no_operator_of_the_newest_pytorch():
    """Of what F.interpolate could call all would be in the program, and older releases would refuse to load it."""
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(Refiner((4, 4, 4, 4)).eval()), buffer)
    with zipfile.ZipFile(buffer) as archive:
        code = "".join(archive.read(name).decode() for name in archive.namelist() if name.endswith(".py"))
    assert set(re.findall(r"torch\.(_?upsample\w+)", code)) == {
        "_upsample_bilinear2d_aa",
        "upsample_bilinear2d",
        "upsample_nearest2d",
    }
