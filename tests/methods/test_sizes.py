"""How many numbers a method trains in ViT-B/16, beside the head: as published, by a formula, or on its page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm

import capaboost_vit
from capaboost_vit.core.meta_models import outlines

QKVO = ("query", "key", "value", "attn_out")
SIX = (*QKVO, "mlp_in", "mlp_out")
PLAIN = {"num_branches": 1, "density": 1.0}
SIZES = [
    ("adalora", {}, 442_656),
    ("adalora", {"targets": SIX}, 1_991_520),
    ("adalora", {"init_r": 8}, 295_104),
    ("adalora", {"init_r": 8, "targets": SIX}, 1_327_680),  # what acts behind pruning
    ("lora", PLAIN, 294_912),
    ("lora", {**PLAIN, "targets": SIX}, 1_327_104),
    ("hira", {"targets": SIX}, 1_327_104),
    ("snell", {"targets": SIX}, 1_327_104),
    ("intlora", {"factor": "shift"}, 294_912),
    ("deep_lora", {}, 296_448),
    ("sfda", {}, 48 * 16**2),
    ("sfda", {"rank": 64}, 196_608),
    ("deep_lora", {"compress": True, "targets": SIX}, 1_340_928),
    ("lorta", {}, 6_880),
    ("lorta", {"rank": 4}, 3_440),
    ("lorta", {"rank": 64}, 55_040),
    ("fact", {}, 61_440),
    ("fact", {"form": "tk", "rank": 32}, 86_528),
    ("aurora", {}, 107_584),
    ("aurora", {"rank": 16}, 26_896),
    ("aurora", {"form": "tk"}, 369_664),
    ("aurora", {"form": "tk", "rank": 32}, 86_528),
    ("rasa", {}, 295_368),
    ("repadapter", {}, 239_808),
    ("arc", {}, 96_432),
    ("arc", {"targets": QKVO[:3]}, 48_216),
    ("e2vpt", {}, 138_240),
    ("e2vpt", {"tied": False}, 184_320),
    ("e2vpt", {"prompt_length": 5}, 92_160),
    ("e2vpt", {"prompt_length": 32}, 340_992),
    ("e2vpt", {"prompt_length": 1, "prefix_length": 1}, 18_432),
    ("e2vpt", {"pruned_tokens": 0.5}, 92_160),
    ("e2vpt", {"pruned_tokens": 0.5, "pruned_segments": 0.5}, 69_120),
    ("pha", {}, 874_888),  # and 106,688 of the retriever, which one task has not
    ("dyt", {}, 165_996),
    ("dyt", {"bottleneck": 16}, 313_548),
    ("dyt", {"bottleneck": 64}, 1_198_860),
    ("adapter", {"learned_scale": "token", "num_branches": 1, "density": 1.0}, 12 * (2 * 768 * 8 + 8 + 768 + 769)),
    ("rasa", {"k": 0}, 294_912 + 24 * 8),
]


@pytest.mark.parametrize(("name", "options", "size"), SIZES, ids=str)
def test_numbers_that_are_trained(name, options, size):
    with outlines():
        model = timm.create_model("vit_base_patch16_224", num_classes=0)
        capaboost_vit.adapt(model, name, head=(), **options)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == size


PAGE = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()
SECTIONS = re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", PAGE, re.M | re.S)
NUMBERS = [(name, re.search(r"\*\*Numbers\*\*: (?!.*roberta)(\d[\d,]*\d)", section)) for name, section in SECTIONS]


@pytest.mark.parametrize(("name", "number"), [(name, found[1]) for name, found in NUMBERS if found])
def test_the_page_of_methods_has_the_numbers(name, number):
    test_numbers_that_are_trained(name, {}, int(number.replace(",", "")))
