"""Spectra, ranks and masks of adapter files against the branches that were saved in them."""

from __future__ import annotations

import pandas as pd
import pytest
import timm
import torch

import capaboost_vit
from capaboost_vit.core.analysis import ranks, spectrum
from capaboost_vit.methods.adapter_file import read_adapter_file
from capaboost_vit.study.outcomes import read_outcomes
from capaboost_vit.study.page.updates import inspect, linear_updates, mean_shares, shared_entries

SMALL = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 12, "num_heads": 2, "num_classes": 3}
KINDS = {
    "plain": {"num_branches": 1, "density": 1.0},
    "random": {"pattern": "random"},
    "default": {},
    "coefficients": {"num_branches": 3, "coefficients": "branch", "use_rslora": True},
    "sign": {"pattern": "sign", "num_branches": 3},
    "rescaled": {"pattern": "random", "rescale": "norm"},
    "tied": {"num_branches": 2, "density": 1.0},
    "masked": {"num_branches": 1, "density": 0.5},
    "shared": {"pattern": "sign", "num_branches": 1, "share_blocks": 4},
    "shared with coefficients": {"share_blocks": 12},
}


@pytest.fixture
def saved(tmp_path):
    """Saves a model with random branches; returns them, and the header and tensors of the file."""

    def save(method="lora", **options):
        model = timm.create_model(f"vit_tiny_capaboost_{method}", **SMALL, **options)
        found = capaboost_vit.branches(model)
        with torch.no_grad():
            for i, branch in enumerate(found.values()):
                for p in branch.parameters():
                    p.normal_(generator=torch.Generator().manual_seed(i))
        file = read_adapter_file(capaboost_vit.save_adapter(model, tmp_path / "adapter.safetensors"))
        return found, file.header, file.tensors

    return save


@pytest.mark.parametrize("kind", KINDS)
def test_spectra_and_ranks_of_a_file_are_those_of_its_updates(saved, kind):
    found, header, tensors = saved(rank=2, alpha=3, **KINDS[kind])
    updates = {update["site"]: update for update in linear_updates(header, tensors)}
    assert updates.keys() == found.keys()
    for site, branch in found.items():
        delta = branch.delta_weight().detach().double()
        expected, update = ranks(delta.float()), updates[site]
        assert update["algebraic"] == expected.algebraic
        assert update["stable"] == pytest.approx(expected.stable, rel=1e-4)
        assert update["effective"] == pytest.approx(expected.effective, rel=1e-3)
        assert update["norm"] == pytest.approx(delta.norm().item(), rel=1e-5)
        values = spectrum(delta)
        assert update["shares"] == pytest.approx((values / values[0])[: expected.algebraic].tolist(), abs=1e-6)
        assert update["block"] == int(site.split(".")[1])


def test_pairs_that_stages_of_several_widths_share_are_told_apart(tmp_path):
    model = timm.create_model("swin_tiny_patch4_window7_224", depths=(2, 2, 4, 2), num_classes=3)
    capaboost_vit.adapt(model, "lora", rank=2, pattern="sign", num_branches=1, share_blocks=2)
    found = capaboost_vit.branches(model)
    for i, p in enumerate({id(p): p for branch in found.values() for p in branch.parameters()}.values()):
        p.data.normal_(generator=torch.Generator().manual_seed(i))
    file = read_adapter_file(capaboost_vit.save_adapter(model, tmp_path / "adapter.safetensors"))
    norms = {update["site"]: update["norm"] for update in linear_updates(file.header, file.tensors)}
    assert norms == {site: pytest.approx(b.delta_weight().norm().item(), rel=1e-4) for site, b in found.items()}


def test_blocks_stand_in_the_order_of_the_model_and_means_are_means(saved):
    _, header, tensors = saved(rank=2)
    updates = pd.DataFrame(linear_updates(header, tensors))
    assert list(updates.block) == [block for block in range(12) for _ in ("q", "v")]
    assert mean_shares(updates)[1] == 1
    assert mean_shares(updates)[2] == pytest.approx(sum(shares[1] for shares in updates.shares) / 24)


@pytest.mark.parametrize("method", ["adapter", "prefix"])
def test_what_is_no_change_of_a_weight_has_no_update_but_masks(saved, method):
    _, header, tensors = saved(method)
    assert list(linear_updates(header, tensors)) == []
    assert shared_entries(tensors, header["masks"]).branches == 2


@pytest.mark.parametrize("kind", ["random", "sign", "masked"])
def test_coverage_and_overlap_are_those_of_the_masks(saved, kind):
    found, header, tensors = saved(rank=2, **KINDS[kind])
    masks = [factor.mask for branch in found.values() for factor in (branch.down, branch.up)]
    shown = shared_entries(tensors, header["masks"])
    assert (shown.weights, shown.branches) == (len(masks), masks[0].shape[0])
    uses = [mask.ne(0).sum(0) for mask in masks]
    assert shown.covered == pytest.approx(sum((u > 0).float().mean().item() for u in uses) / len(uses))
    assert shown.shared == pytest.approx(sum((u > 1).float().mean().item() for u in uses) / len(uses))
    if kind == "random":
        assert shown.agreeing == 1
        assert 0.6 < shown.covered < 0.9
    if kind == "sign":
        assert (shown.covered, shown.shared) == (1, 1)
        assert 0.4 < shown.agreeing < 0.6
    name, mask = shown.example
    assert name.endswith("mask")
    assert torch.equal(mask, masks[0])


def test_plain_lora_has_no_masks_and_zero_updates_are_left_out(saved):
    _, header, tensors = saved(**KINDS["plain"])
    assert shared_entries(tensors, header["masks"]) is None
    zero = {name: torch.zeros_like(t) if name.endswith("up.weight") else t for name, t in tensors.items()}
    assert list(linear_updates(header, zero)) == []


def test_a_damaged_or_missing_file_is_left_out(real_study):
    (part,) = read_outcomes(real_study).parts
    mine = [outcome for outcome in part.outcomes if outcome.row == "sign"]
    found = inspect(mine)
    assert (found.runs["sign"], set(found.updates.method), set(found.updates.task)) == (2, {"sign"}, {"0-4", "5-9"})
    assert found.masks.keys() == {"sign"}
    path = mine[0].folder / "adapter.safetensors"
    content = path.read_bytes()
    try:
        path.write_bytes(content[:-1])
        assert inspect(mine).runs["sign"] == 1
        path.unlink()
        assert inspect(mine[:1]).runs["sign"] == len(inspect(mine[:1]).updates) == 0
    finally:
        path.write_bytes(content)
