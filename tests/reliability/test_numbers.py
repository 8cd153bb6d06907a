"""The base stays as it was, only what is trained is in the optimizer, and no NaN gets into a checkpoint."""

from __future__ import annotations

import json
import math

import pytest
import torch
from PIL import Image

from capaboost_vit import run as run_module
from capaboost_vit.core.chain import fingerprint
from capaboost_vit.run import train
from capaboost_vit.training import loop, objective
from capaboost_vit.training.loop import NotFinite
from capaboost_vit.vision.config import TrainConfig
from capaboost_vit.vision.data import open_data

pytestmark = pytest.mark.usefixtures("without_pictures")
OPTIONS = {
    "model_kwargs": {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2},
    "img_size": 16,
    "epochs": 2,
    "batch_size": 8,
    "lr": 0.1,
}


@pytest.fixture
def pictures(tmp_path):
    for label in ("blue", "red"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for i in range(12):
            colour = (10 * i, 20, 200) if label == "blue" else (200, 20, 10 * i)
            Image.new("RGB", (16, 16), colour).save(tmp_path / "pictures" / label / f"{i}.png")
    return tmp_path / "pictures"


@pytest.mark.parametrize(
    "options",
    [
        {"model": "vit_tiny_capaboost_lora", "model_ema": True, "select": "best"},
        *(
            pytest.param(options, marks=pytest.mark.slow)
            for options in (
                {"model": "vit_tiny_capaboost_adapter", "workers": 1, "grad_accum_steps": 2},
                {"model": "vit_tiny_capaboost_prefix", "opt": "sgd"},
                {"model": "vit_tiny_capaboost_prompt", "amp": True},
                {"model": "resnet18", "method": {"name": "head"}, "model_kwargs": {}, "img_size": 32, "drop_path": 0.0},
            )
        ),
    ],
    ids=lambda options: options["model"],
)
def test_what_is_frozen_is_bitwise_as_before_and_not_in_the_optimizer(monkeypatch, pictures, tmp_path, options):
    jobs, before = [], []
    build = run_module.build_job

    def watched(*arguments):
        jobs.append(build(*arguments))
        before.append(frozen(jobs[0].model))
        return jobs[0]

    monkeypatch.setattr(run_module, "build_job", watched)
    train(TrainConfig(**{**OPTIONS, **options}, data=str(pictures), output=str(tmp_path / "run")))
    model, state = jobs[0].model, jobs[0].state
    after = frozen(model)
    assert before[0].keys() == after.keys()
    assert len(after) > 10
    assert all(torch.equal(before[0][name], after[name]) for name in after)
    assert fingerprint(before[0]) == fingerprint(after)
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    assert {id(p) for p in state.trained()} == trained
    assert len(state.trained()) == len(trained)
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


def frozen(model):
    """Weights that are not trained, and all buffers."""
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor.detach().clone() for name, tensor in tensors.items() if name not in trained}


@pytest.mark.parametrize(
    ("options", "at"),
    [
        pytest.param({}, 4, marks=pytest.mark.slow),
        ({"grad_accum_steps": 2, "model_ema": True}, 4),
        pytest.param({"clip_grad": 1.0, "opt": "sgd"}, 1, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_loss_that_is_no_number_stops_the_run_names_the_images_and_can_be_resumed(
    lab, monkeypatch, pictures, tmp_path, options, at
):
    options = {
        **OPTIONS,
        "model": "vit_tiny_capaboost_lora",
        "data": str(pictures),
        "checkpoint_interval": 1,
        **options,
    }
    folder, seen = tmp_path / "run", []
    step, real = loop._step, objective.F.cross_entropy

    def watched(job, runner, update, **arguments):
        seen.append((job.state.progress.update + 1, update.indices))
        return step(job, runner, update, **arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_step", watched)
        patch.setattr(
            objective.F, "cross_entropy", lambda *a, **k: real(*a, **k) * (math.nan if len(seen) == at else 1)
        )
        with pytest.raises(NotFinite, match="loss is nan in epoch"):
            train(TrainConfig(**options, output=str(folder)))
    bad = json.loads((folder / "bad_batch.json").read_text())
    names = open_data(str(pictures)).split("train").names
    assert bad["update"] == at == seen[-1][0]
    assert sorted(bad["images"]) == sorted(names[i] for i in seen[-1][1])
    assert lab.status(folder)["status"] == "failed"
    assert "loss is nan" in lab.status(folder)["error"]
    assert not (folder / "result.json").exists()
    assert lab.status(folder)["update"] == at - 1
    for path in (folder / "checkpoints").iterdir():
        assert all(torch.isfinite(tensor).all() for tensor in leaves(lab.state_of(path)))
    train(TrainConfig(**options, output=str(folder), resume=True))
    train(TrainConfig(**options, output=str(tmp_path / "whole")))
    lab.same(folder, tmp_path / "whole", pictures=False)
    assert not (folder / "bad_batch.json").exists()


def leaves(tree):
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, dict | list | tuple):
        for item in tree.values() if isinstance(tree, dict) else tree:
            yield from leaves(item)
