"""Folders of timm models that transformers opens: merged runs, and models of registered names with their branches."""

from __future__ import annotations

import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_input_data_config

import capaboost_vit
from capaboost_vit.cli import main
from capaboost_vit.run import train
from capaboost_vit.vision.config import TrainConfig
from capaboost_vit.vision.saved import open_saved

transformers = pytest.importorskip("transformers")
SMALL = {"img_size": 32, "embed_dim": 48, "depth": 2, "num_classes": 3}
LORA = {"rank": 2, "num_branches": 2}


def trained(name="vit_tiny_capaboost_lora", **options):
    """As if trained: nothing that is zero at the start is so any more."""
    torch.manual_seed(0)
    model = timm.create_model(name, **SMALL, **options).eval()
    for parameter in (p for p in model.parameters() if p.requires_grad):
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def picture(width=50, height=40):
    return Image.fromarray(np.random.RandomState(0).randint(0, 255, (height, width, 3), dtype=np.uint8))


def theirs(folder, image):
    """(pixels, logits, class names) as transformers makes them of a folder."""
    model = transformers.AutoModelForImageClassification.from_pretrained(folder)
    pixels = transformers.AutoImageProcessor.from_pretrained(folder)(image)["pixel_values"]
    with torch.no_grad():
        return pixels, model(pixels).logits, model.config.id2label


def assert_same(folder, model, data_config, names):
    """timm, transformers and the pipeline say of a folder what the model says."""
    pixels, logits, labels = theirs(folder, picture())
    assert list(labels.values()) == names
    assert torch.equal(pixels[0], create_transform(**data_config)(picture()))
    with torch.no_grad():
        torch.testing.assert_close(logits, model(pixels), rtol=0, atol=1e-5)
        of_timm = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        torch.testing.assert_close(of_timm(pixels), model(pixels), rtol=0, atol=1e-5)
    found = transformers.pipeline("image-classification", model=str(folder))(picture())
    wanted = dict(zip(names, logits.softmax(-1)[0].tolist(), strict=True))
    assert {row["label"]: row["score"] for row in found} == pytest.approx(wanted, abs=1e-5)


def test_a_merged_run_opens_in_transformers_with_its_labels_and_in_timm(finished, tmp_path, capsys):
    run, _ = finished
    assert main(["merge", str(run), "--output", str(tmp_path / "merged")]) == 0
    saved = open_saved(run)
    assert_same(tmp_path / "merged", saved.model, saved.input, ["blue", "green", "red"])


@pytest.mark.parametrize("method", ["lora", "adapter", "prefix"])
def test_a_registered_name_opens_in_transformers_with_its_branches(tmp_path, method):
    options = LORA if method == "lora" else {}
    model = trained(f"vit_tiny_capaboost_{method}", **options)
    capaboost_vit.save_for_hf(model, tmp_path / "made", class_names=["a", "b", "c"])
    assert_same(tmp_path / "made", model, resolve_input_data_config(model), ["a", "b", "c"])


def test_without_names_the_labels_are_transformers_own(tmp_path):
    folder = capaboost_vit.save_for_hf(capaboost_vit.merge(trained(**LORA)), tmp_path / "merged")
    assert list(theirs(folder, picture())[2].values()) == ["LABEL_0", "LABEL_1", "LABEL_2"]


def test_the_number_of_classes_stands_once():
    """What transformers passes beside `model_args`: if it does so no longer, nothing need be taken out."""
    config = transformers.TimmWrapperConfig(architecture="test_vit", num_labels=3, model_args={"num_classes": 3})
    with pytest.raises(TypeError, match="multiple values for keyword argument 'num_classes'"):
        transformers.TimmWrapperForImageClassification(config)


def test_a_wrapper_is_built_of_a_registered_name_and_trains_branches_and_head():
    config = transformers.TimmWrapperConfig(
        architecture="vit_tiny_capaboost_lora", num_labels=3, model_args={"img_size": 32, "depth": 2, **LORA}
    )
    model = transformers.TimmWrapperForImageClassification(config)
    learning = {name.removeprefix("timm_model.") for name, p in model.named_parameters() if p.requires_grad}
    plain = timm.create_model("vit_tiny_capaboost_lora", img_size=32, depth=2, num_classes=3, **LORA)
    assert learning == {name for name, p in plain.named_parameters() if p.requires_grad}
    model(torch.zeros(2, 3, 32, 32), labels=torch.tensor([0, 1])).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_from_pretrained_trains_everything_until_it_is_marked_again(tmp_path):
    """If transformers keeps what is frozen one day, `mark_trainable` is not needed any more."""
    capaboost_vit.save_for_hf(trained(**LORA), tmp_path / "made")
    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "made")
    assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(ValueError, match=r"not those of lora alone .* capaboost_vit\.mark_trainable\(model\) first"):
        capaboost_vit.param_groups(model, 1e-3)
    capaboost_vit.mark_trainable(model)
    learning = {name for name, p in model.timm_model.named_parameters() if p.requires_grad}
    assert learning == {name for name, p in trained(**LORA).named_parameters() if p.requires_grad}
    capaboost_vit.param_groups(model, 1e-3)


def test_what_no_name_stands_for_is_refused_in_one_line(tmp_path):
    by_hand = capaboost_vit.adapt(timm.create_model("test_vit", num_classes=3), "lora")
    with pytest.raises(ValueError, match=r"would build a plain test_vit from this folder: merge\(model\) first"):
        capaboost_vit.save_for_hf(by_hand, tmp_path / "made")
    with pytest.raises(ValueError, match="a Linear is no model of timm, whose folder this is"):
        capaboost_vit.save_for_hf(torch.nn.Linear(2, 2), tmp_path / "made")
    assert not list(tmp_path.iterdir())


@pytest.mark.realdata
@pytest.mark.slow
def test_of_a_run_on_eurosat_with_the_real_vit_tiny(real_data, vit_tiny_weights, tmp_path):
    config = TrainConfig(
        model="vit_tiny_capaboost_lora",
        initial_checkpoint=str(vit_tiny_weights),
        data=str(real_data / "eurosat_vtab1k"),
        output=str(tmp_path / "run"),
        img_size=64,
        max_steps=4,
        batch_size=16,
    )
    train(config)
    assert main(["merge", str(tmp_path / "run"), "--output", str(tmp_path / "merged")]) == 0
    saved = open_saved(tmp_path / "run")
    names = json.loads((tmp_path / "merged" / "config.json").read_text())["label_names"]
    assert_same_top(tmp_path / "merged", saved, names)


def assert_same_top(folder, saved, names):
    """Of ten classes the pipeline gives out five."""
    pixels, logits, labels = theirs(folder, picture(64, 64))
    assert list(labels.values()) == names == list(saved.classes)
    assert len(names) == 10
    with torch.no_grad():
        wanted = saved.model(pixels)
        torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-5 * wanted.abs().max().item())
    found = transformers.pipeline("image-classification", model=str(folder))(picture(64, 64))
    assert [row["label"] for row in found] == [names[i] for i in logits[0].argsort(descending=True)[:5]]
