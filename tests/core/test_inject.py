"""The verbs: find by role or pattern, attach and detach, freeze, merge."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import capaboost_vit
from capaboost_vit.core.adapted_linear import AdaptedLinear
from capaboost_vit.core.branch import LowRankBranch
from capaboost_vit.core.inject import Anatomy, Site, attach, branches, detach, features, find, freeze_base, wrappers
from capaboost_vit.core.merge import merge
from capaboost_vit.core.names import get, namer, slots
from capaboost_vit.core.wrapper import Frozen
from capaboost_vit.methods import make_method
from capaboost_vit.methods.apply import apply_method


class Block(nn.Module):
    def __init__(self, width: int, norm: bool) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.norm = nn.BatchNorm1d(width) if norm else nn.Identity()
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        x = x + (q @ k.transpose(-1, -2)).softmax(-1) @ v
        x = self.norm(x.transpose(1, 2)).transpose(1, 2)
        return x + self.mlp(x)


class Model(nn.Module):
    def __init__(self, width: int = 16, depth: int = 2, norm: bool = True) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(width, norm) for _ in range(depth)))
        self.head = nn.Linear(width, 5)

    def forward(self, x):
        return self.head(self.blocks(x).mean(1))


def test_a_full_name_is_that_module_alone_and_a_pattern_matches_from_the_tail():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2))))
    assert [place.name for place in find(model, "0")] == ["0"]
    assert [place.name for place in find(model, "1.0")] == ["1.0"]
    assert [place.name for place in find(model, "*.0")] == ["1.0", "1.1.0"]


ANATOMY = Anatomy(
    roles={
        "query": (Site("blocks.*.qkv", "q", ("q", "k", "v")),),
        "value": (Site("blocks.*.qkv", "v", ("q", "k", "v")),),
        "mlp": (Site("blocks.*.mlp"),),
        "block": (Site("blocks.*"),),
        "cross": (Site("blocks.*.cross"),),
    },
    head=("head",),
)


def adapted(method="lora", *, filled=True, seed=0, norm=True, **options) -> Model:
    torch.manual_seed(seed)
    model = Model(norm=norm)
    apply_method(model, ANATOMY, make_method(method, **options))
    if filled:
        for index, branch in enumerate(branches(model).values()):
            if isinstance(branch, LowRankBranch):
                generator = torch.Generator().manual_seed(index)
                branch.up.weight.data.normal_(std=0.1, generator=generator)
    return model


X = torch.randn(4, 6, 16, generator=torch.Generator().manual_seed(9))
METHODS = [
    ("lora", {}),
    ("lora", {"targets": ["blocks.*.mlp.0", "value"]}),
    ("adapter", {}),
    ("adapter", {"placement": "sequential"}),
    ("prompt", {"prompt_length": 3}),
]


@pytest.mark.parametrize(
    ("target", "names"),
    [
        ("query", ["blocks.0.qkv", "blocks.1.qkv"]),
        ("mlp", ["blocks.0.mlp", "blocks.1.mlp"]),
        ("blocks.*.mlp.2", ["blocks.0.mlp.2", "blocks.1.mlp.2"]),
        ("1.mlp.*", ["blocks.1.mlp.0", "blocks.1.mlp.1", "blocks.1.mlp.2"]),
        ("head", ["head"]),
        ("block", ["blocks.0", "blocks.1"]),
        ("blocks.1.query", ["blocks.1.qkv"]),
        ("blocks.*.value", ["blocks.0.qkv", "blocks.1.qkv"]),
    ],
)
@pytest.mark.parametrize("already", [False, True])
def test_places_are_found_by_role_or_pattern_before_and_after_attaching(target, names, already):
    model = Model()
    if already:
        apply_method(model, ANATOMY, make_method("adapter"))
        apply_method(model, ANATOMY, make_method("lora"))
    assert [place.name for place in find(model, target, ANATOMY)] == names


def test_a_role_within_a_block_is_the_part_that_the_role_is():
    (place,) = find(Model(), "blocks.1.value", ANATOMY)
    assert place == find(Model(), "value", ANATOMY)[1]


@pytest.mark.parametrize("target", ["keys", "blocks.2.query", "qkv.query", "blocks.*.attn", "cross", "mlp.3", ""])
def test_target_that_matches_nothing_says_what_there_is(target):
    message = r"matches nothing in Model.*roles there: query, value, mlp, block; linear layers there: blocks.\*.qkv, "
    with pytest.raises(ValueError, match=message):
        find(Model(), target, ANATOMY)


def test_nearest_target_is_named():
    with pytest.raises(ValueError, match="did you mean 'value'"):
        find(Model(), "values", ANATOMY)


def test_a_refusal_leaves_the_model_as_it_was():
    model = Model()
    before = dict(model.named_modules())
    for targets in (["query", "nothing"], ["query", "blocks.*.norm"]):
        with pytest.raises((ValueError, TypeError)):
            apply_method(model, ANATOMY, make_method("lora", targets=targets))
    assert dict(model.named_modules()) == before
    assert not hasattr(model, "capaboost")


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("lora", "lora", "low-rank branch already"),
        ("adapter", "adapter", "adapter already"),
        ("prompt", "prompt", "prompt already"),
    ],
)
def test_the_same_place_is_not_adapted_twice(first, second, message):
    model = adapted(first)
    with pytest.raises(ValueError, match=message):
        apply_method(model, ANATOMY, make_method(second))


def test_whole_and_part_of_a_layer_contradict():
    with pytest.raises(ValueError, match="both as a whole and by its parts"):
        adapted(targets=["query", "blocks.*.qkv"])


def test_lora_on_something_else_than_a_linear_layer_is_refused():
    with pytest.raises(TypeError, match=r"needs linear layers, but 'blocks\.0\.norm' is a BatchNorm1d"):
        adapted(targets=["blocks.*.norm"])


@pytest.mark.parametrize(("method", "options"), METHODS)
def test_attach_then_detach_gives_back_the_very_same_modules(method, options):
    model = Model()
    before = dict(model.named_modules())
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    apply_method(model, ANATOMY, make_method(method, **options))
    assert dict(model.named_modules()) != before
    detach(model)
    after = dict(model.named_modules())
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert not hasattr(model, "capaboost")


def test_composed_methods_detach_together():
    model = Model()
    before = dict(model.named_modules())
    for method in ("lora", "adapter", "prompt"):
        apply_method(model, ANATOMY, make_method(method))
    assert len(branches(model)) == 2 * (2 + 1 + 1)
    assert [record["method"] for record in model.capaboost["methods"]] == ["lora", "adapter", "prompt"]
    assert all(p.requires_grad for branch in branches(model).values() for p in branch.parameters())
    assert dict(detach(model).named_modules()) == before


def test_attach_wants_the_module_that_stands_there():
    model = Model()
    with pytest.raises(ValueError, match="does not contain the module"):
        attach(model, "head", AdaptedLinear(nn.Linear(16, 5), {}))


def test_names_stay_those_of_the_base_model():
    model = adapted()
    apply_method(model, ANATOMY, make_method("adapter"))
    assert [name for name, _ in slots(model)] == [name for name, _ in slots(Model())]
    canonical = namer(model)
    names = {canonical(name) for name, _ in model.named_parameters()}
    assert {name for name, _ in Model().named_parameters()} <= names
    assert "blocks.0.qkv.branches.q.down.weight" in names
    assert get(model, "blocks.1.mlp.0") is model.blocks[1].mlp.base[0]


def test_a_module_of_the_base_that_is_called_base_keeps_its_name():
    model = nn.ModuleDict({"base": nn.ModuleDict({"fc": nn.Linear(8, 8)})})
    apply_method(model, Anatomy(), make_method("lora", targets=["base.fc"]))
    assert namer(model)("base.fc.base.weight") == "base.fc.weight"


@pytest.mark.parametrize(("method", "options"), METHODS)
def test_only_branches_and_head_are_trained_and_frozen_tensors_stay_bitwise(method, options):
    model = adapted(method, filled=False, **options)
    owned = tuple(branches(model))
    canonical = namer(model)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == canonical(name).startswith((*owned, "head.")), name
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    for _ in range(4):
        optimizer.zero_grad()
        model(X).square().sum().backward()
        optimizer.step()
    for name, tensor in model.state_dict().items():
        trained = canonical(name).startswith((*owned, "head.")) and not name.endswith("mask")
        assert torch.equal(before[name], tensor) != trained, name


def test_frozen_batch_norms_are_wrapped_and_trained_ones_are_not():
    model = Model()
    freeze_base(model, ["head", "blocks.1"])
    assert isinstance(model.blocks[0].norm, Frozen)
    assert isinstance(model.blocks[1].norm, nn.BatchNorm1d)
    freeze_base(model, ["head", "blocks.1"])
    assert isinstance(model.blocks[0].norm.base, nn.BatchNorm1d)
    with pytest.raises(ValueError, match="'haed' matches nothing"):
        freeze_base(Model(), ["haed"])


class Shared(nn.Module):
    """One linear layer and one norm in three slots, two of them of one parent; one block three times in a list."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Linear(6, 6)
        self.b = self.a
        self.inner = nn.ModuleDict({"c": self.a, "norm": nn.BatchNorm1d(6)})
        self.norm = self.inner["norm"]
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(6, 6), nn.Tanh())] * 3)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.inner["norm"](self.norm(self.inner["c"](self.b(self.a(x).tanh()).tanh())))
        for block in self.blocks:
            x = block(x)
        return self.head(x)


