"""Merged, then adapted again: the file says on what it was trained, and the model is built again of all the files."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf

import capaboost_vit
from capaboost_vit.core.inject import detach

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
Error = capaboost_vit.AdapterFileError


@pytest.fixture
def trained(tiny, wake, tmp_path):
    """(model, paths of the base weights and of three adapters), each trained on the merge of those before."""
    model = tiny()
    save_file(model.state_dict(), tmp_path / "base.safetensors")
    for name, method, classes in (("first", "lora", 5), ("second", "ssf", 3), ("third", "adapter", 4)):
        if name != "first":
            model = capaboost_vit.merge(model)
            model.reset_classifier(classes)
        model = wake(capaboost_vit.adapt(model, method))
        capaboost_vit.save_adapter(model, tmp_path / f"{name}.safetensors")
    return model.eval(), *(tmp_path / f"{name}.safetensors" for name in ("base", "first", "second", "third"))


@torch.no_grad()
def test_the_model_is_built_again_of_the_files_of_its_chain(trained):
    model, base, first, second, third = trained
    again = capaboost_vit.create_from_adapter(third, chain=[first, second], initial_checkpoint=base)
    assert torch.equal(again(X), model(X))
    (one, two) = capaboost_vit.read_header(third)["base"]["merged"]
    assert [one["methods"][0]["method"], two["methods"][0]["method"]] == ["lora", "ssf"]
    assert capaboost_vit.read_header(second)["base"]["merged"] == [one]
    assert "merged" not in capaboost_vit.read_header(first)["base"]


def test_without_the_right_chain_one_line_says_what_was_merged(trained, tiny, wake, tmp_path):
    _, base, first, second, third = trained
    other = capaboost_vit.save_adapter(wake(tiny("lora"), seed=2), tmp_path / "other.safetensors")
    whole = "vit_tiny_patch16_224.* with capaboost-lora r8 d2, then ssf merged in"
    for file, options, reason in (
        (third, {}, rf"{whole}: name the files of what was merged, chain=\[...\], or its weights, initial_checkpoint="),
        (third, {"chain": [first]}, f"{whole}, so chain= takes 2 files, got 1"),
        (first, {"chain": [second]}, "so chain= takes 0 files, got 1"),
        (third, {"chain": [second, first]}, "first.safetensors was trained on .*, so chain= takes 0 files, got 1"),
        (second, {"chain": [other]}, "other.safetensors is not what was merged into the base of .*second"),
        (second, {"initial_checkpoint": base}, "trained on other base weights"),
    ):
        options = {"initial_checkpoint": base if "chain" in options else None, **options}
        with pytest.raises(Error, match=reason) as caught:
            capaboost_vit.create_from_adapter(file, **options)
        assert "\n" not in str(caught.value)


@torch.no_grad()
def test_a_merged_folder_is_a_base_before_and_after(trained, tiny, wake, tmp_path):
    _, base, first, second, _ = trained
    merged = capaboost_vit.merge(capaboost_vit.create_from_adapter(first, initial_checkpoint=base))
    save_for_hf(merged, str(tmp_path / "merged"), safe_serialization=True)
    expected = capaboost_vit.create_from_adapter(second, chain=[first], initial_checkpoint=base)(X)
    for folder in (tmp_path / "merged", f"local-dir:{tmp_path / 'merged'}", tmp_path / "merged" / "model.safetensors"):
        assert torch.equal(capaboost_vit.create_from_adapter(second, initial_checkpoint=folder)(X), expected)
    # an adapter of a model that timm has opened from the folder, where nothing tells what was merged
    model = wake(capaboost_vit.adapt(timm.create_model(f"local-dir:{tmp_path / 'merged'}", pretrained=True), "prompt"))
    path = capaboost_vit.save_adapter(model.eval(), tmp_path / "prompt.safetensors")
    with pytest.raises(Error, match=r"of the folder 'merged': name its weights, initial_checkpoint=FOLDER or FILE"):
        capaboost_vit.create_from_adapter(path)
    again = capaboost_vit.create_from_adapter(path, initial_checkpoint=tmp_path / "merged")
    assert torch.equal(again(X), model(X))
    assert str(tmp_path) not in json.dumps(capaboost_vit.read_header(path))  # whose folder it was is nobody's business


def test_what_is_detached_is_not_merged(tiny):
    model = detach(capaboost_vit.adapt(tiny(), "lora"))
    assert "merged" not in capaboost_vit.adapt(model, "lora").capaboost["base"]
