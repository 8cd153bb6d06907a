from __future__ import annotations

import pytest

from capaboost_vit.bench.cases import make_batch
from capaboost_vit.bench.config import Workload

TINY = {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}


@pytest.fixture(scope="session")
def tiny():
    """Options of a workload that takes milliseconds: ViT with two blocks of width 16, 5 tokens, batch 4."""
    return {
        "model": "vit_tiny_patch16_224",
        "model_kwargs": TINY,
        "img_size": 16,
        "batch_size": 4,
        "num_classes": 3,
        "rank": 2,
        "device": "cpu",
        "repetitions": 2,
        "warmup": 1,
    }


@pytest.fixture(scope="session")
def workload(tiny):
    return Workload(**tiny)


@pytest.fixture(scope="session")
def batch(workload):
    return make_batch(workload)
