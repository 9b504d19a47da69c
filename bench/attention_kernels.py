"""Attention of a few new tokens over a long KV cache: this kernel beside PyTorch's, FlexAttention and FlashInfer.

    PYTHONPATH=. python bench/attention_kernels.py --out FILE.json [--kernels NAMES] [--rows 12800,3200] [--tiny]

The heads of the 4B, bfloat16, and the last of the queries sees all rows. A kernel is timed as a CUDA graph of its 16
layers, each with a cache of its own, so that the L2 cache holds no more of it than in a rollout; the times are of one
layer. Beside them stand two floors, of a copy's bandwidth and of a large product's speed, both measured in the same
run: the bytes of keys and values, and the operations of both products. What differs from float64 by more than 2 % of
the largest number, or does not run, is no candidate: instead of a time it gets the reason. FlashInfer compiles its
kernels with nvcc at first use; `--compile` does that alone and times nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from decode import DEVICE, captured, device, milliseconds, release
from torch import Tensor

from cosmos_ros.world_model.config import PUBLISHED_KINDS
from cosmos_ros.world_model.transformer import attend_grouped

CONFIG = PUBLISHED_KINDS["4B"].config
PAGE = 64  # rows of a page of FlashInfer's caches
WORKSPACE = 256 * 2**20  # bytes, of FlashInfer's splits
MOST_ERROR = 0.02  # relative to the largest number: bfloat16 has 8 bits

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # [1, heads, W, d], twice [1, kv heads, rows, d] -> heads first


def this_project(window: int, seen: int) -> Attend:
    from cosmos_ros.world_model.decoding.cache_attention import attend_to_cache

    filled = torch.tensor([seen - window + 1], device=DEVICE)

    def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return attend_to_cache(queries, keys, values, filled).view(1, window, *queries.shape[1::2]).transpose(1, 2)

    return attend


def sdpa_mask(window: int, seen: int) -> Attend:
    """Queries that share keys folded into rows of one matrix, and a mask: the length may stand on the device."""
    places = torch.arange(seen - window, seen, device=DEVICE)[:, None]
    mask = (torch.arange(seen, device=DEVICE) <= places)[None, None]
    return lambda queries, keys, values: attend_grouped(queries, keys, values, mask)


def sdpa_flash(window: int, seen: int) -> Attend:
    """FlashAttention 2 through PyTorch, for a length that the host knows."""
    from torch.nn.attention.bias import causal_lower_right

    mask = causal_lower_right(window, seen)
    return lambda queries, keys, values: F.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, enable_gqa=True
    )


def flex(window: int, seen: int, options: dict | None = None) -> Attend:
    """Compiled for exactly these sizes; the length stands on the device."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    first = torch.tensor(seen - window, device=DEVICE)
    mask = create_block_mask(lambda b, h, q, k: k <= first + q, None, None, window, seen, device=DEVICE)
    torch._dynamo.reset()  # else it gives up compiling after a few sizes
    compiled = torch.compile(flex_attention, dynamic=False)
    return partial(compiled, block_mask=mask, enable_gqa=True, kernel_options=options)


