"""Models of transformers: each role names the modules that it should, and what stands there trains, merges, is stored.

The table of docs/ecosystem/roles.md is the one below.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch
import zoo

import capaboost_vit
from capaboost_vit import branches, find
from capaboost_vit.core.names import matching, slots
from capaboost_vit.methods.header import AdapterFileError

DOCS = Path(__file__).parent.parent / "docs/ecosystem/roles.md"
LINEAR = ("query", "key", "value", "attn_out", "mlp_in", "mlp_out")


def projections(form):
    """Names of query, key and value, of which `form` has the letter."""
    return {role: form.replace("*", letter) for role, letter in zip(LINEAR[:3], "qkv", strict=True)}


BERT = {role: f"attention.self.{role}" for role in LINEAR[:3]}
BERT |= {"attn_out": "attention.output.dense", "mlp_in": "intermediate.dense", "mlp_out": "output.dense"}
BERT |= {"beside": "output", "behind": "output.dense"}
VIT = {**projections("attention.*_proj"), "attn_out": "attention.o_proj"}
FC = {"mlp_in": "mlp.fc1", "mlp_out": "mlp.fc2", "beside": "mlp", "behind": "mlp"}
GATED = {**FC, "mlp_in": "mlp.gate_proj mlp.up_proj", "mlp_out": "mlp.down_proj"}
DECODER = {**projections("self_attn.*_proj"), "attn_out": "self_attn.o_proj", **GATED}
T5 = {role: f"SelfAttention.{letter} EncDecAttention.{letter}" for role, letter in zip(LINEAR, "qkvo", strict=False)}
T5 |= {"mlp_out": "DenseReluDense.wo", "beside": "DenseReluDense", "behind": "DenseReluDense"}
BOTH = "prefix, prompt"

# models by their names in the zoo; what they are called; the blocks; names in a block by role, and what an adapter on
# `mlp` stands beside (parallel) and behind (sequential); whether prefixes and prompts are taken
TABLE = [
    ("bert roberta xlm-roberta electra", "BERT, RoBERTa, XLM-R, CamemBERT, ELECTRA", "layer.*", BERT, BOTH),
    (
        "deberta-v2",
        "DeBERTa-v2, v3",
        "layer.*",
        BERT | {role: f"attention.self.{role}_proj" for role in LINEAR[:3]},
        BOTH,
    ),
    ("deberta", "DeBERTa", "layer.*", BERT | projections("attention.self.in_proj[*]"), ""),
    (
        "longformer",
        "Longformer",
        "layer.*",
        BERT | {role: f"attention.self.{role} attention.self.{role}_global" for role in LINEAR[:3]},
        "",
    ),
    (
        "distilbert",
        "DistilBERT",
        "layer.*",
        projections("attention.*_lin")
        | {
            "attn_out": "attention.out_lin",
            "mlp_in": "ffn.lin1",
            "mlp_out": "ffn.lin2",
            "beside": "ffn",
            "behind": "ffn",
        },
        "",
    ),
    ("mpnet", "MPNet", "layer.*", BERT | projections("attention.attn.*") | {"attn_out": "attention.attn.o"}, ""),
    (
        "albert",
        "ALBERT (one block for all layers)",
        "albert_layers.*",
        {role: f"attention.{role}" for role in LINEAR[:3]}
        | {"attn_out": "attention.dense", "mlp_in": "ffn", "mlp_out": "ffn_output", "behind": "ffn_output"},
        "",
    ),
    (
        "modernbert",
        "ModernBERT",
        "layers.*",
        projections("attn.Wqkv[*]")
        | {"attn_out": "attn.Wo", "mlp_in": "mlp.Wi", "mlp_out": "mlp.Wo", "beside": "mlp", "behind": "mlp"},
        "",
    ),
    ("llama mistral qwen2 qwen3 gemma gemma2 gemma3", "Llama, Mistral, Qwen2, Qwen3, Gemma", "layers.*", DECODER, ""),
    (
        "gpt2",
        "GPT-2",
        "h.*",
        projections("attn.c_attn[*]")
        | {"attn_out": "attn.c_proj", "mlp_in": "mlp.c_fc", "mlp_out": "mlp.c_proj", "beside": "mlp", "behind": "mlp"},
        "",
    ),
    ("t5", "T5", "block.*.layer.*", T5 | {"mlp_in": "DenseReluDense.wi"}, ""),
    ("t5_gated", "T5 1.1, Flan-T5", "block.*.layer.*", T5 | {"mlp_in": "DenseReluDense.wi_0 DenseReluDense.wi_1"}, ""),
    (
        "bart",
        "BART",
        "layers.*",
        projections("self_attn.*_proj encoder_attn.*_proj")
        | {"attn_out": "self_attn.out_proj encoder_attn.out_proj", "mlp_in": "fc1", "mlp_out": "fc2", "behind": "fc2"},
        "",
    ),
    ("vit deit", "ViT, DeiT", "layers.*", VIT | FC, BOTH),
    ("beit", "BEiT", "layers.*", VIT | FC, "prefix"),
    ("dinov2 dinov2_registers", "DINOv2, also with registers", "layer.*", VIT | FC, BOTH),
    ("dinov2_swiglu", "DINOv2 giant", "layer.*", VIT | GATED, BOTH),
    ("dinov3", "DINOv3", "layer.*", VIT | FC | {"mlp_in": "mlp.up_proj", "mlp_out": "mlp.down_proj"}, ""),
    ("dinov3_gated", "DINOv3 gated", "layer.*", VIT | GATED, ""),
    ("swin", "Swin", "blocks.*", VIT | FC, ""),
    ("swinv2", "Swin V2", "blocks.*", {role: name for role, name in BERT.items() if role != "beside"}, ""),
    (
        "yolos",
        "YOLOS, and ViT's names before transformers 5",
        "layer.*",
        BERT | {role: f"attention.attention.{role}" for role in LINEAR[:3]},
        "",
    ),
    (
        "clip siglip",
        "CLIP, SigLIP (images)",
        "layers.*",
        projections("self_attn.*_proj") | {"attn_out": "self_attn.out_proj"} | FC,
        BOTH,
    ),
    (
        "clip_both",
        "CLIP, SigLIP (both towers)",
        "layers.*",
        projections("self_attn.*_proj") | {"attn_out": "self_attn.out_proj"} | FC,
        "",
    ),
]
ROW = {model: row for row in TABLE for model in row[0].split()}
COLUMNS = [*LINEAR, "beside", "behind"]


def test_the_table_has_every_model_of_the_zoo():
    assert ROW.keys() == zoo.MODELS.keys()


def test_the_page_has_the_table():
    titles = ["models", "block", *LINEAR, "`mlp`, parallel", "`mlp`, sequential", "prefix, prompt"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for _, title, block, names, takes in TABLE:
        cells = [", ".join(f"`{name}`" for name in names.get(column, "").split()) or "none" for column in COLUMNS]
        lines.append(f"| {' | '.join([title, f'`{block}`', *cells, takes or 'none'])} |")
    table = "\n".join(lines)
    assert table in DOCS.read_text("utf-8"), f"docs/ecosystem/roles.md should have\n{table}"


def expected(model, block, names):
    """(name of the module, part of it) by the names in a block that stand in the table."""
    places = set()
    for entry in names.split():
        name, part = re.fullmatch(r"([^\[]+)(?:\[(.)\])?", entry).groups()
        found = matching([slot for slot, _ in slots(model)], f"{block}.{name}")
        assert found, entry
        places |= {(module, part or "all") for module in found}
    return places


def places(model, role, use=None):
    """The same, as `find` has them; none where it finds none."""
    anatomy = capaboost_vit.anatomy_of(model)
    sites = [site for site in anatomy.roles.get(role, ()) if use is None or site.only in (None, use)]
    return {(p.name, p.site.part) for p in find(model, role, anatomy, use=use)} if sites else set()


@pytest.mark.parametrize("name", zoo.MODELS)
def test_each_role_names_the_modules_of_the_table_and_no_others(name):
    model = zoo.build(name)
    _, _, block, names, _ = ROW[name]
    found = {role: places(model, role) for role in LINEAR}
    found |= {"beside": places(model, "mlp", "parallel"), "behind": places(model, "mlp", "sequential")}
    assert found == {column: expected(model, block, names.get(column, "")) for column in COLUMNS}
    behind = expected(model, block, names["attn_out"])
    assert places(model, "attn", "sequential") == behind  # an adapter behind the attention is behind its last layer


@pytest.mark.parametrize(
    ("name", "conv"),
    [
        ("vit", "patch_embeddings.projection"),
        ("beit", "patch_embeddings.projection"),
        ("dinov2", "patch_embeddings.projection"),
        ("swin", "patch_embeddings.projection"),
        ("dinov3", "embeddings.patch_embeddings"),
    ],
)
def test_patch_embed_is_the_convolution_of_the_patches(name, conv):
    model = zoo.build(name)
    ((found, _),) = places(model, "patch_embed")
    assert found.endswith(conv)
    assert type(model.get_submodule(found)) is torch.nn.Conv2d


def assert_exact(found, wanted):
    """To rounding, which depends on where tensors lie in memory."""
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6 * wanted.detach().abs().max().item())


@torch.no_grad()
def wake(model):
    generator = torch.Generator().manual_seed(2)
    for addition in branches(model).values():
        for parameter in addition.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("name", zoo.MODELS)
def test_lora_on_every_linear_role_starts_as_the_base_trains_merges_and_is_stored(name, tmp_path):
    base = zoo.build(name)
    with torch.no_grad():
        start = zoo.answer(base)
    roles = [role for role in LINEAR if role in ROW[name][3]]
    model = capaboost_vit.adapt(copy.deepcopy(base), "lora", rank=2, targets=roles)
    first = zoo.answer(model)
    assert_exact(first, start)
    first.square().sum().backward()
    # Longformer's last layer answers from the first token alone, which the global projections compute
    local = {f"longformer.encoder.layer.1.attention.self.{role}.branches.all" for role in LINEAR[:3]}
    for branch_name, branch in branches(model).items():
        moved = branch.up.weight.grad is not None and bool(branch.up.weight.grad.any())
        assert moved == (branch_name not in local), branch_name
    with torch.no_grad():
        learned = zoo.answer(wake(model))
        assert (learned - start).abs().max() > 1e-3 * start.abs().max()
        close = dict(rtol=0, atol=1e-5 * learned.abs().max().item())
        torch.testing.assert_close(zoo.answer(capaboost_vit.merge(model)), learned, **close)
        path = capaboost_vit.save_adapter(model, tmp_path / "adapter.safetensors")
        fresh = capaboost_vit.load_adapter(copy.deepcopy(base), path)
        torch.testing.assert_close(zoo.answer(fresh), learned, **close)


@pytest.mark.parametrize("placement", ["parallel", "sequential"])
@pytest.mark.parametrize("name", zoo.MODELS)
def test_an_adapter_on_the_mlp_starts_as_the_base_and_trains_or_is_refused(name, placement):
    base = zoo.build(name)
    options = dict(placement=placement, bottleneck=2, activation="gelu", targets=["mlp"])
    if {"parallel": "beside", "sequential": "behind"}[placement] not in ROW[name][3]:
        text = rf"target 'mlp' matches nothing in {type(base).__name__} for parallel \(only for sequential\); roles"
        with pytest.raises(ValueError, match=text):
            capaboost_vit.adapt(base, "adapter", **options)
        return
    model = capaboost_vit.adapt(copy.deepcopy(base), "adapter", **options)
    answer = zoo.answer(model)
    assert_exact(answer, zoo.answer(base))
    answer.square().sum().backward()
    assert all(branch.up.weight.grad.any() for branch in branches(model).values())


@pytest.mark.parametrize("method", ["prefix", "prompt"])
@pytest.mark.parametrize("name", zoo.MODELS)
def test_prefix_and_prompt_train_and_are_stored_or_are_refused_in_one_line(name, method, tmp_path):
    model, base = zoo.build(name), zoo.build(name)
    state = list(model.state_dict())
    if method not in ROW[name][4]:
        what = {"prefix": "prefix attention", "prompt": "prompt"}[method]
        with pytest.raises(ValueError, match=rf"^no {what} is known for {type(model).__name__}: use lora or adapter$"):
            capaboost_vit.adapt(model, method)
        assert list(model.state_dict()) == state
        return
    capaboost_vit.adapt(model, method)
    zoo.answer(model).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for a in branches(model).values() for p in a.parameters())
    path = capaboost_vit.save_adapter(wake(model), tmp_path / "adapter.safetensors")
    with torch.no_grad():
        assert_exact(zoo.answer(capaboost_vit.load_adapter(copy.deepcopy(base), path)), zoo.answer(model))
        none = capaboost_vit.adapt(base, method, **{f"{method}_length": 0})
        assert_exact(zoo.answer(none), zoo.answer(zoo.build(name)))


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5", "bart", "clip_both", "distilbert", "longformer", "modernbert"])
def test_gates_are_refused_where_padding_and_what_follows_are_not_known(name):
    with pytest.raises(TypeError, match=r"gates have to know the padding, but the masks of .* are not known"):
        capaboost_vit.adapt(zoo.build(name), "unipelt", parts=["lora", "adapter"])


def test_the_query_of_a_fused_layer_changes_the_queries_alone():
    model = capaboost_vit.adapt(zoo.build("gpt2"), "lora", targets=["query"])
    changed = wake(model).transformer.h[0].attn.c_attn.delta_weight()
    assert [bool(part.any()) for part in changed.chunk(3)] == [True, False, False]


def test_the_queries_of_deberta_are_rows_of_each_head():
    model = capaboost_vit.adapt(zoo.build("deberta"), "lora", targets=["query"])
    attention = wake(model).deberta.encoder.layer[0].attention.self
    q, k, v = attention.transpose_for_scores(attention.in_proj.delta_weight().T[None]).chunk(3, dim=-1)
    assert [bool(part.any()) for part in (q, k, v)] == [True, False, False]
    assert all(bool(head.any()) for head in q[0])


@pytest.mark.parametrize("name", ["bert", "vit", "llama"])
def test_a_summary_counts_by_role(name):
    model = capaboost_vit.adapt(zoo.build(name), "lora", targets=["query", "attn_out", "mlp_out"])
    roles = capaboost_vit.summary(model, flops=False, verbose=False).roles
    assert {"query", "attn_out", "mlp_out"} == roles.keys() - {"classifier"}


def test_a_whole_model_that_calls_its_encoder_model_has_no_head():
    assert capaboost_vit.anatomy_of(zoo.build("dinov3")).head == ()


# files


@pytest.mark.parametrize("name", ["vit", "bert", "llama"])
def test_a_file_builds_its_model_again_from_a_local_folder(name, tmp_path):
    model = zoo.build(name)
    model.config.num_labels = 2
    type(model)(model.config).save_pretrained(tmp_path / "base")
    model = type(model).from_pretrained(tmp_path / "base").eval()
    with torch.no_grad():
        answer = zoo.answer(wake(capaboost_vit.adapt(model, "lora")))
    assert model.capaboost["base"] == {"architecture": zoo.MODELS[name][0], "tag": None}
    path = capaboost_vit.save_adapter(model, tmp_path / "adapter.safetensors", class_names=["a", "b"])
    built = capaboost_vit.create_from_adapter(path, model=str(tmp_path / "base"))
    with torch.no_grad():
        assert_exact(zoo.answer(built), answer)
    assert not built.training
    assert built.config.id2label == {0: "a", 1: "b"}
    with pytest.raises(AdapterFileError, match=f"was made on a local {zoo.MODELS[name][0]}: say where it is, model="):
        capaboost_vit.create_from_adapter(path)


def test_options_of_the_other_kind_are_refused(tmp_path):
    import timm

    vit = capaboost_vit.adapt(zoo.build("vit"), "lora")
    of_timm = capaboost_vit.adapt(timm.create_model("test_vit", num_classes=2), "lora")
    with pytest.raises(TypeError, match="a model of transformers takes no data_config"):
        capaboost_vit.save_adapter(vit, tmp_path / "a", data_config={})
    with pytest.raises(TypeError, match="a timm model takes no task, got task='rte'"):
        capaboost_vit.save_adapter(of_timm, tmp_path / "a", task="rte")
    path = capaboost_vit.save_adapter(of_timm, tmp_path / "a.safetensors")
    with pytest.raises(TypeError, match="a base of timm takes no model, got model='folder'"):
        capaboost_vit.create_from_adapter(path, model="folder")
    path = capaboost_vit.save_adapter(vit, tmp_path / "b.safetensors")
    with pytest.raises(TypeError, match="a base of transformers takes no pretrained, got pretrained=False"):
        capaboost_vit.create_from_adapter(path, pretrained=False)


def test_a_file_names_no_class_but_a_model_of_transformers(tmp_path):
    model = capaboost_vit.adapt(zoo.build("vit"), "lora")
    model.capaboost["base"]["architecture"] = "AutoConfig"
    path = capaboost_vit.save_adapter(model, tmp_path / "a.safetensors")
    with pytest.raises(AdapterFileError, match=r"transformers .* has no model called AutoConfig"):
        capaboost_vit.create_from_adapter(path, model=str(tmp_path))
