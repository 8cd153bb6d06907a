"""No network in tests; real data only where it is; one thread, as CI runs several workers on few cores."""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


class _NoNetwork(socket.socket):
    def connect(self, address):
        if self.family != socket.AF_UNIX:
            raise RuntimeError(f"a test tried to reach the network: {address}")
        return super().connect(address)


@pytest.fixture(autouse=True, scope="session")
def _no_network():
    real = socket.socket
    socket.socket = _NoNetwork
    os.environ["HF_HUB_OFFLINE"] = "1"
    yield
    socket.socket = real


@pytest.fixture(autouse=True)
def _one_thread_and_one_seed():
    """A test without a seed of its own must not fail once in a hundred runs (drop path may drop every image)."""
    torch.set_num_threads(1)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = Path(os.environ.get("CAPABOOST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set CAPABOOST_DATA")
    return folder


@pytest.fixture(scope="session")
def vit_tiny_weights(real_data) -> Path:
    return real_data / "vit_tiny_patch16_224_augreg_in21k_ft_in1k" / "model.safetensors"


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