def once(prepare: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """What a kernel wants laid out otherwise is laid out before it is timed."""
    done: dict[int, Tensor] = {}

    def prepared(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in done:
            done[tensor.data_ptr()] = prepare(tensor)
        return done[tensor.data_ptr()]

    return prepared


def flashinfer_single(window: int, seen: int, backend: str) -> Attend:
    """`single_prefill_with_kv_cache`: for a length that the host knows."""
    import flashinfer

    rows_first = once(lambda queries: queries[0].transpose(0, 1).contiguous())

    def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        result = flashinfer.single_prefill_with_kv_cache(
            rows_first(queries), keys[0], values[0], causal=True, kv_layout="HND", backend=backend
        )
        return result.transpose(0, 1)[None]

    return attend


def flashinfer_decode(window: int, seen: int) -> Attend:
    """`single_decode_with_kv_cache`, of one query."""
    import flashinfer

    if window != 1:
        raise NotImplementedError("takes one query")

    def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        result = flashinfer.single_decode_with_kv_cache(
            queries[0, :, 0], keys[0], values[0], kv_layout="HND", use_tensor_cores=True
        )
        return result[None, :, None]

    return attend


def flashinfer_paged(window: int, seen: int, backend: str) -> Attend:
    """`BatchPrefillWithPagedKVCacheWrapper`: splits planned on the host; the cache laid out in its pages beforehand."""
    import flashinfer

    pages = -(-seen // PAGE)
    wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(
        torch.empty(WORKSPACE, dtype=torch.uint8, device=DEVICE), "HND", backend=backend
    )

    def whole(*numbers: int) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int32, device=DEVICE)

    wrapper.plan(
        whole(0, window),
        whole(0, pages),
        torch.arange(pages, dtype=torch.int32, device=DEVICE),
        whole((seen - 1) % PAGE + 1),
        CONFIG.n_heads,
        CONFIG.n_kv_heads,
        CONFIG.head_dim,
        PAGE,
        causal=True,
        q_data_type=torch.bfloat16,
        kv_data_type=torch.bfloat16,
    )
    rows_first = once(lambda queries: queries[0].transpose(0, 1).contiguous())

    def in_pages(rows: Tensor) -> Tensor:
        padded = F.pad(rows[0], (0, 0, 0, pages * PAGE - seen))
        return padded.unflatten(1, (pages, PAGE)).transpose(0, 1).contiguous()

    paged = once(in_pages)

    def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return wrapper.run(rows_first(queries), (paged(keys), paged(values))).transpose(0, 1)[None]

    return attend


KERNELS: dict[str, Callable[[int, int], Attend]] = {
    "this project": this_project,
    "SDPA with a mask": sdpa_mask,
    "SDPA, FlashAttention 2": sdpa_flash,
    "FlexAttention": flex,
    "FlexAttention, for many queries": partial(flex, options={"BACKEND": "TRITON"}),
    "FlashInfer, one decode": flashinfer_decode,
    "FlashInfer, one prefill, fa2": partial(flashinfer_single, backend="fa2"),
    "FlashInfer, one prefill, fa3": partial(flashinfer_single, backend="fa3"),
    "FlashInfer, paged prefill, fa2": partial(flashinfer_paged, backend="fa2"),
    "FlashInfer, paged prefill, fa3": partial(flashinfer_paged, backend="fa3"),
}


def three_digits(number: float) -> float:
    return float(f"{number:.3g}")


class Bench:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.layers = 2 if args.tiny else CONFIG.n_layers
        self.result = {"device": device(), "heads": [CONFIG.n_heads, CONFIG.n_kv_heads, CONFIG.head_dim]}
        self.result |= {
            "copy_terabytes_per_s": self.bandwidth(),
            "product_teraflops": self.speed(),
            "ms_of_a_layer": {},
        }

    def bandwidth(self) -> float:
        """Bytes read and written by a copy."""
        block = torch.randn(2**10 if self.args.tiny else 2**30, dtype=torch.bfloat16, device=DEVICE)
        other = torch.empty_like(block)
        return three_digits(2 * block.nbytes / milliseconds(lambda: other.copy_(block)) / 1e9)

    def speed(self) -> float:
        n = 64 if self.args.tiny else 8192
        left, right = (torch.randn(n, n, dtype=torch.bfloat16, device=DEVICE) for _ in range(2))
        return three_digits(2 * n**3 / milliseconds(lambda: left @ right) / 1e9)

    def size(self, rows: int, window: int) -> dict:
        """Of every kernel, with the floors beside it."""
        heads, kv_heads, d = CONFIG.n_heads, CONFIG.n_kv_heads, CONFIG.head_dim
        caches = [
            [torch.randn(1, kv_heads, rows, d, device=DEVICE, dtype=torch.bfloat16) for _ in range(2)]
            for _ in range(self.layers)
        ]
        queries = torch.randn(1, heads, window, d, device=DEVICE, dtype=torch.bfloat16)
        expected = sdpa_mask(window, rows)(*(each.double() for each in (queries, *caches[0])))
        found: dict = {
            "floor of bytes": round(2 * caches[0][0].nbytes / self.result["copy_terabytes_per_s"] / 1e9, 4),
            "floor of operations": round(4 * heads * window * rows * d / self.result["product_teraflops"] / 1e9, 4),
        }
        for name in self.args.kernels:
            began = time.monotonic()
            try:
                found[name] = self.one(KERNELS[name](window, rows), queries, caches, expected)
            except Exception as error:
                found[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            print(rows, window, name, found[name], f"({time.monotonic() - began:.1f} s)", flush=True)
            release()
        return found

    def one(self, attend: Attend, queries: Tensor, caches: list[list[Tensor]], expected: Tensor) -> float | str | None:
        """Milliseconds of a layer, or why it has none."""
        result = attend(queries, *caches[0]).double()
        error = float((result - expected).abs().max() / expected.abs().max())
        if not error < MOST_ERROR:
            return f"differs by {error:.3f} of the largest number"
        if self.args.compile:
            return None

        def layers() -> None:
            for keys, values in caches:
                attend(queries, keys, values)

        layers()
        return round(milliseconds(captured(layers)) / len(caches), 4)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", default=[12800, 3200], type=lambda text: [int(n) for n in text.split(",")])
    parser.add_argument("--queries", default=[1, 16, 64, 128], type=lambda text: [int(n) for n in text.split(",")])
    parser.add_argument(
        "--kernels", default=list(KERNELS), type=lambda text: text.split(";"), help="between semicolons"
    )
    parser.add_argument("--compile", action="store_true", help="only have every kernel compiled")
    parser.add_argument("--tiny", action="store_true", help="shows that the script works, also without a GPU")
    args = parser.parse_args()
    if args.tiny:
        args.rows, args.queries = [256], [1, 4]
    bench = Bench(args)
    with torch.no_grad():
        for rows in args.rows:
            for window in args.queries:
                bench.result["ms_of_a_layer"][f"{rows} rows, {window} queries"] = bench.size(rows, window)
                args.out.write_text(json.dumps(bench.result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
