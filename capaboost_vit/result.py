"""What a trained model leaves in the run folder: adapter file, test accuracy, pictures, result.json."""

from __future__ import annotations

import platform
import time
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from . import _version
from .core.inject import branches
from .job import Job, plain
from .training.distributed import World
from .training.evaluation import evaluate
from .training.figures import draw_confusion, draw_curves, draw_masks, draw_spectrum, save_figure
from .training.folder import RunFolder
from .training.log import Log
from .training.stop import Stop
from .vision.adapters import save_adapter


def conclude(job: Job, folder: RunFolder, log: Log, stop: Stop) -> dict[str, Any]:
    """Writes adapter file, pictures and result.json; evaluates on the test split, for the only time.

    Returns:
        What result.json holds; nothing in all but the first process.

    Raises:
        Interrupted: a signal came during the evaluation.
    """
    config, world, state, model = job.config, job.world, job.state, job.model
    rows = state.progress.rows
    if world.is_main:
        adapter = save_adapter(
            model, folder.path / "adapter.safetensors", class_names=job.data.classes, data_config=job.input
        )
    accuracy: dict[str, Any] = {
        "val_accuracy": rows[-1].get("val_accuracy"),
        "best_val_accuracy": state.progress.best_accuracy,
        "best_epoch": state.progress.best_epoch,
        "test_accuracy": None,
    }
    confusion: Tensor | None = None
    shown: str | None = config.test_split
    if job.test is not None:
        confusion = evaluate(model, job.test, prepare=job.prepare, config=config, world=world, stop=stop)
        right, total = int(confusion.trace()), int(confusion.sum())
        accuracy |= {"test_accuracy": 100 * right / total, "test_right": right, "test_total": total}
        log.say(f"test accuracy {100 * right / total:.2f} % ({right} of {total})")
    else:
        log.say(f"no split {config.test_split!r} in {config.data}: no test accuracy")
        if job.val is not None:
            confusion = evaluate(model, job.val, prepare=job.prepare, config=config, world=world)
            shown = config.val_split
    if not world.is_main:
        return {}
    where = f"{config.model} on {Path(config.data).name}"
    figures = {"learning_curve": draw_curves({config.model: rows}, title=where)}
    if confusion is not None:
        names = [*job.data.classes, *(str(i) for i in range(len(job.data.classes), len(confusion)))]
        figures["confusion_matrix"] = draw_confusion(confusion, names, title=f"{where}: {shown}")
    for name, figure in figures.items():
        save_figure(figure, folder.path / f"{name}.png")
    for name, drawn in {**figures, "masks": draw_masks(model), "spectrum": draw_spectrum(model)}.items():
        if drawn is not None:
            log.figure(f"figures/{name}", drawn, state.progress.update)
    result = {
        **accuracy,
        "train_seconds": state.progress.seconds,
        "images_per_second": state.progress.images / state.progress.seconds,
        "updates": state.progress.update,
        "epochs": state.epochs_done,
        "model": config.model,
        "method": model.capaboost["methods"],
        "parameters": _count(model),
        "adapter_bytes": adapter.stat().st_size,
        "data": {"spec": config.data, **job.record["data"], "bad_images": job.bad_images},
        "config": plain(config),
        "machine": machine(state.device, world),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    log.close()  # all is on the disk before the run counts as finished
    folder.write_json("result.json", result)
    return result


def machine(device: torch.device, world: World) -> dict[str, Any]:
    """Device, threads, processes and versions: what decides about the last bits of a result."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": f"{device.type}: {name}",
        "threads": torch.get_num_threads(),
        "processes": world.size,
        "versions": {
            "capaboost_vit": _version.__version__,
            "timm": timm.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def _count(model: nn.Module) -> dict[str, int]:
    """Numbers of parameters: those with a gradient, those of the branches, all."""
    return {
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "branches": sum(p.numel() for branch in branches(model).values() for p in branch.parameters()),
        "total": sum(p.numel() for p in model.parameters()),
    }
