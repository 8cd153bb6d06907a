"""Models that fully_shard (FSDP2) splits over two gloo processes compute, train and are saved as in one."""

from __future__ import annotations

import json

import pytest
import torch

import capaboost_vit
from capaboost_vit.methods.adapter_file import read_adapter_file

WORKER = """
import json
import os
import sys

import timm
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import capaboost_vit

folder = sys.argv[1]
rank, world = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
generator = torch.Generator().manual_seed(1)
images, labels = torch.randn(4, 3, 32, 32, generator=generator).double(), torch.arange(4)
if world > 1:
    dist.init_process_group("gloo")


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def refused(verb, *args, **kwargs):
    try:
        verb(*args, **kwargs)
    except ValueError as error:
        return str(error)


for method, options in json.loads(sys.argv[2]).items():
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=4).double()
    capaboost_vit.adapt(model, method, **options)
    for parameter in (p for p in model.parameters() if p.requires_grad):
        torch.nn.init.normal_(parameter, std=0.05)
    name = f"{folder}/{method}-{world}"
    if world > 1:
        mesh = init_device_mesh("cpu", (world,))
        for part in (*model.blocks, model):
            fully_shard(part, mesh=mesh)
    capaboost_vit.save_adapter(model, f"{name}-start.safetensors")
    summary = capaboost_vit.summary(model, flops=False, verbose=False)
    seen = {"counts": (summary.trained, summary.total), "held": sum(
        (p.to_local() if hasattr(p, "to_local") else p).numel() for p in model.parameters()
    )}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    hooks = capaboost_vit.make_method(method, **options)
    for step in range(3):
        optimizer.zero_grad()
        logits = model(images[rank::world])
        loss = torch.nn.functional.cross_entropy(logits, labels[rank::world])
        penalty = hooks.penalty(model)
        (loss if penalty is None else loss + penalty).backward()
        if step == 0:
            seen["logits"] = logits.detach()
            seen["gradients"] = {n: whole(p.grad) for n, p in model.named_parameters() if p.requires_grad}
        optimizer.step()
        hooks.after_step(model, step, 3)
    capaboost_vit.save_adapter(model, f"{name}-end.safetensors")
    if world > 1:
        seen["refused"] = [
            refused(capaboost_vit.merge, model),
            refused(capaboost_vit.adapt, model, "norm"),
            refused(capaboost_vit.summary, model),
        ]
        dist.barrier()  # the first process has written
        capaboost_vit.load_adapter(model, f"{name}-start.safetensors")
        capaboost_vit.save_adapter(model, f"{name}-again.safetensors")
    torch.save(seen, f"{name}-{rank}.pt")
if world > 1:
    dist.barrier()
    dist.destroy_process_group()
"""
METHODS = {
    "lora": {"num_branches": 2, "density": 0.5, "targets": ["qkv", "mlp_in"]},
    "adapter": {"bottleneck": 4},
    "prompt": {"prompt_length": 2},
    "dyt": {"bottleneck": 4, "sampled": False},
    "adalora": {"init_r": 3, "target_r": 1},
}


@pytest.fixture(scope="module")
def folder(ready, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    for ranks in (1, 2):
        ready.run(["python", "-c", WORKER, folder, json.dumps(METHODS)], ranks=ranks, check=True)
    return folder


def close(actual, expected):
    largest = max(tensor.abs().max() for tensor in expected.values() if tensor.is_floating_point())
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (actual[name] - tensor).abs().max() <= 1e-6 * largest, name


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_that_hold_half_of_each_weight_train_like_one(folder, method):
    one, *two = (torch.load(folder / f"{method}-{name}.pt") for name in ("1-0", "2-0", "2-1"))
    close({"": torch.stack([two[0]["logits"], two[1]["logits"]], 1).flatten(0, 1)}, {"": one["logits"]})
    for seen in two:
        close(seen["gradients"], one["gradients"])
        assert seen["counts"] == one["counts"]
        assert seen["held"] <= 0.51 * one["held"]
    after, expected = (read_adapter_file(folder / f"{method}-{n}-end.safetensors").tensors for n in "21")
    close(after, expected)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_file_of_a_sharded_model_is_that_of_the_whole_one_and_loads_into_either(folder, method):
    whole, sharded, again = (
        (folder / f"{method}-{name}.safetensors").read_bytes() for name in ("1-start", "2-start", "2-again")
    )
    assert whole == sharded == again


@pytest.mark.slow
def test_what_needs_whole_weights_says_what_to_do_instead(folder):
    merge, adapt, summary = torch.load(folder / "lora-2-1.pt")["refused"]
    prefix = "this FSDPVisionTransformer is sharded by fully_shard, and no process has it whole: "
    assert merge == f"{prefix}save_adapter on all processes, then load_adapter and merge in one"
    assert adapt == f"{prefix}adapt first, and shard afterwards"
    assert summary == f"{prefix}summary(model, flops=False)"


def test_no_folder_of_shards_is_written_for_peft(tmp_path):
    pytest.importorskip("peft")
    model = capaboost_vit.adapt(torch.nn.Sequential(torch.nn.Linear(4, 4)), "lora", targets=("0",), head=())
    model.__class__ = type("FSDPSequential", (type("FSDPModule", (), {}), type(model)), {})  # as fully_shard does it
    with pytest.raises(
        ValueError, match=r"is sharded by fully_shard.*: save_adapter on all processes, then load_adapter"
    ):
        capaboost_vit.export_peft(model, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
