"""The whole story on embedded images: pretrain a small ViT on five digits, adapt it to the other five, four ways."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from ..run import train
from ..training.curves import draw_curves
from ..training.figures import save_figure
from ..training.folder import RunFolder
from ..training.job import as_dict
from ..vision.config import TrainConfig
from ..vision.saved import merge_adapter

# a small timm ViT: vit_tiny_patch16_224 with these arguments, 0.3 million parameters
_SMALL_VIT = {"patch_size": 4, "embed_dim": 64, "depth": 6, "num_heads": 4}
_COMMON: dict[str, Any] = {
    "img_size": 24,
    "batch_size": 32,
    "drop_path": 0.0,
    "model_kwargs": _SMALL_VIT,
    "crop_mode": "squash",
    "crop_pct": 1.0,
}
_BASE: dict[str, Any] = {
    "model": "vit_tiny_patch16_224",
    "method": {"name": "full"},
    "data": "digits:0-4",
    "epochs": 40,
    "lr": 2e-3,
}
_METHODS: dict[str, dict[str, Any]] = {
    "head only": {"model": "vit_tiny_patch16_224", "method": {"name": "head"}, "lr": 1e-2},
    "LoRA": {"model": "vit_tiny_capaboost_lora", "method": {"num_branches": 1, "density": 1.0}},
    "CapaBoost-LoRA": {"model": "vit_tiny_capaboost_lora"},
    # an adapter's output is scaled by 0.1, so it wants a higher rate
    "CapaBoost-Adapter": {"model": "vit_tiny_capaboost_adapter", "lr": 4e-2},
}
_ADAPT: dict[str, Any] = {"data": "digits:5-9", "epochs": 20, "lr": 5e-3}


def quickstart(folder: Path, *, seed: int = 0) -> list[dict[str, Any]]:
    """Runs it all below `folder`, prints a table and what to type next, and returns the results.

    What an earlier call has finished with the same configuration is not run again. One seed of a tiny problem: it shows
    that everything works, not which method is better.
    """
    console = Console(markup=False, emoji=False, highlight=False, soft_wrap=True)
    base = folder / "base.safetensors"
    config = TrainConfig(**{**_COMMON, **_BASE, "output": str(folder / "base"), "seed": seed})
    if not (base.exists() and _finished(config)):
        console.print("Pretraining a small ViT on the digits 0-4")
        train(dataclasses.replace(config, overwrite=True))
        base.unlink(missing_ok=True)
        merge_adapter(folder / "base", base)
    results = []
    for name, options in _METHODS.items():
        output = folder / name.lower().replace(" ", "-")
        values = {**_COMMON, **_ADAPT, **options, "initial_checkpoint": str(base), "output": str(output), "seed": seed}
        config = TrainConfig(**values)
        result = _finished(config)
        if result is None:
            console.print(f"Adapting it to the digits 5-9: {name}")
            result = train(dataclasses.replace(config, overwrite=True))
        results.append({"name": name, "output": str(output), **result})
    picture = folder / "learning_curves.png"
    curves = {}
    for result in results:
        summary = pd.read_csv(Path(result["output"]) / "summary.csv").astype(object)
        curves[result["name"]] = summary.where(summary.notna(), None).to_dict("records")
    save_figure(draw_curves(curves, title="Digits 5-9, from a small ViT pretrained on 0-4"), picture)
    _report(console, folder, picture, results)
    return results


def _finished(config: TrainConfig) -> dict[str, Any] | None:
    """The result of an earlier run with this configuration, if there is one."""
    result = RunFolder(Path(config.output)).result()
    return result if result is not None and result["config"] == as_dict(config) else None


def _report(console: Console, folder: Path, picture: Path, results: list[dict[str, Any]]) -> None:
    table = Table("method", title="Test accuracy on digits 5-9 (one seed)")
    for column in ("trainable", "file (kB)", "accuracy (%)", "time (s)"):
        table.add_column(column, justify="right")
    for result in results:
        table.add_row(
            result["name"],
            f"{result['parameters']['trained']:,}",
            f"{result['adapter_bytes'] / 1000:.1f}",
            f"{result['test_accuracy']:.1f}",
            f"{result['train_seconds']:.1f}",
        )
    console.print(table)
    adapter = Path(results[2]["output"]) / "adapter.safetensors"
    run = shlex.quote(str(adapter.parent))
    console.print(f"Learning curves:  {picture}")
    console.print(f"TensorBoard:      tensorboard --logdir {shlex.quote(str(folder))}")
    console.print(f"Adapter file:     {adapter}")
    console.print(f"Evaluate it:      capaboost eval {run}")
    console.print(f"Merge it:         capaboost merge {run} --output merged.safetensors")
    console.print("Your own pictures, one folder per class:")
    console.print("  capaboost train --model vit_tiny_capaboost_lora --pretrained --data FOLDER --output runs/mine")
