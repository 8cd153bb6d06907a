"""On what, and with what, a measurement was made."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from .._version import __version__


def machine() -> dict[str, Any]:
    """Processor, GPU, cores, threads, load and versions."""
    found: dict[str, Any] = {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "gpu": None,
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found["gpu"] = {
            "name": properties.name,
            "memory": properties.total_memory,
            "count": torch.cuda.device_count(),
            "cuda": torch.version.cuda,
        }
    versions: dict[str, str | None] = {"python": platform.python_version(), "capaboost_vit": __version__}
    for package in ("torch", "timm", "transformers", "peft", "triton", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {**found, "versions": versions}


def describe(found: dict[str, Any]) -> str:
    """One line for the reader of a table."""
    gpu = found["gpu"]
    parts = [gpu["name"]] if gpu else []
    load = f", load {found['load'][0]:g}" if found["load"] else ""
    parts.append(f"{found['cpu']}, {found['cores']} cores, {found['threads']} threads{load}")
    parts += [f"{name} {number}" for name, number in found["versions"].items() if number]
    return "; ".join(parts)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def import_seconds(repetitions: int = 3) -> float:
    """Seconds of `import capaboost_vit` and what is behind it, beyond importing timm: the median of new processes."""
    code = (
        "import time, timm; start = time.perf_counter(); import capaboost_vit; capaboost_vit.adapt; "
        "print(time.perf_counter() - start)"
    )
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    times = []
    for _ in range(repetitions):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=True,
        )
        times.append(float(done.stdout))
    return statistics.median(times)
