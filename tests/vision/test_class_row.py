"""`logits_only`: logits and gradients of the whole model, which stays as it was; what may need all rows is refused."""

from __future__ import annotations

import copy
import gc
import io
import math
import pickle
import zipfile

import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from timm.layers import Attention, Mlp, RmsNorm
from timm.layers.grn import GlobalResponseNorm
from timm.models.vision_transformer import ParallelScalingBlock, ResPostBlock
from timm.utils import AttentionExtract
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrizations, spectral_norm
from torch.utils.flop_counter import FlopCounterMode

import capaboost_vit
from capaboost_vit import NoShortCut, Wrapper, logits_only

SMALL = dict(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=5)
TOKEN = {"global_pool": "token"}
NORMS = {"qk_norm": True, "scale_attn_norm": True, "scale_mlp_norm": True, "norm_layer": RmsNorm, "init_values": 1.0}
GQA = {"attn_type": "rope", "qkv_fused": False, "num_kv_heads": 1, "qk_norm": True, "init_values": 1.0}
MODELS = {
    "plain": ("vit_tiny_patch16_224", {}),
    "distillation token": ("deit_tiny_distilled_patch16_224", {}),
    "class token without position": ("deit3_small_patch16_224", {}),
    "register tokens": ("vit_small_patch14_reg4_dinov2", {"init_values": 1.0}),
    "packed SwiGLU": ("vit_giant_patch14_dinov2", {"init_values": 1.0}),
    "norm in front, quick GELU": ("vit_base_patch16_clip_quickgelu_224", {}),
    "norms of heads and hidden units": ("vit_tiny_patch16_224", NORMS),
    "post-norm": ("vit_tiny_patch16_224", {"block_fn": ResPostBlock, "init_values": 1.0}),
    "patch dropout": ("vit_tiny_patch16_224", {"patch_drop_rate": 0.5}),
    "drop path": ("vit_tiny_patch16_224", {"drop_path_rate": 0.5}),
    "EVA-02, weight of a fused qkv": ("eva02_tiny_patch14_224", TOKEN),
    "EVA-02, separate projections": ("eva02_base_patch14_224", TOKEN),
    "EVA, post-norm": ("eva02_tiny_patch14_224", {**TOKEN, "use_post_norm": True}),
    "DINOv3": ("vit_small_patch16_dinov3", TOKEN),
    "rotary attention": ("vit_small_patch16_rope_224", TOKEN),
    "positions learned by block": ("vit_small_patch16_rope_mixed_224", {**TOKEN, "patch_drop_rate": 0.5}),
    "BEiT": ("beit_base_patch16_224", {**TOKEN, "init_values": 1.0}),
    "BEiT, one table of positions": ("beitv2_base_patch16_224", {**TOKEN, "use_shared_rel_pos_bias": True}),
    "grouped queries": ("eva02_tiny_patch14_224", {**TOKEN, **GQA}),
}
LINEARS = ("query", "key", "value", "attn_out", "mlp_in", "mlp_out")
IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(7))


def build(name="plain", **further):
    """Of random weights that all matter."""
    torch.manual_seed(0)
    architecture, options = MODELS[name]
    model = timm.create_model(architecture, **{**SMALL, **options, **further})
    return filled(model)


@torch.no_grad()
def filled(model):
    for parameter in model.parameters():
        if parameter.numel():
            parameter.normal_(std=0.3 if parameter.dim() < 2 else 1 / math.sqrt(parameter.shape[-1]))
    return model


def adapted(name, *methods, **further):
    model = build(name, **further)
    for method, options in methods:
        capaboost_vit.adapt(model, method, **options)
    return filled(model)


