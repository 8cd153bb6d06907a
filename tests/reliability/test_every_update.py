"""A run stopped after each update, and inside each evaluation, comes to the bits of one that was not."""

from __future__ import annotations

import pytest

from capaboost_vit import run
from capaboost_vit.run import train
from capaboost_vit.training.signals import Interrupted
from capaboost_vit.vision.config import TrainConfig

OPTIONS = {
    "model": "vit_tiny_capaboost_lora",
    "model_kwargs": {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2},
    "method": {"dropout": 0.1},
    "img_size": 16,
    "data": "digits:0-2",  # 276 training images
    "no_aug": False,
    "aa": "rand-m5",
    "drop_path": 0.2,
    "epochs": 2,
    "batch_size": 96,
    "validation_batch_size": 60,
    "lr": 1e-2,
    "log_interval": 1,
}
# each option that has a state, or draws random numbers, or says when something happens; those of `TOGETHER` also alone
VARIANTS = {
    "plain": {},
    "best, accumulation": {"select": "best", "epochs": 3, "grad_accum_steps": 3},
    "average, checkpoints": {"model_ema": True, "model_ema_decay": 0.5, "checkpoint_interval": 2},
    "patience": {"patience": 1, "epochs": 20, "lr": 1e-12, "warmup_epochs": 0},
    "float16": {"amp": True, "amp_dtype": "float16"},
    "mixup": {"mixup": 0.3, "cutmix": 0.5, "reprob": 0.3, "smoothing": 0.1},
    "sgd, erasing, layer decay": {"opt": "sgd", "reprob": 0.5, "layer_decay": 0.7, "clip_grad": 0.5, "sched": "step"},
    "prefix": {"model": "vit_tiny_capaboost_prefix", "method": {}, "val_interval": 2},
    "everything trained": {"model": "vit_tiny_patch16_224", "method": {"name": "full"}},
    "adapter+": {"model": "vit_tiny_capaboost_adapter", "method": {"learned_scale": "channel", "drop_path": 0.3}},
}
FRONT = {"no_aug": True, "aa": None, "model_kwargs": {**OPTIONS["model_kwargs"], "depth": 3}}
FRONT |= {"validation_batch_size": 300, "method": {"dropout": 0.1, "targets": ["blocks.2.attn.qkv"]}}
TOGETHER = {"model_ema": True, "select": "best", "grad_accum_steps": 2, "max_steps": 5, "checkpoint_interval": 2}


@pytest.mark.parametrize(
    ("variant", "workers", "caches"),
    [
        pytest.param(TOGETHER, [0], ["auto"], id="together"),
        pytest.param({"no_aug": True, "aa": None}, [0], ["device", "memory", "none"], id="another cache each time"),
        pytest.param(FRONT, [0], ["auto", "device"], id="frozen front"),
        *(pytest.param(variant, [0], ["auto"], id=name, marks=pytest.mark.slow) for name, variant in VARIANTS.items()),
        pytest.param({}, [0, 2, 0, 1], ["auto"], id="other workers each time", marks=pytest.mark.slow),
    ],
)
def test_a_run_stopped_at_every_update_ends_with_the_same_bits(
    lab, tmp_path, in_pieces, request, variant, workers, caches
):
    pictures = variant in (TOGETHER, {})
    if not pictures:
        request.getfixturevalue("without_pictures")
    options = {**OPTIONS, **variant}
    whole = train(TrainConfig(**options, output=str(tmp_path / "whole")))

    def configure(times):
        loading = {"workers": workers[times % len(workers)], "cache": caches[times % len(caches)]}
        return TrainConfig(**options, **loading, output=str(tmp_path / "pieces"), resume=True)

    stops = in_pieces(configure)
    assert stops["update"] == whole["updates"]
    assert stops["evaluating"] >= 2
    assert (stops["front"] > 0) == (variant is FRONT)
    lab.same(tmp_path / "pieces", tmp_path / "whole", pictures=pictures)


@pytest.mark.slow
def test_a_run_stopped_once_after_any_update_ends_with_the_same_bits(lab, tmp_path, monkeypatch, stop_at):
    whole = train(TrainConfig(**OPTIONS, output=str(tmp_path / "whole")))
    for update in range(1, whole["updates"] + 1):
        output = tmp_path / str(update)
        with monkeypatch.context() as patch:
            evaluations = 3 * (update > whole["updates"] // 2)  # looked at once per batch, three in the first epoch
            patch.setattr(run, "StopSignals", lambda looks=update - 1 + evaluations: stop_at(looks))
            with pytest.raises(Interrupted, match=f"after update {update};"):
                train(TrainConfig(**OPTIONS, output=str(output)))
        train(TrainConfig(**OPTIONS, output=str(output), resume=True))
        lab.same(output, tmp_path / "whole")


def test_the_patience_variant_does_stop_early(tmp_path):
    result = train(TrainConfig(**{**OPTIONS, **VARIANTS["patience"]}, output=str(tmp_path)))
    assert result["epochs"] == 2
