"""Moving a module between its device and host memory keeps every value and frees what it says it frees."""

import gc
import threading
import weakref

import pytest
import torch
from torch import nn

from cosmos_ros.device.host_table import HostTable
from cosmos_ros.device.pinned_arena import Arena
from cosmos_ros.device.placement import DeviceMemory, Part
from cosmos_ros.device.plan import MemoryPlan
from cosmos_ros.device.tensors import bytes_of, tensors_of
from cosmos_ros.errors import ModelUnavailable
from cosmos_ros.pipeline import PIPELINE


def module() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(5, 2, bias=False))
    net.register_buffer("flags", torch.tensor([True, False, True]))
    return net.eval().requires_grad_(False)


def memory(*parked: str, exclusive: bool = False, patience_s: float = 60.0) -> DeviceMemory:
    """Of the CPU, which here is both the device and the host."""
    plan = MemoryPlan("low", (), PIPELINE, parked=frozenset(parked), exclusive=exclusive)
    return DeviceMemory("cpu", plan, patience_s=patience_s)


def script() -> nn.Module:
    return torch.jit.trace(module(), torch.zeros(1, 3, 3, 3))


@pytest.mark.parametrize("make", [module, script])
@pytest.mark.parametrize("inference", [False, True])
def test_a_parked_module_computes_what_it_computed(make, inference):
    net, image = make(), torch.rand(4, 3, 3, 3)
    before = net(image)
    part = memory("part").hold("part", net)
    for _ in range(2):
        with torch.inference_mode(inference), part.in_use() as used:
            assert torch.equal(used(image), before)


def test_parking_keeps_one_copy_on_the_host_and_frees_the_device():
    net = module()
    part = memory("part").hold("part", net)
    with part.in_use():
        on_device = {tensor.untyped_storage().data_ptr() for tensor in tensors_of(net)}
    on_host = {tensor.untyped_storage().data_ptr() for tensor in tensors_of(net)}
    assert len(on_device) == len(on_host) == 1, "one block each"
    assert on_device != on_host
    with part.in_use():
        pass
    assert {tensor.untyped_storage().data_ptr() for tensor in tensors_of(net)} == on_host, "the host's block is reused"


def test_an_arena_lays_tensors_out_without_overlap_and_aligned():
    net = module()
    values = [tensor.clone() for tensor in tensors_of(net)]
    arena = Arena.on_host(net)
    assert all(torch.equal(a, b) for a, b in zip(tensors_of(net), values, strict=True))
    assert all(offset % 512 == 0 for offset in arena.offsets)
    assert arena.block.nbytes >= bytes_of(net)


def test_a_module_is_loaded_at_first_use_and_only_once():
    loads = []
    part = DeviceMemory("cpu").hold("part", lambda: loads.append(1) or module())
    assert loads == []
    for _ in range(2):
        with part.in_use() as used:
            assert used(torch.zeros(1, 3, 3, 3)).shape == (1, 2)
    assert loads == [1]


def test_what_holds_addresses_hears_before_the_part_leaves():
    net, heard = module(), []
    part = memory("part").hold("part", net, on_leave=lambda: heard.append(next(net.parameters()).data_ptr()))
    with part.in_use():
        address = next(net.parameters()).data_ptr()
        part.leave()
        assert heard == [], "a part in use does not leave"
    assert heard == [address]


def test_a_part_used_by_two_threads_leaves_with_the_last():
    left = []
    part = memory("part").hold("part", module(), on_leave=lambda: left.append(1))
    inside, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with part.in_use():
            inside.set()
            go_on.wait(10)

    thread = threading.Thread(target=hold)
    with part.in_use():
        thread.start()
        assert inside.wait(10)
    assert left == []
    go_on.set()
    thread.join(10)
    assert left == [1]


def test_parts_that_take_turns_are_never_there_together():
    shared, there = memory("first", "second", exclusive=True), set()
    first, second = (shared.hold(name, module()) for name in ("first", "second"))
    most = []

    def work(part: Part) -> None:
        for _ in range(20):
            with part.in_use():
                there.add(part.name)
                most.append(len(there))
                there.remove(part.name)

    threads = [threading.Thread(target=work, args=(part,)) for part in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(most) == 40 and max(most) == 1


def test_a_part_that_does_not_leave_is_named_by_those_that_wait_for_it():
    shared = memory("video guard", "transformer", exclusive=True, patience_s=0.1)
    go_on, inside = threading.Event(), threading.Event()
    guard, transformer = (shared.hold(name, module()) for name in ("video guard", "transformer"))

    def hang() -> None:
        with guard.in_use():
            inside.set()
            go_on.wait(10)

    thread = threading.Thread(target=hang)
    thread.start()
    assert inside.wait(10)
    with (
        pytest.raises(ModelUnavailable, match="the video guard .* and the transformer cannot come"),
        transformer.in_use(),
    ):
        pass
    go_on.set()
    thread.join(10)
    with transformer.in_use(), transformer.in_use():
        pass


def test_an_error_while_a_part_works_lets_it_leave():
    left = []
    part = memory("part", exclusive=True).hold("part", module(), on_leave=lambda: left.append(1))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="broken"), part.in_use():
            raise RuntimeError("broken")
    assert left == [1, 1]


def test_a_part_that_left_holds_nothing_of_the_device_block():
    part = memory("part").hold("part", module())
    with part.in_use() as used:
        block = weakref.ref(next(used.parameters()).untyped_storage())
    del used
    gc.collect()
    assert block() is None


def test_a_table_in_host_memory_gives_its_rows_and_does_not_move_with_the_module():
    table = torch.arange(12.0).view(4, 3)
    net = nn.Sequential(HostTable(table, torch.device("cpu")), nn.Linear(3, 2))
    assert torch.equal(net[0](torch.tensor([[2, 0]])), table[torch.tensor([[2, 0]])])
    assert {tensor.shape for tensor in tensors_of(net)} == {torch.Size([2, 3]), torch.Size([2])}


def addresses(net: nn.Module) -> set[int]:
    return {tensor.data_ptr() for tensor in tensors_of(net)}


def test_a_part_follows_the_plan_that_was_made_after_it():
    """Guards are made when the node is configured; how much memory is free is known when it is activated."""
    net, image = module(), torch.rand(4, 3, 3, 3)
    before, device = net(image), DeviceMemory("cpu")
    part = device.hold("part", net)
    for parked in (frozenset({"part"}), frozenset(), frozenset({"part"})):
        device.follow(MemoryPlan("auto", (), PIPELINE, parked=parked))
        part.rest()
        with part.in_use() as used:
            there = addresses(used)
            assert torch.equal(used(image), before)
        assert (addresses(net) == there) is not bool(parked), "a parked part leaves after its use, another one stays"
        with part.in_use() as used:
            assert torch.equal(used(image), before)
        part.leave()


def test_a_part_that_is_not_parked_leaves_when_it_is_told_and_comes_back():
    net, image, left = module(), torch.rand(4, 3, 3, 3), []
    before = net(image)
    part = DeviceMemory("cpu").hold("part", net, on_leave=lambda: left.append(1))
    for _ in range(2):
        with part.in_use() as used:
            part.leave()
            assert torch.equal(used(image), before)
    assert left == [], "a part in use does not leave"
    part.leave()
    assert left == [1]
    with part.in_use() as used:
        assert torch.equal(used(image), before)
