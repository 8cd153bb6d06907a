"""AdaLoRA against PEFT's: updates, scores and ranks of a short run; its budget, its penalty, what files hold."""

from __future__ import annotations

import warnings

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from vits import IMAGES, vit

import capaboost_vit
from capaboost_vit.core.svd_update import SvdUpdate
from capaboost_vit.run import train
from capaboost_vit.training.checkpoint import changing

T = 8


def updates(model):
    return [module for module in model.modules() if isinstance(module, SvdUpdate)]


def layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 6)).double()


def adapted(**options):
    return capaboost_vit.adapt(layers(), "adalora", targets=["0", "2"], head=[], **{"target_r": 1, **options}).double()


def method(**options):
    return capaboost_vit.make_method("adalora", **{"target_r": 1, **options})


def trained(model, chosen, steps=T):
    """The active ranks of each matrix behind each update."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    generator = torch.Generator().manual_seed(1)
    ranks = []
    for step in range(steps):
        x = torch.randn(16, 6, generator=generator).double()
        optimizer.zero_grad()
        (model(x).square().mean() + chosen.penalty(model)).backward()
        optimizer.step()
        chosen.after_step(model, step, steps)
        ranks.append([update.active_rank() for update in updates(model)])
    return ranks


def peft_twin(model, **options):
    peft = pytest.importorskip("peft")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft.AdaLoraConfig(target_modules=["0", "2"], total_step=T, **options)
        twin = peft.get_peft_model(layers(), config).double()
    for name, update in zip(("0", "2"), updates(model), strict=True):
        layer = twin.base_model.model.get_submodule(name)
        layer.lora_A["default"].data.copy_(update.right.weight)
        layer.lora_B["default"].data.copy_(update.left.weight)
        layer.lora_E["default"].data.copy_(update.singular.unsqueeze(1))
        layer.ranknum["default"].requires_grad_(False)  # which PEFT trains, though it is the rank in the scaling
    return twin


@torch.no_grad()
def test_the_update_is_peft_s_on_the_same_factors():
    model = adapted()
    for update in updates(model):
        update.singular.normal_(generator=torch.Generator().manual_seed(3))
    twin = peft_twin(model)
    for name, update in zip(("0", "2"), updates(model), strict=True):
        expected = twin.base_model.model.get_submodule(name).get_delta_weight("default")
        torch.testing.assert_close(update.delta(lambda: None), expected, rtol=1e-12, atol=1e-15)
    x = torch.randn(3, 6).double()
    torch.testing.assert_close(model(x), twin(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(capaboost_vit.merge(model)(x), twin(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("schedule", [{}, {"tinit": 2, "tfinal": 3}, {"tinit": 1, "tfinal": 2, "deltaT": 2}])
def test_factors_scores_and_ranks_are_peft_s_update_by_update(schedule):
    options = {"init_r": 5, "target_r": 2, **schedule}
    model, chosen = adapted(**options), method(**options)
    twin = peft_twin(model, **options)
    sides = []
    for side in (model, twin):
        optimizer = torch.optim.AdamW([p for p in side.parameters() if p.requires_grad], lr=0.05, weight_decay=0.0)
        generator = torch.Generator().manual_seed(1)
        history = []
        for step in range(T):
            x = torch.randn(16, 6, generator=generator).double()
            optimizer.zero_grad()
            loss = side(x).square().mean()
            if side is model:
                loss = loss + chosen.penalty(model)
            else:  # PEFT adds it only to a model's own `.loss`
                factors = [p for name, p in twin.named_parameters() if "lora_A" in name or "lora_B" in name]
                grams = [p @ p.T if len(p) == 5 else p.T @ p for p in factors]
                loss = loss + 0.5 * sum((g - torch.eye(5).double()).norm() for g in grams) / len(grams)
            loss.backward()
            optimizer.step()
            if side is model:
                chosen.after_step(model, step, T)
                history.append([update.singular.detach().clone() for update in updates(model)])
            else:
                twin.base_model.update_and_allocate(step + 1)
                lambdas = [p for name, p in twin.named_parameters() if "lora_E" in name]
                history.append([p.detach().flatten().clone() for p in lambdas])
        sides.append(history)
    torch.testing.assert_close(*sides, rtol=1e-9, atol=1e-12)
    assert sum(int(p.count_nonzero()) for p in sides[0][-1]) == 4


def test_active_ranks_sum_to_the_cubic_budget_at_every_update():
    chosen = method(init_r=6, target_r=2, tinit=2, tfinal=2)
    ranks = trained(adapted(init_r=6), chosen)
    expected = [int((6 - 2) * 2 * (1 - (t - 2) / (8 - 2 - 2)) ** 3 + 2 * 2) for t in range(3, 7)]
    assert [sum(pair) for pair in ranks] == [12, 12, *expected, 4, 4]


def test_a_pruned_triplet_may_return_and_a_matrix_may_lose_them_all(tmp_path):
    model, chosen = adapted(init_r=3), method(init_r=3, target_r=1)
    first, second = updates(model)
    ranks = []
    for step, strong in enumerate((first, second, first)):
        for update in (first, second):
            update.singular.data.fill_(1.0)
            for p in update.parameters():
                p.grad = torch.full_like(p, 1000.0**step if update is strong else 0.0)
        chosen.after_step(model, step, 4)
        ranks.append((first.active_rank(), second.active_rank()))
    assert ranks == [(3, 0), (0, 2), (2, 0)]
    path = capaboost_vit.save_adapter(vit_with_a_rank_of_zero(), tmp_path / "adapter.safetensors")
    loaded = capaboost_vit.load_adapter(vit(), path)
    assert [update.active_rank() for update in updates(loaded)] == [0, 12, 12, 12]
    torch.testing.assert_close(capaboost_vit.merge(loaded)(IMAGES), loaded(IMAGES), rtol=1e-4, atol=1e-5)


def vit_with_a_rank_of_zero():
    model = capaboost_vit.adapt(vit(), "adalora")
    for update in updates(model)[1:]:
        update.singular.data.fill_(1.0)
    return model


def test_a_file_has_all_triplets_and_zero_for_the_lambda_of_those_that_are_pruned(tmp_path):
    model = vit_with_a_rank_of_zero()
    stored = load_file(capaboost_vit.save_adapter(model, tmp_path / "adapter.safetensors"))
    first = {name.rpartition("updates.q.")[2]: t for name, t in stored.items() if "blocks.0" in name and ".q." in name}
    assert {name: tuple(t.shape) for name, t in first.items()} == {
        "left.weight": (16, 12),
        "right.weight": (12, 16),
        "singular": (12,),
    }
    assert first["singular"].count_nonzero() == 0


def test_equal_ranks_need_no_pruning_and_a_schedule_without_updates_is_refused(configure, tmp_path, without_pictures):
    assert trained(adapted(init_r=4), method(init_r=4, target_r=4))[-1] == [4, 4]
    text = "adalora prunes between tinit=5 and the 8 updates of the run less tfinal=3, which is no update at all: make"
    with pytest.raises(ValueError, match=text):
        method(tinit=5, tfinal=3).after_step(adapted(), 0, 8)
    with pytest.raises(ValueError, match="target_r=9 must be at most init_r=8"):
        method(init_r=8, target_r=9)
    settings = {"model": "vit_tiny_patch16_224", "method": {"name": "adalora", "tinit": 4}, "max_steps": 4}
    with pytest.raises(ValueError, match="prunes between tinit=4 and the 4 updates of the run less tfinal=0"):
        train(configure(**settings, output=str(tmp_path / "run")))


def test_the_penalty_is_the_mean_of_norms_that_are_not_squared():
    model = adapted(init_r=3)
    factors = [f for update in updates(model) for f in (update.left.weight.T, update.right.weight)]
    expected = sum(torch.linalg.matrix_norm(f @ f.T - torch.eye(3).double()) for f in factors) / 4
    torch.testing.assert_close(method(orth_reg_weight=0.3).penalty(model), 0.3 * expected)
    assert method(orth_reg_weight=0.0).penalty(model) is None


def test_the_loss_of_a_run_contains_the_penalty_and_that_on_val_does_not(configure, tmp_path, without_pictures):
    rows = {}
    for weight in (0.0, 1.0):
        options = {"name": "adalora", "orth_reg_weight": weight}
        settings = {"model": "vit_tiny_patch16_224", "method": options, "max_steps": 1, "lr": 1e-9, "drop_path": 0.0}
        output = tmp_path / str(weight)
        train(configure(**settings, warmup_epochs=0, output=str(output)))
        header, row = (output / "summary.csv").read_text().splitlines()
        rows[weight] = dict(zip(header.split(","), row.split(","), strict=True))
    stored = load_file(tmp_path / "1.0/adapter.safetensors")
    factors = [t.T if name.endswith("left.weight") else t for name, t in stored.items() if ".updates." in name]
    norms = [(f @ f.T - torch.eye(12)).norm() for f in factors if f.dim() == 2]
    added = float(rows[1.0]["train_loss"]) - float(rows[0.0]["train_loss"])
    assert added == pytest.approx(float(sum(norms) / len(norms)), rel=1e-3)
    assert rows[1.0]["val_loss"] == rows[0.0]["val_loss"]


def test_scores_are_of_the_unscaled_gradients_of_whole_updates(configure, tmp_path, monkeypatch, without_pictures):
    """In parts, and behind a gradient scaler, those of one batch; once an update."""
    step, found = capaboost_vit.METHODS["adalora"].after_step, []

    def noting(self, model, update, count):
        step(self, model, update, count)
        found[-1].append([score for part in updates(model) for score in (part.scores(), part.sensitivity.clone())])

    monkeypatch.setattr(capaboost_vit.METHODS["adalora"], "after_step", noting)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    shared = {"model": "vit_tiny_patch16_224", "method": {"name": "adalora"}, "max_steps": 3, "drop_path": 0.0}
    for name, options in (("whole", {}), ("parts", {"grad_accum_steps": 3}), ("scaled", {})):
        if name == "scaled":
            monkeypatch.setattr(torch.amp, "GradScaler", lambda *_, **__: scaler)
        found.append([])
        train(configure(**shared, **options, output=str(tmp_path / name)))
    whole, parts, scaled = found
    assert len(whole) == len(parts) == len(scaled) == 3
    assert scaler.is_enabled()
    assert max(float(score.max()) for score in whole[0]) > 0
    torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-9)
    torch.testing.assert_close(scaled, whole, rtol=1e-3, atol=1e-9)


def test_checkpoints_hold_the_averages_and_adapter_files_do_not(tmp_path):
    model = capaboost_vit.adapt(vit(), "adalora")
    averages = [name for name in changing(model) if name.endswith(("sensitivity", "uncertainty"))]
    assert len(averages) == 2 * len(updates(model)) == 8
    stored = load_file(capaboost_vit.save_adapter(model, tmp_path / "adapter.safetensors"))
    assert not any(name.endswith(("sensitivity", "uncertainty")) for name in stored)


def test_with_masks_all_views_share_lambda_and_the_penalty_is_of_the_factors_without_them():
    masks = {"num_branches": 3, "density": 0.5}
    model = adapted(init_r=4, **masks)
    update = updates(model)[0]
    update.singular.data.normal_(generator=torch.Generator().manual_seed(2))
    views = zip(update.left(), update.right(), strict=True)
    expected = sum(p @ update.singular.diag() @ q for p, q in views) * 8 / (4 + 1e-5)
    torch.testing.assert_close(update.delta(lambda: None), expected)
    p, q = update.left.weight, update.right.weight
    eye = torch.eye(4).double()
    torch.testing.assert_close(update.orthogonality(), (p.T @ p - eye).norm() + (q @ q.T - eye).norm())
    assert sum(trained(model, method(init_r=4, target_r=1, **masks))[-1]) == 2
    record = capaboost_vit.make_method("adalora", **masks).record()
    assert capaboost_vit.METHODS["adalora"].label(record) == "capaboost-adalora r12-8 d3"
