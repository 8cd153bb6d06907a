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

# a small timm ViT: vit_tiny_patch16_224 with these arguments, 0.2 million parameters
_SMALL_VIT = {"patch_size": 4, "embed_dim": 64, "depth": 4, "num_heads": 4}
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
# each at its own rate: an adapter's output is scaled by 0.1, so it wants a higher one
_METHODS: dict[str, dict[str, Any]] = {
    "head only": {"model": "vit_tiny_patch16_224", "method": {"name": "head"}},
    "LoRA": {"model": "vit_tiny_capaboost_lora", "method": {"num_branches": 1, "density": 1.0}},
    "CapaBoost-LoRA": {"model": "vit_tiny_capaboost_lora"},
    "CapaBoost-Adapter": {"model": "vit_tiny_capaboost_adapter", "lr": 4e-2},
}
# few images to learn from, and all others to test on: 696, of which ten are 1.4 %
_ADAPT: dict[str, Any] = {
    "data": "digits:5-9",
    "train_split": "mixed(train)[:200]",
    "val_split": None,
    "test_split": "mixed(train)[200:]+val+test",
    "epochs": 20,
    "lr": 1e-2,
}
SEEDS = 3


def quickstart(folder: Path, *, seed: int = 0) -> pd.DataFrame:
    """Runs it all below `folder`, prints a table and what to type next; returns a row for each method and seed.

    Each method is trained with the seeds `seed`, `seed + 1` and `seed + 2` from one pretrained model, and compared with
    LoRA seed by seed. What an earlier call has finished with the same configuration is not run again. It is a tiny
    problem: it shows that everything works, not which method is better.
    """
    console = Console(markup=False, emoji=False, highlight=False, soft_wrap=True)
    base = folder / "base.safetensors"
    config = TrainConfig(**{**_COMMON, **_BASE, "output": str(folder / "base"), "seed": seed})
    if not (base.exists() and _finished(config)):
        console.print("Pretraining a small ViT on the digits 0-4")
        train(dataclasses.replace(config, overwrite=True))
        base.unlink(missing_ok=True)
        merge_adapter(folder / "base", base)
    rows = []
    for number in range(seed, seed + SEEDS):
        for name, options in _METHODS.items():
            output = folder / f"{name.lower().replace(' ', '-')}-{number}"
            values = {**_COMMON, **_ADAPT, **options, "initial_checkpoint": str(base), "output": str(output)}
            config = TrainConfig(**values, seed=number)
            result = _finished(config)
            if result is None:
                console.print(f"Adapting it to the digits 5-9: {name}, seed {number}")
                result = train(dataclasses.replace(config, overwrite=True))
            rows.append({"name": name, "seed": number, "output": str(output), **result})
    runs = pd.DataFrame(rows)
    picture = folder / "learning_curves.png"
    curves = {}
    for _, run in runs[runs.seed == seed].iterrows():
        summary = pd.read_csv(Path(run.output) / "summary.csv").astype(object)
        curves[run["name"]] = summary.where(summary.notna(), None).to_dict("records")
    title = f"Digits 5-9, from a small ViT pretrained on 0-4 (seed {seed})"
    save_figure(draw_curves(curves, title=title), picture)
    _report(console, folder, picture, runs)
    return runs


def _finished(config: TrainConfig) -> dict[str, Any] | None:
    """The result of an earlier run with this configuration, if there is one."""
    result = RunFolder(Path(config.output)).result()
    return result if result is not None and result["config"] == as_dict(config) else None


def _report(console: Console, folder: Path, picture: Path, runs: pd.DataFrame) -> None:
    from scipy import stats

    table = Table("method", title=f"Digits 5-9: {runs.test_total[0]} test images, mean of {SEEDS} seeds")
    for column in ("trained", "file (kB)", "accuracy (%)", "- LoRA", "time (s)"):
        table.add_column(column, justify="right")
    by_method = runs.groupby("name", sort=False)
    lora = by_method.get_group("LoRA").set_index("seed").test_accuracy
    for name, group in by_method:
        accuracy = group.set_index("seed").test_accuracy
        table.add_row(
            name,
            f"{group.parameters.iloc[0]['trained']:,}",
            f"{group.adapter_bytes.mean() / 1000:.1f}",
            f"{accuracy.mean():.1f} ± {accuracy.std():.1f}",
            "" if name == "LoRA" else f"{(accuracy - lora).mean():+.1f}",
            f"{group.train_seconds.mean():.1f}",
        )
    console.print(table)
    difference = by_method.get_group("CapaBoost-LoRA").set_index("seed").test_accuracy - lora
    mean, half = difference.mean(), stats.t.ppf(0.975, SEEDS - 1) * difference.sem()  # Student's, of paired differences
    bounds = f"{mean - half:+.1f} to {mean + half:+.1f}"
    console.print(f"CapaBoost-LoRA minus LoRA, paired by seed: {mean:+.1f}, 95 % interval {bounds}")
    adapter = Path(runs[runs.name == "CapaBoost-LoRA"].output.iloc[0]) / "adapter.safetensors"
    run = shlex.quote(str(adapter.parent))
    console.print(f"Learning curves:  {picture}")
    console.print(f"TensorBoard:      tensorboard --logdir {shlex.quote(str(folder))}")
    console.print(f"Adapter file:     {adapter}")
    console.print(f"Evaluate it:      capaboost eval {run}")
    console.print(f"Merge it:         capaboost merge {run} --output merged.safetensors")
    console.print("Your own pictures, one folder per class:")
    console.print("  capaboost train --model vit_tiny_capaboost_lora --pretrained --data FOLDER --output runs/mine")
