"""One base and many adapters: each computes what its file does alone, in turn or beside others in one batch."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import capaboost_vit
from capaboost_vit import AdapterBank, nlu
from capaboost_vit.core.mixed_batch import add_grouped
from capaboost_vit.core.names import distinct
from capaboost_vit.methods import adapter_file

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
X = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(7))
# method, options and number of classes of each
ADAPTERS = {
    "lora": ("lora", {}, 3),
    "plain": ("lora", {"rank": 2, "num_branches": 1, "density": 1.0, "targets": ("key", "mlp_in")}, 5),
    "masked": ("lora", {"rank": 4, "num_branches": 3, "pattern": "random", "mask_seed": 4}, 3),
    "adapter": ("adapter", {}, 4),
    "prefix": ("prefix", {"prefix_length": 3}, 3),
    "prompt": ("prompt", {"prompt_length": 2}, 6),
    "ssf": ("ssf", {}, 3),
    "bitfit": ("bitfit", {}, 2),
    "norm": ("norm", {}, 3),
    "head": ("head", {}, 7),
}


def base(name="vit_tiny_patch16_224", classes=3, **options):
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=classes, **(SMALL | options if "vit" in name else options)).eval()


def shifted(model, seed):
    """Every trained parameter away from its start, as if trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def write(folder, name, adapters=ADAPTERS, make=base):
    method, options, classes = adapters[name]
    model = make()
    model.reset_classifier(classes)
    capaboost_vit.adapt(model, method, **options)
    shifted(model, seed=len(name))
    return capaboost_vit.save_adapter(model, folder / f"{name}.safetensors")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    return {name: write(folder, name) for name in ADAPTERS}


@pytest.fixture
def bank(files):
    made = AdapterBank(base())
    for name, path in files.items():
        made.add(name, path)
    return made


def alone(path, classes, make=base):
    model = make()
    model.reset_classifier(classes)
    return capaboost_vit.load_adapter(model, path).eval()


@torch.no_grad()
def test_each_adapter_in_use_computes_what_its_file_does_alone_and_none_leaves_the_base(bank, files):
    assert bank.names == [*ADAPTERS]
    for name in [*ADAPTERS, *reversed(ADAPTERS)]:
        model = alone(files[name], ADAPTERS[name][2])
        assert torch.equal(bank.use(name)(X), model(X)), name
        assert bank.model.capaboost == model.capaboost
        assert bank.model.num_classes == ADAPTERS[name][2]
        trained = [name for name, p in model.named_parameters() if p.requires_grad]
        assert [name for name, p in bank.model.named_parameters() if p.requires_grad] == trained
    assert torch.equal(bank.use(None)(X), base()(X))
    assert not hasattr(bank.model, "capaboost")
    assert bank.model.state_dict().keys() == base().state_dict().keys()


@torch.no_grad()
@pytest.mark.parametrize(
    "names",
    [
        ["lora", "masked", "plain", "lora", "plain", "masked"],
        ["adapter", None, "prefix", "prompt", "adapter", "lora"],
        ["ssf", "bitfit", "norm", "head", "plain", "bitfit"],
    ],
)
def test_a_mixed_batch_computes_for_each_example_what_its_adapter_does_alone(bank, names):
    bank.use("norm")
    logits = bank(X, names=names)
    assert bank.active == "norm"
    for i, name in enumerate(names):
        own = bank.use(name)(X[i : i + 1])[0]
        torch.testing.assert_close(logits[i, : len(own)], own, rtol=0, atol=1e-6 * own.abs().max().item())
        assert (logits[i, len(own) :] == -torch.inf).all()
        assert logits[i].argmax() == own.argmax()


@pytest.mark.parametrize(
    "names",
    [["lora", "adapter", "bitfit", "lora", "bitfit", "adapter"], ["lora", "masked", "lora", "lora", "plain", "masked"]],
)
def test_a_mixed_batch_gives_each_adapter_the_gradient_of_its_own_examples(bank, names):
    bank(X, names=names)[:, :2].square().sum().backward()
    for name in dict.fromkeys(names):
        bank.use(name)
        mixed = [p.grad for p in bank.parameters() if p.requires_grad]
        bank.zero_grad()
        own = [i for i, other in enumerate(names) if other == name]
        bank(X[own])[:, :2].square().sum().backward()
        for got, parameter in zip(mixed, (p for p in bank.parameters() if p.requires_grad), strict=True):
            torch.testing.assert_close(got, parameter.grad, rtol=0, atol=2e-6 * parameter.grad.abs().max().item())


