"""Adapter files: bitwise the same logits in another process; one clear error for every file that does not fit."""

from __future__ import annotations

import json
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import capaboost_vit
from capaboost_vit.core.chain import fingerprint
from capaboost_vit.io import atomic, sealed
from capaboost_vit.methods.adapter_file import FORMAT, read_adapter_file

METHODS = ("lora", "adapter", "prefix", "prompt")
PATTERNS = ("random", "complementary", "sign", "2:4")
OPTIONS = {
    "lora": dict(rank=4, alpha=6.0, targets=("query", "value", "mlp_in")),
    "adapter": dict(bottleneck=4, placement="sequential", activation="gelu"),
    "prefix": dict(prefix_length=4),
    "prompt": dict(prompt_length=4, bottleneck=4),
}
every_method = pytest.mark.parametrize("method", METHODS)
Error = capaboost_vit.AdapterFileError


@pytest.fixture
def trained(tiny, wake, tmp_path):
    """(an adapted model with branches and a head far from their start, its adapter file)."""

    def build(method: str = "lora", **options) -> tuple[nn.Module, Path]:
        model = wake(tiny(method, **{**OPTIONS.get(method, {}), **options}))
        with torch.no_grad():
            for parameter in getattr(model.get_classifier(), "parameters", list)():
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
        return model, capaboost_vit.save_adapter(model, tmp_path / "adapter.safetensors")

    return build


