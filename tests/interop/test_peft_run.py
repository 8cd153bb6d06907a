"""`capaboost merge RUN --format peft` writes what PEFT loads on the run's base."""

from __future__ import annotations

import sys
import warnings

import pytest
import timm
import torch
from safetensors.torch import load_file

from capaboost_vit.cli import main
from capaboost_vit.nlu.saved import open_trained
from capaboost_vit.vision.saved import open_saved

peft = pytest.importorskip("peft")

TINY = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}


def command(capsys, *arguments):
    code = main(["merge", *map(str, arguments), "--format", "peft"])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_of_a_run_on_images(finished, base, tmp_path, capsys):
    run, _ = finished
    assert command(capsys, run, "--output", tmp_path / "peft") == (0, f"exported: {tmp_path / 'peft'}\n")
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=16, **TINY)
    load_base(model, base)
    theirs = peft.PeftModel.from_pretrained(model, str(tmp_path / "peft")).eval()
    images = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(theirs(images), open_saved(run).model(images), rtol=1e-4, atol=1e-5)


def load_base(model, base):
    """The weights that the run began with; its head is another one."""
    state = {name: tensor for name, tensor in load_file(base).items() if not name.startswith("head.")}
    assert model.load_state_dict(state, strict=False).unexpected_keys == []


@pytest.mark.usefixtures("without_pictures")
def test_of_a_run_on_texts_whose_base_peft_finds_by_itself(finished_text, tmp_path, capsys):
    run, _ = finished_text("opinions")
    assert command(capsys, run, "--output", tmp_path / "peft") == (0, f"exported: {tmp_path / 'peft'}\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        theirs = peft.AutoPeftModelForSequenceClassification.from_pretrained(str(tmp_path / "peft")).eval()
    words = {"input_ids": torch.tensor([[2, 7, 8, 9, 3]])}
    with torch.no_grad():
        found, wanted = theirs(**words).logits, open_trained(run)[0](**words).logits
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_mistakes_are_one_line(finished, tmp_path, capsys, monkeypatch):
    run, _ = finished
    (tmp_path / "taken" / "inside").mkdir(parents=True)
    for output, text in (("a.safetensors", "PEFT's format is a folder"), ("taken", "exists: choose another --output")):
        code, said = command(capsys, run, "--output", tmp_path / output)
        assert (code, said.count("\n")) == (2, 1)
        assert text in said
    monkeypatch.setitem(sys.modules, "peft", None)
    code, said = command(capsys, run, "--output", tmp_path / "peft")
    assert (code, said.count("\n")) == (2, 1)
    assert said.endswith("and peft is not installed: pip install 'capaboost_vit[peft]'\n")