def results(network, model, images, **arguments):
    """(logits, all gradients as one vector) of the same random numbers."""
    model.zero_grad()
    torch.manual_seed(1)
    logits = network(images, **arguments)
    logits.square().sum().backward()
    return logits.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def assert_the_same(model, network=None, dtype=torch.float64, *, modes=(False, True), images=IMAGES, **arguments):
    """To rounding: the norm of the difference over the largest entry."""
    model = model.to(dtype)
    network = logits_only(model) if network is None else network
    bound = {torch.float64: 1e-12, torch.float32: 1e-6}[dtype]
    for mode in modes:
        expected = results(model.train(mode), model, images.to(dtype), **arguments)
        found = results(network.train(mode), model, images.to(dtype), **arguments)
        for name, a, b in zip(("logits", "gradients"), found, expected, strict=True):
            assert (a - b).norm() <= bound * b.abs().max(), name
    return network


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_gradients_are_those_of_the_whole_model(name):
    twin = assert_the_same(build(name))
    rows = 2 if name == "distillation token" else 1
    assert twin.forward_features(IMAGES.double()).shape == (3, rows, 32)


@pytest.mark.parametrize("name", ["plain", "distillation token", "EVA-02, weight of a fused qkv", "DINOv3"])
def test_in_float32_they_agree_to_a_millionth_of_the_largest_entry(name):
    torch.manual_seed(0)
    architecture, options = MODELS[name]
    model = timm.create_model(architecture, **{**SMALL, **options, "depth": 4})
    nn.init.normal_(model.get_classifier()[0].weight if name == "distillation token" else model.head.weight)
    assert_the_same(model, dtype=torch.float32)


@pytest.mark.parametrize(
    "methods",
    [
        [("lora", {"targets": LINEARS})],
        [("lora", {"targets": ("query",)})],
        [("adapter", {"targets": ("blocks.*.attn", "mlp"), "drop_path": 0.5})],
        [("lora", {"targets": ("blocks.*.attn.qkv",), "dropout": 0.5})],  # one mask for queries, keys and values
        [("lora", {"targets": LINEARS, "execution": "token"})],
        [("lora", {"targets": LINEARS, "execution": "weight"})],
        [("adapter", {"placement": "parallel"})],
        [("adapter", {"placement": "sequential"})],
        [("adapter", {"targets": ("blocks.*", "blocks.*.attn", "blocks.*.attn.qkv")})],
        [("adapter", {"targets": ("blocks.*", "blocks.*.attn"), "placement": "sequential"})],
        [("prefix", {"prefix_length": 3})],
        [("prompt", {"prompt_length": 3})],
        [("prompt", {"prompt_length": 3, "deep": False})],
        [("ssf", {})],
        [("hira", {"targets": LINEARS})],
        [("intlora", {"targets": LINEARS})],
        [("arc", {}), ("aurora", {})],
        [("snell", {}), ("ia3", {"targets": ("key",)})],
        [("ia3", {"targets": ("key", "value"), "inputs": ("mlp_out", "attn_out")})],
        [("unipelt", {"parts": ("lora",)})],  # a gate looks at the input of qkv, which all rows have
        [("norm", {})],
        [("lora", {}), ("adapter", {}), ("prefix", {}), ("prompt", {}), ("ssf", {"targets": ("norm", "query")})],
        [("prompt", {}), ("adapter", {"targets": ("blocks.*",)})],
        [("adapter", {"targets": ("blocks.*",)}), ("prompt", {"deep": False})],
    ],
    ids=str,
)
def test_with_what_stands_in_the_way_of_the_class_row(methods):
    model = adapted("plain", *methods)
    assert_the_same(model)


@pytest.mark.parametrize("name", [name for name, (_, options) in MODELS.items() if "global_pool" in options])
def test_with_branches_in_models_with_positions_in_attention(name):
    linears = ("query", "key", "value", "attn_out", "mlp_out")
    assert_the_same(adapted(name, ("lora", {"targets": linears})))
    around = [("adapter", {"targets": ("blocks.*", "mlp")}), ("ia3", {"targets": ("key", "value")})]
    assert_the_same(adapted(name, *around))


def test_gated_attention():
    model = build()
    for block in model.blocks:
        block.attn = Attention(32, 2, qkv_bias=True, gated=True)
    assert_the_same(filled(model))
    capaboost_vit.adapt(model, "lora", targets=("blocks.*.attn.gate", "query"))
    assert_the_same(filled(model))