def values(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_refused(model: nn.Module, path: Path, text: str, **kwargs) -> None:
    """Loading fails with `text`, and neither a value nor a name, nor what is trained, has changed."""
    before, grads = values(model), [p.requires_grad for p in model.parameters()]
    with pytest.raises(Error, match=text):
        capaboost_vit.load_adapter(model, path, **kwargs)
    after = values(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert [p.requires_grad for p in model.parameters()] == grads


def rewrite(path: Path, *, change_header=lambda h: None, change_tensors=lambda t: None) -> None:
    """Writes the file again with a digest that is right, as a careless or hostile program would."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()[FORMAT])
    tensors = load_file(path)
    change_header(header)
    change_tensors(tensors)
    del header["sha256"]
    save_file(tensors, path, metadata={FORMAT: sealed._seal(header, tensors)})


# --- round trips -----------------------------------------------------------------------------------------------------

FRESH = """
import sys, torch, timm, capaboost_vit
torch.set_num_threads(1)
folder, seed = sys.argv[1], int(sys.argv[2])
for name in sys.argv[3:]:
    torch.manual_seed(seed)
    path = f"{folder}/{name}.safetensors"
    model = capaboost_vit.create_from_adapter(path, initial_checkpoint=f"{folder}/base.pth")
    with torch.no_grad():  # as below: with gradients, little work takes another path with other last bits
        torch.save(model(torch.load(f"{folder}/images.pt")), f"{folder}/{name}.logits.pt")
"""


def test_a_fresh_process_with_another_seed_computes_bitwise_the_same(ready, tiny, wake, images, tmp_path):
    base = tiny(seed=3)
    torch.save(base.state_dict(), tmp_path / "base.pth")
    torch.save(images, tmp_path / "images.pt")
    expected = {}
    for method in METHODS:
        for pattern in PATTERNS:
            name = f"{method}-{pattern.replace(':', 'of')}"
            model = wake(tiny(method, seed=3, pattern=pattern, mask_seed=17, **OPTIONS[method]))
            with torch.no_grad():
                expected[name] = model(images)
            capaboost_vit.save_adapter(model, tmp_path / f"{name}.safetensors")
    ready.run(["python", "-c", FRESH, tmp_path, "12345", *expected], package=False, check=True)
    plain = base(images)
    for name, logits in expected.items():
        assert torch.equal(torch.load(tmp_path / f"{name}.logits.pt"), logits), name
        assert (logits - plain).abs().max() > 1e-3, f"{name} does nothing, so this shows nothing"


@every_method
@pytest.mark.parametrize("pattern", PATTERNS)
@torch.no_grad()
def test_stored_masks_win_over_the_seed(trained, tiny, images, method, pattern):
    model, path = trained(method, pattern=pattern, mask_seed=1)
    other = tiny(method, pattern=pattern, mask_seed=2, init_seed=9, **OPTIONS[method])
    masks = {name for name in other.state_dict() if name.endswith(".mask")}
    assert masks
    assert any(not torch.equal(other.state_dict()[name], model.state_dict()[name]) for name in masks)
    capaboost_vit.load_adapter(other, path)
    assert torch.equal(other(images), model(images))
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in other.state_dict().items())


@every_method
@pytest.mark.parametrize("plain", [dict(num_branches=1, density=1), dict(num_branches=3, density=1)])
def test_without_masks_the_file_holds_none(trained, tiny, images, method, plain):
    model, path = trained(method, **plain)
    assert capaboost_vit.read_header(path)["masks"] == {}
    assert torch.equal(capaboost_vit.load_adapter(tiny(), path)(images), model(images))


@every_method
def test_loading_into_a_plain_base_adds_the_branches(trained, tiny, images, method):
    model, path = trained(method)
    loaded = capaboost_vit.load_adapter(tiny(), path)
    assert torch.equal(loaded(images), model(images))
    assert capaboost_vit.branches(loaded).keys() == capaboost_vit.branches(model).keys()
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in model.parameters()]
    assert json.loads(json.dumps(loaded.capaboost)) == json.loads(json.dumps(model.capaboost))


def test_two_methods_in_one_file(trained, tiny, wake, images, tmp_path):
    model = wake(capaboost_vit.adapt(wake(tiny("lora", rank=4)), "adapter"))
    path = capaboost_vit.save_adapter(model, tmp_path / "two.safetensors")
    assert torch.equal(capaboost_vit.load_adapter(tiny(), path)(images), model(images))


def test_running_statistics_are_stored_where_they_move_and_nowhere_else(tmp_path):
    images = torch.randn(4, 3, 64, 64)
    for method, options in (("full", {}), ("lora", {"targets": "fc"})):
        model = timm.create_model("test_resnet", num_classes=3)
        initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        capaboost_vit.adapt(model, method, **options)
        model.train()(images)
        path = capaboost_vit.save_adapter(model, tmp_path / f"{method}.safetensors")
        assert any("running_mean" in name for name in load_file(path)) == (method == "full")
        again = timm.create_model("test_resnet", num_classes=3)
        again.load_state_dict(initial)
        capaboost_vit.load_adapter(again, path)
        assert torch.equal(again.eval()(images), model.eval()(images))


@pytest.mark.parametrize("method", ["head", "full"])
def test_head_only_and_full_fine_tuning_have_files_too(tiny, images, tmp_path, method):
    model = capaboost_vit.adapt(tiny(), method)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    path = capaboost_vit.save_adapter(model, tmp_path / "adapter.safetensors")
    assert torch.equal(capaboost_vit.load_adapter(tiny(seed=0), path)(images), model(images))


@pytest.mark.parametrize("family", ["swin_tiny", "eva02_base", "beit_base"])
def test_create_from_adapter_rebuilds_other_families_with_their_arguments(wake, tmp_path, family):
    from capaboost_vit.vision.registry import FAMILIES

    kwargs = dict(img_size=28, embed_dim=32, depth=2, num_heads=2, patch_size=7)
    if family == "swin_tiny":
        kwargs = dict(img_size=64, window_size=4, embed_dim=32, depths=(1, 1), num_heads=(1, 2))
    base = timm.create_model(FAMILIES[family][0], num_classes=4, **kwargs).eval()
    torch.save(base.state_dict(), tmp_path / "base.pth")
    model = timm.create_model(f"{family}_capaboost_lora", num_classes=4, drop_path_rate=0.1, **kwargs).eval()
    model.load_state_dict(base.state_dict())
    path = capaboost_vit.save_adapter(wake(model), tmp_path / "adapter.safetensors")
    again = capaboost_vit.create_from_adapter(path, initial_checkpoint=tmp_path / "base.pth")
    x = torch.randn(1, 3, kwargs["img_size"], kwargs["img_size"])
    assert torch.equal(again(x), model(x))
    assert not again.training


def test_the_header_tells_where_a_file_comes_from(tiny, wake, tmp_path):
    model = wake(timm.create_model("vit_tiny_capaboost_lora.augreg_in21k", img_size=48, depth=1, num_classes=3, rank=4))
    path = capaboost_vit.save_adapter(model, tmp_path / "deep" / "a.safetensors", class_names=["ant", "bee", "cat"])
    header = capaboost_vit.read_header(path)
    assert header["base"]["architecture"] == "vit_tiny_patch16_224"
    assert header["base"]["tag"] == "augreg_in21k"
    assert header["num_classes"] == 3
    assert header["class_names"] == ["ant", "bee", "cat"]
    assert header["input"]["mean"] == [0.5, 0.5, 0.5]
    assert header["input"]["input_size"] == [3, 48, 48]
    assert header["model_args"]["depth"] == 1
    assert "rank" not in header["model_args"]
    assert header["methods"][0]["method"] == "lora"
    assert header["methods"][0]["rank"] == 4
    assert header["versions"]["timm"] == timm.__version__


def test_an_argument_that_json_cannot_hold_leaves_a_file_that_loads_but_does_not_build(tiny, wake, images, tmp_path):
    model = wake(tiny("lora", norm_layer=nn.LayerNorm))
    path = capaboost_vit.save_adapter(model, tmp_path / "a.safetensors")
    assert torch.equal(capaboost_vit.load_adapter(tiny(norm_layer=nn.LayerNorm), path)(images), model(images))
    with pytest.raises(Error, match="which timm cannot build: build it, then use load_adapter"):
        capaboost_vit.create_from_adapter(path, pretrained=False)


@pytest.mark.parametrize(
    ("options", "planes"), [({}, 1), ({"num_branches": 3}, 2), ({"pattern": "random"}, 2)], ids=str
)
def test_masks_are_stored_as_packed_bits_but_for_the_ones_of_the_first_branch(trained, options, planes):
    model, path = trained("lora", **options)
    tensors, read, state = load_file(path), read_adapter_file(path).tensors, model.state_dict()
    masks = [name for name in tensors if name.endswith(".mask")]
    assert len(masks) == 2 * len(capaboost_vit.branches(model))
    for name in masks:
        live = next(t for other, t in state.items() if other.replace(".base.", ".") == name)
        assert tensors[name].dtype == torch.uint8
        assert tensors[name].numel() == -(-live[-planes:].numel() // 8)
        assert torch.equal(read[name], live)


def test_a_file_of_version_1_holds_the_ones_of_the_first_branch_and_means_the_same(trained, tiny, images):
    model, path = trained("lora")
    bits = {
        name: torch.from_numpy(np.packbits(mask.numpy() > 0))
        for name, mask in read_adapter_file(path).tensors.items()
        if name.endswith(".mask")
    }

    def as_version_1(header):
        header["format_version"] = 1
        for mask in header["masks"].values():
            assert mask.pop("first_is_ones")

    rewrite(path, change_header=as_version_1, change_tensors=lambda tensors: tensors.update(bits))
    assert torch.equal(capaboost_vit.load_adapter(tiny(), path)(images), model(images))


def test_a_file_that_leaves_nothing_out_can_be_read_by_releases_that_know_version_1(trained):
    for options in ({"pattern": "random"}, {"num_branches": 1, "density": 1.0}):
        assert read_adapter_file(trained("lora", **options)[1]).header["format_version"] == 1
    assert read_adapter_file(trained("lora")[1]).header["format_version"] == 2


def test_a_file_of_vit_base_without_a_head_is_small(tmp_path):
    model = timm.create_model("vit_base_capaboost_lora", num_classes=0, rank=8, num_branches=2, weight_init="skip")
    path = capaboost_vit.save_adapter(model, tmp_path / "adapter.safetensors")
    assert path.stat().st_size <= 1.35e6
    assert path.stat().st_size >= 4 * 36_864 * 8


def test_saving_replaces_the_file_whole_and_leaves_nothing_beside_it(trained, tmp_path, monkeypatch):
    model, path = trained()
    header = capaboost_vit.read_header(path)
    assert capaboost_vit.save_adapter(model, path) == path
    assert capaboost_vit.read_header(path) == header
    content = path.read_bytes()

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(atomic.os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        capaboost_vit.save_adapter(model, path)
    assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_saving_leaves_the_model_alone_and_needs_an_adapter(trained, tiny, images, tmp_path):
    model, path = trained()
    before = values(model)
    capaboost_vit.save_adapter(model, path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in values(model).items())
    with pytest.raises(ValueError, match="carries no adapter: call capaboost_vit"):
        capaboost_vit.save_adapter(tiny(), tmp_path / "none.safetensors")


def test_a_merged_model_s_file_is_its_state_dict_which_the_plain_model_loads(trained, tiny, images):
    model, path = trained("lora")
    merged = capaboost_vit.merge(capaboost_vit.load_adapter(tiny(), path))
    plain = tiny(seed=8)
    plain.load_state_dict(merged.state_dict(), strict=True)
    torch.testing.assert_close(plain(images), model(images), rtol=1e-4, atol=1e-5)


# --- files that do not fit -------------------------------------------------------------------------------------------


@every_method
@pytest.mark.parametrize("carrying", [False, True], ids=["plain", "adapted"])
@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        (dict(num_classes=7), r"head\.\w+ is \(5.* in the file and \(7.* in the model \(num_classes differs\)"),
        (dict(num_classes=0), r"unknown \(head.bias, ...\).*made for vit_tiny_patch16_224.*5 classes"),
        (dict(seed=1), r"other base weights than this VisionTransformer has \(fingerprints differ\)"),
        (dict(depth=4), r"(missing|fingerprints differ)"),
        (dict(depth=2), r"unknown \(blocks.2"),
        (dict(embed_dim=64), r"is \(.*(32|64).* in the file and \(.*(64|128).* in the model"),
        (dict(img_size=64), r"fingerprints differ"),
    ],
)
def test_a_file_of_another_model_is_refused(trained, tiny, images, method, carrying, kwargs, text):
    _, path = trained(method)
    assert_refused(tiny(method if carrying else None, **kwargs, **(OPTIONS[method] if carrying else {})), path, text)


@pytest.mark.parametrize(
    ("method", "options", "text"),
    [
        (
            "lora",
            dict(rank=8),
            r"coefficients is \(4,\) in the file and \(8,\) in the model \(another architecture or",
        ),
        ("lora", dict(targets=("query",)), r"unknown \(blocks.0.attn.qkv.branches.v"),
        ("lora", dict(targets=("query", "value", "mlp_in", "mlp_out")), r"missing \(blocks.0.mlp.fc2"),
        ("lora", dict(num_branches=3), r"\(another architecture or options\)"),
        ("lora", dict(density=1), r"unknown \(.*coefficients"),
        (
            "lora",
            dict(alpha=12.0),
            r"made with other options .*'alpha': 6.0.* in the file.*'alpha': 12.0",
        ),
        ("adapter", dict(activation="relu"), r"made with other options .*'gelu'.* in the file.*'relu'.* in the model"),
        ("adapter", dict(scale=2.0), r"made with other options"),
        ("adapter", dict(placement="parallel", scale=1.0), r"made with other options"),
        ("prefix", dict(prefix_length=5), r"another architecture or options"),
        ("prompt", dict(bottleneck=None), r"(missing|unknown)"),
        ("prompt", dict(deep=False), r"unknown \(blocks.1.tokens"),
    ],
)
def test_a_file_of_other_options_is_refused(trained, tiny, method, options, text):
    _, path = trained(method)
    assert_refused(tiny(method, **{**OPTIONS[method], **options}), path, text)


def test_branches_without_masks_that_differ_in_number_are_told_apart(trained, tiny):
    _, path = trained("lora", num_branches=1, density=1)
    assert_refused(tiny("lora", **OPTIONS["lora"], num_branches=3, density=1), path, "made with other options")


@every_method
def test_a_file_of_another_method_is_refused(trained, tiny, method):
    _, path = trained(method)
    for other in METHODS:
        if other != method:
            assert_refused(tiny(other, **OPTIONS[other]), path, rf"missing .*unknown .*\({method}, 5 classes\)")


def test_a_file_of_another_architecture_is_refused_by_name(trained):
    _, path = trained()
    model = timm.create_model("swin_tiny_patch4_window7_224", img_size=64, window_size=4, embed_dim=32, depths=(1, 1))
    assert_refused(model, path, "was made for vit_tiny_patch16_224, this model is swin_tiny_patch4_window7_224")
    assert_refused(nn.Linear(2, 2), path, "was made for vit_tiny_patch16_224, this model is Linear")


@every_method
def test_force_accepts_other_base_weights_and_nothing_else(trained, tiny, images, method):
    model, path = trained(method)
    other = capaboost_vit.load_adapter(tiny(seed=1), path, force=True)
    assert not torch.equal(other(images), model(images))
    stored = load_file(path)
    held = {name.replace(".base.", "."): tensor for name, tensor in other.state_dict().items()}
    assert all(torch.equal(held[name], t) for name, t in stored.items() if not name.endswith(".mask"))
    assert_refused(tiny(num_classes=7), path, "num_classes differs", force=True)


@pytest.mark.parametrize("name", ["pos_embed", "blocks.1.norm1.bias", "patch_embed.proj.weight"])
def test_one_changed_value_in_the_base_changes_the_fingerprint(trained, tiny, name):
    _, path = trained()
    model = tiny()
    with torch.no_grad():
        model.get_parameter(name).view(-1)[-1] += 0.5
    assert_refused(model, path, "fingerprints differ")


def test_a_bfloat16_copy_of_the_base_has_the_same_fingerprint(trained, tiny, images):
    model, path = trained()
    assert fingerprint(tiny().state_dict()) == fingerprint(tiny().bfloat16().state_dict())
    assert fingerprint(tiny().state_dict()) != fingerprint(tiny(seed=1).state_dict())
    low = capaboost_vit.load_adapter(tiny().bfloat16(), path)
    torch.testing.assert_close(low(images.bfloat16()).float(), model(images), rtol=0.1, atol=0.3)


def test_the_number_of_classes_is_no_part_of_the_fingerprint_and_training_neither(tiny, wake, tmp_path):
    headers = []
    for index, model in enumerate((tiny("lora"), wake(tiny("lora")), tiny("lora"))):
        path = capaboost_vit.save_adapter(model, tmp_path / f"{index}.safetensors")
        headers.append(capaboost_vit.read_header(path)["base"]["fingerprint"])
    assert len(set(headers)) == 1


def test_a_missing_file_is_called_missing(tiny, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no adapter file at .*none\.safetensors"):
        capaboost_vit.create_from_adapter(tmp_path / "none.safetensors")
    with pytest.raises(FileNotFoundError, match=r"no adapter file at .*none\.safetensors"):
        capaboost_vit.load_adapter(tiny(), tmp_path / "none.safetensors")


def test_create_from_adapter_refuses_wrong_or_missing_base_weights(trained, tiny, tmp_path):
    _, path = trained()
    torch.save(tiny(seed=1).state_dict(), tmp_path / "other.pth")
    with pytest.raises(Error, match="fingerprints differ"):
        capaboost_vit.create_from_adapter(path, initial_checkpoint=tmp_path / "other.pth")
    with pytest.raises(Error, match="fingerprints differ"):
        capaboost_vit.create_from_adapter(path, pretrained=False)
    with pytest.raises(FileNotFoundError, match="no weights at"):
        capaboost_vit.create_from_adapter(path, initial_checkpoint=tmp_path / "none.pth")
    assert capaboost_vit.create_from_adapter(path, pretrained=False, force=True).num_classes == 5


@pytest.mark.parametrize("change", [dict(architecture="vit_tiny_from_mars"), dict(tag="nope")])
def test_create_from_adapter_names_a_base_that_timm_does_not_know(trained, change):
    _, path = trained()
    rewrite(path, change_header=lambda header: header["base"].update(change))
    with pytest.raises(Error, match=r"was made for \S+(mars|nope)\S*, which timm cannot build"):
        capaboost_vit.create_from_adapter(path, pretrained=False)


# --- damaged and foreign files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("carrying", [False, True], ids=["plain", "adapted"])
@pytest.mark.parametrize("kept", [0, 1, 7, 8, 9, 200, 0.1, 0.5, 0.9, -1000, -8, -1])
def test_a_truncated_file_is_refused(trained, tiny, carrying, kept):
    _, path = trained()
    content = path.read_bytes()
    size = int(kept * len(content)) if isinstance(kept, float) else kept
    path.write_bytes(content[:size])
    assert_refused(
        tiny(*(["lora"] if carrying else []), **(OPTIONS["lora"] if carrying else {})), path, "truncated|damaged"
    )


def test_a_longer_file_is_refused(trained, tiny):
    _, path = trained()
    path.write_bytes(path.read_bytes() + b"\0" * 8)
    assert_refused(tiny(), path, "damaged")


@pytest.mark.parametrize("mask", [0xFF, 0x01])
def test_every_flipped_byte_is_found(trained, tiny, mask):
    _, path = trained()
    content = path.read_bytes()
    header = 8 + struct.unpack("<Q", content[:8])[0]
    body = range(header, len(content))
    offsets = {*range(8), *range(8, header, header // 24), *body[:: len(body) // 16], header - 1, len(content) - 1}
    offsets = {o for o in offsets if content[o : o + 1] != b" "} if mask == 1 else offsets
    assert len(offsets) > 40
    model = tiny("lora", **OPTIONS["lora"])
    before = values(model)
    for offset in sorted(offsets):
        flipped = bytearray(content)
        flipped[offset] ^= mask
        path.write_bytes(flipped)
        with pytest.raises(Error, match=r"damaged|truncated|is a pickle|not an adapter file"):
            capaboost_vit.load_adapter(model, path)
    after = values(model)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    path.write_bytes(content)
    capaboost_vit.load_adapter(model, path)


def test_a_flipped_bit_of_a_value_is_found(trained, tiny):
    _, path = trained()
    content = bytearray(path.read_bytes())
    content[-2] ^= 0x04
    path.write_bytes(content)
    assert_refused(tiny(), path, "its content does not have the SHA-256 that was stored with it")


class Canary:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle", "protocol 0", "tensors"])
def test_a_pickle_is_refused_and_not_executed(trained, tiny, tmp_path, kind):
    canary, path = tmp_path / "canary", tmp_path / "evil.safetensors"
    if kind in ("zip", "legacy"):
        torch.save({"a": Canary(canary)}, path, _use_new_zipfile_serialization=kind == "zip")
    elif kind == "tensors":
        torch.save(tiny("lora").state_dict(), path)
    else:
        path.write_bytes(pickle.dumps(Canary(canary), protocol=0 if kind == "protocol 0" else None))
    text = (
        "truncated or no safetensors file" if kind == "protocol 0" else "is a pickle .*only .safetensors files are read"
    )
    assert_refused(tiny(), path, text)
    assert_refused(tiny("lora"), path, text)
    for read in (capaboost_vit.read_header, capaboost_vit.create_from_adapter):
        with pytest.raises(Error, match=text):
            read(path)
    assert not canary.exists()


@pytest.mark.parametrize("start", [b"\x80", b"PK"])
def test_a_header_whose_length_begins_like_a_pickle_is_read(tiny, wake, images, tmp_path, start):
    model, path = wake(tiny("lora")), tmp_path / "a.safetensors"
    capaboost_vit.save_adapter(model, path, class_names=[""])
    length = struct.unpack("<Q", path.read_bytes()[:8])[0]
    padding = (int.from_bytes(start, "little") - length) % 256 ** len(start)
    capaboost_vit.save_adapter(model, path, class_names=["x" * padding])
    assert path.read_bytes().startswith(start)
    assert torch.equal(capaboost_vit.load_adapter(tiny(), path)(images), model(images))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"hello, world, this is no adapter file",
        b"\0" * 64,
        b"\x08\0\0\0\0\0\0\0{}      ",
        b"\x89PNG\r\n\x1a\n" * 9,
    ],
    ids=["empty", "short", "text", "zeros", "no tensors", "picture"],
)
def test_a_file_of_another_kind_is_refused(tiny, tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    assert_refused(tiny(), path, "no safetensors file|damaged|not an adapter file")


def test_a_folder_is_called_missing(tiny, tmp_path):
    with pytest.raises(FileNotFoundError, match="no adapter file at"):
        capaboost_vit.load_adapter(tiny(), tmp_path)


@pytest.mark.parametrize("length", [2**63 - 1, 2**64 - 1, 2**40, 100_000_000, 0])
def test_a_header_of_impossible_length_is_refused_before_it_is_read(trained, tiny, length):
    _, path = trained()
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    assert_refused(tiny(), path, "truncated or no safetensors file")


def test_another_safetensors_file_is_refused(tiny, tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(dict(tiny().state_dict()), path)
    assert_refused(tiny(), path, "is a safetensors file, but not an adapter file of capaboost_vit")
    save_file(dict(tiny().state_dict()), path, metadata={"format": "pt"})
    assert_refused(tiny("lora"), path, "is a safetensors file, but not an adapter file of capaboost_vit")


@pytest.mark.parametrize("version", [0, 3, "1", None])
def test_an_unknown_format_version_is_refused(trained, tiny, version):
    _, path = trained()
    rewrite(path, change_header=lambda header: header.update(format_version=version))
    assert_refused(
        tiny(), path, rf"format version {version!r}, this release reads version 1 or 2: upgrade capaboost_vit"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["head.weight", "blocks.1.attn.qkv.branches.q.up.weight"])
def test_values_that_are_not_finite_are_refused(trained, tiny, name, value):
    _, path = trained()
    rewrite(path, change_tensors=lambda tensors: tensors[name].view(-1)[3:4].fill_(value))
    assert_refused(tiny(), path, f"values that are not finite in '{name}'")
    assert_refused(tiny("lora", **OPTIONS["lora"]), path, "not finite", force=True)


BRANCH = "blocks.0.attn.qkv.branches.q."


@pytest.mark.parametrize("carrying", [False, True], ids=["plain", "adapted"])
@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: t.pop(BRANCH + "up.weight"), r"1 tensors missing \(blocks.0.attn.qkv.branches.q.up.weight"),
        (lambda t: t.pop("head.bias"), r"missing \(head.bias"),
        (lambda t: t.pop(BRANCH + "up.mask"), r"lacks the mask 'blocks.0.attn.qkv.branches.q.up.mask'"),
        (lambda t: t.update({"blocks.9.up.weight": torch.zeros(2)}), r"1 tensors unknown \(blocks.9.up.weight"),
        (lambda t: t.update({BRANCH + "up.weight": torch.zeros(32, 5)}), r"\(32, 5\) in the file and \(32, 4\) in the"),
        (lambda t: t.update({BRANCH + "up.mask": torch.zeros(3, dtype=torch.uint8)}), r"up.mask"),
    ],
)
def test_missing_extra_and_misshapen_tensors_are_refused(trained, tiny, carrying, change, text):
    _, path = trained()
    rewrite(path, change_tensors=change)
    model = tiny("lora", **OPTIONS["lora"]) if carrying else tiny()
    assert_refused(model, path, text)
    assert_refused(model, path, text, force=True)


def test_a_file_may_not_bring_base_weights_along(trained, tiny):
    _, path = trained()
    rewrite(path, change_tensors=lambda t: t.update({"blocks.0.norm1.weight": torch.zeros(32)}))
    assert_refused(tiny(), path, r"unknown \(blocks.0.norm1.weight|fingerprints differ")


def test_the_classes_names_may_be_anything_that_json_holds(tiny, wake, images, tmp_path):
    model = wake(tiny("lora"))
    names = ['"', "{", "\\", "Ж", "\n", ""]
    path = capaboost_vit.save_adapter(model, tmp_path / "a.safetensors", class_names=names)
    assert capaboost_vit.read_header(path)["class_names"] == names
    assert torch.equal(capaboost_vit.load_adapter(tiny(), path)(images), model(images))


def test_the_same_model_gives_the_same_bytes_and_a_file_that_others_may_read(trained, tmp_path):
    model, _ = trained()
    files = [capaboost_vit.save_adapter(model, tmp_path / f"{index}.safetensors") for index in range(6)]
    assert len({file.read_bytes() for file in files}) == 1
    umask = os.umask(0o022)
    os.umask(umask)
    assert files[0].stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("name", ["checkpoint_path", "pretrained_cfg_overlay", "pretrained_cfg", "cache_dir"])
def test_a_header_that_names_other_files_is_refused(trained, tmp_path, name):
    _, path = trained()
    rewrite(path, change_header=lambda header: header["model_args"].update({name: str(tmp_path / "other")}))
    with pytest.raises(Error, match=rf"asks to load other files \({name}\): refused"):
        capaboost_vit.create_from_adapter(path, pretrained=False)


def test_a_compiled_model_is_saved_and_loaded_like_the_model_in_it(trained, tiny, images, tmp_path):
    model, path = trained()
    compiled = torch.compile(model, backend="eager")
    again = capaboost_vit.save_adapter(compiled, tmp_path / "compiled.safetensors")
    assert again.read_bytes() == path.read_bytes()
    other = torch.compile(tiny(), backend="eager")
    assert capaboost_vit.load_adapter(other, path) is other
    assert torch.equal(other._orig_mod(images), model(images))
