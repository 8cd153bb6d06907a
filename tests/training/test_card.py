"""README.md of a run folder and of a merged one: metadata that a hub reads, scores, curve, and code that runs."""

from __future__ import annotations

import pytest
import torch
import yaml

import capaboost_vit
from capaboost_vit.training.card import model_card, write_card
from capaboost_vit.vision.saved import merge_adapter

HEADER = {"base": {"architecture": "vit_tiny_patch16_224", "tag": "augreg_in21k_ft_in1k", "fingerprint": "ab"}}
HEADER |= {"methods": [{"method": "lora"}], "class_names": ["cat", "two\nlines"]}


def _metadata(text):
    _, front, rest = text.split("---\n", 2)
    return yaml.safe_load(front), rest


def _code(text):
    return text.split("```python\n")[1].split("```")[0]


def test_card_of_a_run_says_what_it_is_and_how_to_load_it(finished, base):
    folder, result = finished
    metadata, text = _metadata((folder / "README.md").read_text())
    assert metadata == {
        "library_name": "timm",
        "tags": ["image-classification", "capaboost", "lora"],
        "metrics": ["accuracy"],
    }
    assert f"| test_accuracy | {result['test_accuracy']:.2f} |" in text
    assert "![learning curve](learning_curve.png)" in text
    assert "Classes: blue, green, red." in text
    assert result["data"]["splits"]["train"]["sha256"] in text
    assert capaboost_vit.read_header(folder / "adapter.safetensors")["base"]["fingerprint"] in text
    code = (
        _code(text)
        .replace("FOLDER/", f"{folder}/")
        .replace('safetensors")', f'safetensors", initial_checkpoint="{base}")')
    )
    names = {}
    exec(code, names)
    assert names["model"].num_classes == 3


def test_card_of_a_merged_folder_has_the_run_s_scores_and_curve(finished, tmp_path):
    folder, result = finished
    output = merge_adapter(folder, tmp_path / "merged")
    metadata, text = _metadata((output / "README.md").read_text())
    assert metadata["library_name"] == "timm"
    assert f"| test_accuracy | {result['test_accuracy']:.2f} |" in text
    assert (output / "learning_curve.png").read_bytes() == (folder / "learning_curve.png").read_bytes()
    names = {}
    exec(_code(text).replace("FOLDER", str(output)), names)
    assert names["model"](torch.zeros(1, 3, 16, 16)).shape == (1, 3)


@pytest.mark.parametrize("from_hub", [True, False])
def test_base_and_licence_stand_in_the_card_where_the_weights_came_from_the_hub(from_hub):
    config = {"pretrained": True, "initial_checkpoint": None if from_hub else "w.safetensors"}
    result = {"config": config, "data": {"spec": "owner/name", "classes": 2}}
    metadata, text = _metadata(model_card(HEADER, result, merged=False, has_curve=False))
    known = {"base_model": "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k", "license": "apache-2.0"}
    assert {name: metadata[name] for name in known if name in metadata} == (known if from_hub else {})
    assert metadata["datasets"] == ["owner/name"]
    assert "two\nlines" not in text
    assert "learning curve" not in text


def test_card_of_a_run_on_texts(finished_text):
    folder, _ = finished_text("opinions")
    metadata, text = _metadata((folder / "README.md").read_text())
    assert (metadata["library_name"], metadata["metrics"]) == ("transformers", ["accuracy", "macro_f1"])
    assert "capaboost train-text --config config.yaml" in text


def test_somebody_s_own_readme_stays_and_ours_is_renewed(tmp_path):
    write_card(tmp_path, HEADER, {})
    write_card(tmp_path, HEADER, {"test_accuracy": 50.0})
    assert "| test_accuracy | 50.00 |" in (tmp_path / "README.md").read_text()
    (tmp_path / "README.md").write_text("mine")
    write_card(tmp_path, HEADER, {})
    assert (tmp_path / "README.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("task", "tags", "said"),
    [
        ("multi-label", ["image-classification", "capaboost", "lora"], "- data: `mine`, 2 tags"),
        ("regression", ["capaboost", "lora"], "- data: `mine`, numbers"),
    ],
)
def test_card_of_tags_and_numbers_calls_them_so(task, tags, said):
    result = {"data": {"spec": "mine", "classes": 2 if task == "multi-label" else 0}}
    metadata, text = _metadata(model_card({**HEADER, "input": {"task": task}}, result, merged=False, has_curve=False))
    assert metadata["tags"] == tags
    assert said in text
    assert task == "regression" or "Tags: cat" in text
