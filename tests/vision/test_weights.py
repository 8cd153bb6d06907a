"""Base weights from a local file: resampled by the family's own rule, refused when they are another model's."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import capaboost_vit
from capaboost_vit.vision.weights import load_base_weights

# timm's resampling of relative positions hands torch a strided tensor and a list of indices; torch says so once
pytestmark = [
    pytest.mark.filterwarnings(r"ignore:torch.searchsorted\(\).* non-contiguous:UserWarning"),
    pytest.mark.filterwarnings("ignore:Using a non-tuple sequence for multidimensional indexing:UserWarning"),
]

METHODS = (None, "lora", "adapter", "prefix", "prompt")


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def base_of(model: nn.Module) -> nn.Module:
    return capaboost_vit.detach(model) if hasattr(model, "capaboost") else model


def assert_refused(model: nn.Module, path: Path, text: str) -> None:
    before = state_of(model)
    with pytest.raises(ValueError, match=text):
        load_base_weights(model, path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("form", ["safetensors", "pth", "checkpoint"])
def test_every_base_tensor_is_loaded_and_no_branch_is_touched(tiny, wake, tmp_path, method, form):
    base = tiny(seed=4)
    path = tmp_path / f"base.{'safetensors' if form == 'safetensors' else 'pth'}"
    if form == "safetensors":
        save_file(state_of(base), path)
    else:
        torch.save({"epoch": 3, "state_dict": base.state_dict()} if form == "checkpoint" else base.state_dict(), path)
    model = tiny(method)
    if method:
        wake(model)
    branches = {name: state_of(branch) for name, branch in capaboost_vit.branches(model).items()}
    load_base_weights(model, path)
    for name, branch in capaboost_vit.branches(model).items():
        assert all(torch.equal(tensor, branches[name][key]) for key, tensor in branch.state_dict().items())
    held = base_of(model).state_dict()
    assert all(torch.equal(held[name], tensor) for name, tensor in base.state_dict().items())


@pytest.mark.parametrize("method", [None, "lora"])
@pytest.mark.parametrize("num_classes", [0, 7])
def test_a_classifier_of_another_shape_stays_as_it_is(tiny, tmp_path, method, num_classes):
    save_file(state_of(tiny(seed=4)), tmp_path / "base.safetensors")
    model = tiny(method, num_classes=num_classes)
    head = state_of(model.get_classifier())
    load_base_weights(model, tmp_path / "base.safetensors")
    assert all(torch.equal(tensor, head[name]) for name, tensor in model.get_classifier().state_dict().items())
    assert torch.equal(model.cls_token, tiny(seed=4).cls_token)


@pytest.mark.parametrize("method", [None, "lora"])
def test_weights_without_a_classifier_are_taken(tiny, tmp_path, method):
    base = tiny(seed=4, num_classes=0)
    save_file(state_of(base), tmp_path / "base.safetensors")
    model = tiny(method)
    load_base_weights(model, tmp_path / "base.safetensors")
    held = base_of(model).state_dict()
    assert all(torch.equal(held[name], tensor) for name, tensor in base.state_dict().items())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("patch_size", [8, 4])
def test_positions_and_patches_are_resampled_as_timm_does(tiny, tmp_path, method, patch_size):
    save_file(state_of(tiny(seed=4, img_size=224)), tmp_path / "base.safetensors")
    kwargs = dict(img_size=48, patch_size=patch_size)
    model, expected = tiny(method, **kwargs), tiny(**kwargs)
    load_base_weights(model, tmp_path / "base.safetensors")
    timm.models.load_checkpoint(
        expected,
        str(tmp_path / "base.safetensors"),
        filter_fn=timm.models.vision_transformer.checkpoint_filter_fn,
    )
    held = base_of(model).state_dict()
    assert all(torch.equal(held[name], tensor) for name, tensor in expected.state_dict().items())


def test_swin_s_relative_positions_are_resampled(tmp_path):
    kwargs = dict(embed_dim=32, depths=(1, 1), num_heads=(1, 2), num_classes=3)
    base = timm.create_model("swin_tiny_patch4_window7_224", img_size=64, window_size=4, **kwargs)
    save_file(state_of(base), tmp_path / "base.safetensors")
    model = timm.create_model("swin_tiny_capaboost_lora", img_size=128, window_size=8, **kwargs)
    table = model.layers[0].blocks[0].attn.relative_position_bias_table
    before = table.detach().clone()
    load_base_weights(model, tmp_path / "base.safetensors")
    assert table.shape == (225, 1)
    assert not torch.equal(table, before)
    assert torch.equal(model.patch_embed.proj.weight, base.patch_embed.proj.weight)


@pytest.mark.realdata
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [224, 64])
def test_the_real_vit_tiny_weights_load_at_this_size(vit_tiny_weights, method, size):
    name = "vit_tiny_patch16_224" if method is None else f"vit_tiny_capaboost_{method}"
    model = timm.create_model(name, img_size=size, num_classes=10)
    load_base_weights(model, vit_tiny_weights)
    stored = load_file(vit_tiny_weights)
    held = base_of(model).state_dict()
    assert held["pos_embed"].shape == (1, (size // 16) ** 2 + 1, 192)
    for key, tensor in held.items():
        if not key.startswith("head.") and (key != "pos_embed" or size == 224):
            assert torch.equal(tensor, stored[key]), key
    assert torch.equal(held["pos_embed"][:, 0], stored["pos_embed"][:, 0])


@pytest.mark.realdata
def test_the_real_weights_are_recognised_by_their_fingerprint(vit_tiny_weights, wake, tmp_path):
    model = timm.create_model("vit_tiny_capaboost_lora", num_classes=10).eval()
    load_base_weights(model, vit_tiny_weights)
    path = capaboost_vit.save_adapter(wake(model), tmp_path / "adapter.safetensors")
    again = capaboost_vit.create_from_adapter(path, initial_checkpoint=vit_tiny_weights)
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(again(x), model(x))
    with pytest.raises(capaboost_vit.AdapterFileError, match="fingerprints differ"):
        capaboost_vit.create_from_adapter(path, pretrained=False)


def test_a_missing_file_is_called_missing(tiny, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weights at .*none\.pth: give the path of"):
        load_base_weights(tiny(), tmp_path / "none.pth")
    with pytest.raises(FileNotFoundError, match="no weights at"):
        load_base_weights(tiny(), tmp_path)


@pytest.mark.parametrize("method", [None, "lora"])
@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        (dict(embed_dim=64), r"does not hold the weights of this VisionTransformer: \d+ of another shape"),
        (dict(depth=4), r"VisionTransformer: \d+ unknown \(blocks.3"),
        (dict(depth=2), r"VisionTransformer: \d+ missing \(blocks.2"),
        (dict(qk_norm=True), r"\d+ unknown \(blocks.0.attn.k_norm"),
        (dict(class_token=False, global_pool="avg"), r"VisionTransformer: "),
    ],
)
def test_weights_of_another_vit_are_refused(tiny, tmp_path, method, kwargs, text):
    save_file(state_of(tiny(seed=4, **kwargs)), tmp_path / "base.safetensors")
    assert_refused(tiny(method), tmp_path / "base.safetensors", text)


OTHERS = {
    "swin": ("swin_tiny_patch4_window7_224", dict(img_size=64, embed_dim=32, depths=(1, 1), num_heads=(1, 2))),
    "swinv2": ("swinv2_tiny_window8_256", dict(img_size=64, embed_dim=32, depths=(1, 1), num_heads=(1, 2))),
    "eva": ("eva02_tiny_patch14_224", dict(img_size=28, embed_dim=32, depth=2, num_heads=2)),
    "beit": ("beit_base_patch16_224", dict(img_size=32, embed_dim=32, depth=2, num_heads=2)),
    "vit": ("vit_tiny_patch16_224", dict(img_size=32, embed_dim=32, depth=2, num_heads=2)),
    "resnet": ("test_resnet", dict()),
}


@pytest.mark.parametrize("theirs", OTHERS)
@pytest.mark.parametrize("ours", OTHERS)
def test_weights_of_another_family_are_one_clear_error(tmp_path, ours, theirs):
    (name, kwargs), (other, other_kwargs) = OTHERS[ours], OTHERS[theirs]
    save_file(state_of(timm.create_model(other, **other_kwargs)), tmp_path / "base.safetensors")
    model = timm.create_model(name, **kwargs)
    if ours == theirs:
        load_base_weights(model, tmp_path / "base.safetensors")
    else:
        assert_refused(model, tmp_path / "base.safetensors", "does not hold the weights of this")


class Canary:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("suffix", ["pth", "bin", "safetensors"])
@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_refused_and_not_executed(tiny, tmp_path, suffix, zipped):
    canary, path = tmp_path / "canary", tmp_path / f"evil.{suffix}"
    content = {**tiny().state_dict(), "evil": Canary(canary)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert_refused(tiny("lora"), path, "cannot read weights from .*evil")
    assert not canary.exists()


FILES = {
    "empty.pth": b"",
    "text.pth": b"this is no checkpoint",
    "empty.safetensors": b"",
    "text.safetensors": b"this is no checkpoint",
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_checkpoint_are_refused(tiny, tmp_path, name):
    (tmp_path / name).write_bytes(FILES[name])
    assert_refused(tiny("lora"), tmp_path / name, f"cannot read weights from .*{name}: .")


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3}, {"state_dict": {"pos_embed": "x"}}, torch.zeros(3), 7])
def test_checkpoints_that_hold_no_tensors_by_name_are_refused(tiny, tmp_path, content):
    torch.save(content, tmp_path / "odd.pth")
    assert_refused(tiny("lora"), tmp_path / "odd.pth", "cannot read weights from")


def test_a_truncated_checkpoint_is_refused(tiny, tmp_path):
    for name, save in (("a.pth", torch.save), ("a.safetensors", save_file)):
        save(state_of(tiny()), tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        assert_refused(tiny(), tmp_path / name, "cannot read weights from")


def test_a_random_safetensors_is_refused(tiny, tmp_path):
    save_file({"a": torch.zeros(3), "b": torch.ones(2, 2)}, tmp_path / "a.safetensors")
    assert_refused(tiny("lora"), tmp_path / "a.safetensors", r"\d+ missing \(\S+, ...\); 2 unknown \(a, ...\)")


def test_an_adapter_file_is_no_base(tiny, wake, tmp_path):
    path = capaboost_vit.save_adapter(wake(tiny("lora")), tmp_path / "adapter.safetensors")
    assert_refused(tiny("lora"), path, "does not hold the weights of this VisionTransformer")


def test_deit3_files_with_their_own_names_of_the_layer_scales_load(tmp_path):

    small = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 4}
    base = timm.create_model("deit3_small_patch16_224", **small)
    state = {name: torch.randn(tensor.shape) for name, tensor in base.state_dict().items()}
    theirs = {name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): t for name, t in state.items()}
    assert "blocks.0.gamma_1" in theirs
    save_file(theirs, tmp_path / "deit3.safetensors")
    model = timm.create_model("deit3_small_capaboost_lora", **small)
    load_base_weights(model, tmp_path / "deit3.safetensors")
    assert torch.equal(model.blocks[1].ls2.gamma, state["blocks.1.ls2.gamma"])
    assert torch.equal(model.blocks[0].attn.qkv.base.weight, state["blocks.0.attn.qkv.weight"])