ROWS = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("targets", "slots_of"),
    [
        (["a"], ["a"]),
        (["b"], ["a"]),
        (["inner.c"], ["a"]),
        (["b", "a", "inner.c"], ["a"]),
        (["blocks.2.0"], ["blocks.0.0"]),
        (["*.*.0", "c"], ["blocks.0.0", "a"]),
    ],
)
@pytest.mark.parametrize("method", ["lora", "adapter", "ia3", "ssf"])
def test_a_module_in_several_slots_is_adapted_once_in_all_of_them(targets, slots_of, method, tmp_path):
    model = Shared()
    keys = model.state_dict().keys()
    options = {"inputs": ()} if method == "ia3" else {}
    capaboost_vit.adapt(model, method, targets=targets, head=["head"], **options)
    assert {name for name, wrapper in wrappers(model) if type(wrapper) is not Frozen} == set(slots_of)
    assert model.a is model.b is model.inner["c"]
    assert model.norm is model.inner["norm"] is not model.norm.base
    assert model.blocks[0][0] is model.blocks[2][0]
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.5)
    model.eval()
    naive = copy.deepcopy(model)  # the same layers, each by its own slot
    naive.a, naive.b, naive.inner["c"] = (copy.deepcopy(naive.a) for _ in range(3))
    expected = model(ROWS)
    torch.testing.assert_close(naive(ROWS), expected)
    assert torch.equal(copy.deepcopy(model)(ROWS), expected)
    path = capaboost_vit.save_adapter(model, tmp_path / "adapter.safetensors")
    loaded = capaboost_vit.load_adapter(Shared(), path).eval()
    assert torch.equal(loaded(ROWS), expected)
    model.load_state_dict(Shared().state_dict())  # a checkpoint of the base: every slot of it is read
    with pytest.raises(ValueError, match="already: detach it first"):
        capaboost_vit.adapt(model, method, targets=targets[:1], head=["head"], **options)
    if method != "adapter":
        merged = merge(loaded)
        torch.testing.assert_close(merged(ROWS), expected, rtol=1e-4, atol=1e-4)
        assert merged.a is merged.b is merged.inner["c"]
        assert merged.state_dict().keys() == keys
    detach(loaded)
    assert type(loaded.a) is nn.Linear
    assert loaded.a is loaded.b is loaded.inner["c"]


