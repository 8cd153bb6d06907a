"""What a run or a measurement was made on, as their results record it."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import timm
import torch

from .. import _version
from .distributed import ProcessGroup


def machine(device: torch.device, world: ProcessGroup) -> dict[str, Any]:
    """Device, threads, processes and versions: what decides about the last bits of a result."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return {
        "device": f"{device.type}: {name}",
        "threads": torch.get_num_threads(),
        "processes": world.size,
        "versions": versions(),
    }


def hardware(*packages: str) -> dict[str, Any]:
    """Processor, cores, threads, load, system, GPU and versions: what decides about the times of a measurement."""
    gpu = None
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        gpu = {"name": properties.name, "memory": properties.total_memory}
        gpu |= {"count": torch.cuda.device_count(), "cuda": torch.version.cuda}
    return {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "gpu": gpu,
        "versions": versions(*packages),
    }


def versions(*packages: str) -> dict[str, str]:
    """Those of this package, of what it always needs, and of those of the packages that are installed."""
    numbers = {"capaboost_vit": _version.__version__, "timm": timm.__version__, "torch": torch.__version__}
    numbers["python"] = platform.python_version()
    for package in packages:
        with suppress(PackageNotFoundError):
            numbers[package] = version(package)
    return numbers


def processor() -> str:
    """The name of the processor; Python knows it where there is no /proc."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
