"""DAS: skipped blocks against a model without them, its gates against their gradient, its two stages, what it saves."""

from __future__ import annotations

import itertools
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from vits import vit as made

import capaboost_vit
from capaboost_vit import core
from capaboost_vit.core.meta_models import outlines
from capaboost_vit.methods import make_method
from capaboost_vit.run import train

X = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def vit(**options):
    return made(**{"img_size": 16, "depth": 3, **options})


def awake(model):
    """Adapters that do something."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for adapter in (m for m in model.modules() if isinstance(m, core.NormedAdapter)):
            for parameter in adapter.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def das(depth=3, **options):
    options = {"bottleneck": 4, "skip_bottleneck": 6, **options}
    return capaboost_vit.adapt(vit(depth=depth), "das", **options).double().eval()


def added(adapter, x):
    """The definition of an adapter."""
    norm, branch = adapter.norm, adapter.branch
    z = F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias)
    return torch.relu(z @ branch.down.weight.T + branch.down_bias) @ branch.up.weight.T + branch.up_bias


def naive(model, x=X):
    tokens = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(x))))
    for block in model.blocks:
        base, adapters = block.base, block.adapters
        if "skip" in adapters:
            tokens = tokens + added(adapters["skip"], tokens)
            continue
        middle = tokens + base.attn(base.norm1(tokens)) + added(adapters["attn"], tokens)
        tokens = middle + base.mlp(base.norm2(middle)) + added(adapters["mlp"], middle)
    return model.forward_head(model.norm(tokens))


@pytest.mark.parametrize("skipped", [(), (1,), (0, 2), (0, 1, 2)])
def test_skipped_and_kept_blocks_are_their_definition_and_so_is_the_short_cut(skipped):
    model = awake(das(skipped=skipped))
    torch.testing.assert_close(model(X), naive(model), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(capaboost_vit.logits_only(model)(X), model(X), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("skipped", [(), (1,), (0, 2)])
def test_at_step_0_it_is_the_model_that_lacks_the_skipped_blocks(skipped):
    model, lacking = das(skipped=skipped), vit().double()
    lacking.blocks = nn.Sequential(*(block for i, block in enumerate(lacking.blocks) if i not in skipped))
    torch.testing.assert_close(model(X), lacking(X), rtol=1e-12, atol=1e-12)


def test_skipping_none_is_all_blocks_and_nothing_is_skipped_until_it_is_said():
    assert make_method("das", skip_num=0).skipped == ()
    assert make_method("das", skipped=(2, 0, 2)).record()["skipped"] == [0, 2]
    assert make_method("das", skipped=(2, 0)).skip_num == 2
    assert make_method("das", skipped=2).skipped == (2,)
    for model in (das(), das(skip_num=0)):
        assert torch.equal(model(X), vit().double()(X))


@pytest.mark.parametrize(("skipped", "size"), [((), 12 * 299_712), ((3, 7), 10 * 299_712 + 2 * 297_408)])
def test_the_numbers_of_a_vit_b_are_those_of_the_definition(skipped, size):
    with outlines():
        model = timm.create_model("vit_base_patch16_224", num_classes=0)
        capaboost_vit.adapt(model, "das", head=(), skipped=skipped)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == size


def executed(model):
    return capaboost_vit.count_flops(model.float().eval(), X[:1].float()).executed


def test_the_multiply_adds_of_a_skipped_block_are_those_of_its_adapter():
    n, d = 5, 16
    block = n * 12 * d * d + 2 * n * n * d
    kept, instead = n * 2 * (2 * d * 4), n * 2 * d * 6
    norm = 5 * n * d  # as fvcore counts one
    assert executed(das()) - executed(vit()) == 3 * (kept + 2 * norm)
    assert executed(das()) - executed(das(skipped=(0, 2))) == 2 * (block + kept - instead + 3 * norm)


def test_of_a_skipped_block_nothing_runs_and_detached_the_base_is_whole():
    model, ran = das(skipped=(1,)), []
    for index, block in enumerate(model.blocks):
        block.base.attn.qkv.register_forward_hook(lambda *_, index=index: ran.append(index))
        block.base.mlp.fc1.register_forward_hook(lambda *_, index=index: ran.append(index))
    model(X)
    assert ran == [0, 0, 2, 2]
    assert torch.equal(capaboost_vit.detach(das(skipped=(1,)))(X), vit().double()(X))


def test_a_file_knows_what_is_skipped(tmp_path):
    model = awake(capaboost_vit.adapt(vit(), "das", skipped=(1,), bottleneck=4, skip_bottleneck=6))
    path = capaboost_vit.save_adapter(model, tmp_path / "adapter.safetensors")
    loaded = capaboost_vit.load_adapter(vit(), path).eval()
    assert [block.adapters.skipped for block in loaded.blocks] == [False, True, False]
    assert torch.equal(loaded(X.float()), model(X.float()))
    assert capaboost_vit.read_header(path)["methods"][0]["skipped"] == [1]
    with pytest.raises(capaboost_vit.AdapterFileError, match="does not fit this VisionTransformer"):
        capaboost_vit.load_adapter(capaboost_vit.adapt(vit(), "das", skipped=(2,), bottleneck=4), path)


@pytest.mark.slow
def test_it_compiles_in_one_graph_with_the_same_gradients():
    torch.compiler.reset()
    model = awake(das(skipped=(1,)))
    weights = [p for p in model.parameters() if p.requires_grad]
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    found, expected = (torch.autograd.grad(m(X).square().sum(), weights) for m in (compiled, model))
    torch.testing.assert_close(found, expected)
    assert all(g.any() for g in expected)


def test_refusals_say_what_to_do():
    with pytest.raises(ValueError, match="no skipping of blocks is known for Eva: das takes ViTs of timm with plain"):
        capaboost_vit.adapt(timm.create_model("eva02_tiny_patch14_224", img_size=28, depth=1), "das")
    with pytest.raises(TypeError, match=r"das needs timm's plain Block, got Prompted of .*: detach what is around it"):
        capaboost_vit.adapt(capaboost_vit.adapt(vit(), "prompt"), "das")
    with pytest.raises(ValueError, match="skipped names block 3, and this VisionTransformer has 0 to 2"):
        das(skipped=(3,))
    with pytest.raises(ValueError, match="skipped of method 'das' must be at least 0, got -1"):
        make_method("das", skipped=(-1,))
    with pytest.raises(capaboost_vit.CannotMerge, match="an adapter of a block is no change of a weight"):
        capaboost_vit.merge(das(skipped=(1,)))
    job = SimpleNamespace(val=None, data="birds", model=das(), config=SimpleNamespace(fsdp=True, model="vit"))
    with pytest.raises(
        ValueError,
        match=r"das finds on val which blocks to skip, and birds has no val split: name the blocks, --method\.skipped",
    ):
        make_method("das").find(job, print)
    job.val = [1]
    with pytest.raises(ValueError, match="das searches with whole weights, which --fsdp has in no process: leave it"):
        make_method("das").find(job, print)
    job.config.fsdp = False
    with pytest.raises(ValueError, match="skip_num is 4, and vit has 3 blocks"):
        make_method("das", skip_num=4).find(job, print)


def test_labels_name_the_blocks_or_how_many():
    labels = [make_method("das", **o) for o in ({}, {"skipped": (3, 7)}, {"skip_num": 0})]
    assert [m.label(m.record()) for m in labels] == ["das w96 skips 2", "das w96 skips #3 #7", "das w96"]


# the gates


def probabilities(values, k):
    """Of all subsets of k, by the definition."""
    subsets = list(itertools.combinations(range(len(values)), k))
    p = np.array([math.exp(sum(values[i] for i in subset)) for subset in subsets])
    return subsets, p / p.sum()


def test_subsets_are_drawn_as_independent_bernoullis_given_their_number():
    values = np.array([0.7, -1.2, 0.0, 2.0, 0.3])
    gates = core.SubsetGates(5, 2, lr=1.0)
    gates.values = values
    subsets, expected = probabilities(values, 2)
    # products of sigmoids and their complements, given that two are in
    s = 1 / (1 + np.exp(-values))
    bernoulli = np.array([np.prod([s[i] if i in subset else 1 - s[i] for i in range(5)]) for subset in subsets])
    np.testing.assert_allclose(bernoulli / bernoulli.sum(), expected)
    random = core.random_state(0, "draws")
    counts = dict.fromkeys(subsets, 0)
    for _ in range(4000):
        counts[gates.draw(random)] += 1
    found = np.array(list(counts.values())) / 4000
    assert np.abs(found - expected).max() < 4 * math.sqrt(0.25 / 4000)
    gates.values = np.array([900.0, -900, 0, 0, 0])
    assert {len(gates.draw(random)) for _ in range(50)} == {2}


def test_the_expected_step_is_the_gradient_of_the_expected_reward():
    values, rewards = torch.tensor([0.5, -0.3, 0.2, 0.0], dtype=torch.float64), [0.1, 0.9, 0.4, 0.3, 0.8, 0.2]
    subsets, p = probabilities(values.numpy(), 2)
    expected = np.zeros(4)
    for draws in itertools.product(range(6), repeat=3):
        gates = core.SubsetGates(4, 2, lr=1.0)
        gates.learn([subsets[i] for i in draws], [rewards[i] for i in draws])
        expected += np.prod(p[list(draws)]) * gates.values
    a = values.clone().requires_grad_(True)
    weights = torch.stack([a[list(subset)].sum() for subset in subsets]).softmax(0)
    (gradient,) = torch.autograd.grad(weights @ torch.tensor(rewards, dtype=torch.float64), a)
    np.testing.assert_allclose(expected, gradient.numpy(), atol=1e-12)


def test_equal_rewards_and_complements_move_the_gates_by_nothing_in_sum():
    gates = core.SubsetGates(4, 2, lr=1.0)
    gates.learn([(0, 1), (0, 2), (0, 3)], [0.5, 0.5, 0.5])
    assert not gates.values.any()
    gates.learn([(0, 1), (2, 3)], [0.9, 0.2])
    assert gates.values.sum() == pytest.approx(0)
    assert gates.best() == (0, 1)


def test_a_block_whose_skipping_always_gives_the_higher_reward_ends_on_top():
    gates, random = core.SubsetGates(6, 1, lr=1.0), core.random_state(0, "top")
    for _ in range(60):
        subsets = [gates.draw(random) for _ in range(3)]
        gates.learn(subsets, [0.8 if 4 in subset else 0.3 for subset in subsets])
    assert gates.best() == (4,)


def test_fewer_subsets_than_draws_are_no_matter():
    gates, random = core.SubsetGates(2, 1, lr=1.0), core.random_state(0, "few")
    subsets = [gates.draw(random) for _ in range(5)]
    assert {*subsets} <= {(0,), (1,)}
    gates.learn(subsets, [0.1 * i for i in range(5)])
    assert core.SubsetGates(3, 3, lr=1.0).draw(random) == core.SubsetGates(3, 3, lr=1.0).best() == (0, 1, 2)


# runs


def settings(**method):
    kwargs = {"patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2}
    method = {"name": "das", "bottleneck": 4, "skip_bottleneck": 6, "search_interval": 1, "skip_num": 1, **method}
    return {"model": "vit_tiny_patch16_224", "model_kwargs": kwargs, "initial_checkpoint": None, "method": method}


@pytest.mark.parametrize("search", ["gates", "leave_one_out"])
def test_a_run_finds_the_blocks_and_then_is_the_run_that_is_told_them(search, configure, tmp_path, without_pictures):
    result = train(configure(**settings(search=search), output=str(tmp_path / "found")))
    (method,) = result["method"]
    assert len(method["skipped"]) == 1
    assert json.loads((tmp_path / "found/found.json").read_text())["found"] == {"skipped": method["skipped"]}
    assert "skipped" not in result["config"]["method"]  # as it was asked for
    train(configure(**settings(search=search, skipped=method["skipped"]), output=str(tmp_path / "told")))
    one, other = (load_file(tmp_path / run / "adapter.safetensors") for run in ("found", "told"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert sum("skip" in name for name in one) == 6


def test_a_run_that_was_killed_goes_on_with_the_blocks_it_has_found(
    configure, tmp_path, monkeypatch, killed_behind, without_pictures
):
    find, searches = make_method("das").find.__func__, []

    def noted(self, job, say):
        searches.append(1)
        return find(self, job, say)

    monkeypatch.setattr("capaboost_vit.methods.das.Das.find", noted)
    options = {**settings(), "model": "vit_tiny_capaboost_das", "checkpoint_interval": 2, "epochs": 2}
    train(configure(**options, output=str(tmp_path / "whole")))
    with killed_behind(2):
        train(configure(**options, output=str(tmp_path / "killed")))
    changed = configure(**{**options, **settings(skip_num=2)}, output=str(tmp_path / "killed"), resume=True)
    with pytest.raises(ValueError, match="was started otherwise"):
        train(changed)
    train(configure(**options, output=str(tmp_path / "killed"), resume=True))
    assert len(searches) == 2
    whole, killed = ((tmp_path / run / "adapter.safetensors").read_bytes() for run in ("whole", "killed"))
    assert whole == killed
    again = train(configure(**options, output=str(tmp_path / "killed"), resume=True))
    assert again["method"] == json.loads((tmp_path / "whole/result.json").read_text())["method"]
    assert len(searches) == 2


def test_a_search_in_which_the_gates_never_learn_is_refused(configure, tmp_path):
    options = settings(search_interval=1000)
    with pytest.raises(ValueError, match=r"its gates never learn: say more --method\.search-epochs, or less"):
        train(configure(**options, output=str(tmp_path / "run")))
    assert json.loads((tmp_path / "run/status.json").read_text())["status"] == "failed"