def test_tied_parameters_of_different_modules_stay_tied_in_the_base_and_only_the_target_is_merged():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 6), nn.Linear(6, 7, bias=False))
    model[1].weight = model[0].weight
    before = model[0].weight.detach().clone()
    capaboost_vit.adapt(model, "lora", targets=["1"], rank=2, head=())
    nn.init.normal_(model[1].branches["all"].up.weight)
    ids = torch.arange(7)
    merged = merge(model)
    torch.testing.assert_close(merged(ids), model(ids))
    assert torch.equal(merged[0].weight, before)
    assert model[1].base.weight is model[0].weight
    assert not model[0].weight.requires_grad


def test_a_head_that_stands_in_two_slots_is_trained_and_stored_once(tmp_path):
    model = Shared()
    model.extra = model.head
    capaboost_vit.adapt(model, "lora", targets=["a"], head=["extra"])
    assert model.head.weight.requires_grad
    nn.init.normal_(model.head.weight)
    path = capaboost_vit.save_adapter(model, tmp_path / "adapter.safetensors")
    assert {"head.weight", "head.bias"} <= load_file(path).keys()
    assert not any(name.startswith("extra") for name in load_file(path))
    fresh = Shared()
    fresh.extra = fresh.head
    capaboost_vit.load_adapter(fresh, path)
    assert torch.equal(fresh.extra.weight, model.head.weight)


