"""timm's scripts run with our names, unedited, and their checkpoints become adapter files.

The real ones run where CAPABOOST_TIMM_SCRIPTS names the folder of a checkout of pytorch-image-models; a stand-in of the
same shape (`timm_train.py`) runs everywhere.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from scored import counted
from timm.models import load_state_dict

import capaboost_vit
import capaboost_vit.timm
from capaboost_vit.cli import main
from capaboost_vit.vision.saved import open_saved

SIZES = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
KWARGS = [f"{name}={value}" for name, value in {**SIZES, "img_size": (16, 16), "rank": 2}.items()]
KWARGS = [word.replace(" ", "") for word in KWARGS]
MODEL = ["--model", "vit_tiny_capaboost_lora", "--num-classes", "3", "--model-kwargs", *KWARGS]


@pytest.fixture(autouse=True)
def _own_arguments(monkeypatch):
    monkeypatch.setattr(sys, "argv", [*sys.argv])
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "sibling", raising=False)


@pytest.fixture
def script(tmp_path):
    """The stand-in, in a folder of its own with what it imports from there."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    shutil.copy(Path(__file__).parent / "timm_train.py", folder / "train.py")
    (folder / "sibling.py").write_text("SEED = 3\n")
    return str(folder / "train.py")


@pytest.fixture
def base_weights(tmp_path):
    torch.manual_seed(1)
    path = tmp_path / "base.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224", num_classes=3, **SIZES).state_dict(), path)
    return path


def run(script, output, *arguments):
    """The checkpoint that was written last."""
    output.mkdir(exist_ok=True)
    capaboost_vit.timm.main([script, *MODEL, "--output", str(output), *map(str, arguments)])
    return output / "last.pth.tar"


def logits(model, size=16):
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        return model.eval()(images)


def test_a_checkpoint_becomes_the_adapter_file_of_the_model(script, base_weights, tmp_path, capsys):
    last = run(script, tmp_path / "out", "--initial-checkpoint", base_weights, "--mean", 0.1, 0.2, 0.3)
    adapter = tmp_path / "adapter.safetensors"
    assert main(["extract", str(last), "--output", str(adapter), "--class-names", "a", "b", "c"]) == 0
    assert f"written: {adapter}" in capsys.readouterr().out
    saved = open_saved(adapter, initial_checkpoint=str(base_weights))
    trained = timm.create_model("vit_tiny_capaboost_lora", num_classes=3, rank=2, **SIZES)
    trained.load_state_dict(load_state_dict(str(last), use_ema=False))
    assert torch.equal(logits(saved.model), logits(trained))
    assert saved.classes == ("a", "b", "c")
    assert saved.input["mean"] == [0.1, 0.2, 0.3]
    assert "blocks.0.attn.qkv.weight" not in load_file(adapter)
    assert adapter.stat().st_size < last.stat().st_size / 3


def test_the_average_is_taken_when_it_is_asked_for(script, base_weights, tmp_path, capsys):
    last = run(script, tmp_path / "out", "--initial-checkpoint", base_weights)
    capsys.readouterr()
    heads = {}
    for name, options in {"last": [], "average": ["--use-ema"]}.items():
        main(["extract", str(last), "--output", str(tmp_path / f"{name}.safetensors"), *options])
        heads[name] = load_file(tmp_path / f"{name}.safetensors")["head.weight"]
    assert capsys.readouterr().err == f"warning: {last} holds averaged weights too: --use-ema takes them\n"
    saved = torch.load(last, weights_only=False)
    assert torch.equal(heads["last"], saved["state_dict"]["head.weight"])
    assert torch.equal(heads["average"], saved["state_dict_ema"]["head.weight"])
    assert not torch.equal(heads["last"], heads["average"])


def test_training_goes_on_from_a_checkpoint_to_the_same_bits(script, tmp_path):
    whole = run(script, tmp_path / "whole", "--epochs", 4, "--layer-decay", 0.7)
    half = run(script, tmp_path / "half", "--epochs", 2, "--layer-decay", 0.7)
    rest = run(script, tmp_path / "rest", "--epochs", 4, "--layer-decay", 0.7, "--resume", half)
    wanted, found = (torch.load(path, weights_only=False) for path in (whole, rest))
    for key in ("state_dict", "state_dict_ema"):
        assert all(torch.equal(found[key][name], tensor) for name, tensor in wanted[key].items())


