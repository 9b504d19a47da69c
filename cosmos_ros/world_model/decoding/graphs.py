"""Recording a step of a decoding as a CUDA graph, which replays all of its kernels at one call."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cosmos_ros.device.out_of_memory import is_out_of_memory

logger = logging.getLogger(__name__)


def graph_of(step: Callable[[], None], written: Sequence[Tensor], device: torch.device) -> torch.cuda.CUDAGraph | None:
    """The step as a graph; None, and said in the log, where it cannot be recorded: then it is to be called as it is.

    step     touches only tensors that stay where they are
    written  what a call changes and the next one reads; whatever becomes of the recording, it is as before

    Raises what the device says of missing memory.
    """
    kept = [tensor.clone() for tensor in written]
    aside = torch.cuda.Stream(device)
    aside.wait_stream(torch.cuda.current_stream(device))
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.stream(aside):
            step()  # compiles, and sizes what cannot be sized while recording
        aside.synchronize()
        # Other threads may go on with the GPU meanwhile.
        with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
            step()
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        logger.warning("passes cannot be captured as a CUDA graph, and take longer: %s", error)
        return None
    finally:
        torch.cuda.current_stream(device).wait_stream(aside)
        for tensor, before in zip(written, kept, strict=True):
            tensor.copy_(before)
    return graph