@pytest.mark.parametrize("method", ["lora", "adapter"])
def test_identity_with_the_base_at_the_start(method):
    torch.manual_seed(0)
    base = Model().eval().requires_grad_(False)  # on some CPUs frozen layers differ from trained ones in the last bit
    model = adapted(method, filled=False).eval()
    assert torch.equal(base(X), model(X))


def test_prompt_of_length_zero_is_the_base():
    torch.manual_seed(0)
    base = Model().eval().requires_grad_(False)
    torch.testing.assert_close(base(X), adapted("prompt", prompt_length=0).eval()(X), rtol=0, atol=1e-6)


def test_shallow_prompt_is_carried_through_all_blocks_once():
    model = adapted("prompt", prompt_length=3, deep=False).eval()
    assert list(branches(model)) == ["blocks.0.tokens"]
    tokens = branches(model)["blocks.0.tokens"]
    plain = copy.deepcopy(model)
    detach(plain)
    x = torch.cat([X, tokens().expand(4, -1, -1)], 1)
    torch.testing.assert_close(model(X), plain.head(plain.blocks(x)[:, :6].mean(1)))


@pytest.mark.parametrize("pattern", ["random", "complementary", "sign", "2:4"])
def test_merged_model_is_plain_and_equal(pattern):
    model = adapted(pattern=pattern, targets=["query", "value", "blocks.*.mlp.0"]).eval()
    state = copy.deepcopy(model.state_dict())
    merged = merge(model)
    torch.testing.assert_close(merged(X), model(X), rtol=0, atol=1e-5)
    assert not torch.equal(merged(X), adapted(filled=False).eval()(X))
    Model().load_state_dict(merged.state_dict())
    assert list(merged.state_dict()) == list(Model().state_dict())
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_merge_in_place_returns_the_model_itself_and_never_touches_the_base_layers():
    model = adapted()
    layer = model.blocks[0].qkv.base
    weight = layer.weight.clone()
    merged = merge(model, inplace=True)
    assert merged is model
    assert type(model.blocks[0].qkv) is nn.Linear
    assert model.blocks[0].qkv is not layer
    assert torch.equal(layer.weight, weight)


def test_merge_in_bfloat16_rounds_once():
    model = adapted()
    exact = merge(model).blocks[0].qkv.weight
    low = model.to(torch.bfloat16)
    layer = low.blocks[0].qkv
    factors = copy.deepcopy(layer).float()
    expected = (layer.base.weight.float() + factors.delta_weight()).bfloat16()
    assert torch.equal(merge(low).blocks[0].qkv.weight, expected)
    torch.testing.assert_close(expected.float(), exact, rtol=0.02, atol=0.02)


