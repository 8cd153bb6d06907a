"""The last block of timm's ViTs computed only for the tokens that the head reads."""

from __future__ import annotations

from typing import Any, TypeVar

from timm.layers import Attention, DropPath, GluMlp, LayerNorm, LayerScale, Mlp, QuickGELU, RmsNorm, SwiGLU
from timm.models.beit import Beit
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import Block, ResPostBlock, VisionTransformer
from torch import Tensor, nn

from ..core.first_rows import check_by_row, first_rows, recast, twin, watched
from ..core.wrapper import NoShortCut, sharing
from . import eva
from .attention import FirstRowsAttention

M = TypeVar("M", bound=nn.Module)


class FirstRowsBlock(Block):
    """timm's block with only the first rows of its output computed: (B, N, D) to (B, rows, D)."""

    rows: int

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        y = self.attn(self.norm1(x), *args, **kwargs)
        x = x[:, : self.rows] + self.drop_path1(self.ls1(y))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


class FirstRowsResPostBlock(ResPostBlock):
    """timm's block with norms after attention and MLP, with only the first rows of its output computed."""

    rows: int

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        y = self.attn(x, *args, **kwargs)
        x = x[:, : self.rows] + self.drop_path1(self.norm1(y))
        return x + self.drop_path2(self.norm2(self.mlp(x)))


# classes of models, with how many rows their heads read; theirs is each model that has their methods
_ROWS: dict[Any, int] = {VisionTransformer: 1, VisionTransformerDistilled: 2, Eva: 1, Beit: 1}
_METHODS = ("forward", "forward_features", "forward_head", "pool")
# of each class of blocks and of attention, that which computes first rows
_FIRST_ROWS: dict[type[nn.Module], type[nn.Module]] = {
    Block: FirstRowsBlock,
    ResPostBlock: FirstRowsResPostBlock,
    Attention: FirstRowsAttention,
    **eva.FIRST_ROWS,
}
_OF_ALL_ROWS = ("attn", "qkv", "k_proj", "v_proj")
BY_ROW = (Mlp, GluMlp, SwiGLU, LayerNorm, RmsNorm, LayerScale, DropPath, QuickGELU)


def logits_only(model: M) -> M:
    """A model that computes the logits of a timm ViT with less work: its last block only for the class token.

    If `global_pool="token"`, only the rows of the class token, and of a distillation token, reach the head. Keys and
    values are computed for all tokens; queries, attention, projection, norm and MLP only for these rows, which saves
    6.9 % of the multiply-adds of ViT-B/16 at 224 px. Logits and gradients are the same up to rounding. With dropout
    inside the last block fewer random numbers are drawn.

    The returned model shares all parameters and buffers with `model`: train the first, save the second. Use it only for
    calls, in loops and exports, and pass `model` to all other functions. Create it when `model` is complete: wrappers
    that are attached later are missing in it. It has its own training mode, so call its `train` and `eval`. Its
    `forward_features` returns only these rows; that of `model` is unchanged.

    Args:
        model: a `VisionTransformer` (DeiT, DINOv2, CLIP, ...), `Eva` (EVA-02, DINOv3, ...) or `Beit`, adapted or not.

    Raises:
        NoShortCut: a ValueError that says why all rows of the last block are needed, or may be: call the model itself.

    Examples:
        >>> loss = F.cross_entropy(capaboost_vit.logits_only(model)(images), labels)
    """
    rows = next((rows for known, rows in _ROWS.items() if _is_one(model, known)), None)
    if rows is None:
        raise NoShortCut(f"it is not known how a {type(model).__name__} comes from its last block to the logits")
    vit: Any = model
    if vit.global_pool != "token" or getattr(vit, "attn_pool", None) is not None:
        raise NoShortCut(f"the head reads all tokens (global_pool {vit.global_pool!r})")
    if not len(vit.blocks):
        raise NoShortCut("the model has no block")
    if watched(vit.blocks):
        raise NoShortCut("a hook looks at what the blocks give out")
    check_by_row([vit.norm], BY_ROW)
    last = len(vit.blocks) - 1
    return twin(model, {f"blocks.{last}": first_rows(vit.blocks[last], rows, _first_rows)})


def is_plain_vit(model: nn.Module) -> bool:
    """Whether a model is a ViT of timm whose forward pass and pooling are timm's own."""
    return _is_one(model, VisionTransformer) or _is_one(model, VisionTransformerDistilled)


def _is_one(model: nn.Module, kind: Any) -> bool:
    changed = (getattr(type(model), name, None) is not getattr(kind, name, None) for name in _METHODS)
    return isinstance(model, kind) and not any(changed) and vars(model).keys().isdisjoint(_METHODS)


def _first_rows(module: nn.Module, rows: int) -> nn.Module:
    """Of a block, or of its attention."""
    kind = _FIRST_ROWS.get(type(module))
    if type(module) in _FIRST_ROWS.values():
        raise NoShortCut("the model is a twin of another already")
    if kind is None:
        raise NoShortCut(f"it is not known what a {type(module).__name__} makes of the first rows alone")
    if getattr(module, "qkv_bias_separate", False):
        raise NoShortCut(f"a {type(module).__name__} that adds its bias apart may need all rows")
    check_by_row((child for name, child in module.named_children() if name not in _OF_ALL_ROWS), BY_ROW)
    block: Any = module
    attention = {"attn": first_rows(block.attn, rows, _first_rows)} if hasattr(block, "attn") else {}
    return recast(sharing(module, **attention), kind, rows=rows)
