"""Training in bfloat16: float32 branches beside a low-precision base, and W + dW rounded in each step."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import timm
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import capaboost_vit

SMALL = {"img_size": 8, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}
LINEAR = ("blocks.*.attn.qkv", "blocks.*.attn.proj", "blocks.*.mlp.fc1", "blocks.*.mlp.fc2")
STEPS, SEEDS = 100, range(3)  # a step in bfloat16 takes 20 ms on a CPU without it, and more steps show no more


def digits(first, last):
    data = load_digits()
    chosen = (data.target >= first) & (data.target <= last)
    images = torch.from_numpy(data.images[chosen]).float()[:, None].expand(-1, 3, -1, -1) / 8 - 1
    return images, torch.from_numpy(data.target[chosen] - first)


def train(model, images, labels, *, lr, seed, amp):
    """Trains on the first 500 images; mean loss on the others, in float32."""
    order = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    model.train()
    for _ in range(STEPS):
        batch = torch.from_numpy(order.integers(0, 500, 32))
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            loss = F.cross_entropy(model(images[batch]).float(), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        return F.cross_entropy(model(images[500:]), labels[500:]).item()


@pytest.mark.slow
def test_steps_in_weight_space_end_within_seed_noise_of_token_space():
    base = timm.create_model("vit_tiny_patch16_224", **SMALL)
    pretrained = train(base, *digits(0, 4), lr=2e-3, seed=0, amp=False)
    assert pretrained < 0.6 * math.log(5)
    images, labels = digits(5, 9)
    losses = {}
    for execution in ("token", "weight"):
        losses[execution] = []
        for seed in SEEDS:
            model = copy.deepcopy(base)
            capaboost_vit.adapt(model, "lora", rank=4, targets=LINEAR, execution=execution, init_seed=seed)
            torch.manual_seed(seed)
            model.head.reset_parameters()
            losses[execution].append(train(model, images, labels, lr=5e-3, seed=seed, amp=True))
    untrained = F.cross_entropy(base(images[500:]), labels[500:]).item()
    token, weight = (np.array(losses[execution]) for execution in ("token", "weight"))
    assert max(token.mean(), weight.mean()) < untrained / 2  # they learn, so there is something to lose
    # of the difference: here 0.03, where the difference is 0.005
    standard_error = np.sqrt((token.var(ddof=1) + weight.var(ddof=1)) / len(SEEDS))
    assert abs(weight.mean() - token.mean()) <= 3 * standard_error + 0.01


def perceptron(dtype):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 8)).to(dtype)


def steps(model, x, lr=1e-4):
    """The outputs of twenty steps of AdamW, and its trained parameters."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr)
    outputs = []
    for _ in range(20):
        optimizer.zero_grad()
        outputs.append(model(x))
        outputs[-1].float().square().mean().backward()
        optimizer.step()
    return torch.stack(outputs).detach(), trained


@pytest.mark.parametrize(  # AdamW's epsilon is zero in float16
    ("dtype", "autocast_adapter_dtype"), [(torch.bfloat16, True), (torch.bfloat16, False), (torch.float16, True)]
)
def test_lora_beside_a_low_precision_base_is_that_of_peft(dtype, autocast_adapter_dtype):
    peft = pytest.importorskip("peft")
    x = torch.randn(6, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    ours, theirs = perceptron(dtype), perceptron(dtype)
    options = {"rank": 4, "num_branches": 1, "density": 1.0, "autocast_adapter_dtype": autocast_adapter_dtype}
    capaboost_vit.adapt(ours, "lora", targets=["0", "2"], head=[], alpha=6.0, **options)
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["0", "2"])
    theirs = peft.get_peft_model(theirs, config, autocast_adapter_dtype=autocast_adapter_dtype)
    for i in (0, 2):
        layer, branch = theirs.base_model.model[i], ours[i].branches["all"]
        branch.up.weight.data.normal_(std=0.3, generator=torch.Generator().manual_seed(i))
        layer.lora_A["default"].weight.data.copy_(branch.down.weight)
        layer.lora_B["default"].weight.data.copy_(branch.up.weight)
    (outputs, trained), (expected, expected_trained) = steps(ours, x), steps(theirs, x)
    assert outputs.dtype == expected.dtype == dtype
    tolerance = {"rtol": 0.01, "atol": 0.02} if dtype == torch.bfloat16 else {"rtol": 1e-3, "atol": 2e-3}
    torch.testing.assert_close(outputs, expected, **tolerance)
    assert [p.dtype for p in trained] == [p.dtype for p in expected_trained]
    if autocast_adapter_dtype:
        for ours_now, theirs_now in zip(trained, expected_trained, strict=True):
            torch.testing.assert_close(ours_now, theirs_now, rtol=0, atol=2e-4)


def test_every_entry_that_a_mask_keeps_moves_beside_a_bfloat16_base():
    x = torch.randn(6, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    still = {}
    for wide in (True, False):
        model = perceptron(torch.bfloat16)
        capaboost_vit.adapt(model, "lora", targets=["0"], rank=8, head=[], autocast_adapter_dtype=wide)
        nn.init.normal_(model[0].branches["all"].up.weight)
        down = model[0].branches["all"].down
        before = down.weight.detach().clone()
        optimizer = torch.optim.AdamW([down.weight], lr=1e-4, weight_decay=0.0)
        for _ in range(20):
            optimizer.zero_grad()
            model(x).float().square().mean().backward()
            optimizer.step()
        kept = down.mask.any(0)
        still[wide] = (down.weight == before)[kept].float().mean().item()
    assert still[True] == 0
    assert still[False] > 0.3  # what the option is for


@pytest.mark.parametrize("execution", ["auto", "weight", "token"])
@pytest.mark.parametrize("name", ["lora", "adapter", "ia3"])
def test_under_autocast_a_bfloat16_base_computes_what_a_float32_one_does(name, execution):
    x = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    low, full = perceptron(torch.bfloat16), perceptron(torch.bfloat16).float()
    for model in (low, full):
        options = {"lora": {"execution": execution}, "adapter": {}, "ia3": {"inputs": ()}}[name]
        capaboost_vit.adapt(model, name, targets=["0", "2"], head=[], **options)
        for key, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.data.normal_(generator=torch.Generator().manual_seed(len(key)))
    outputs = []
    for model, inputs in ((low, x.bfloat16()), (full, x)):
        with torch.autocast("cpu", torch.bfloat16):
            outputs.append(model(inputs))
        outputs[-1].float().square().mean().backward()
    torch.testing.assert_close(*outputs, rtol=0.02, atol=0.1)
    grads = [[p.grad for p in model.parameters() if p.requires_grad] for model in (low, full)]
    assert {grad.dtype for grad in grads[0]} == {torch.float32}
    torch.testing.assert_close(*grads, rtol=0.1, atol=0.1)


def test_compiled_float32_branches_beside_a_bfloat16_base_compute_the_same():
    x = torch.randn(6, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    model = perceptron(torch.bfloat16)
    capaboost_vit.adapt(model, "lora", targets=["0"], head=["2"])
    nn.init.normal_(model[0].branches["all"].up.weight)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x), rtol=0.01, atol=0.02)


def test_a_head_whose_weight_another_layer_shares_keeps_its_dtype():
    model = nn.Sequential(nn.Embedding(5, 6), nn.Linear(6, 6), nn.Linear(6, 5)).bfloat16()
    model[2].weight = model[0].weight
    capaboost_vit.adapt(model, "lora", targets=["1"], head=["2"])
    assert model[2].weight is model[0].weight
    assert model(torch.arange(5)).dtype == model[0].weight.dtype == torch.bfloat16