def test_merge_with_dropout_in_training_mode_merges_the_weights_without_it():
    model = adapted(dropout=0.5).train()
    merged = merge(model)
    torch.testing.assert_close(merged.eval()(X), model.eval()(X), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("method", "place"), [("adapter", "blocks.0.mlp"), ("prompt", "blocks.0")])
def test_what_no_weight_can_express_refuses_to_merge(method, place):
    with pytest.raises(
        ValueError, match=f"cannot merge '{place}': an? {method} is no change of a weight, .* at 1 other"
    ):
        merge(adapted(method))


def test_features_of_a_sub_layer():
    assert features(Model().blocks[0].mlp) == (16, 16)
    assert features(nn.Linear(3, 7)) == (3, 7)
    with pytest.raises(TypeError, match="contains no linear layer"):
        features(nn.ReLU())


@pytest.mark.parametrize(("method", "options"), METHODS)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_of_adapted_models_are_equal_and_independent(method, options, duplicate):
    model = adapted(method, **options).eval()
    twin = duplicate(model)
    assert torch.equal(model(X), twin(X))
    assert twin.capaboost == model.capaboost
    before = model(X)
    for branch in branches(twin).values():
        for parameter in branch.parameters():
            parameter.data.add_(1)
    assert torch.equal(model(X), before)
    assert not torch.equal(twin(X), before)


def test_masks_do_not_depend_on_the_order_or_the_other_targets():
    both, reverse, one = (adapted(targets=t) for t in (["query", "value"], ["value", "query"], ["value"]))
    torch.manual_seed(77)
    late = adapted(targets=["value"], seed=5)
    for name, branch in branches(one).items():
        for other in (both, reverse, late):
            twin = branches(other)[name]
            assert torch.equal(branch.down.mask, twin.down.mask)
            assert torch.equal(branch.down.weight, twin.down.weight)


def test_all_masks_of_a_model_differ():
    masks = [
        mask
        for b in branches(adapted(pattern="random")).values()
        for mask in (*b.down.mask, *b.up.mask.transpose(1, 2))
    ]
    assert len({mask.numpy().tobytes() for mask in masks}) == len(masks) == 2 * 2 * 2 * 2


@pytest.mark.parametrize(("method", "options"), METHODS)
def test_adapted_model_compiles_in_one_graph_and_exports(method, options):
    torch.compiler.reset()
    # without the batch norm, whose backward aot_eager gets wrong on transposed input, with or without branches
    model = adapted(method, norm=False, **options).eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(X), model(X))
    exported = torch.export.export(model, (X,)).module()
    torch.testing.assert_close(exported(X), model(X))


@pytest.mark.parametrize(("method", "options"), METHODS)
def test_compiled_training_step_has_the_gradients_of_the_eager_one(method, options):
    torch.compiler.reset()
    # without the batch norm, whose backward aot_eager gets wrong on transposed input, with or without branches
    model = adapted(method, norm=False, **options).train()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    compiled(X).square().sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    model(X).square().sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(found[name], parameter.grad, msg=name)


@pytest.mark.parametrize(
    ("base", "narrow", "dtype"),
    [
        (torch.bfloat16, False, torch.float32),
        (torch.bfloat16, True, torch.bfloat16),
        (torch.float32, False, torch.float32),
        (torch.float64, False, torch.float64),
    ],
)
def test_new_branches_take_device_and_dtype_of_their_layer(base, narrow, dtype):
    model = Model().to(base)
    apply_method(model, ANATOMY, make_method("lora"), autocast_adapter_dtype=not narrow)
    assert {p.dtype for b in branches(model).values() for p in b.parameters()} == {dtype}
    with torch.device("meta"):
        meta = Model()
    apply_method(meta, ANATOMY, make_method("lora"))
    assert {t.device.type for b in branches(meta).values() for t in b.state_dict().values()} == {"meta"}
