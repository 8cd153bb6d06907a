"""Capability x method: after `adapt` a model is still a timm model, whatever the method."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2
from timm.utils import CheckpointSaver, ModelEmaV3
from torch import nn

import capaboost_vit

METHODS = ("lora", "adapter", "prefix", "prompt")
EMPTY = {"prefix": dict(prefix_length=0), "prompt": dict(prompt_length=0)}  # with these every method starts as the base
every_method = pytest.mark.parametrize("method", METHODS)


def trained(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def frozen(model: nn.Module) -> dict[str, torch.Tensor]:
    state = {name: p for name, p in model.named_parameters() if not p.requires_grad} | dict(model.named_buffers())
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def step(model: nn.Module, images: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(images), torch.arange(len(images)) % 5)
    loss.backward()
    optimizer.step()


@every_method
def test_branches_and_head_are_trained_from_the_first_step_and_nothing_else(tiny, method):
    model = tiny(method)
    branches = capaboost_vit.branches(model)
    expected = {id(p) for part in (*branches.values(), model.get_classifier()) for p in part.parameters()}
    assert branches
    assert {id(p) for p in trained(model).values()} == expected


@every_method
def test_training_moves_all_that_is_trained_and_nothing_that_is_frozen(tiny, wake, images, method):
    model = wake(tiny(method, seed=2)).train()
    before, still = {n: p.detach().clone() for n, p in trained(model).items()}, frozen(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
    for _ in range(3):
        step(model, images, optimizer)
    assert all(not torch.equal(p, before[name]) for name, p in trained(model).items())
    assert all(torch.equal(tensor, still[name]) for name, tensor in frozen(model).items())


@every_method
def test_training_lowers_the_loss(tiny, images, method):
    model = tiny(method, seed=2).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    labels = torch.arange(len(images)) % 5
    first = nn.functional.cross_entropy(model(images), labels).item()
    for _ in range(30):
        step(model, images, optimizer)
    assert nn.functional.cross_entropy(model(images), labels).item() < 0.2 * first


@every_method
@pytest.mark.parametrize("num_classes", [0, 3, 11])
def test_num_classes(tiny, images, method, num_classes):
    model = tiny(method, num_classes=num_classes)
    assert model(images).shape == (2, num_classes or model.num_features)
    assert model.num_classes == num_classes
    assert any("head" in name for name in trained(model)) == (num_classes > 0)


@every_method
@pytest.mark.parametrize("size", [32, 48, (64, 32)])
def test_img_size(tiny, method, size):
    model = tiny(method, img_size=size)
    height, width = size if isinstance(size, tuple) else (size, size)
    assert model(torch.zeros(1, 3, height, width)).shape == (1, 5)
    with pytest.raises(AssertionError, match="match model"):
        model(torch.zeros(1, 3, 40, 40))


@every_method
def test_dynamic_img_size(tiny, method):
    model = tiny(method, dynamic_img_size=True)
    assert {tuple(model(torch.zeros(1, 3, side, side)).shape) for side in (32, 64)} == {(1, 5)}


@every_method
def test_in_chans(tiny, method):
    assert tiny(method, in_chans=1)(torch.zeros(1, 1, 32, 32)).shape == (1, 5)


@every_method
def test_drop_path_rate_acts_in_training_only(tiny, wake, images, method):
    model = wake(tiny(method, drop_path_rate=0.5))
    assert torch.equal(model(images), model(images))
    assert torch.equal(model(images), wake(tiny(method))(images))
    model.train()
    torch.manual_seed(0)
    outputs = [model(images) for _ in range(4)]
    assert not all(torch.equal(outputs[0], other) for other in outputs[1:])


@every_method
def test_reset_classifier_gives_a_new_trained_head_and_keeps_the_branches(tiny, wake, images, method):
    model = wake(tiny(method))
    kept = {name: p.detach().clone() for name, p in model.named_parameters() if not name.startswith("head")}
    model.reset_classifier(9)
    assert model(images).shape == (2, 9)
    assert model.get_classifier().out_features == 9
    assert {"head.weight", "head.bias"} <= set(trained(model))
    assert all(torch.equal(p, kept[name]) for name, p in model.named_parameters() if not name.startswith("head"))
    model.reset_classifier(0)
    assert torch.equal(model(images), model.forward_head(model.forward_features(images)))
    assert model(images).shape == (2, 32)


@every_method
@torch.no_grad()
def test_forward_intermediates_agree_with_forward(tiny, wake, images, method):
    model = wake(tiny(method))
    final, intermediates = model.forward_intermediates(images, indices=3)
    assert torch.equal(final, model.forward_features(images))
    assert [tuple(f.shape) for f in intermediates] == [(2, 32, 4, 4)] * 3
    last = model.forward_intermediates(images, indices=1, norm=True, output_fmt="NLC", intermediates_only=True)[0]
    assert torch.equal(last, final[:, model.num_prefix_tokens :])
    empty = tiny(method, **EMPTY.get(method, {})).forward_intermediates(images, intermediates_only=True)
    expected = tiny().forward_intermediates(images, intermediates_only=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(empty, expected, strict=True))


@every_method
def test_the_head_can_be_left_out_of_a_forward(tiny, wake, images, method):
    model = wake(tiny(method))
    pooled = model.forward_head(model.forward_features(images), pre_logits=True)
    assert torch.equal(model.get_classifier()(pooled), model(images))


@every_method
def test_grad_checkpointing_gives_the_same_gradients(tiny, wake, images, method):
    def gradients(checkpointing: bool) -> dict[str, torch.Tensor]:
        model = wake(tiny(method)).train()
        model.set_grad_checkpointing(checkpointing)
        assert model.grad_checkpointing is checkpointing
        model(images).square().sum().backward()
        return {name: p.grad for name, p in trained(model).items()}

    plain, saved = gradients(False), gradients(True)
    assert all(gradient.abs().sum() > 0 for gradient in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(saved[name], gradient, msg=name)


@every_method
def test_layer_decay_gives_branches_the_rate_of_their_block(tiny, method):
    model = tiny(method)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1.0, weight_decay=0.05, layer_decay=0.5)
    names = {id(p): name for name, p in model.named_parameters()}
    scales = {names[id(p)]: group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    assert scales.keys() == trained(model).keys()
    assert scales["head.weight"] == 1
    for name, scale in scales.items():
        if name.startswith("blocks."):
            assert scale == pytest.approx(scales["blocks.2" + name[len("blocks.0") :]] * 0.5 ** (2 - int(name[7])))
    assert len({scale for name, scale in scales.items() if name.startswith("blocks.")}) == 3


@every_method
def test_layer_decay_scales_are_those_of_the_base(tiny, method):
    def scale_of_block(model: nn.Module) -> dict[str, float]:
        optimizer = create_optimizer_v2(model, opt="adamw", lr=1.0, layer_decay=0.5)
        names = {id(p): name for name, p in model.named_parameters()}
        return {
            names[id(p)][:8]: group["lr_scale"]
            for group in optimizer.param_groups
            for p in group["params"]
            if names[id(p)].startswith(("blocks", "head"))
        }

    assert scale_of_block(tiny(method)) == scale_of_block(tiny())


@every_method
def test_group_matcher_puts_every_parameter_somewhere(tiny, method):
    from timm.models import group_parameters

    model = tiny(method)
    groups = group_parameters(model, model.group_matcher(coarse=False))
    grouped = [name for names in groups.values() for name in names]
    assert sorted(grouped) == sorted(name for name, _ in model.named_parameters())


@every_method
def test_no_weight_decay_names_still_name_parameters(tiny, method):
    model = tiny(method)
    assert model.no_weight_decay() & {name for name, _ in model.named_parameters()}


@every_method
def test_ema_follows_the_branches_and_keeps_masks_and_base(tiny, wake, images, method):
    model = wake(tiny(method)).train()
    start = copy.deepcopy(model.state_dict())
    ema = ModelEmaV3(model, decay=0.5)
    step(model, images, torch.optim.SGD(trained(model).values(), lr=0.1))
    ema.update(model)
    learned = trained(model)
    for name, tensor in ema.module.state_dict().items():
        if name in learned:
            assert not torch.equal(tensor, start[name]), name
            torch.testing.assert_close(tensor, (start[name] + learned[name].detach()) / 2)
        else:
            assert tensor.dtype == start[name].dtype
            torch.testing.assert_close(tensor, start[name], rtol=1e-6, atol=1e-7)
    assert ema.module.eval()(images).isfinite().all()


@every_method
def test_a_checkpoint_saver_round_trip_gives_model_and_optimizer_back(tiny, wake, tmp_path, images, method):
    model = wake(tiny(method)).train()
    optimizer = torch.optim.AdamW(trained(model).values(), lr=0.01)
    step(model, images, optimizer)
    saver = CheckpointSaver(
        model, optimizer, args=SimpleNamespace(model="tiny"), checkpoint_dir=str(tmp_path), recovery_dir=str(tmp_path)
    )
    saver.args = None  # of a command line that we do not have
    saver.save_checkpoint(epoch=0, metric=1.0)
    expected = model.eval()(images)

    again = tiny(method, seed=5, mask_seed=6)
    assert not torch.equal(again(images), expected)
    other = torch.optim.AdamW(trained(again).values(), lr=0.01)
    assert timm.models.resume_checkpoint(again, str(tmp_path / "last.pth.tar"), other, log_info=False) == 1
    assert torch.equal(again(images), expected)
    for stepped in ((model.train(), optimizer), (again.train(), other)):
        step(stepped[0], images, stepped[1])
    assert torch.equal(again.eval()(images), model.eval()(images))


@every_method
def test_copies_and_pickles_compute_the_same_and_share_nothing(tiny, wake, images, method):
    model = wake(tiny(method))
    expected = model(images)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(images), expected)
        assert twin.capaboost == model.capaboost
        assert not {p.data_ptr() for p in twin.parameters()} & {p.data_ptr() for p in model.parameters()}


@every_method
def test_state_dict_round_trip_is_strict(tiny, wake, images, method):
    model, other = wake(tiny(method)), tiny(method, seed=9, mask_seed=3)
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(other(images), model(images))


@every_method
def test_bfloat16_and_autocast_keep_masks_and_come_close(tiny, wake, images, method):
    model = wake(tiny(method))
    expected = model(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(model(images).float(), expected, rtol=0.1, atol=0.1)
    low = copy.deepcopy(model).bfloat16()
    assert {t.dtype for name, t in low.state_dict().items() if name.endswith(".mask")} == {torch.int8}
    assert {p.dtype for p in low.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(low(images.bfloat16()).float(), expected, rtol=0.1, atol=0.1)


@every_method
def test_torch_export_computes_the_same(tiny, wake, images, method):
    model = wake(tiny(method))
    exported = torch.export.export(model, (images,)).module()
    torch.testing.assert_close(exported(images), model(images))


@every_method
def test_a_second_adapt_keeps_the_first_branches_trained(tiny, wake, images, method):
    model = wake(tiny(method))
    first = capaboost_vit.branches(model)
    expected = model(images)
    capaboost_vit.adapt(model, "lora", targets=("mlp_out",))
    assert torch.equal(model(images), expected)
    both = capaboost_vit.branches(model)
    assert first.keys() < both.keys()
    assert all(p.requires_grad for branch in both.values() for p in branch.parameters())
    assert [record["method"] for record in model.capaboost["methods"]] == [method, "lora"]


@every_method
def test_adapting_twice_in_the_same_place_is_refused_and_changes_nothing(tiny, images, method):
    model = tiny(method)
    state, expected = list(model.state_dict()), model(images)
    with pytest.raises(ValueError, match="already"):
        capaboost_vit.adapt(model, method)
    assert list(model.state_dict()) == state
    assert torch.equal(model(images), expected)
    assert len(model.capaboost["methods"]) == 1


@every_method
def test_adapt_draws_nothing_from_the_global_generator(tiny, method):
    model = tiny()
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    capaboost_vit.adapt(model, method)
    assert torch.equal(torch.rand(3), expected)


@every_method
def test_adapt_equals_the_registered_name(tiny, images, method):
    adapted = capaboost_vit.adapt(tiny(), method)
    named = tiny(method)
    assert adapted.state_dict().keys() == named.state_dict().keys()
    assert torch.equal(adapted(images), named(images))
    assert adapted.capaboost == named.capaboost


@pytest.mark.parametrize("method", ["head", "full"])
def test_head_and_full_are_the_two_comparisons(tiny, images, method):
    model = capaboost_vit.adapt(tiny(), method)
    assert torch.equal(model(images), tiny()(images))
    expected = {"head.weight", "head.bias"} if method == "head" else {name for name, _ in model.named_parameters()}
    assert set(trained(model)) == expected


def test_adapt_takes_a_model_that_is_not_timm_s_by_pattern():
    model = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), num_layers=2, enable_nested_tensor=False
    )
    x = torch.randn(2, 5, 16)
    expected = model.eval()(x)
    capaboost_vit.adapt(model, "lora", targets=("layers.*.linear1", "linear2"), head=("layers.1.norm2",))
    torch.testing.assert_close(model(x), expected)
    assert set(capaboost_vit.branches(model)) == {f"layers.{i}.linear{j}.branches.all" for i in (0, 1) for j in (1, 2)}
    assert {n for n in trained(model) if "branches" not in n} == {
        "layers.1.norm2.weight",
        "layers.1.norm2.bias",
    }


def test_adapt_takes_a_convolutional_timm_model_by_pattern_and_freezes_its_batch_norms():
    model = timm.create_model("test_resnet", num_classes=4)
    capaboost_vit.adapt(model, "head")
    still = frozen(model)
    model.train()
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(torch.equal(tensor, still[name]) for name, tensor in frozen(model).items())
    with pytest.raises(ValueError, match=r"target 'query' matches nothing in ResNet; roles there: none"):
        capaboost_vit.adapt(model, "lora")


@pytest.mark.parametrize(
    ("method", "options", "error", "text"),
    [
        ("lroa", {}, ValueError, r"unknown method 'lroa' \(did you mean 'lora'\?\)"),
        ("lora", dict(rnak=4), TypeError, r"no option 'rnak' \(did you mean 'rank'\?\)"),
        ("head", dict(rank=4), TypeError, r"method 'head' has no option 'rank'.*it has: none"),
        ("lora", dict(targets=("blocks.*.attn.qvk",)), ValueError, r"did you mean 'blocks.\*.attn.qkv'"),
        ("lora", dict(targets=("mlp",)), TypeError, r"LoRA needs linear layers, but 'blocks.0.mlp' is a Mlp"),
        (
            "adapter",
            dict(placement="beside"),
            ValueError,
            "placement of method 'adapter' must be parallel or sequential, got 'beside'",
        ),
        (
            "adapter",
            dict(activation="swish"),
            ValueError,
            "activation of method 'adapter' must be relu, ",
        ),
        (
            "adapter",
            dict(targets=("norm1",)),
            TypeError,
            r"cannot tell the width of .* a LayerNorm",
        ),
        ("prefix", dict(targets=("mlp",)), TypeError, r"prefixes need timm's plain Attention, got Mlp"),
        ("lora", dict(head=("heads",)), ValueError, r"'heads' matches nothing"),
    ],
)
def test_a_refused_adapt_leaves_the_model_as_it_was(tiny, images, method, options, error, text):
    model = tiny()
    expected, state = model(images), list(model.state_dict())
    with pytest.raises(error, match=text):
        capaboost_vit.adapt(model, method, **options)
    assert list(model.state_dict()) == state
    assert torch.equal(model(images), expected)
    assert all(p.requires_grad for p in model.parameters())
    assert not hasattr(model, "capaboost")
