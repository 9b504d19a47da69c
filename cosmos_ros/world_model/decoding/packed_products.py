"""Matrix products on a CPU, with weights that lie as its kernels read them.

A pass has few rows: of a product over them, plain PyTorch spends a third on laying out the weights, in every pass anew.
oneDNN takes weights that were laid out once. Each row of its result is the same, bit for bit, whatever the other rows
are and however many, as a window needs it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cosmos_ros.world_model.transformer import Transformer

OPERATORS = ("_reorder_linear_weight", "_linear_pointwise")


class PackedLinear(nn.Module):
    """A linear layer without bias, float32.

    weight  [out, in], in a layout that only oneDNN reads
    """

    weight: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ops.mkldnn._reorder_linear_weight(linear.weight.data), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, None, "none", [], "")


@torch.inference_mode(False)
@torch.no_grad()
def pack(transformer: Transformer) -> None:
    """Exchange the large weights, one after the other: the model never stands in memory twice.

    A transformer elsewhere than on the CPU, or in another precision, stays as it is, and so does one where PyTorch has
    no oneDNN, or none with these operators, which are its own and may change.
    """
    weight = transformer.output.weight
    there = torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in OPERATORS)
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or not there:
        return
    for owner in list(transformer.modules()):
        for name, layer in owner.named_children():
            if type(layer) is nn.Linear:
                setattr(owner, name, PackedLinear(layer))