@pytest.mark.parametrize("name", ["plain", "DINOv3"])
@pytest.mark.parametrize("shape", [(21, 21), (1, 21), (3, 1, 21, 21)])
def test_attention_masks_reach_the_first_rows(name, shape):
    model = adapted(name, ("lora", {}))
    tokens = model.forward_features(IMAGES).shape[1]
    shape = tuple(tokens if size == 21 else size for size in shape)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.7
    mask[..., 0] = True  # no row without any key
    assert_the_same(model, attn_mask=mask)
    assert_the_same(model, attn_mask=mask.double())
    assert_the_same(model, is_causal=True)


def test_attention_masks_reach_the_first_rows_behind_a_prefix():
    model = adapted("plain", ("prefix", {}))
    assert_the_same(model, attn_mask=torch.eye(17, dtype=torch.bool))


@pytest.mark.parametrize("name", ["plain", "EVA-02, separate projections", "BEiT"])
def test_attention_without_the_fused_kernel_is_computed_to_the_same(name):
    model = build(name)
    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.scale *= 2  # which it reads then
    assert_the_same(model)


@torch.no_grad()
@pytest.mark.parametrize("name", ["plain", "EVA-02, weight of a fused qkv", "DINOv3"])
def test_bfloat16_and_autocast_come_as_close_as_they_do(name):
    model = adapted(name, ("lora", {"targets": ("query", "value", "mlp_out")})).eval()
    twin, expected = logits_only(model).eval(), model(IMAGES)
    with torch.autocast("cpu", torch.bfloat16):
        assert (twin(IMAGES) - expected).norm() <= 1.5 * (model(IMAGES) - expected).norm()
    model.bfloat16()  # the twin has the same parameters
    low = IMAGES.bfloat16()
    assert twin(low).dtype == torch.bfloat16
    assert (twin(low) - expected).norm() <= 1.5 * (model(low) - expected).norm()


@torch.no_grad()
def test_the_model_is_as_it_was_and_shares_all_its_tensors_with_the_twin():
    model = adapted("plain", ("lora", {}), ("adapter", {}), ("prompt", {})).eval()
    before = {key: value.data_ptr() for key, value in model.state_dict().items()}
    names = {name: type(module) for name, module in model.named_modules()}
    features, (final, intermediates) = model.forward_features(IMAGES), model.forward_intermediates(IMAGES)
    twin = logits_only(model)
    assert {name: type(module) for name, module in model.named_modules()} == names
    assert {key: value.data_ptr() for key, value in model.state_dict().items()} == before
    assert {key: value.data_ptr() for key, value in twin.state_dict().items()} == before
    assert [*map(id, twin.parameters())] == [*map(id, model.parameters())]
    twin(IMAGES)
    assert torch.equal(model.forward_features(IMAGES), features)
    again, intermediates_again = model.forward_intermediates(IMAGES)
    assert torch.equal(again, final)
    assert all(map(torch.equal, intermediates_again, intermediates))
    assert type(twin) is type(model)
    assert isinstance(twin.blocks[-1].base, timm.models.vision_transformer.Block)


@torch.no_grad()
def test_attention_maps_of_the_model_are_those_of_all_rows():
    model = build().eval()
    for block in model.blocks:
        block.attn.fused_attn = False
    logits_only(model)(IMAGES)
    maps = AttentionExtract(model, method="fx")(IMAGES)
    assert [tuple(attention.shape) for attention in maps.values()] == [(3, 2, 17, 17)] * 2


def test_what_is_learned_through_the_twin_is_learned_by_the_model():
    model = adapted("plain", ("lora", {}))
    twin = logits_only(model).train()
    optimizer = torch.optim.AdamW([p for p in twin.parameters() if p.requires_grad], lr=0.1)
    before = model(IMAGES).detach()
    twin(IMAGES).square().sum().backward()
    optimizer.step()
    assert not torch.allclose(model(IMAGES), before, atol=0.1)
    torch.testing.assert_close(twin(IMAGES), model(IMAGES))


def test_the_twin_keeps_the_head_that_the_model_had():
    model = build()
    twin = logits_only(model)
    model.reset_classifier(7)
    assert twin(IMAGES).shape == (3, 5)
    assert logits_only(model)(IMAGES).shape == (3, 7)
    model.reset_classifier(0)
    assert logits_only(model)(IMAGES).shape == (3, 32)
    assert_the_same(model)


