"""A very small ViT under its registered names, and branches that have left zero."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import timm
import torch

import capaboost_vit

sys.path.insert(0, str(Path(__file__).parent))  # lets the tests of this folder import `drawn`

TINY = dict(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2, num_classes=5)


@pytest.fixture(scope="session")
def tiny():
    """Builds the small ViT; the same seed gives the same base weights, whatever the method."""

    def build(method: str | None = None, *, seed: int = 0, **kwargs) -> torch.nn.Module:
        torch.manual_seed(seed)
        name = "vit_tiny_patch16_224" if method is None else f"vit_tiny_capaboost_{method}"
        return timm.create_model(name, **{**TINY, **kwargs}).eval()

    return build


@pytest.fixture(scope="session")
def wake():
    """Gives every parameter of every branch a value far from zero."""

    @torch.no_grad()
    def fill(model: torch.nn.Module, seed: int = 1) -> torch.nn.Module:
        generator = torch.Generator().manual_seed(seed)
        for branch in capaboost_vit.branches(model).values():
            for parameter in branch.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        return model

    return fill


@pytest.fixture(scope="session")
def liven():
    """Sets residual scales that start near zero (LayerScale, Swin V2's norms) to one, so that blocks do something."""

    @torch.no_grad()
    def fill(model: torch.nn.Module) -> torch.nn.Module:
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 and "bias" not in name and parameter.abs().max() < 0.2:
                parameter.fill_(1)
        return model

    return fill


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(7))
