"""A run of IntLoRA merged into a folder of integers: the same bits, fewer bytes, and nobody takes it for plain."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import capaboost_vit
from capaboost_vit.cli import main
from capaboost_vit.core.integer_layer import IntegerLinear
from capaboost_vit.run import train
from capaboost_vit.vision.config import TrainConfig
from capaboost_vit.vision.evaluate import evaluate_images
from capaboost_vit.vision.hub_folder import INTEGERS
from capaboost_vit.vision.saved import merge_adapter, open_saved

TINY = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}


@pytest.fixture(scope="module")
def run(base, pictures, tmp_path_factory):
    """The folder of a run of IntLoRA."""
    output = tmp_path_factory.mktemp("integer runs") / "run"
    options = {"model": "vit_tiny_patch16_224", "model_kwargs": TINY, "initial_checkpoint": str(base), "img_size": 16}
    method = {"name": "intlora", "bits": 4}
    train(TrainConfig(**options, method=method, data=str(pictures), output=str(output), epochs=2, batch_size=16))
    return output


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    """The same, merged by the command."""
    output = tmp_path_factory.mktemp("integers") / "merged"
    assert main(["merge", str(run), "--format", "integers", "--output", str(output)]) == 0
    return output


@torch.no_grad()
def test_logits_are_those_of_the_run_to_the_bit(run, folder):
    images = torch.randn(4, 3, 16, 16)
    model = capaboost_vit.create_from_integers(folder)
    expected = open_saved(run).model(images)
    for opened in (model, open_saved(folder).model):
        assert torch.equal(opened(images), expected)
        assert {type(opened.blocks[0].attn.qkv), type(opened.blocks[0].attn.proj)} == {IntegerLinear}
        assert not opened.training
    cpu = torch.device("cpu")
    rows = [open_saved(path).for_logits(cpu, short_cuts=True)(images) for path in (run, folder)]
    assert torch.equal(*rows)


def test_it_is_evaluated_and_predicts_as_the_run_does(run, folder, pictures, tmp_path, capsys):
    scores = [evaluate_images(path, data=str(pictures), short_cuts=False) for path in (run, folder)]
    assert {key for key in scores[0] if scores[0][key] != scores[1][key]} <= {"model"}
    picture = str(pictures / "red" / "7.png")
    answers = []
    for path in (run, folder):
        assert main(["predict", str(path), picture]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]


def test_a_file_of_4_bits_has_a_byte_for_each_entry_and_a_step_for_each_row(run, folder, tmp_path):
    plain = load_file(merge_adapter(run, tmp_path / "plain.safetensors"))
    stored = load_file(folder / INTEGERS)
    weights = {name: tensor for name, tensor in stored.items() if tensor.dtype == torch.int8}
    assert list(weights) == ["blocks.0.attn.proj.weight", "blocks.0.attn.qkv.weight"]
    for name, weight in weights.items():
        step = stored[name.replace("weight", "step")]
        assert torch.equal(weight * step, plain[name])
    fewer = sum(tensor.nbytes for tensor in plain.values()) - sum(tensor.nbytes for tensor in stored.values())
    assert fewer == 3 * 4 * 16 * 16 - 4 * 4 * 16  # three bytes less for each entry, four more for each row


def test_nobody_takes_the_integers_for_plain_weights(folder, run, base, pictures, tmp_path):
    with pytest.raises(RuntimeError):
        timm.create_model(f"local-dir:{folder}", pretrained=True)
    again = ["--data", str(pictures), "--output", str(tmp_path / "again")]
    assert main(["train", "--model", str(folder), "--method.name", "lora", *again]) == 2
    assert "create_from_integers" in (folder / "README.md").read_text()


def test_what_cannot_be_written_or_read_is_one_line(run, folder, finished, tmp_path):
    with pytest.raises(ValueError, match="no layer with an integer update of its own: adapt with intlora, or merge"):
        merge_adapter(finished[0], tmp_path / "made", integers=True)
    with pytest.raises(ValueError, match="layers of integers are written as a folder: name one"):
        merge_adapter(run, tmp_path / "made.safetensors", integers=True)
    assert not (tmp_path / "made").exists()
    with pytest.raises(
        FileNotFoundError, match=f"no {INTEGERS} in .*: `capaboost merge RUN --format integers --output"
    ):
        capaboost_vit.create_from_integers(run)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_bytes((folder / "config.json").read_bytes())
    state = load_file(folder / INTEGERS)
    for left_out, text in (("blocks.0.attn.qkv.step", "of another architecture than this Vis"), ("", "cannot be used")):
        save_file({name: tensor for name, tensor in state.items() if left_out and name != left_out}, broken / INTEGERS)
        with pytest.raises(ValueError, match=text):
            capaboost_vit.create_from_integers(broken)
    config = json.loads((folder / "config.json").read_text())
    assert config["label_names"] == ["blue", "green", "red"]


def test_integers_of_more_than_16_bits_are_refused():
    with pytest.raises(ValueError, match="layers of integers have at most 16 bits, and 32768 is larger than 32767"):
        IntegerLinear(torch.tensor([[32768.0]]), torch.ones(1, 1), None)
