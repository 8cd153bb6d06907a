"""Roles of timm's other families, and of the encoders of torchvision, open_clip and torch."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

from torch import nn

from ..core.inject import Site
from ..core.low_rank_kinds import takes_low_rank
from ..core.names import matching, slots

# where the blocks of the families are; a leading dot in the patterns below stands for each of them
_BLOCKS = """
    blocks.* blocks.*.* transformer.* transformer_encoder.* fusion.* blocks_token_only.*
    cls_attn_blocks.* network.*.* post_network.* stages.*.* stage1.* stage2.* stage3.* features.*.* serial_blocks1.*
    serial_blocks2.* serial_blocks3.* serial_blocks4.* parallel_blocks.* layers.* resblocks.*
"""


def _sites(patterns: str, part: str = "all", parts: tuple[str, ...] = ("all",)) -> tuple[Site, ...]:
    names = (
        [f"{block}{pattern}" for block in _BLOCKS.split()] if pattern.startswith(".") else [pattern]
        for pattern in patterns.split()
    )
    return tuple(Site(name, part, parts) for name in chain.from_iterable(names))


# Fused layers; where their layout is not equal parts in this order, it stands in `fused`. The last three are modules:
# torch's nn.MultiheadAttention in torchvision, open_clip and torch's own encoders.
_QKV_LAYERS = """
    .attn.qkv .attn.qkv_proj .attn.qkv.linear attn.qkvs.*.conv token_mixer.qkv xca.qkv main.qkv.conv mixer.m.qkv.c
    factoratt_crpe.qkv factoratt_crpe2.qkv factoratt_crpe3.qkv factoratt_crpe4.qkv
    layers.*.self_attention resblocks.*.attn layers.*.self_attn
"""
_QK_LAYERS = ".attn.qk attn_in.qk attn_out.qk"
_KV_LAYERS = ".attn.kv attn_downsample.kv.linear"


def _projection(part: str, name: str) -> tuple[Site, ...]:
    single = f"""
        .attn.{part}_proj .attn.{part}_proj.linear .attn.{part} .attn.w{part} e_mhsa.{part} token_mixer.{part}.conv
        attn.{part}.conv attn.{part}.proj.conv mixer.module.{part}.c attn_downsample.{part}.ln.linear
        attn.to_{name} attn.{name}.proj attn_in.{part} attn_out.{part}
    """
    fused = {_QKV_LAYERS: ("q", "k", "v"), _QK_LAYERS: ("q", "k"), _KV_LAYERS: ("k", "v")}
    of_fused = (_sites(patterns, part, parts) for patterns, parts in fused.items() if part in parts)
    return tuple(chain(*of_fused, _sites(single)))


_LAYERS = {
    "query": _projection("q", "query"),
    "key": _projection("k", "key"),
    "value": _projection("v", "value"),
    "attn_out": _sites("""
        .attn.proj .attn.out_proj .self_attention.out_proj .self_attn.out_proj attn.o_proj.linear attn.output.proj
        attn.proj.ln.linear attn_downsample.proj.ln.linear attn.proj.conv attn.proj.*.conv attn_in.proj attn_out.proj
        token_mixer.proj token_mixer.proj.conv mixer.m.proj.*.c mixer.module.proj.c xca.proj e_mhsa.proj main.proj.conv
        factoratt_crpe.proj factoratt_crpe2.proj factoratt_crpe3.proj factoratt_crpe4.proj
    """),
    "mlp_in": _sites("""
        .mlp.fc1 .mlp.fc1_g .mlp.fc1_x .mlp.fc1.conv .mlp.0 .mlp.c_fc .mlp.w0 .mlp.w1 .mlp.conv1 .linear.fc1 .linear1
        blocks.*.fc1 mlp.ln1.linear mlp2.fc1 mlp3.fc1 mlp4.fc1 mlp_in.fc1 mlp_channels.fc1 mlp_tokens.fc1 m.pw1.conv
        m.pw1.c channel_mixer.conv1.c ffn.fc1.conv local_module.main.inverted_conv.conv mlp.gate_proj.linear
        mlp.up_proj.linear
    """),
    "mlp_out": _sites("""
        .mlp.fc2 .mlp.fc2.conv .mlp.3 .mlp.c_proj .mlp.w2 .mlp.conv3 .linear.fc2 .linear2
        blocks.*.fc2 mlp.ln2.linear mlp2.fc2 mlp3.fc2 mlp4.fc2 mlp_in.fc2 mlp_channels.fc2 mlp_tokens.fc2 m.pw2.conv
        m.pw2.c channel_mixer.conv2.c ffn.fc2.conv local_module.main.point_conv.conv mlp.down_proj.linear
    """),
}


def with_families(model: nn.Module, roles: Mapping[str, tuple[Site, ...]]) -> dict[str, tuple[Site, ...]]:
    """These roles and the families' of a model.

    The sites of layers are layers, not modules around one, as LeViT's qkv is around qkv.linear; a role of layers that
    the model does not have has no site.
    """
    modules = dict(slots(model))
    by_end: dict[str, list[str]] = {}
    for name in modules:
        by_end.setdefault(name.rpartition(".")[2], []).append(name)

    def places(site: Site) -> list[str]:
        end = site.pattern.rpartition(".")[2]
        return matching([*modules] if end == "*" else by_end.get(end, ()), site.pattern)

    found = dict(roles)
    for role, sites in _LAYERS.items():
        both = dict.fromkeys([*roles.get(role, ()), *sites])
        found[role] = tuple(s for s in both if (p := places(s)) and all(takes_low_rank(modules[name]) for name in p))
    for role in ("mlp", "attn"):
        present = tuple(site for site in _sites(f".{role}") if places(site))
        if present:
            found[role] = tuple(dict.fromkeys([*roles.get(role, ()), *present]))
    return found