def test_a_merged_model_has_the_short_cut_too():
    model = adapted("plain", ("lora", {"targets": LINEARS})).eval()
    merged = capaboost_vit.merge(model)
    torch.testing.assert_close(logits_only(merged)(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["plain", "DINOv3"])
def test_grad_checkpointing_stays_exact(name):
    model = adapted(name, ("lora", {"targets": LINEARS[:4]}))
    twin = logits_only(model)
    twin.set_grad_checkpointing(True)
    assert (twin.grad_checkpointing, model.grad_checkpointing) == (True, False)
    assert_the_same(model, twin, modes=(True,))


@pytest.mark.parametrize("name", ["plain", "EVA-02, weight of a fused qkv", "DINOv3"])
def test_it_compiles_in_one_graph_with_the_same_gradients(name):
    model = adapted(name, ("lora", {}), depth=1)
    twin = logits_only(model)
    torch.compiler.reset()
    found = results(torch.compile(twin, fullgraph=True, backend="aot_eager"), model, IMAGES)
    for a, b in zip(found, results(model, model, IMAGES), strict=True):
        assert (a - b).norm() <= 1e-5 * b.abs().max()


@pytest.mark.parametrize("name", ["plain", "EVA-02, weight of a fused qkv", "DINOv3"])
def test_torch_export_computes_the_same_for_batches_of_all_sizes(name):
    model = adapted(name, ("lora", {}), depth=1).eval()
    batch = torch.export.Dim("batch", min=1)
    exported = torch.export.export(logits_only(model).eval(), (IMAGES,), dynamic_shapes=[{0: batch}]).module()
    torch.testing.assert_close(exported(IMAGES[:1]), model(IMAGES[:1]))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the exporter's own parts
@pytest.mark.parametrize("method", ["lora", "adapter", "prefix", "prompt"])
def test_an_onnx_export_computes_the_same_for_batches_of_all_sizes(tmp_path, method):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = adapted("plain", (method, {})).eval()
    twin = logits_only(capaboost_vit.merge(model) if method == "lora" else model).eval()
    batch = ({0: torch.export.Dim("batch", min=1, max=64)},)
    torch.onnx.export(twin, (IMAGES,), tmp_path / "twin.onnx", dynamo=True, dynamic_shapes=batch, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "twin.onnx")
    (logits,) = session.run(None, {session.get_inputs()[0].name: IMAGES[:2].numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), model(IMAGES[:2]), rtol=1e-4, atol=1e-5)


def test_copies_and_pickles_compute_the_same_and_share_nothing():
    model = adapted("plain", ("lora", {}), ("prefix", {}), ("prompt", {}))
    twin = logits_only(model)
    for other in (copy.deepcopy(twin), pickle.loads(pickle.dumps(twin))):
        assert torch.equal(other(IMAGES), twin(IMAGES))
        assert not {p.data_ptr() for p in other.parameters()} & {p.data_ptr() for p in model.parameters() if p.numel()}
    both = copy.deepcopy([model, twin])
    assert [*map(id, both[0].parameters())] == [*map(id, both[1].parameters())]


def test_a_twin_outlives_its_model():
    twin = logits_only(adapted("plain", ("prefix", {}), ("prompt", {}), ("adapter", {"targets": ("blocks.*",)})))
    gc.collect()
    other = copy.deepcopy(copy.deepcopy(twin))
    filled(other)
    twin.load_state_dict(other.state_dict())
    torch.testing.assert_close(twin(IMAGES), other(IMAGES))
    assert pickle.loads(pickle.dumps(other)).state_dict().keys() == twin.state_dict().keys()


def test_with_dropout_in_the_last_block_fewer_numbers_are_drawn():
    model = adapted("plain", ("lora", {"dropout": 0.1}), proj_drop_rate=0.1, attn_drop_rate=0.1).train()
    twin = logits_only(model).train()
    rows = []
    for dropout in (model.blocks[-1].mlp.drop1, model.blocks[-1].attn.proj_drop):
        dropout.register_forward_hook(lambda _, args, __: rows.append(args[0].shape[1]))
    model(IMAGES)
    twin(IMAGES)
    assert rows == [17, 17, 1, 1]


@torch.no_grad()
def test_the_last_block_costs_keys_and_values_of_all_tokens_and_the_rest_of_one():
    def products(network):
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            network(IMAGES[:1])
        return counter.get_total_flops() // 2

    model = adapted("plain", ("lora", {"targets": ("query", "value"), "rank": 4, "execution": "plain"}))
    tokens, width, rank = 17, 32, 4 * 2
    of_a_token = width * width * (1 + 1 + 8) + 2 * tokens * width  # query, projection, MLP; scores and their sum
    of_a_token += 2 * width * rank  # the branch on the query
    assert products(model) - products(logits_only(model)) == (tokens - 1) * of_a_token


class Convolved(Wrapper):
    """Another package's branch: a depthwise convolution over the tokens."""

    def __init__(self, base, out=32):
        super().__init__(base)
        self.convolution = nn.Conv1d(32, out, 3, padding=1, groups=32)

    def forward(self, x, *args, **kwargs):
        return self.base(x, *args, **kwargs) + self.convolution(x.mT).mT


@pytest.mark.parametrize(
    "place", ["blocks.1", "blocks.1.attn", "blocks.1.mlp", "blocks.1.mlp.fc1", "blocks.1.norm2", "norm"]
)
def test_a_wrapper_that_says_nothing_about_rows_is_refused_by_name(place):
    model = build()
    parent, _, child = place.rpartition(".")
    setattr(model.get_submodule(parent), child, Convolved(model.get_submodule(place)))
    with pytest.raises(NoShortCut, match=r"a wrapper there \(Convolved\) does not say that it acts on each row alone"):
        logits_only(model)


def test_where_all_rows_are_computed_any_wrapper_may_stand():
    model = build()
    model.blocks[0] = Convolved(model.blocks[0])
    model.blocks[1].attn.qkv = Convolved(model.blocks[1].attn.qkv, 96)
    assert_the_same(filled(model))


class ConvolvedMlp(Mlp):
    def forward(self, x):
        return super().forward(x).roll(1, dims=1)


class Quantised(nn.Module):
    """A layer of another library's, which may scale by the largest entry of all rows."""

    def __init__(self, layer):
        super().__init__()
        self.in_features, self.out_features, self.layer = layer.in_features, layer.out_features, layer

    def forward(self, x):
        return self.layer((x / x.abs().max() * 127).round())


def change(place, make):
    def changed():
        model = build()
        parent, _, child = place.rpartition(".")
        setattr(model.get_submodule(parent), child, make(model.get_submodule(place)))
        return model

    return changed


def hooked(place, kind="register_forward_hook"):
    def changed():
        model = build()
        getattr(model.get_submodule(place), kind)(lambda *_: None)
        return model

    return changed


def replaced():
    model = build()
    model.blocks[1].mlp.forward = model.blocks[1].mlp.forward
    return model


def other_head():
    model = build()
    model.forward_head = lambda x: x.mean(1)
    return model


UNKNOWN = "it is not known how a {} comes from its last block to the logits"
WATCHED = "a hook, or a forward put in place of its own, watches all rows of a {}"
ROWS = r"a {}\S* may need all rows"


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: build(global_pool="avg"), r"the head reads all tokens \(global_pool 'avg'\)"),
        (lambda: build(global_pool="map"), r"the head reads all tokens \(global_pool 'map'\)"),
        (lambda: build("DINOv3", global_pool="avg"), r"the head reads all tokens \(global_pool 'avg'\)"),
        (lambda: timm.create_model("test_convnext"), UNKNOWN.format("ConvNeXt")),
        (lambda: timm.create_model("test_resnet"), UNKNOWN.format("ResNet")),
        (lambda: timm.create_model("test_vit", features_only=True), UNKNOWN.format("FeatureGetterNet")),
        (lambda: torch.compile(build()), UNKNOWN.format("OptimizedModule")),
        (lambda: logits_only(build()), "the model is a twin of another already"),
        (other_head, UNKNOWN.format("VisionTransformer")),
        (lambda: build(depth=0), "the model has no block"),
        (lambda: build(block_fn=ParallelScalingBlock), "it is not known what a ParallelScalingBlock makes"),
        (lambda: build(attn_layer="diff"), "it is not known what a DiffAttention makes of"),
        (lambda: adapted("plain", ("unipelt", {"parts": ("adapter",)})), "an adapter there has a gate, which looks at"),
        (hooked("blocks.1"), WATCHED.format("Block of timm")),
        (hooked("blocks.1.mlp.fc1", "register_forward_pre_hook"), WATCHED.format("Linear of torch")),
        (hooked("blocks.1.attn", "register_full_backward_hook"), WATCHED.format("Attention of timm")),
        (hooked("norm"), WATCHED.format("LayerNorm of timm")),
        (hooked("blocks"), "a hook looks at what the blocks give out"),
        (replaced, WATCHED.format("Mlp of timm")),
        (change("blocks.1.mlp", lambda _: ConvolvedMlp(32)), ROWS.format("ConvolvedMlp of ")),
        (change("blocks.1.mlp.norm", lambda _: GlobalResponseNorm(128)), ROWS.format("GlobalResponseNorm of timm")),
        (change("blocks.1.mlp.act", lambda _: nn.Softmax(dim=1)), ROWS.format("Softmax of torch")),
        (change("blocks.1.norm2", lambda _: nn.BatchNorm1d(17)), ROWS.format("BatchNorm1d of torch")),
        (change("norm", lambda _: nn.BatchNorm1d(17)), ROWS.format("BatchNorm1d of torch")),
        (change("blocks.1.mlp.fc1", Quantised), ROWS.format("Quantised of ")),
    ],
)
def test_what_may_need_all_rows_is_refused_with_the_reason(make, text):
    with pytest.raises(NoShortCut, match=text) as error:
        logits_only(make())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("place", ["blocks.0.mlp", "patch_embed", "head"])
