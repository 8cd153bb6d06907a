"""Models are exported as ONNX and as torch.export programs that compute what the adapted model computes."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from zipfile import ZipFile

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import capaboost_vit
from capaboost_vit.cli import main
from capaboost_vit.interop import export as exporting
from capaboost_vit.methods import METHODS
from capaboost_vit.training.saved import ModelSource
from capaboost_vit.vision.weights import load_base_weights

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SIZES = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 3}


def _adapted(method, **options):
    torch.manual_seed(0)
    model = capaboost_vit.adapt(timm.create_model("vit_tiny_patch16_224", **SIZES), method, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def _run(path, images):
    if path.suffix == ".pt2":
        return torch.export.load(path).module()(images).detach()
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"image": images.numpy()})[0])


def _check(method, format, path, **options):
    model = _adapted(method, **options)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    lines = []
    capaboost_vit.export(model, path, format=format, class_names=("a", "b", "c"), note=lines.append)
    assert len(lines) == 1
    assert lines[0].startswith("checked: 8 images of random numbers in ")
    for size in (1, 5):
        images = torch.randn(size, 3, 16, 16)
        expected = model(images).detach()
        torch.testing.assert_close(_run(path, images), expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    beside = json.loads(path.with_suffix(".json").read_text())
    assert (beside["input_size"], beside["labels"]) == ([3, 16, 16], ["a", "b", "c"])
    assert {"mean", "std", "interpolation", "crop_pct", "crop_mode"} <= beside.keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_onnx_of_any_batch_size_computes_the_merged_model(tmp_path):
    _check("lora", "onnx", tmp_path / "model.onnx", num_branches=2)
    stored = {tensor.name for tensor in onnx.load(tmp_path / "model.onnx").graph.initializer}
    plain = timm.create_model("vit_tiny_patch16_224", **SIZES).state_dict().keys()
    assert "head.weight" in stored
    assert not stored & (_adapted("lora").state_dict().keys() - plain)


@pytest.mark.parametrize("method", ["lora", "adapter", "prefix", "prompt"])
def test_programs_of_any_batch_size_compute_the_model(tmp_path, method):
    _check(method, "torch-export", tmp_path / "model.pt2")


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_exported_as_onnx(tmp_path, method):
    options = {"parts": ("lora", "adapter")} if method == "unipelt" else {}
    _check(method, "onnx", tmp_path / "model.onnx", **options)


def test_command_compares_on_pictures_of_the_run_or_given_ones(finished, pictures, tmp_path, capsys):
    folder, path = str(finished[0]), tmp_path / "model.pt2"
    assert main(["export", folder, "--format", "torch-export", "--output", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("checked: 6 pictures in torch.export.load, at most ")
    assert lines[1] == f"exported: {path}, model.json beside it"
    beside = json.loads((tmp_path / "model.json").read_text())
    assert beside["labels"] == ["blue", "green", "red"]
    image = pictures / "red" / "0.png"
    values = np.asarray(Image.open(image).resize((16, 16), Image.Resampling.BICUBIC), np.float32) / 255
    x = torch.from_numpy((values - beside["mean"]) / beside["std"]).permute(2, 0, 1)[None].float()
    assert beside["labels"][_run(path, x).argmax()] == "red"
    again = str(tmp_path / "again.pt2")
    assert main(["export", folder, "--format", "torch-export", "--output", again, "--images", str(image)]) == 0
    assert "checked: 1 pictures" in capsys.readouterr().out


def test_a_file_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "merge", lambda model, inplace: model.blocks.append(torch.nn.ReLU()) and model)
    with pytest.raises(
        ValueError, match=r"would compute other logits than the model: they differ by .* of the largest"
    ):
        capaboost_vit.export(_adapted("lora"), tmp_path / "model.pt2", format="torch-export")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_told_in_one_line(tmp_path, monkeypatch):
    model = _adapted("lora")
    for path, format, text in [
        ("model.pt2", "onnx", r"ends in \.onnx$"),
        ("model.onnx", "torchscript", "format must be one of onnx, torch-export, got 'torchscript'"),
        ("model.onnx", "openvino-ready", "OpenVINO reads the file of format onnx as it is, say onnx"),
    ]:
        with pytest.raises(ValueError, match=text):
            capaboost_vit.export(model, tmp_path / path, format=format)
    with pytest.raises(ValueError, match="a Linear does not say its input size: give export images="):
        capaboost_vit.export(torch.nn.Linear(2, 2), tmp_path / "model.pt2", format="torch-export")

    class Branching(torch.nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match="torch cannot trace this Branching as torch-export: "):
        capaboost_vit.export(Branching(), tmp_path / "model.pt2", format="torch-export", images=torch.ones(2, 3, 4, 4))
    (tmp_path / "model.json").touch()
    with pytest.raises(FileExistsError, match=r"model\.json exists: choose another name"):
        capaboost_vit.export(model, tmp_path / "model.onnx")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'capaboost_vit\[export\]'"):
        capaboost_vit.export(model, tmp_path / "other.onnx")


def test_models_on_texts_are_refused(tmp_path):
    file = SimpleNamespace(header={"text": {}})
    with pytest.raises(ValueError, match="is of a model on texts, export is for images: `capaboost merge` writes"):
        exporting.export_run(ModelSource(tmp_path / "adapter.safetensors", file, {}), tmp_path / "model.onnx")


@pytest.mark.slow
@pytest.mark.realdata
def test_onnx_of_real_weights_on_real_pictures(real_data, vit_tiny_weights, tmp_path):
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=10)
    load_base_weights(model, vit_tiny_weights)
    capaboost_vit.adapt(model, "lora", num_branches=2)
    with torch.no_grad():
        for branch in capaboost_vit.branches(model).values():
            for parameter in branch.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
    adapter = capaboost_vit.save_adapter(model, tmp_path / "adapter.safetensors")
    with ZipFile(real_data / "eurosat_vtab1k" / "images.zip") as archive:
        archive.extractall(tmp_path / "pictures", archive.namelist()[::400])
    lines = []
    options = {"images": [tmp_path / "pictures"], "initial_checkpoint": str(vit_tiny_weights), "note": lines.append}
    exporting.export_run(adapter, tmp_path / "model.onnx", **options)
    assert lines[0].startswith("checked: 16 pictures in onnxruntime ")
