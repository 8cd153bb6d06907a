"""LoRTA, FacT and RaSA: their updates against the naive formula, what layers share, the options, masks, files."""

from __future__ import annotations

import pytest
import timm
import torch
from vits import IMAGES, SMALL, vit

import capaboost_vit
from capaboost_vit.core.cp_update import CpUpdate
from capaboost_vit.core.fact_update import FactUpdate
from capaboost_vit.core.inject import branches
from capaboost_vit.core.shared_ranks import SharedRanksUpdate

NAMES = ("lorta", "fact", "aurora", "rasa")
every_method = pytest.mark.parametrize("name", NAMES)


@torch.no_grad()
def awake(model):
    for number, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
        parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(number))
    return model.double().eval()


def adapted(name, **options):
    return awake(capaboost_vit.adapt(vit(), name, **options))


def deltas(model):
    return {path: update.delta(lambda: None) for path, update in branches(model).items()}


def of(model, kind):
    return [module for module in model.modules() if isinstance(module, kind)]


@torch.no_grad()
def test_the_updates_of_lorta_are_slices_of_one_cp_tensor():
    model = adapted("lorta", rank=3, alpha=6)
    first = of(model, CpUpdate)[0]
    a, b = first.down.weight, first.up.weight  # (R, D), (D / H, R)
    kinds = [f"blocks.{{}}.attn.qkv.updates.{part}" for part in "qkv"]
    tensor = torch.einsum("ri,jr,hr,mr,lr->lmhji", a, b, first.heads, first.kinds, first.layers) * 6 / 3
    assert tensor.shape == (2, 4, 2, 8, 16)
    found = deltas(model)
    for layer in range(2):
        for m, kind in enumerate(kinds):
            torch.testing.assert_close(found[kind.format(layer)], tensor[layer, m].flatten(0, 1))
        of_inputs = found[f"blocks.{layer}.attn.proj.updates.all"]  # heads are its inputs
        torch.testing.assert_close(of_inputs, tensor[layer, 3].flatten(0, 1).T)
    assert all(torch.linalg.matrix_rank(delta) <= 3 for delta in found.values())


def test_matrices_of_other_widths_or_heads_have_a_tensor_of_their_own():
    model = timm.create_model("swin_tiny_patch4_window7_224", embed_dim=8, img_size=56, num_heads=(1, 2, 2, 4))
    capaboost_vit.adapt(model, "lorta", rank=2)
    owners = {id(update.up.weight): update.heads.shape[0] for update in of(model, CpUpdate)}
    assert sorted(owners.values()) == [1, 2, 2, 4]


def test_what_heads_there_are_is_told_or_asked_for():
    with pytest.raises(ValueError, match=r"^lorta splits the weight of 'blocks.0.mlp.fc1' into heads, and how many"):
        capaboost_vit.adapt(vit(), "lorta", targets=["mlp_in"])
    with pytest.raises(ValueError, match="and 3 do not divide 16: say heads=1, or another"):
        capaboost_vit.adapt(vit(), "lorta", heads=3)
    model = capaboost_vit.adapt(vit(), "lorta", targets=["mlp_in"], heads=4)
    assert of(model, CpUpdate)[0].heads.shape == (4, 8)


@torch.no_grad()
@pytest.mark.parametrize("form", ["tt", "tk"])
def test_the_updates_of_fact_are_squares_of_one_decomposed_tensor(form):
    model = adapted("fact", form=form, rank=3, scale=0.5)
    updates = of(model, FactUpdate)
    u, v = updates[0].downs[0].weight, updates[0].ups[0].weight
    for update in updates:
        columns = []
        for number in range(len(update.mixing)):
            if form == "tt":
                s = update.mixing[number]
            else:
                s = sum(update.mixing[number, c] * updates[0].core[:, :, c] for c in range(3))
            columns.append(0.5 * v @ s @ u)
        dim = 0 if update.out_features >= update.in_features else 1
        torch.testing.assert_close(update.delta(lambda: None), torch.cat(columns, dim))
    assert [len(update.mixing) for update in updates[:6]] == [1, 1, 1, 1, 4, 4]
    assert len({id(weight.weight) for update in updates for weight in update.downs}) == 1


def test_a_side_that_is_no_multiple_of_the_width_is_cut_off():
    model = capaboost_vit.adapt(vit(mlp_ratio=2.5), "fact", rank=2)
    assert [u.delta(lambda: None).shape for u in of(model, FactUpdate)[4:6]] == [(40, 16), (16, 40)]
    assert len(of(model, FactUpdate)[4].mixing) == 3


