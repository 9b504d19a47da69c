"""Several processes train one model: torchrun starts them, and they agree."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from cosmos_ros.training.checkpoint import STATE, Unfinished
from cosmos_ros.training.ranks import Ranks

# Two steps of a line's slope; each rank draws other points. What a rank ends with is printed. Then they join again.
TRAIN = r"""
import json, sys, time
from pathlib import Path
import torch
from cosmos_ros.training import loop
from cosmos_ros.training.journal import Journal
from cosmos_ros.training.loop import Recipe, train
from cosmos_ros.training.ranks import Ranks
ranks = Ranks.join("cpu")
torch.manual_seed(0)
network = torch.nn.Linear(3, 1)
class Loss(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.network = network
    def forward(self, x):
        return (self.network(x) - x.sum(1, keepdim=True)).square().mean()
drawn = []
def draw(generator):
    drawn.append(torch.rand(4, 3, generator=generator))
    return (drawn[-1],)
recipe = Recipe("line", 2, [{"params": list(network.parameters())}], Loss(), draw, 4, 0.1, (0.9, 0.98), 0.5)
train(recipe, ranks, Journal(Path(sys.argv[1]), ranks.is_first), 0, lambda step, state: None)
weights = [p.tolist() for p in network.parameters()]
ended = json.dumps({"rank": ranks.rank, "drawn": drawn[0][0].tolist(), "weights": weights,
                    "share": ranks.share("abcde"), "gathered": ranks.gather(ranks.rank + 5),
                    "agreed": ranks.agree(ranks.rank == 0)})
sys.stdout.write(ended + "\n")  # at once: print would write the line's end by itself, and the other rank in between
sys.stdout.flush()
ranks.leave()
if not ranks.is_first:
    time.sleep(1)  # the other one looks for this one's address while the store holds that of the group before
again = Ranks.join("cpu")
assert again.gather(again.rank) == [0, 1]
again.leave()
"""


def test_one_process_needs_no_others():
    alone = Ranks.join("cpu")
    module = torch.nn.Linear(1, 1)
    assert (alone.rank, alone.size, alone.is_first) == (0, 1, True) and alone.wrap(module) is module
    assert alone.share("abc") == list("abc") and alone.mean(2.5) == 2.5 and alone.gather(3) == [3]
    assert Ranks(2, 4, torch.device("cpu")).share("ab") == ["a", "b"], "too few for one each: all of them"


@pytest.mark.processes
@pytest.mark.slow
def test_torchrun_trains_one_model_with_two_processes(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(script), str(tmp_path)], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    one, other = sorted((json.loads(line) for line in done.stdout.splitlines()), key=lambda each: each["rank"])
    assert one["weights"] == other["weights"] and one["drawn"] != other["drawn"]
    assert one["share"] == ["a", "c", "e"] and other["share"] == ["b", "d"]
    assert one["gathered"] == other["gathered"] == [5, 6] and one["agreed"] and other["agreed"]
    assert (tmp_path / "training.jsonl").read_text().count('"step": 2, "loss"') == 1, "the first alone speaks"


def test_the_part_that_a_checkpoint_names_stays_until_another_checkpoint_is_there(tmp_path):
    """A run may be killed at any time: what the newest checkpoint names must lie beside it."""
    part, state = tmp_path / "unfinished" / "part-0-1.pt", tmp_path / "unfinished" / STATE
    seen = []

    class Watched(Ranks):
        def wait(self) -> None:
            seen.append((part.exists(), state.exists() and torch.load(state)["part"]))

    unfinished = Unfinished(tmp_path, {}, False, Watched(0, 2, torch.device("cpu")))
    unfinished.keep({}, {"step": 1})
    assert seen == [(True, False), (True, 1)]
    unfinished.keep({})
    assert seen[2:] == [(True, 1), (True, None)] and not part.exists()