def test_the_module_runs_a_script_as_python_does(ready, script, tmp_path):
    code = "import runpy; runpy.run_module('capaboost_vit.timm', run_name='__main__', alter_sys=True)"
    (tmp_path / "out").mkdir()
    arguments = [script, *MODEL, "--output", str(tmp_path / "out"), "--epochs", "1"]
    done = ready.run(["python", "-c", code, *arguments], package=False, check=True, cwd=tmp_path)
    assert done.stdout.startswith("epoch 0 loss ")
    assert (tmp_path / "out" / "last.pth.tar").is_file()


def test_device_modules_register_the_names_too(ready, script, tmp_path):
    (tmp_path / "out").mkdir()
    options = ["--device-modules", "capaboost_vit", "--output", str(tmp_path / "out"), "--epochs", "1"]
    ready.run(["python", script, *MODEL, *options], package=False, check=True)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "which script?"),
        (["--model", "x"], "which script?"),
        (["trian.py"], "no script trian.py: python -m capaboost_vit.timm SCRIPT ARGUMENTS"),
    ],
)
def test_a_script_that_is_not_there_is_one_line(arguments, text):
    with pytest.raises(SystemExit, match=text.replace("?", r"\?")) as stop:
        capaboost_vit.timm.main(arguments)
    assert "\n" not in str(stop.value)


# checkpoints that no adapter file can be made of


class _Evil:
    def __reduce__(self):
        return (os.system, ("touch canary",))


def _checkpoint(path, **changes):
    """As train.py would write one, with other arguments or values."""
    model = timm.create_model("vit_tiny_capaboost_lora", num_classes=3, rank=2, **SIZES)
    args = {"model": "vit_tiny_capaboost_lora", "num_classes": 3, "model_kwargs": {**SIZES, "rank": 2}}
    args |= changes.pop("args", {})
    torch.save({"state_dict": model.state_dict(), "args": argparse.Namespace(**args), **changes}, path)


