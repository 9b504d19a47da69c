"""The Triton kernels against the plain operations: on a GPU, or by Triton's interpreter on the CPU."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
pytest.importorskip(
    "triton", reason="Triton comes with PyTorch's CUDA builds, and is not worth 285 MB of every install for this file"
)

from cosmos_ros.world_model.diffusion_decoder import between_products, kernels
from cosmos_ros.world_model.diffusion_decoder.between_products import Branch, Steering
from cosmos_ros.world_model.diffusion_decoder.config import DiffusionDecoderConfig
from cosmos_ros.world_model.diffusion_decoder.network import DiffusionTransformer
from cosmos_ros.world_model.diffusion_decoder.positions import rotation_table

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("branch_rows", [None, 3, 6])
@pytest.mark.parametrize("dim", [32, 48])
def test_a_branch_is_added_to_the_first_rows_and_all_are_normalised(branch_rows, dim):
    x, vectors = torch.randn(6, dim, device=DEVICE), torch.randn(3, dim, device=DEVICE)
    branch = None if branch_rows is None else Branch(torch.randn(branch_rows, dim, device=DEVICE), vectors[0])
    plain, fused = x.clone(), x.clone()
    expected = between_products.add_and_normalise(plain, branch, Steering(*vectors[1:]), False)
    found = kernels.add_and_normalise(fused, branch, Steering(*vectors[1:]), False)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(fused, plain, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("rotated", [True, False])
@pytest.mark.parametrize(("heads", "head_dim"), [(2, 16), (3, 12)])
def test_heads_are_normalised_and_turned_by_the_rows_place(rotated, heads, head_dim):
    tables = rotation_table((2, 1, 3), head_dim, torch.float32)
    rotation = tuple(table.to(DEVICE) for table in tables) if rotated else None
    x, weight = torch.randn(12, heads * head_dim, device=DEVICE), torch.randn(head_dim, device=DEVICE)
    expected = between_products.normalise_heads(x.clone(), weight, rotation)
    torch.testing.assert_close(kernels.normalise_heads(x, weight, rotation), expected, atol=1e-5, rtol=1e-5)


def test_gelu_is_the_exact_one():
    x = torch.randn(5, 33, device=DEVICE) * 3
    expected = between_products.gelu(x, False)
    torch.testing.assert_close(kernels.gelu(x.clone(), False), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.skipif(DEVICE.type != "cuda", reason="multiplying in 8 bits needs a GPU")
def test_rows_in_float8_are_what_they_were_within_its_precision():
    x = torch.randn(4, 64, device=DEVICE, dtype=torch.bfloat16)
    rows, scale = kernels.gelu(x.clone(), True)
    expected = torch.nn.functional.gelu(x.float())
    assert ((rows.float() * scale - expected).abs() <= expected.abs() * 0.07 + scale).all()


def test_a_network_with_kernels_computes_what_a_plain_one_does():
    config = DiffusionDecoderConfig(2, 32, 2, 16, 48, 16, 8, 64, 4, 4)
    network = DiffusionTransformer(config).requires_grad_(False).to(DEVICE)
    given = (
        torch.randn(2, 4, 2, 4, 6, device=DEVICE),
        0.5,
        torch.randint(64, (2, 2, 2, 3), device=DEVICE),
        torch.randn(1, 5, 16, device=DEVICE),
    )
    with torch.inference_mode():
        network.between = between_products
        expected = network(*given)
        network.between = kernels
        found = network(*given)
    torch.testing.assert_close(found, expected, atol=1e-4 if DEVICE.type == "cpu" else 1e-2, rtol=0)
