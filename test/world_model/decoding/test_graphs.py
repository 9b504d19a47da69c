"""What becomes of a pass that cannot be recorded: CUDA's part is played here, bench/cuda_smoke.py has the real one."""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch

from cosmos_ros.device.out_of_memory import out_of_memory_as_error
from cosmos_ros.errors import OutOfMemory
from cosmos_ros.world_model.decoding.graphs import graph_of

CPU = torch.device("cpu")


@pytest.fixture
def recorder(monkeypatch):
    """recorder(error): CUDA that records, or fails to with this error at the end of the recording."""

    def install(error: Exception | None = None) -> None:
        stream = SimpleNamespace(wait_stream=lambda other: None, synchronize=lambda: None)

        @contextmanager
        def graph(*_, **__):
            yield
            if error is not None:
                raise error

        monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
        monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
        monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
        monkeypatch.setattr(torch.cuda, "graph", graph)

    return install


def test_recording_leaves_what_a_step_writes_as_it_was(recorder):
    recorder()
    counts = torch.zeros(2)
    assert graph_of(lambda: counts.add_(1), (counts,), CPU) is not None
    assert counts.tolist() == [0, 0]


def test_without_support_for_graphs_there_is_none_and_the_log_says_so(recorder, caplog):
    recorder(RuntimeError("CUDA error: operation not permitted when stream is capturing"))
    counts = torch.zeros(2)
    assert graph_of(lambda: counts.add_(1), (counts,), CPU) is None
    assert counts.tolist() == [0, 0]
    assert "cannot be captured as a CUDA graph, and take longer: CUDA error: operation not permitted" in caplog.text


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), RuntimeError("CUDA error: out of memory")],
)
def test_too_little_memory_for_a_graph_ends_the_goal_and_changes_nothing(recorder, error):
    recorder(error)
    counts = torch.zeros(2)
    with pytest.raises(OutOfMemory, match="out of memory while predicting"), out_of_memory_as_error("predicting"):
        graph_of(lambda: counts.add_(1), (counts,), CPU)
    assert counts.tolist() == [0, 0]
