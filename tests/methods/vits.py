"""The small ViT of the tests of methods, and images for it."""

from __future__ import annotations

import timm
import torch

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(7))


def vit(name="vit_tiny_patch16_224", **options):
    torch.manual_seed(0)
    model = timm.create_model(name, **{**SMALL, **options}).eval()
    with torch.no_grad():  # timm's start is so near zero that a scale would hardly show
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model