@torch.no_grad()
@pytest.mark.parametrize("k", [0, 1, 3])
def test_the_updates_of_rasa_have_private_ranks_and_those_of_a_pool(k):
    model = adapted("rasa", rank=4, k=k)
    for part in "qv":
        updates = [branches(model)[f"blocks.{layer}.attn.qkv.updates.{part}"] for layer in range(2)]
        for update in updates:
            b, a = [update.up.weight], [update.down.weight]
            if k:
                b.append(updates[0].shared_up.weight)
                a.append(updates[0].shared_down.weight)
            expected = torch.cat(b, 1) @ update.coefficients.diag() @ torch.cat(a)
            torch.testing.assert_close(update.delta(lambda: None), expected)
            assert len(update.coefficients) == 4 - k + 2 * k


def test_the_coefficients_of_rasa_start_at_the_published_values_and_at_lora_s_without_a_pool():
    start = of(capaboost_vit.adapt(vit(), "rasa", rank=4, k=1, alpha=12.0), SharedRanksUpdate)[0].coefficients
    assert start.tolist() == [6 / 3] * 3 + [6 / 2] * 2
    start = of(capaboost_vit.adapt(vit(), "rasa", rank=4, k=0, alpha=12.0), SharedRanksUpdate)[0].coefficients
    assert start.tolist() == [3.0] * 4
    with pytest.raises(ValueError, match="k of method 'rasa' must be below its rank, got k=8 and rank=8"):
        capaboost_vit.make_method("rasa", k=8)


@torch.no_grad()
@pytest.mark.parametrize("reads", ["vit_tiny_patch16_224", "eva02_tiny_patch14_224"])
@every_method
def test_merging_is_exact_also_where_a_model_reads_the_weight(name, reads):
    options = {} if reads.startswith("vit") else {"patch_size": 8}
    model = awake(capaboost_vit.adapt(vit(reads, **options), name, rank=4))
    expected = model(IMAGES.double())
    assert (capaboost_vit.merge(model)(IMAGES.double()) - expected).abs().max() <= 1e-11 * expected.abs().max()
    assert (expected - vit(reads, **options).double()(IMAGES.double())).abs().max() > 1e-3


@torch.no_grad()
@every_method
def test_with_masks_each_matrix_has_its_own_views_of_what_is_shared(name, tmp_path):
    masks = {"num_branches": 3, "density": 0.5}
    model = adapted(name, rank=4, **masks)
    for update in branches(model).values():
        if name == "lorta":
            c = update.heads * update.kinds[update.kind] * update.layers[update.layer] * 8 / 4
            views = zip(update.up(), update.down(), strict=True)
            expected = sum(torch.einsum("hr,jr,ri->hji", c, up, down).flatten(0, 1) for up, down in views)
            expected = expected.T if update.heads_in_columns else expected
        elif name in ("fact", "aurora"):
            middles = update.mixing if name == "fact" else torch.diag_embed(update.core * update.mixing)
            squares = [
                sum(up @ s @ down for up, down in zip(ups(), downs(), strict=True))
                for ups, s, downs in zip(update.ups, middles, update.downs, strict=True)
            ]
            expected = torch.cat(squares, 0 if update.out_features >= update.in_features else 1)
        else:
            private, shared = update.coefficients[:3], update.coefficients[3:]
            views = zip(update.up(), update.down(), update.shared_up(), update.shared_down(), strict=True)
            expected = sum(b @ private.diag() @ a + bs @ shared.diag() @ as_ for b, a, bs, as_ in views)
        torch.testing.assert_close(update.delta(lambda: None), expected)
    digests = {m.mask.numpy().tobytes() for m in model.modules() if getattr(m, "mask", None) is not None}
    assert len(digests) == sum(getattr(m, "mask", None) is not None for m in model.modules())
    path = capaboost_vit.save_adapter(model, tmp_path / "adapter.safetensors")
    loaded = capaboost_vit.load_adapter(vit().double(), path).eval()
    torch.testing.assert_close(loaded(IMAGES.double()), model(IMAGES.double()))
    assert len(list(loaded.parameters())) == len(list(model.parameters()))


@every_method
def test_a_registered_name_makes_it(name):
    model = timm.create_model(f"vit_tiny_capaboost_{name}", rank=4, **SMALL)
    assert model.capaboost["methods"][0]["rank"] == 4


def test_they_are_called_by_what_differs():
    labels = {
        "lorta r8": ("lorta", {}),
        "fact r16 tt": ("fact", {}),
        "fact r32 tk scale 10": ("fact", {"form": "tk", "rank": 32, "scale": 10.0}),
        "rasa r8 k1": ("rasa", {}),
        "capaboost-rasa r8 d2 k0": ("rasa", {"k": 0, "num_branches": 2, "density": 0.5}),
    }
    for label, (name, options) in labels.items():
        method = capaboost_vit.make_method(name, **options)
        assert method.label(method.record()) == label
