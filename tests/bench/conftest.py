from __future__ import annotations

import pytest

from capaboost_vit.bench.config import Workload
from capaboost_vit.bench.models import make_subject
from capaboost_vit.cli import main

TINY = {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 40}
SMALL["initializer_range"] = 0.5  # with the usual 0.02 so small a model answers nearly the same to everything


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
def tiny_text(tiny):
    """The same of a text encoder: RoBERTa with two layers of width 16, 6 tokens, two of them padding, batch 4."""
    options = {name: value for name, value in tiny.items() if name != "img_size"}
    return {**options, "model": "roberta-base", "model_kwargs": SMALL, "seq_len": 6, "padding": 0.3}


@pytest.fixture(scope="session")
def workloads(tiny, tiny_text):
    """By what goes through the model."""
    return {"images": Workload(**tiny), "tokens": Workload(**tiny_text)}


@pytest.fixture(scope="session")
def subjects(workloads):
    return {items: make_subject(workload) for items, workload in workloads.items()}


@pytest.fixture(scope="session")
def workload(workloads):
    return workloads["images"]


@pytest.fixture(scope="session")
def subject(subjects):
    return subjects["images"]


@pytest.fixture
def exit_code():
    """The exit code of a command, whether the parser or the command itself ends it."""

    def run(words):
        try:
            return main(["bench", *words])
        except SystemExit as ended:
            return ended.code

    return run
