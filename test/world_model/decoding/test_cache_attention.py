"""The attention kernel over the KV cache against PyTorch's, on a GPU."""

import pytest
import torch

from cosmos_ros.world_model.transformer import attend_grouped

cache_attention = pytest.importorskip("cosmos_ros.world_model.decoding.cache_attention", exc_type=ImportError)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize(("n", "last"), [(1, 0), (1, 255), (1, 256), (1, 4999), (5, 300), (100, 2000)])
def test_every_query_sees_the_rows_up_to_its_own_and_reads_no_other(dtype, bound, n, last):
    torch.manual_seed(0)
    queries = torch.randn(1, 8, n, 64, device="cuda", dtype=dtype)
    keys, values = torch.randn(2, 1, 2, 5000, 64, device="cuda", dtype=dtype)
    positions = torch.arange(last - n + 1, last + 1, device="cuda")
    mask = torch.arange(5000, device="cuda") <= positions[:, None]
    expected = attend_grouped(queries.double(), keys.double(), values.double(), mask)
    keys[:, :, last + 1 :] = values[:, :, last + 1 :] = float("nan")
    seen = cache_attention.attend_to_cache(queries, keys, values, positions)
    assert (seen - expected).abs().max() < bound
