"""A measurement from its configuration to its result, which says on what and with what it was made."""

from __future__ import annotations

import dataclasses
import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from .._version import __version__
from .capacity import measure_capacity
from .processes import measure_processes
from .speed import measure_scale, measure_speed
from .timing import Session

_MEASUREMENTS: dict[str, Callable[[Any, Session], dict[str, Any]]] = {
    "speed": measure_speed,
    "scale": measure_scale,
    "processes": measure_processes,
    "capacity": measure_capacity,
}


def measure(
    kind: str, config: Any, *, command: str = "", say: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Measures what a configuration of `config.py` describes; returns the result, JSON values only.

    Every kind has `kind`, `command`, `config`, `tables` (rows by title), `goals` ({measure, bound, value, met} each),
    `machine`, `left_out` (what was not measured, and why) and `seconds`; on a device also `device`, `items` (what is
    counted), `size` (of one) and `clock`.

    Raises:
        ValueError: a model, device or option that does not exist or fit. ChildProcessError: see `measure_processes`.
    """
    session = Session(getattr(config, "budget", None), say)
    head = {"kind": kind, "command": command, "config": dataclasses.asdict(config), "goals": []}
    measured = _MEASUREMENTS[kind](config, session)
    seconds = time.monotonic() - session.start
    return {**head, **measured, "machine": machine(), "left_out": session.left_out, "seconds": seconds}


def machine() -> dict[str, Any]:
    """Processor, GPU, cores, threads, load and versions."""
    gpu = None
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        gpu = {"name": properties.name, "memory": properties.total_memory}
        gpu |= {"count": torch.cuda.device_count(), "cuda": torch.version.cuda}
    versions = {"python": platform.python_version(), "capaboost_vit": __version__}
    for package in ("torch", "timm", "transformers", "peft", "triton", "numpy"):
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "gpu": gpu,
        "versions": versions,
    }


def _cpu() -> str:
    """The name of the processor; Python knows it where there is no /proc."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
