"""An embedding table that stays in host memory, whose rows the GPU reads over the bus."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class HostTable(nn.Module):
    """An embedding table in host memory, for a pass that reads few of its rows.

    In the lowest memory mode it keeps 0.5 to 0.7 GB off the GPU. That decides whether the 12B runs on a card of 24 GiB
    (25.77 GB): it needs 25.1 GB with the table in host memory and 25.8 GB with the table on the GPU.

    table   [rows, width], on the CPU or the device
    device  reads the table
    """

    def __init__(self, table: Tensor, device: torch.device) -> None:
        super().__init__()
        # A plain attribute and no parameter: moving the module's parameters must leave the table where it is.
        self._table = mapped(table, device) if device.type == "cuda" else table

    def forward(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self._table)


def mapped(tensor: Tensor, device: torch.device) -> Tensor:
    """A CUDA tensor whose memory is a pinned copy of the given one on the host (unified virtual addressing)."""
    with torch.cuda.device(device):
        host = tensor.cpu().contiguous().pin_memory()
        return torch.as_tensor(_HostBytes(host), device=device).view(tensor.dtype).view(tensor.shape)


class _HostBytes:
    """Pinned host memory under the address at which the device sees it. It lives as long as the tensor made of it."""

    def __init__(self, host: Tensor) -> None:
        self._host = host
        self.__cuda_array_interface__ = {
            "shape": (host.nbytes,),
            "typestr": "|u1",
            "data": (host.data_ptr(), False),
            "strides": None,
            "version": 3,
        }
