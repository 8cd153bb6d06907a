"""The class row of timm's ViTs: the last block for the tokens alone that the head reads."""

from __future__ import annotations

from typing import Any, TypeVar

from timm.layers import Attention, DropPath, GluMlp, LayerScale, Mlp, SwiGLU
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer
from timm.models.vision_transformer import LayerScale as BlockScale
from torch import Tensor, nn

from ..core.first_rows import check_by_row, first_rows, recast, twin, why_not_by_row
from ..core.wrapper import NoShortCut, unwrap
from .attention import FirstRowsAttention

M = TypeVar("M", bound=nn.Module)

# the classes whose `forward_head` is known, and how many rows it reads
_HEADS: dict[Any, int] = {VisionTransformer.forward_head: 1, VisionTransformerDistilled.forward_head: 2}
_KNOWN = ("forward", "forward_features", "pool")
_MLPS = (Mlp, GluMlp, SwiGLU)
_BY_ROW = (*_MLPS, LayerScale, BlockScale, DropPath)


def logits_only(model: M) -> M:
    """A twin of a ViT of timm that computes `model(x)` with less work: its last block for the class token alone.

    Where `global_pool="token"`, only the rows of the class token, and of a distillation token, reach the head. Keys and
    values are computed for all tokens, queries, attention, projection, norm and MLP for those rows: of ViT-B/16 at
    224 px 6.9 % of the multiply-adds less. Logits and gradients are the same but for rounding. With dropout inside the
    last block fewer random numbers are drawn.

    The twin shares all parameters, buffers and modules with the model: train the one, save the other. It has modes of
    its own, so call its `train` and `eval`. Its `forward_features` gives those rows alone, the model's
    own stays as it is. Make it when the model is complete: what is attached to the model later it lacks.

    Raises:
        NoShortCut: a ValueError that says why all rows of the last block are needed, or may be.

    Example:
        >>> model = capaboost_vit.adapt(timm.create_model("vit_tiny_patch16_224", num_classes=10), "lora")
        >>> loss = F.cross_entropy(capaboost_vit.logits_only(model)(images), labels)
    """
    kind: Any = type(model)
    if not is_plain_vit(model):
        raise NoShortCut(f"a {kind.__name__} is no plain ViT of timm")
    assert isinstance(model, VisionTransformer)
    if kind.forward_head not in _HEADS:
        raise NoShortCut(f"how the head of a {kind.__name__} reads its tokens is not known")
    if model.global_pool != "token" or model.attn_pool is not None:
        raise NoShortCut(f"the head reads all tokens (global_pool {model.global_pool!r})")
    last = len(model.blocks) - 1
    if last < 0:
        raise NoShortCut("the model has no block")
    return twin(model, {f"blocks.{last}": first_rows(model.blocks[last], _HEADS[kind.forward_head], _block)})


def is_plain_vit(model: nn.Module) -> bool:
    """Whether a model is a ViT of timm that goes through its blocks and pools as timm wrote it."""
    as_written = (getattr(type(model), name, None) is getattr(VisionTransformer, name) for name in _KNOWN)
    return isinstance(model, VisionTransformer) and all(as_written)


class FirstRowsBlock(Block):
    """timm's block, of whose output only the first rows are computed: (B, N, D) to (B, rows, D)."""

    rows: int

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # no mask: those who give one read all rows
        y = self.attn(self.norm1(x))
        x = x[:, : self.rows] + self.drop_path1(self.ls1(y))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


def _block(block: nn.Module, rows: int) -> nn.Module:
    if type(block) is not Block:
        raise NoShortCut(f"a {type(block).__name__} is no plain block of timm")
    if not isinstance(unwrap(block.mlp), _MLPS):
        raise NoShortCut(f"a {type(unwrap(block.mlp)).__name__} may need all rows")
    check_by_row((block.ls1, block.drop_path1, block.norm2, block.mlp, block.ls2, block.drop_path2), _BY_ROW)
    alone: Any = recast(block, FirstRowsBlock, rows=rows)
    alone._modules = {**block._modules, "attn": first_rows(block.attn, rows, _attention)}
    return alone


def _attention(attention: nn.Module, rows: int) -> nn.Module:
    if type(attention) is not Attention:
        raise NoShortCut(f"a {type(attention).__name__} is no plain attention of timm")
    check_by_row((attention.q_norm, attention.norm, attention.gate, attention.proj), _BY_ROW)
    split = why_not_by_row(attention.qkv, _BY_ROW) is None
    return recast(attention, FirstRowsAttention, rows=rows, split=split)
