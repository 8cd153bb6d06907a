"""Where the roles live in models of timm and transformers: one row for each way of naming their modules."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

from torch import nn

from .inject import Site
from .names import matching, slots

_QKV = ("q", "k", "v")
_FUSED = dict(zip(("query", "key", "value"), _QKV, strict=True))


@dataclass(frozen=True)
class Row:
    """A way of naming: it holds for a model in which one of `marks` matches a module.

    Args:
        marks, roles: patterns of module names; a leading dot stands for the block.
        roles: sites by role.
    """

    marks: tuple[str, ...]
    roles: dict[str, tuple[Site, ...]]


def _row(blocks: str, marks: str, *, qkv: str = "", **roles: str) -> Row:
    """A row from patterns with blanks between them; `parallel:.output` is the place for that use alone.

    Args:
        blocks: patterns of the blocks.
        qkv: fused layers, whose rows are those of the query, then the key's, then the value's.
    """

    def full(patterns: str) -> list[str]:
        names = chain.from_iterable(
            [f"{block}{name.removesuffix('.')}" for block in blocks.split()] if name.startswith(".") else [name]
            for name in patterns.split()
        )
        return list(dict.fromkeys(names))

    sites: dict[str, tuple[Site, ...]] = {}
    for role, part in _FUSED.items():
        sites[role] = tuple(Site(pattern, part, _QKV) for pattern in full(qkv))
    for role, patterns in roles.items():
        found = list(sites.get(role, ()))
        for entry in patterns.split():
            use, _, pattern = entry.rpartition(":")
            found += [Site(name, only=use or None) for name in full(pattern)]
        sites[role] = tuple(found)
    return Row(tuple(full(marks)), {role: places for role, places in sites.items() if places})


ROWS: tuple[Row, ...] = (
    # timm
    _row(
        "blocks.*",
        ".attn .mlp patch_embed.proj",
        qkv=".attn.qkv",
        query=".attn.q_proj",
        key=".attn.k_proj",
        value=".attn.v_proj",
        attn_out=".attn.proj",
        mlp_in=".mlp.fc1 .mlp.fc1_g .mlp.fc1_x",
        mlp_out=".mlp.fc2",
        attn=".attn",
        mlp=".mlp",
        block=".",
        patch_embed="patch_embed.proj",
    ),
    # BERT, RoBERTa, XLM-R, ELECTRA, ...; query_proj is DeBERTa-v2's, query_global Longformer's. The
    # rows of DeBERTa's one in_proj go q, k, v head by head, which its layout says (nlu.anatomy)
    _row(
        "layer.*",
        ".attention.self",
        qkv=".attention.self.in_proj",
        query=".attention.self.query .attention.self.query_proj .attention.self.query_global",
        key=".attention.self.key .attention.self.key_proj .attention.self.key_global",
        value=".attention.self.value .attention.self.value_proj .attention.self.value_global",
        attn_out=".attention.output.dense",
        mlp_in=".intermediate.dense",
        mlp_hidden=".intermediate",
        mlp_out=".output.dense",
        attn="prefix:.attention.self sequential:.attention.output.dense parallel:.attention.output",
        mlp="sequential:.output.dense parallel:.output",
        block="encoder",
    ),
    # DistilBERT
    _row(
        "layer.*",
        ".attention.q_lin",
        query=".attention.q_lin",
        key=".attention.k_lin",
        value=".attention.v_lin",
        attn_out=".attention.out_lin",
        mlp_in=".ffn.lin1",
        mlp_out=".ffn.lin2",
        attn="prefix:.attention sequential:.attention.out_lin",
        mlp=".ffn",
    ),
    # MPNet
    _row(
        "layer.*",
        ".attention.attn",
        query=".attention.attn.q",
        key=".attention.attn.k",
        value=".attention.attn.v",
        attn_out=".attention.attn.o",
        mlp_in=".intermediate.dense",
        mlp_hidden=".intermediate",
        mlp_out=".output.dense",
        attn="prefix:.attention.attn sequential:.attention.attn.o",
        mlp="sequential:.output.dense parallel:.output",
    ),
    # ALBERT: one module is every layer of its group
    _row(
        "albert_layers.*",
        ".attention",
        query=".attention.query",
        key=".attention.key",
        value=".attention.value",
        attn_out=".attention.dense",
        mlp_in=".ffn",
        mlp_out=".ffn_output",
        attn="prefix:.attention sequential:.attention.dense",
        mlp="sequential:.ffn_output",
    ),
    # ModernBERT, whose Wi is the gate and what it multiplies
    _row(
        "layers.*",
        ".attn.Wqkv",
        qkv=".attn.Wqkv",
        attn_out=".attn.Wo",
        mlp_in=".mlp.Wi",
        mlp_out=".mlp.Wo",
        attn="prefix:.attn sequential:.attn.Wo",
        mlp=".mlp",
    ),
    # GPT-2
    _row(
        "h.*",
        ".attn.c_attn",
        qkv=".attn.c_attn",
        attn_out=".attn.c_proj",
        mlp_in=".mlp.c_fc",
        mlp_out=".mlp.c_proj",
        attn="prefix:.attn sequential:.attn.c_proj",
        mlp=".mlp",
    ),
    # T5
    _row(
        "block.*.layer.*",
        ".SelfAttention",
        query=".SelfAttention.q .EncDecAttention.q",
        key=".SelfAttention.k .EncDecAttention.k",
        value=".SelfAttention.v .EncDecAttention.v",
        attn_out=".SelfAttention.o .EncDecAttention.o",
        mlp_in=".DenseReluDense.wi .DenseReluDense.wi_0 .DenseReluDense.wi_1",
        mlp_out=".DenseReluDense.wo",
        attn="prefix:.SelfAttention sequential:.SelfAttention.o sequential:.EncDecAttention.o",
        mlp=".DenseReluDense",
    ),
    # Llama, Mistral, Qwen, Gemma; BART and its like, whose MLP is no module; the towers of CLIP and SigLIP
    _row(
        "layers.*",
        ".self_attn.q_proj",
        query=".self_attn.q_proj .encoder_attn.q_proj",
        key=".self_attn.k_proj .encoder_attn.k_proj",
        value=".self_attn.v_proj .encoder_attn.v_proj",
        attn_out=".self_attn.o_proj .self_attn.out_proj .encoder_attn.out_proj",
        mlp_in=".mlp.fc1 .mlp.gate_proj .mlp.up_proj .fc1",
        mlp_out=".mlp.fc2 .mlp.down_proj .fc2",
        attn="prefix:.self_attn sequential:.self_attn.o_proj sequential:.self_attn.out_proj "
        "sequential:.encoder_attn.out_proj",
        mlp=".mlp sequential:.fc2",
        block=".",
    ),
    # ViT, DeiT, BEiT, DINOv2, DINOv3, Swin in transformers 5
    _row(
        "layers.* layer.* blocks.*",
        ".attention.q_proj",
        query=".attention.q_proj",
        key=".attention.k_proj",
        value=".attention.v_proj",
        attn_out=".attention.o_proj",
        mlp_in=".mlp.fc1 .mlp.gate_proj .mlp.up_proj",
        mlp_out=".mlp.fc2 .mlp.down_proj",
        attn="prefix:.attention sequential:.attention.o_proj",
        mlp=".mlp",
        block=".",
    ),
    # the same before, and YOLOS, DPT, VideoMAE, ... today
    _row(
        "layer.*",
        ".attention.attention",
        query=".attention.attention.query",
        key=".attention.attention.key",
        value=".attention.attention.value",
        attn_out=".attention.output.dense",
        mlp_in=".intermediate.dense .mlp.fc1",
        mlp_out=".output.dense .mlp.fc2",
        attn="prefix:.attention.attention sequential:.attention.output.dense",
        mlp=".mlp sequential:.output.dense parallel:.output",
    ),
    # Swin before, and Swin V2 today
    _row(
        "blocks.*",
        ".attention.self",
        query=".attention.self.query",
        key=".attention.self.key",
        value=".attention.self.value",
        attn_out=".attention.output.dense",
        mlp_in=".intermediate.dense",
        mlp_out=".output.dense",
        attn="prefix:.attention.self sequential:.attention.output.dense",
        mlp="sequential:.output.dense",
    ),
    # patches: of ViT and its like; of DINOv3. CLIP's are no role: it reads their weight, in which SSF's shift is not
    _row("", "patch_embeddings.projection", patch_embed="patch_embeddings.projection"),
    _row("", "rope_embeddings", patch_embed="embeddings.patch_embeddings"),
)


def roles_of(model: nn.Module) -> dict[str, tuple[Site, ...]]:
    """The sites of each role that a model has, from the rows that hold for it; a role without a module is left out."""
    names = [name for name, _ in slots(model)]
    roles: dict[str, tuple[Site, ...]] = {}
    for row in ROWS:
        if any(matching(names, mark) for mark in row.marks):
            for role, sites in row.roles.items():
                present = [site for site in sites if matching(names, site.pattern)]
                if present:
                    roles[role] = tuple(dict.fromkeys([*roles.get(role, ()), *present]))
    return roles