def test_hooks_elsewhere_see_what_they_saw(place):
    model, seen = build(), []
    model.get_submodule(place).register_forward_hook(lambda _, __, y: seen.append(y.shape))
    logits_only(model)(IMAGES)
    model(IMAGES)
    assert seen[0] == seen[1]


@pytest.mark.parametrize("layer", ["blocks.1.attn.qkv", "blocks.1.mlp.fc1"])
@pytest.mark.parametrize("kind", [parametrizations.spectral_norm, parametrizations.weight_norm, spectral_norm])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_weight_that_moves_when_it_is_looked_at_moves_once(kind, layer):
    model = build().double()
    kind(model.get_submodule(layer))
    other = copy.deepcopy(model)
    expected = [model.train()(IMAGES.double()) for _ in range(2)]
    twin = logits_only(other.train())
    torch.testing.assert_close([twin(IMAGES.double()) for _ in range(2)], expected)


def test_a_quantised_qkv_is_computed_whole():
    model = build()
    model.blocks[1].attn.qkv = Quantised(model.blocks[1].attn.qkv)
    assert_the_same(model)


def test_a_low_precision_model_with_wide_branches_has_the_short_cut():
    model = build().bfloat16()
    capaboost_vit.adapt(model, "norm")
    capaboost_vit.adapt(model, "lora", targets=LINEARS)
    low = IMAGES.bfloat16()
    torch.testing.assert_close(logits_only(model)(low), model(low), rtol=0.05, atol=0.05)


@pytest.mark.realdata
@torch.no_grad()
def test_on_real_weights_and_images_logits_are_the_same_to_rounding(vit_tiny_weights, real_data):
    model = timm.create_model("vit_tiny_patch16_224", checkpoint_path=str(vit_tiny_weights)).eval()
    transform = create_transform(**resolve_data_config(model=model))
    folder = real_data / "eurosat_vtab1k"
    names = [line.split()[0] for line in (folder / "test.txt").read_text().splitlines()[::300]][:16]
    with zipfile.ZipFile(folder / "images.zip") as images:
        batch = torch.stack([transform(Image.open(io.BytesIO(images.read(name))).convert("RGB")) for name in names])
    expected = model(batch)
    assert expected.std() > 1
    assert (logits_only(model)(batch) - expected).abs().max() <= 1e-6 * expected.abs().max()
