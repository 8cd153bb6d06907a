"""Soups of LoRA files: dW of the combined file is the weighted sum of theirs, or one line says why there is none."""

from __future__ import annotations

import pytest
import torch
from vits import IMAGES, vit

import capaboost_vit
from capaboost_vit.core.adapted_linear import AdaptedLinear
from capaboost_vit.core.inject import wrappers
from capaboost_vit.methods.adapter_file import read_adapter_file

OTHER = {"rank": 4, "num_branches": 3, "pattern": "random", "mask_seed": 5, "targets": ("query", "mlp_in")}
PLAIN = {"rank": 2, "num_branches": 1, "density": 1.0, "alpha": 3.0, "use_rslora": True, "targets": ("blocks.1.value",)}


def write(path, method="lora", seed=0, *, class_names=("a", "b", "c"), shift=(), make=vit, **options):
    """An adapter file whose parameters (by default all that are trained) are shifted from their start."""
    model = capaboost_vit.adapt(make(), method, **options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and (not shift or name.endswith(shift)):
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return capaboost_vit.save_adapter(model, path, class_names=class_names)


def updates(path):
    """dW of each layer by name."""
    model = capaboost_vit.load_adapter(vit(), path)
    return {name: w.delta_weight().detach() for name, w in wrappers(model) if isinstance(w, AdaptedLinear)}


def assert_is_the_sum(combined, weights):
    got, parts = updates(combined), [(updates(path), weight) for path, weight in weights.items()]
    assert got.keys() == {name for part, _ in parts for name in part}
    for name, delta in got.items():
        wanted = sum(weight * part[name].double() for part, weight in parts if name in part)
        torch.testing.assert_close(delta.double(), wanted, rtol=0, atol=1e-6 * wanted.abs().max().item())


def test_files_of_any_masks_ranks_and_targets_are_combined_exactly(tmp_path):
    one = write(tmp_path / "one.safetensors", seed=1)
    two = write(tmp_path / "two.safetensors", seed=2, **OTHER)
    three = write(tmp_path / "three.safetensors", seed=3, **PLAIN)
    weights = {one: 0.7, two: -0.4, three: 2}
    combined = capaboost_vit.combine(weights, tmp_path / "sum.safetensors")
    assert_is_the_sum(combined, weights)
    (record,) = capaboost_vit.read_header(combined)["methods"]
    assert (record["rank"], record["num_branches"], record["density"]) == (2 * 8 + 3 * 4 + 2, 1, 1.0)
    assert capaboost_vit.read_header(combined)["combined"][1] == {"file": "two.safetensors", "weight": -0.4}


def test_averaging_the_factors_instead_would_be_another_update(tmp_path):
    one, two = (write(tmp_path / f"{seed}.safetensors", seed=seed) for seed in (1, 2))
    combined = updates(capaboost_vit.combine({one: 0.5, two: 0.5}, tmp_path / "sum.safetensors"))
    tensors = [read_adapter_file(path).tensors for path in (one, two)]
    model = capaboost_vit.load_adapter(vit(), one)
    with torch.no_grad():
        for name, wrapper in wrappers(model):
            for part, branch in wrapper.branches.items():
                for factor in ("down", "up"):
                    key = f"{name}.branches.{part}.{factor}.weight"
                    getattr(branch, factor).weight.copy_((tensors[0][key] + tensors[1][key]) / 2)
            error = (wrapper.delta_weight() - combined[name]).norm() / combined[name].norm()
            assert error > 0.5


@pytest.mark.parametrize("options", [{}, {"share_blocks": 2}, {"pattern": "2:4", "coefficients": "rank"}], ids=str)
def test_where_only_b_differs_the_rank_and_the_masks_stay(tmp_path, options):
    start = {"freeze_down": True, "shift": ("up.weight", "head.weight"), **options}
    weights = {write(tmp_path / f"{seed}.safetensors", seed=seed, **start): 0.5 * seed for seed in (1, 2)}
    combined = capaboost_vit.combine(weights, tmp_path / "sum.safetensors")
    assert_is_the_sum(combined, weights)
    first = read_adapter_file(next(iter(weights)))
    assert read_adapter_file(combined).header["methods"] == first.header["methods"]
    assert read_adapter_file(combined).header["masks"] == first.header["masks"]


@torch.no_grad()
def test_the_soup_computes_with_the_sum_of_the_updates_and_the_mean_of_the_heads(tmp_path):
    one, two = write(tmp_path / "1.safetensors", seed=1), write(tmp_path / "2.safetensors", seed=2, **OTHER)
    combined = capaboost_vit.combine({one: 1, two: 3}, tmp_path / "sum.safetensors")
    model = vit()
    for path, weight in ((one, 1), (two, 3)):
        for name, delta in updates(path).items():
            model.get_submodule(name).weight.add_(weight * delta)
    heads = [read_adapter_file(path).tensors for path in (one, two)]
    for name in ("weight", "bias"):
        getattr(model.head, name).copy_(heads[0][f"head.{name}"] / 4 + 3 * heads[1][f"head.{name}"] / 4)
    logits = capaboost_vit.load_adapter(vit(), combined)(IMAGES)
    torch.testing.assert_close(logits, model(IMAGES), rtol=0, atol=1e-5)


def test_of_other_classes_one_head_is_chosen(tmp_path):
    one = write(tmp_path / "1.safetensors", seed=1)

    def with_two_classes():
        model = vit()
        model.reset_classifier(2)
        return model

    two = write(tmp_path / "2.safetensors", seed=2, class_names=("d", "e"), make=with_two_classes)
    out = tmp_path / "sum.safetensors"
    with pytest.raises(capaboost_vit.AdapterFileError, match=r"other classes.*say head="):
        capaboost_vit.combine({one: 1, two: -1}, out)
    assert not out.exists()
    combined = read_adapter_file(capaboost_vit.combine({one: 1, two: -1}, out, head=two))
    assert combined.header["class_names"] == ["d", "e"]
    assert combined.header["num_classes"] == 2
    assert torch.equal(combined.tensors["head.weight"], read_adapter_file(two).tensors["head.weight"])


def test_what_cannot_be_combined_is_refused_in_one_line(tmp_path):
    def path(name):
        return tmp_path / f"{name}.safetensors"

    def other_base():
        model = vit()
        model.pos_embed.data.add_(1)
        return model

    one, two = write(path("one"), seed=1), write(path("two"), seed=2)
    adapter, both = write(path("adapter"), "adapter"), write(path("both"), head=("head", "norm"))
    pairs = {write(path(f"pair{seed}"), seed=seed, share_blocks=2): 1 for seed in (1, 2)}
    elsewhere = write(path("elsewhere"), make=other_base)
    whole = write(path("whole"), targets=("blocks.*.attn.qkv",))
    error = capaboost_vit.AdapterFileError
    for weights, kind, reason in (
        ({}, ValueError, "needs adapter files with their weights"),
        ({one: float("nan")}, ValueError, "must be finite"),
        ({one: "half"}, TypeError, "the weight of .*one"),
        ({one: 1, two: -1}, ValueError, "sum to zero.*say head="),
        ({one: 1, adapter: 1}, error, "holds adapter: only files of one LoRA are combined"),
        ({one: 1, both: 1}, error, r"have different heads: \['head'\], \['head', 'norm'\]"),
        ({one: 1, elsewhere: 1}, error, "trained on different base weights .fingerprint"),
        ({one: 1, whole: 1}, error, "'blocks.0.attn.qkv' is adapted as a whole in one file and by its parts"),
        (pairs, error, "share one pair .share_blocks"),
        ({path("nothing"): 1}, FileNotFoundError, "no adapter file at"),
    ):
        with pytest.raises(kind, match=reason) as caught:
            capaboost_vit.combine(weights, path("out"))
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"head='.*adapter.safetensors' is none of the files: .*one"):
        capaboost_vit.combine({one: 1, two: 1}, path("out"), head=adapter)
    assert not path("out").exists()
