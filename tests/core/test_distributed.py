"""Two gloo processes train an adapted model like one, and stay bitwise equal."""

from __future__ import annotations

import pytest
import torch

WORKER = """
import os
import sys
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from capaboost_vit.core.inject import Anatomy
from capaboost_vit.methods.apply import apply_method
from capaboost_vit.methods import make_method

folder, method = sys.argv[1:]
rank, world = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
targets = {"lora": ["0", "2"], "adapter": ["0"]}[method]
head = {"lora": (), "adapter": ("2",)}[method]
apply_method(model, Anatomy(head=head), make_method(method, targets=targets))
torch.manual_seed(1)
x, y = torch.randn(16, 8), torch.randn(16, 8)
run = model
if world > 1:
    dist.init_process_group("gloo")
    run = DistributedDataParallel(model)
trained = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=0.01)
for _ in range(5):
    optimizer.zero_grad()
    (run(x[rank::world]) - y[rank::world]).square().mean().backward()
    optimizer.step()
torch.save(model.state_dict(), f"{folder}/{world}-{rank}.pt")
if world > 1:
    dist.destroy_process_group()
"""


@pytest.mark.parametrize("method", ["lora", "adapter"])
def test_two_processes_train_like_one_and_stay_bitwise_equal(ready, tmp_path, method):
    for ranks in (1, 2):
        ready.run(["python", "-c", WORKER, tmp_path, method], ranks=ranks, check=True)
    first, second, one = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("2-0", "2-1", "1-0"))
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
        torch.testing.assert_close(tensor, one[name], rtol=0, atol=1e-6, msg=name)