SWIN = {"img_size": 32, "window_size": 4, "embed_dim": 16, "depths": (2,), "num_heads": (2,)}
FAMILIES = {
    "swin_tiny_patch4_window7_224": SWIN,
    "convnext_tiny": {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)},
    "deit_tiny_distilled_patch16_224": SMALL,
}


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_windows_maps_and_two_heads_are_mixed_too(tmp_path, family):
    def make():
        return base(family, **FAMILIES[family])

    adapters = {
        "a": ("lora", {"targets": ("mlp_in", "mlp_out") if family == "convnext_tiny" else ("query", "value")}, 4)
    }
    adapters |= {"b": ("bitfit", {}, 3)}
    bank = AdapterBank(make())
    for name in adapters:
        bank.add(name, write(tmp_path, name, adapters, make))
    names = ["a", "b", None, "b", "a", "a"]
    logits = bank(X, names=names)
    for i, name in enumerate(names):
        own = bank.use(name)(X[i : i + 1])[0]
        torch.testing.assert_close(logits[i, : len(own)], own, rtol=0, atol=2e-6 * own.abs().max().item())


def test_grouped_products_are_those_of_each_example_alone():
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    counts, windows = [2, 1, 3], 4  # rows of an example, as windows
    factors = [(normal(5, 8), normal(6, 5)), None, (normal(2, 8), normal(6, 2))]
    x, y = normal(6 * windows, 3, 7, 8), normal(6 * windows, 3, 7, 6)
    owners = [group for group, count in enumerate(counts) for _ in range(count * windows)]
    updates = [torch.zeros(6, 8, dtype=torch.float64) if pair is None else pair[1] @ pair[0] for pair in factors]
    wanted = torch.stack([y[i] + x[i] @ updates[group].T for i, group in enumerate(owners)])
    with torch.no_grad():
        torch.testing.assert_close(add_grouped(y.clone(), x, factors, counts), wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(add_grouped(y, x, factors, counts), wanted, rtol=0, atol=1e-12)
    assert add_grouped(y, x, [None] * 3, counts) is y
    narrow = add_grouped(y.bfloat16(), x.bfloat16(), factors, counts)  # beside a base in bfloat16
    assert narrow.dtype == torch.bfloat16
    torch.testing.assert_close(narrow.double(), wanted, rtol=0, atol=0.02 * wanted.abs().max().item())


def test_adapters_cost_the_memory_of_their_files_and_no_more(bank, files):
    tensors = {}
    for name in [None, *bank.names]:
        tensors |= {t.data_ptr(): t for t in distinct(bank.use(name).model).values()}
    held = sum(t.nbytes for t in tensors.values())
    own = sum(t.nbytes for t in base().state_dict().values())
    stored = (adapter_file.read_adapter_file(path).tensors.values() for path in files.values())
    assert held == own + sum(t.nbytes for file in stored for t in file)


def test_the_base_is_hashed_once_for_all_files_of_one_fingerprint(files, monkeypatch):
    hashed = []
    fingerprint = adapter_file.fingerprint
    monkeypatch.setattr(adapter_file, "fingerprint", lambda tensors: hashed.append(1) or fingerprint(tensors))
    bank = AdapterBank(base())
    for name in ("lora", "plain", "masked", "adapter", "head"):
        bank.add(name, files[name])
    assert len(hashed) == 1


def test_what_is_saved_and_merged_is_the_adapter_in_use(bank, files, tmp_path):
    for name in ("plain", "norm", "prompt"):
        saved = capaboost_vit.save_adapter(bank.use(name).model, tmp_path / "again.safetensors")
        assert saved.read_bytes() == files[name].read_bytes()
    merged = capaboost_vit.merge(bank.use("lora").model)
    with torch.no_grad():
        torch.testing.assert_close(merged(X), bank(X), rtol=0, atol=1e-5)
        assert torch.equal(bank.use(None)(X), base()(X))


def test_training_the_adapter_in_use_changes_no_other(bank):
    with torch.no_grad():
        before = {name: bank.use(name)(X) for name in (None, *bank.names)}
    shifted(bank.use("norm").model, seed=1)
    shifted(bank.use("lora").model, seed=1)
    with torch.no_grad():
        same = {name: torch.equal(bank.use(name)(X), logits) for name, logits in before.items()}
    assert [name for name, equal in same.items() if not equal] == ["lora", "norm"]


def test_a_bank_moves_all_its_adapters_and_sets_their_mode_when_they_come_in(bank):
    bank.double().train()
    for name in (None, *bank.names):
        assert {t.dtype for t in distinct(bank.use(name).model).values() if t.is_floating_point()} == {torch.float64}
        assert all(module.training for module in bank.model.modules())
    logits = bank.eval()(X.double(), names=["lora", "norm"] * 3)
    assert logits.dtype == torch.float64


def test_removing_the_one_in_use_leaves_the_base(bank):
    bank.use("lora").remove("lora")
    assert bank.active is None
    assert "lora" not in bank.names
    assert not hasattr(bank.model, "capaboost")


def test_a_file_that_does_not_fit_leaves_the_bank_as_it_was(bank, tmp_path):
    other = write(tmp_path, "lora", make=lambda: base(depth=3))
    stranger = base()
    stranger.pos_embed.data.add_(1)
    same_shapes = capaboost_vit.save_adapter(capaboost_vit.adapt(stranger, "lora"), tmp_path / "stranger.safetensors")
    bank.use("adapter")
    with torch.no_grad():
        before = bank(X)
        for path, reason in ((other, "does not fit"), (same_shapes, "other base weights")):
            with pytest.raises(capaboost_vit.AdapterFileError, match=reason):
                bank.add("new", path)
            assert bank.names == [*ADAPTERS]
            assert torch.equal(bank(X), before)
        bank.add("new", same_shapes, force=True)
        assert torch.equal(bank.use(None)(X), base()(X))


def test_what_a_bank_cannot_do_is_said_in_one_line(bank, files, tmp_path):
    shallow = {f"p{n}": ("prompt", {"prompt_length": n, "deep": False}, 3) for n in (1, 2)}
    for name in shallow:
        bank.add(name, write(tmp_path, name, shallow))
    full = {"full": ("full", {}, 3)}
    bank.add("full", write(tmp_path, "full", full))
    for call, reason in (
        (lambda: AdapterBank(alone(files["lora"], 3)), "carries an adapter already: give AdapterBank the base"),
        (lambda: bank.add("lora", files["lora"]), r"already: call remove\('lora'\) first"),
        (lambda: bank.add("", files["lora"]), "name is a word"),
        (lambda: bank.use("lorra"), "did you mean 'lora'.*there: lora, plain"),
        (lambda: bank.remove("lorra"), "did you mean 'lora'"),
        (lambda: bank(X, names=["lorra"] * 6), "did you mean 'lora'"),
        (lambda: bank(X, names=["lora"]), "1 names for tensors of"),
        (
            lambda: bank(X, names=["p1", "p2"] * 3),
            r"cannot share a pass: .*blocks.0.* \(18, 16\) and \(19, 16\); call bank.use",
        ),
        (lambda: bank(X, names=["full", "lora"] * 3), "cannot share a pass: one changes .* of the VisionTransformer"),
    ):
        with pytest.raises(ValueError, match=reason) as caught:
            call()
        assert "\n" not in str(caught.value)
    bank.model.set_grad_checkpointing()
    with pytest.raises(ValueError, match="set_grad_checkpointing"):
        bank(X, names=["lora"] * 6)


def test_a_weight_that_is_read_instead_of_called_is_refused_in_a_mixed_batch(bank):
    class Reads(nn.Module):
        def __init__(self, block):
            super().__init__()
            self.block = block

        def forward(self, *args, **kwargs):
            self.block.attn.qkv.weight.sum()
            return self.block(*args, **kwargs)

    bank.model.blocks[0] = Reads(bank.model.blocks[0])
    with pytest.raises(TypeError, match=r"cannot share a pass: the model reads the weight of 'blocks.0.block"):
        bank(X, names=["lora", None] * 3)


def test_a_model_with_tokens_before_examples_is_refused_in_a_mixed_batch(bank):
    bank.model.pool = nn.MultiheadAttention(16, 2)
    with pytest.raises(ValueError, match="share a pass: a MultiheadAttention of the model has batch_first=False"):
        bank(X, names=["lora", None] * 3)


def test_what_was_done_beside_the_bank_is_not_lost_without_a_word(bank):
    capaboost_vit.adapt(bank.use("lora").model, "adapter")
    for call in (lambda: bank.use("norm"), lambda: bank(X, names=["norm"] * 6)):
        with pytest.raises(ValueError, match=r"since bank.use: save .*bank.use\(None\), which drops it"):
            call()
    with torch.no_grad():
        assert torch.equal(bank.use(None)(X), base()(X))


def test_texts_of_tasks_with_other_classes_share_a_batch(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config |= {"intermediate_size": 32, "max_position_embeddings": 20}

    def encoder(classes):
        torch.manual_seed(0)
        built = transformers.RobertaForSequenceClassification(transformers.RobertaConfig(**config, num_labels=classes))
        return built.eval()

    bank = AdapterBank(encoder(2))
    for name, method, classes in (("a", "lora", 2), ("b", "adapter", 4)):
        model = shifted(nlu.adapt(encoder(classes), method), seed=1)
        bank.add(name, nlu.save_adapter(model, tmp_path / f"{name}.safetensors"))
    batch = {"input_ids": torch.randint(3, 40, (6, 7)), "attention_mask": (torch.arange(42).view(6, 7) % 7 < 5).long()}
    names = ["b", "a", None, "a", "b", "b"]
    with torch.no_grad():
        logits = bank(**batch, names=names).logits
        for i, name in enumerate(names):
            own = bank.use(name)(**{key: value[i : i + 1] for key, value in batch.items()}).logits[0]
            assert len(own) == (4 if name == "b" else 2)
            torch.testing.assert_close(logits[i, : len(own)], own, rtol=0, atol=1e-6 * own.abs().max().item())
