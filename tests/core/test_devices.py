"""The same model on a GPU, under real mixed precision, and compiled by inductor."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn

from capaboost_vit.core.inject import Anatomy, branches
from capaboost_vit.methods import make_method
from capaboost_vit.methods.apply import apply_method


def model(device="cpu") -> nn.Module:
    torch.manual_seed(0)
    with torch.device(device):
        made = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
    apply_method(made, Anatomy(), make_method("lora", targets=["0", "2"]))
    for index, branch in enumerate(branches(made).values()):
        fill = torch.randn(branch.up.weight.shape, generator=torch.Generator().manual_seed(index))
        branch.up.weight.data.copy_(0.1 * fill)
    return made


@pytest.mark.gpu
def test_masks_and_start_do_not_depend_on_the_device():
    for (name, cpu), cuda in zip(branches(model()).items(), branches(model("cuda")).values(), strict=True):
        assert torch.equal(cpu.down.mask, cuda.down.mask.cpu()), name
        assert torch.equal(cpu.down.weight, cuda.down.weight.cpu()), name


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gpu_autocast_agrees_with_the_cpu(dtype):
    cpu = model()
    cuda = model().cuda()
    x = torch.randn(16, 32)
    with torch.autocast("cuda", dtype):
        y = cuda(x.cuda())
    assert y.dtype == dtype
    torch.testing.assert_close(y.float().cpu(), cpu(x), rtol=0.02, atol=0.02)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_inductor_compiles_a_training_step_in_one_graph():
    eager, compiled = model(), model()
    torch.compiler.reset()
    run = torch.compile(compiled, fullgraph=True)
    x = torch.randn(16, 32)
    for step in (eager, run):
        step(x).square().sum().backward()
    for (name, first), second in zip(eager.named_parameters(), compiled.parameters(), strict=True):
        if first.requires_grad:
            torch.testing.assert_close(first.grad, second.grad, rtol=1e-4, atol=1e-4, msg=name)