@pytest.mark.parametrize(
    ("changes", "options", "text"),
    [
        ({"args": {"model": "vit_tiny_patch16_224"}}, [], "is of vit_tiny_patch16_224, which carries no branches"),
        ({"args": {"model": "vit_tiny_capaboost_lorra"}}, [], "(did you mean 'vit_tiny_capaboost_lora'?)"),
        ({"args": {"num_classes": 4}}, [], "does not hold the weights of its vit_tiny_capaboost_lora"),
        ({"args": {"model_kwargs": {"img_size": (10**9,) * 2}}}, [], "model_args has the number 1000000000, beyond"),
        ({"args": {"model_kwargs": {"depth": 10**4}}}, [], "too large to be right"),
        ({"args": {"model_kwargs": {"checkpoint_path": "x"}}}, [], "asks to load other files (checkpoint_path)"),
        ({"args": {"model_kwargs": {"rnak": 3}}}, [], "timm cannot build vit_tiny_capaboost_lora as"),
        ({"args": _Evil()}, [], "holds no arguments"),
        ({"more": _Evil()}, [], "safely: Weights only load failed"),
        ({"state_dict": None}, [], "holds no state_dict: it is no whole checkpoint"),
        ({}, ["--use-ema"], "holds no state_dict_ema: leave --use-ema out"),
        ({}, ["--class-names", "a"], "--class-names are 1, and the model has 3 classes"),
        ({}, ["--output", "adapter.pth"], "--output adapter.pth: name a .safetensors file"),
        ({}, ["--output", "taken.safetensors"], "taken.safetensors exists: choose another --output"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_one_line(changes, options, text, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("taken.safetensors").touch()
    if isinstance(changes.get("args"), _Evil):
        torch.save({"state_dict": {}}, "c.pth.tar")
    else:
        _checkpoint("c.pth.tar", **changes)
    output = [] if "--output" in options else ["--output", "adapter.safetensors"]
    assert main(["extract", "c.pth.tar", *output, *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("capaboost extract: error: ")
    assert text in error
    assert error.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"taken.safetensors", "c.pth.tar"}


def test_random_base_weights_are_said_to_be_lost(tmp_path, capsys):
    _checkpoint(tmp_path / "c.pth.tar")
    assert main(["extract", str(tmp_path / "c.pth.tar"), "--output", str(tmp_path / "a.safetensors")]) == 0
    assert "was trained on random base weights" in capsys.readouterr().err


# the real scripts


@pytest.fixture(scope="module")
def scripts():
    folder = os.environ.get("CAPABOOST_TIMM_SCRIPTS")
    if folder is None or not Path(folder, "train.py").is_file():
        pytest.skip("CAPABOOST_TIMM_SCRIPTS does not name a checkout of pytorch-image-models")
    return Path(folder)


@pytest.fixture
def images(tmp_path):
    for split, count in (("train", 4), ("validation", 2)):
        for label in range(3):
            (tmp_path / "data" / split / f"c{label}").mkdir(parents=True)
            for i in range(count):
                pixels = np.random.RandomState(i).randint(0, 90, (20, 20, 3), dtype=np.uint8)
                pixels[..., label] += 100
                Image.fromarray(pixels).save(tmp_path / "data" / split / f"c{label}" / f"{label}{i}.png")
    return tmp_path / "data"


@pytest.mark.slow
def test_timms_own_scripts_train_go_on_validate_infer_and_export(ready, scripts, images, base_weights, tmp_path):
    pytest.importorskip("onnx")
    code = "import runpy; runpy.run_module('capaboost_vit.timm', run_name='__main__', alter_sys=True)"

    def call(name, *arguments):
        command = ["python", "-c", code, str(scripts / name), *map(str, arguments)]
        return ready.run(command, package=False, check=True, cwd=tmp_path)

    common = ["--img-size", 16, "--workers", 0, "--device", "cpu", "--batch-size", 6, *MODEL]
    training = ["--opt", "adamw", "--lr", 1e-2, "--output", tmp_path / "out", "--model-ema", "--model-ema-decay", 0.5]
    start = ["--pretrained", "--pretrained-path", base_weights]
    call("train.py", images, *common, *training, *start, "--epochs", 1, "--experiment", "a")
    last = tmp_path / "out" / "a" / "last.pth.tar"
    call("train.py", images, *common, *training, *start, "--epochs", 2, "--experiment", "b", "--resume", last)
    last = tmp_path / "out" / "b" / "last.pth.tar"
    assert torch.load(last, weights_only=False)["epoch"] == 1
    adapter = tmp_path / "adapter.safetensors"
    assert main(["extract", str(last), "--output", str(adapter), "--class-names", "c0", "c1", "c2"]) == 0
    done = call("validate.py", images / "validation", *common, "--checkpoint", last)
    scores = json.loads(done.stdout.partition("--result\n")[2])
    data = {"data": str(images), "split": "val", "initial_checkpoint": str(base_weights)}
    right, total = counted(adapter, **data)
    assert scores["top1"] == pytest.approx(100 * right / total, abs=0.01)
    call("inference.py", images / "validation", *common, "--checkpoint", last, "--results-dir", tmp_path / "inferred")
    assert len((tmp_path / "inferred" / "vit_tiny_capaboost_lora-16.csv").read_text().splitlines()) == 7
    trained = timm.create_model("vit_tiny_capaboost_lora", num_classes=3, rank=2, checkpoint_path=str(last), **SIZES)
    capaboost_vit.save_for_hf(trained, tmp_path / "folder")  # onnx_export.py knows no --model-kwargs
    call("onnx_export.py", "model.onnx", "--model", f"local-dir:{tmp_path / 'folder'}", "--img-size", 16, "--dynamo")
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"))
    image = torch.randn(1, 3, 16, 16)
    (found,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), trained.eval()(image), rtol=1e-4, atol=1e-4)
