"""A finished run or an adapter file is evaluated and merged into what it was when it was trained."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from scored import counted
from torch import nn

import capaboost_vit
from capaboost_vit import METHODS
from capaboost_vit.core.inject import wrappers
from capaboost_vit.core.merge import unmergeable
from capaboost_vit.core.wrapper import unwrap
from capaboost_vit.methods.adapter_file import read_adapter_file
from capaboost_vit.run import train
from capaboost_vit.vision.class_row import FirstRowsBlock
from capaboost_vit.vision.data import open_data
from capaboost_vit.vision.evaluate import evaluate_images
from capaboost_vit.vision.predict import Prediction, predict_images, write_predictions
from capaboost_vit.vision.saved import merge_adapter, open_saved

CLASSES = ("blue", "green", "red")
SWIN_NAME = "swin_tiny_patch4_window7_224"
SWIN = {"embed_dim": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 2], "drop_path_rate": 0.0}
SMALL = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}


@pytest.fixture(scope="module")
def folder(finished, tmp_path_factory):
    """The same run, merged into a folder in timm's hub format."""
    return merge_adapter(finished[0], tmp_path_factory.mktemp("timm models") / "my model")


def tensors(folder):
    return load_file(Path(folder) / "adapter.safetensors")


def accuracy_by_hand(model, names, labels):
    """Right answers, one picture at a time, with timm's own transform."""
    transform = timm.data.create_transform(**timm.data.resolve_data_config({"img_size": 16}, model=model))
    model.eval()
    with torch.no_grad():
        answers = [model(transform(Image.open(name).convert("RGB"))[None]).argmax().item() for name in names]
    return sum(answer == label for answer, label in zip(answers, labels, strict=True))


# evaluation


def test_the_stored_adapter_has_the_accuracy_of_the_result_by_hand_too(finished, base, pictures):
    folder, result = finished
    model = capaboost_vit.create_from_adapter(folder / "adapter.safetensors", initial_checkpoint=base)
    split = open_data(str(pictures)).split("test")
    assert accuracy_by_hand(model, map(split.locate, split.names), split.labels) == result["test_right"]


@pytest.mark.parametrize(("split", "total"), [("test", 6), ("val", 6), ("train", 48)])
@pytest.mark.parametrize("batch_size", [4, 256])
def test_every_split_can_be_evaluated_in_any_batches(finished, split, total, batch_size):
    folder, result = finished
    right, images = counted(folder, split=split, batch_size=batch_size, device="cpu")
    assert images == total
    if split == "test":
        assert right == result["test_right"]
    if split == "val":
        assert 100 * right / images == result["val_accuracy"]


def test_an_adapter_file_alone_needs_data_and_base_weights(finished, base, pictures, tmp_path):
    folder, result = finished
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes((folder / "adapter.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"alone\.safetensors is not in a run folder: say --data"):
        counted(alone, initial_checkpoint=str(base))
    found = counted(alone, data=str(pictures), initial_checkpoint=str(base))
    assert found == (result["test_right"], 6)


def test_labels_of_another_task_are_named(finished, monkeypatch):
    numbers = replace(open_data("digits"), task="regression")
    monkeypatch.setattr("capaboost_vit.vision.evaluate.open_configured", lambda options: numbers)
    with pytest.raises(ValueError, match=r"the labels of digits are for regression, and .* is for classification"):
        evaluate_images(finished[0], data="digits")


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"split": "tset"}, ValueError, "has no split 'tset'; it has: train, val, test"),
        ({"data": "digits"}, ValueError, "digits has the label 9, the model only 3 classes, from 0 on"),
        ({"data": "nowhere"}, FileNotFoundError, "no data at 'nowhere'"),
        ({"initial_checkpoint": "gone.pth"}, FileNotFoundError, "no weights at gone.pth"),
        ({"device": "gpu"}, ValueError, "--device gpu: "),
    ],
)
def test_an_evaluation_that_cannot_be_is_named(finished, options, error, text):
    with pytest.raises(error, match=text):
        counted(finished[0], **options)


@pytest.mark.parametrize(
    "verb",
    [
        counted,
        lambda path: merge_adapter(path, path / "out.safetensors"),
        lambda path: predict_images(path, [__file__]),
    ],
)
def test_a_folder_without_an_adapter_is_named(tmp_path, verb):
    with pytest.raises(FileNotFoundError, match=r"no adapter file at .*adapter\.safetensors"):
        verb(tmp_path)


def test_an_adapter_of_random_base_weights_cannot_be_evaluated(configure, tmp_path):
    train(configure(initial_checkpoint=None, epochs=1))
    with pytest.raises(ValueError, match="were random, and are not stored: train with --pretrained"):
        counted(tmp_path / "a run")


def test_a_timm_folder_is_evaluated_like_the_run_that_it_was_merged_from(finished, folder, pictures):
    assert counted(folder, data=str(pictures)) == (finished[1]["test_right"], 6)
    with pytest.raises(ValueError, match="is not in a run folder: say --data"):
        counted(folder)


def split_folders(root, names, size=20):
    """train/ and test/ with one picture, two pictures, ... of each class."""
    for part in ("train", "test"):
        for count, name in enumerate(names, start=1):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (size, size), (40 * count, 90, 30)).save(root / part / name / f"{i}.png")
    return str(root)


def one_answer(folder, classes, answer, names=()):
    """A folder in timm's hub format whose model gives every picture the same class."""
    model = timm.create_model("test_vit", num_classes=classes)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()[answer] = 1
    timm.models.save_for_hf(model, str(folder), {"label_names": list(names)} if names else {}, safe_serialization=True)
    return folder


@pytest.mark.parametrize(("classes", "subset"), [(1000, "imagenet-1k"), (11821, "imagenet-12k")])
def test_folders_of_imagenet_are_matched_by_timms_own_index(tmp_path, classes, subset):
    index = timm.data.ImageNetInfo(subset).label_names()
    names = ("n01440764", "n02123045", "n07753592")  # tench, tabby, banana
    assert names != tuple(index[:3])
    data = split_folders(tmp_path / "data", names)
    for count, name in enumerate(names, start=1):
        model = one_answer(tmp_path / name, classes, index.index(name))
        assert counted(model, data=data) == (count, 6)


def test_wordnet_names_that_the_subset_lacks_and_other_names_are_unknown(tmp_path):
    model = one_answer(tmp_path / "m", 1000, 0)
    for names in (("n01440764", "n99999999"), ("blue", "red")):
        data = split_folders(tmp_path / names[1], names)
        text = rf"names its classes \({names[0]!r}, ...\), this model with 1000 outputs does not: store them, "
        with pytest.raises(ValueError, match=text):
            counted(model, data=data)


def test_names_that_a_timm_folder_has_win_and_classes_may_be_fewer(tmp_path):
    model = one_answer(tmp_path / "m", 1000, 7, [f"n{i:08}" for i in range(1000)])
    assert counted(model, data=split_folders(tmp_path / "a", ("n00000003", "n00000007"))) == (2, 3)
    with pytest.raises(ValueError, match=r"class 'n01440764' of .* is none of the model's 1000"):
        counted(model, data=split_folders(tmp_path / "b", ("n00000003", "n01440764")))
    twice = one_answer(tmp_path / "twice", 3, 0, ["crane", "tabby", "crane"])
    with pytest.raises(ValueError, match="several classes 'crane'"):
        counted(twice, data=split_folders(tmp_path / "c", ("crane", "tabby")))


def test_folders_with_numbers_for_names_mean_the_outputs_of_these_numbers(tmp_path):
    data = split_folders(tmp_path / "data", ("0", "10", "2"))  # as text 10 comes before 2
    for number, right in ((0, 1), (10, 2), (2, 3), (1, 0)):
        assert counted(one_answer(tmp_path / f"m{number}", 11, number), data=data) == (right, 6)
    with pytest.raises(ValueError, match="has the label 10, the model only 10 classes, from 0 on"):
        counted(one_answer(tmp_path / "small", 10, 0), data=data)


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan"), 1e300, 1e-300, "wide"])
def test_a_scaling_of_images_that_is_not_finite_is_refused(tmp_path, std):
    folder = one_answer(tmp_path / "m", 3, 0)
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"]["std"] = [0.5, std, 0.5]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match=r"m: no image can be scaled with mean \(?\[?0.*, std .*: they must be finite in"
    ):
        predict_images(folder, [white(tmp_path / "x.png")])


def test_a_model_that_refuses_its_own_input_size_is_named(tmp_path):
    folder = one_answer(tmp_path / "m", 3, 0)
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"] |= {"input_size": [3, 33, 33], "fixed_input_size": False}
    (folder / "config.json").write_text(json.dumps(config))
    text = r"the model in .*m takes no images of its input_size \(3, 33, 33\): Input height \(33\) should be divisible"
    with pytest.raises(ValueError, match=text):
        predict_images(folder, [white(tmp_path / "x.png")])


def test_outputs_that_are_not_finite_are_neither_predictions_nor_counted_nor_merged(finished, base, tmp_path):
    data = split_folders(tmp_path / "data", ("0", "1"))
    model = timm.create_model("test_vit", num_classes=2)
    with torch.no_grad():
        model.head.bias[1] = float("inf")
    timm.models.save_for_hf(model, str(tmp_path / "m"), safe_serialization=True)
    with pytest.raises(FloatingPointError, match=r"not finite for 3 of 3 images \(test/0/0\.png, test/1/0\.png, "):
        counted(tmp_path / "m", data=data)
    pictures = [tmp_path / "data" / "test" / "1" / f"{i}.png" for i in range(2)]
    with pytest.raises(FloatingPointError, match=r"not finite for 2 of 2 pictures \(.*/0\.png, .*/1\.png\)"):
        predict_images(tmp_path / "m", pictures)
    broken = capaboost_vit.create_from_adapter(finished[0] / "adapter.safetensors", initial_checkpoint=base)
    with torch.no_grad():
        for branch in capaboost_vit.branches(broken).values():
            for parameter in branch.parameters():
                parameter.fill_(3e38)
    path = capaboost_vit.save_adapter(broken, tmp_path / "broken.safetensors")
    with pytest.raises(FloatingPointError, match=r"blocks\.0\.attn\.qkv\.weight of the merged model is not finite"):
        merge_adapter(path, tmp_path / "made", initial_checkpoint=str(base))
    assert not (tmp_path / "made").exists()


def test_classes_are_matched_by_their_names_whatever_their_number(finished, pictures, tmp_path):
    expected = 0
    for part in ("train", "test"):
        for name in ("red", "green"):  # the model has blue, green, red
            (tmp_path / part).mkdir(exist_ok=True)
            (tmp_path / part / name).symlink_to(pictures / name)
    for name in ("red", "green"):
        found = predict_images(finished[0], [pictures / name], top=1)
        expected += sum(prediction.classes == (name,) for prediction in found)
    assert expected > 20
    assert counted(finished[0], data=str(tmp_path)) == (expected, 40)


@pytest.mark.parametrize("names", [("blue", "reed", "green"), ("0 blue", "red")], ids=" ".join)
def test_pictures_of_other_classes_are_not_counted(finished, pictures, tmp_path, names):
    for part in ("train", "test"):
        for name in names:
            (tmp_path / part).mkdir(exist_ok=True)
            (tmp_path / part / name).symlink_to(pictures / "red")
    with pytest.raises(ValueError, match=r"class '(0 blue|reed)' of .* is none of the model's 3 .*blue, green, red"):
        counted(finished[0], data=str(tmp_path))


def test_lists_without_names_of_classes_are_trusted(finished, pictures, tmp_path):
    (tmp_path / "test.txt").write_text("".join(f"{pictures}/{name}/1.png {i}\n" for i, name in enumerate(CLASSES)))
    assert counted(finished[0], data=str(tmp_path)) == (3, 3)


@pytest.mark.parametrize("text", ["- a list\n", "pretrained: true\n", ""])
def test_a_configuration_of_another_program_beside_an_adapter_is_left_alone(finished, base, pictures, tmp_path, text):
    (tmp_path / "mine.safetensors").write_bytes((finished[0] / "adapter.safetensors").read_bytes())
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match="say --data"):
        counted(tmp_path / "mine.safetensors")
    found = counted(tmp_path / "mine.safetensors", data=str(pictures), initial_checkpoint=str(base))
    assert found == (finished[1]["test_right"], 6)


def test_a_damaged_configuration_of_a_run_is_named(finished, tmp_path):
    (tmp_path / "adapter.safetensors").write_bytes((finished[0] / "adapter.safetensors").read_bytes())
    (tmp_path / "config.yaml").write_text("data: [")
    with pytest.raises(ValueError, match=r"config\.yaml is no YAML: "):
        counted(tmp_path)


# short cuts


@pytest.mark.parametrize("method", [*METHODS, "timm folder", "lora float16", "lora bfloat16"])
def test_short_cuts_change_no_answer(method, base, pictures, wake, tmp_path):
    """Models are opened as float32, those of a low-precision base too: merging rounds no dW away."""
    method, *dtype = method.split(" ") if method != "timm folder" else [method]
    weights = {name: tensor.to(getattr(torch, *dtype)) if dtype else tensor for name, tensor in load_file(base).items()}
    save_file(weights, tmp_path / "base.safetensors")
    model = timm.create_model("vit_tiny_patch16_224", img_size=16, num_classes=3, **SMALL)
    model.load_state_dict(weights, strict=False)
    nn.init.normal_(model.head.weight)
    if method == "timm folder":
        timm.models.save_for_hf(model, str(tmp_path), {"label_names": list(CLASSES)}, safe_serialization=True)
        path, options = tmp_path, {}
    else:
        wake(capaboost_vit.adapt(model, method, **({"parts": ("lora", "adapter")} if method == "unipelt" else {})))
        path = capaboost_vit.save_adapter(model, tmp_path / "adapter.safetensors", class_names=CLASSES)
        options = {"initial_checkpoint": str(tmp_path / "base.safetensors")}
    opened = open_saved(path, **options)
    refused = unmergeable(opened.model)
    network = opened.for_logits(torch.device("cpu"), short_cuts=True)
    assert [name for name, _ in wrappers(network) if name not in refused] == []
    assert isinstance(unwrap(network.blocks[0]), FirstRowsBlock) == (
        method not in ("unipelt", "dyt")
    )  # gates need all rows
    options["device"] = "cpu"
    whole, short = (predict_images(path, [pictures], short_cuts=on, **options) for on in (False, True))
    assert [(p.image, p.classes) for p in short] == [(p.image, p.classes) for p in whole]
    for one, other in zip(short, whole, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, rel=1e-5, abs=1e-6)
    counts = [counted(path, data=str(pictures), short_cuts=on, **options) for on in (False, True)]
    assert counts[0] == counts[1]


# merging


def test_a_merged_run_is_a_plain_timm_checkpoint_of_the_same_accuracy(finished, base, pictures, tmp_path):
    folder, result = finished
    path = merge_adapter(folder, tmp_path / "new folder" / "merged.safetensors")
    plain = timm.create_model("vit_tiny_patch16_224", img_size=16, num_classes=3, **SMALL)
    plain.load_state_dict(load_file(path), strict=True)
    split = open_data(str(pictures)).split("test")
    assert accuracy_by_hand(plain, map(split.locate, split.names), split.labels) == result["test_right"]
    adapted = capaboost_vit.create_from_adapter(folder / "adapter.safetensors", initial_checkpoint=base)
    images = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        assert (plain.eval()(images) - adapted(images)).abs().max() < 1e-5
    original = load_file(base)
    changed = {name for name in original if not torch.equal(original[name], load_file(path)[name])}
    assert changed == {"blocks.0.attn.qkv.weight"}


def test_merging_overwrites_nothing(finished, tmp_path):
    path = tmp_path / "mine.safetensors"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match=r"mine\.safetensors exists: choose another --output"):
        merge_adapter(finished[0], path)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("method", ["adapter", "prefix", "prompt"])
def test_what_no_weight_can_express_is_not_merged(configure, tmp_path, method):
    train(configure(model=f"vit_tiny_capaboost_{method}", epochs=1))
    with pytest.raises(ValueError, match=f"cannot merge .*: an? {method} is no change of a weight"):
        merge_adapter(tmp_path / "a run", tmp_path / "merged.safetensors")
    assert not (tmp_path / "merged.safetensors").exists()


@pytest.mark.parametrize("method", ["head", "full"])
def test_a_run_without_branches_merges_into_what_was_trained(configure, tmp_path, method):
    train(configure(model="vit_tiny_patch16_224", method={"name": method}, epochs=1))
    merged = load_file(merge_adapter(tmp_path / "a run", tmp_path / "merged.safetensors"))
    stored = tensors(tmp_path / "a run")
    assert all(torch.equal(merged[name], stored[name]) for name in stored)
    timm.create_model("vit_tiny_patch16_224", img_size=16, num_classes=3, **SMALL).load_state_dict(merged)


# a merged folder

PLAIN = """
import json, sys, torch, timm
from PIL import Image
folder, pictures = sys.argv[1], sys.argv[2:]
model = timm.create_model("local-dir:" + folder, pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
with torch.no_grad():
    logits = torch.cat([model(transform(Image.open(name).convert("RGB"))[None]) for name in pictures])
print(json.dumps([logits.tolist(), list(model.pretrained_cfg["label_names"])]))
assert "capaboost_vit" not in sys.modules
"""


def by_plain_timm(ready, folder, pictures):
    """(logits, names of classes) of pictures, in a process that has only timm."""
    done = ready.run(["python", "-c", PLAIN, folder, *pictures], cwd=folder, package=False, check=True)
    logits, names = json.loads(done.stdout)
    return torch.tensor(logits), names


def test_a_merged_folder_gives_the_same_logits_to_who_has_only_timm(ready, finished, base, folder, pictures):
    names = [pictures / name / "3.png" for name in CLASSES]
    logits, classes = by_plain_timm(ready, folder, names)
    assert classes == list(CLASSES)
    header = capaboost_vit.read_header(finished[0] / "adapter.safetensors")
    transform = timm.data.create_transform(**header["input"])
    model = capaboost_vit.create_from_adapter(finished[0] / "adapter.safetensors", initial_checkpoint=base)
    with torch.no_grad():
        own = torch.stack([model(transform(Image.open(name).convert("RGB"))[None])[0] for name in names])
    assert (logits - own).abs().max() < 1e-6


@pytest.mark.parametrize(
    "options",
    [
        {"crop_pct": 0.8, "crop_mode": "squash", "interpolation": "nearest", "num_classes": 5},
        {"model": "vit_tiny_capaboost_lora.augreg_in21k", "drop_path": 0.4},
        {"model": "test_vit2", "model_kwargs": {}, "method": {"name": "head"}, "initial_checkpoint": None},
        {"model": "test_resnet", "model_kwargs": {"global_pool": "max"}, "method": {"name": "head"}, "img_size": 24},
        {"img_size": (16, 24), "crop_pct": 0.9, "no_aug": False},
        {"model": "test_resnet", "model_kwargs": {}, "method": {"name": "head"}, "img_size": [40, 24]},
        {
            "model": "swin_tiny_patch4_window7_224",
            "model_kwargs": SWIN,
            "method": {"name": "lora"},
            "img_size": (28, 56),
        },
    ],
    ids=["input", "tag", "other sizes", "convolutions", "rectangle", "rectangle of convolutions", "rectangle of swin"],
)
def test_arguments_and_input_of_any_run_survive_in_a_merged_folder(ready, configure, pictures, tmp_path, options):
    if options.get("model", "").startswith(("test", "swin")):
        torch.manual_seed(0)
        arguments = options["model_kwargs"]
        sizes = {"test_vit2": {"img_size": 16}, SWIN_NAME: {"img_size": (28, 56)}}
        size = sizes.get(options["model"], {})
        save_file(timm.create_model(options["model"], **size, **arguments).state_dict(), tmp_path / "b.safetensors")
        options = {**options, "initial_checkpoint": str(tmp_path / "b.safetensors")}
    train(configure(epochs=1, **options))
    height, width = numpy.broadcast_to(options.get("img_size", 16), 2)
    header = read_adapter_file(tmp_path / "a run" / "adapter.safetensors").header
    assert header["input"]["input_size"] == [3, height, width]
    made = merge_adapter(tmp_path / "a run", tmp_path / "made")
    names = [pictures / name / "3.png" for name in CLASSES]
    found = predict_images(tmp_path / "a run", names, top=9)
    logits, classes = by_plain_timm(ready, made, names)
    assert classes == [*CLASSES, "3", "4"][: logits.shape[1]]
    temperature = json.loads((made / "config.json").read_text()).get("temperature", 1.0)
    for prediction, expected in zip(found, logits.div(temperature).softmax(-1), strict=True):
        order = [classes.index(name) for name in prediction.classes]
        assert prediction.probabilities == pytest.approx(expected[order].tolist(), abs=1e-6)


def test_a_merged_folder_holds_what_timm_needs_and_everybody_may_read_it(folder):
    files = {"config.json", "model.safetensors", "README.md", "learning_curve.png"}
    assert {path.name for path in folder.iterdir()} == files
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1


def test_an_adapter_without_names_of_classes_gives_a_folder_without(finished, base, tmp_path):
    model = capaboost_vit.create_from_adapter(finished[0] / "adapter.safetensors", initial_checkpoint=base)
    path = capaboost_vit.save_adapter(model, tmp_path / "nameless.safetensors")
    made = merge_adapter(path, tmp_path / "made", initial_checkpoint=str(base))
    assert "label_names" not in json.loads((made / "config.json").read_text())
    assert sorted(predict_images(made, [white(tmp_path / "white.png")])[0].classes) == ["0", "1", "2"]


@pytest.mark.parametrize("output", ["a file", "a full folder", "old.pth", "model.bin"])
def test_a_folder_that_cannot_be_made_is_refused_first(finished, tmp_path, output, monkeypatch):
    monkeypatch.setattr("capaboost_vit.vision.saved.open_saved", None)
    (tmp_path / "a file").write_text("mine")
    (tmp_path / "a full folder").mkdir()
    (tmp_path / "a full folder" / "notes").write_text("mine")
    text = "name a .safetensors file, or a folder" if "." in output else "exists: choose another --output"
    with pytest.raises((FileExistsError, ValueError), match=text):
        merge_adapter(finished[0], tmp_path / output)
    assert {path.name for path in tmp_path.rglob("*")} == {"a file", "a full folder", "notes"}


def test_an_empty_folder_is_filled(finished, tmp_path):
    (tmp_path / "empty").mkdir()
    merge_adapter(finished[0], tmp_path / "empty")
    assert (tmp_path / "empty" / "config.json").is_file()


def test_a_merge_that_fails_half_way_leaves_nothing(finished, tmp_path, monkeypatch):
    def fail(model, folder, *_, **__):
        Path(folder, "config.json").write_text("{")
        raise OSError("disk full")

    monkeypatch.setattr("capaboost_vit.vision.hub_folder.timm_save_for_hf", fail)
    with pytest.raises(OSError, match="disk full"):
        merge_adapter(finished[0], tmp_path / "made")
    assert not list(tmp_path.iterdir())


def test_what_is_merged_is_not_merged_again(folder, tmp_path):
    with pytest.raises(ValueError, match="is a timm model already: nothing to merge"):
        merge_adapter(folder, tmp_path / "made")


# predictions


def white(path, mode="RGB"):
    Image.new(mode, (20, 18), "white").save(path)
    return path


@pytest.mark.parametrize("source", ["run", "file", "folder", "local-dir"])
def test_a_prediction_is_timms_own_transform_and_the_model(finished, base, folder, pictures, source):
    names = [pictures / "red" / "7.png", pictures / "blue" / "2.png"]
    model = {
        "run": finished[0],
        "file": str(finished[0] / "adapter.safetensors"),
        "folder": folder,
        "local-dir": f"local-dir:{folder}",
    }[source]
    network = capaboost_vit.create_from_adapter(finished[0] / "adapter.safetensors", initial_checkpoint=base)
    transform = timm.data.create_transform(**timm.data.resolve_data_config({"img_size": 16}, model=network))
    for found, name in zip(predict_images(model, names), names, strict=True):
        with torch.no_grad():
            expected = network(transform(Image.open(name).convert("RGB"))[None]).softmax(-1)[0]
        assert found.image == name
        assert found.classes[0] == name.parent.name
        assert found.probabilities == pytest.approx(sorted(expected.tolist(), reverse=True), abs=1e-6)
        assert found.classes == tuple(CLASSES[i] for i in expected.argsort(descending=True))


def test_batches_change_neither_order_nor_numbers(finished, pictures):
    whole, single, odd = (predict_images(finished[0], [pictures], batch_size=size) for size in (64, 1, 7))
    assert [found.image for found in whole] == sorted(pictures.rglob("*.png"))
    for other in (single, odd):
        assert [found.image for found in other] == [found.image for found in whole]
        assert [found.classes for found in other] == [found.classes for found in whole]
        for first, second in zip(whole, other, strict=True):
            assert first.probabilities == pytest.approx(second.probabilities, abs=1e-6)


def test_files_keep_their_order_and_come_once_and_hidden_ones_do_not(finished, pictures, tmp_path):
    first, last = white(tmp_path / "z.png"), white(tmp_path / "a.JPG")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    inside = white(tmp_path / "deep" / "er" / "ü b.webp")
    white(tmp_path / ".hidden" / "x.png")
    (tmp_path / "deep" / "._b.png").write_text("what a Mac leaves in zip files")
    (tmp_path / "deep" / "notes.txt").write_text("no picture")
    notes = []
    found = predict_images(finished[0], [first, tmp_path, last], top=1, note=notes.append)
    assert [prediction.image for prediction in found] == [first, last, inside]
    assert notes == [f"1 of 4 files in {tmp_path}, which are no pictures"]


@pytest.mark.parametrize(("top", "count"), [(1, 1), (2, 2), (3, 3), (1000, 3)])
def test_top_is_cut_to_the_classes(finished, pictures, top, count):
    (found,) = predict_images(finished[0], [pictures / "red" / "1.png"], top=top)
    assert len(found.classes) == len(found.probabilities) == len(set(found.classes)) == count
    assert list(found.probabilities) == sorted(found.probabilities, reverse=True)
    assert sum(found.probabilities) <= 1 + 1e-6


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "I;16", "1"])
def test_pictures_of_any_kind_are_read_as_in_training(finished, tmp_path, mode):
    name = "x.tif" if mode in ("CMYK", "I;16") else "x.png"
    colour = {"I;16": 65535, "1": 1, "P": 0, "L": 255, "RGBA": (0, 0, 0, 0), "CMYK": (0, 0, 0, 0)}[mode]
    picture = Image.new(mode, (20, 18), colour)
    if mode == "P":
        picture.putpalette([255, 255, 255])
    picture.save(tmp_path / name)
    (found,) = predict_images(finished[0], [tmp_path / name])
    (expected,) = predict_images(finished[0], [white(tmp_path / "white.png")])
    assert (found.classes, found.probabilities) == (expected.classes, expected.probabilities)


@pytest.mark.parametrize("content", [b"", b"some text", None], ids=["empty", "text", "truncated"])
def test_what_is_no_picture_is_named(finished, pictures, tmp_path, content):
    whole = (pictures / "red" / "1.png").read_bytes()
    (tmp_path / "x.png").write_bytes(whole[: len(whole) // 2] if content is None else content)
    for given in (tmp_path / "x.png", tmp_path):
        with pytest.raises(ValueError, match=r"cannot read the image .*x\.png"):
            predict_images(finished[0], [pictures / "red" / "2.png", given])


@pytest.mark.parametrize(
    ("images", "options", "text"),
    [
        (["gone.png"], {}, r"no picture and no folder at gone\.png"),
        (["."], {}, r"the folder \. holds no picture"),
        (["x.png"], {"top": 0}, "--top must be at least 1, got 0"),
        (["x.png"], {"batch_size": -1}, "--batch-size must be at least 1, got -1"),
        (["x.png"], {"device": "gpu"}, "--device gpu: "),
    ],
)
def test_a_prediction_that_cannot_be_is_named_before_the_model_is_read(tmp_path, monkeypatch, images, options, text):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("capaboost_vit.vision.predict.open_saved", None)
    if images == ["x.png"]:
        white(tmp_path / "x.png")
    with pytest.raises((FileNotFoundError, ValueError), match=text):
        predict_images("whatever", images, **options)


@pytest.mark.parametrize("config", ["{", "[]", '{"architecture": "no_such_model"}', '{"architecture": "test_vit"}'])
def test_a_folder_that_timm_cannot_load_is_named(tmp_path, config):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text(config)
    with pytest.raises(ValueError, match=r"timm cannot build a model from .*m: "):
        predict_images(tmp_path / "m", [white(tmp_path / "x.png")])


def test_a_folder_of_transformers_is_not_taken_for_one_of_timm(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ValueError, match="holds a model of transformers, not of timm: name the run or adapter file"):
        predict_images(tmp_path / "m", [white(tmp_path / "x.png")])


def test_a_timm_folder_without_names_or_with_names_by_number(tmp_path):
    model = timm.create_model("test_vit", num_classes=4)
    picture = white(tmp_path / "x.png")
    for names, expected in (({}, "0 1 2 3"), ({"0": "cat", "2": "dog"}, "1 3 cat dog"), (list("abcd"), "a b c d")):
        made = tmp_path / str(len(names))
        timm.models.save_for_hf(model, str(made), {"label_names": names}, safe_serialization=True)
        assert sorted(predict_images(made, [picture])[0].classes) == expected.split()


def test_a_timm_folder_has_its_own_weights_and_needs_classes(folder, base, tmp_path):
    picture = white(tmp_path / "x.png")
    with pytest.raises(ValueError, match="a timm folder with weights of its own: leave --initial-checkpoint out"):
        predict_images(folder, [picture], initial_checkpoint=str(base))
    timm.models.save_for_hf(timm.create_model("test_vit", num_classes=0), str(tmp_path / "m"), safe_serialization=True)
    with pytest.raises(ValueError, match="has no classes: it was saved with num_classes=0"):
        predict_images(tmp_path / "m", [picture])


def test_a_table_of_predictions_holds_them(finished, pictures, tmp_path):
    picture = white(tmp_path / 'a "b", ü.png')
    found = predict_images(finished[0], [picture, pictures / "red" / "1.png"])
    path = write_predictions(found, tmp_path / "new" / "table.csv")
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["image", "rank", "class", "probability"]
    expected = [
        [str(f.image), str(rank), name, p]
        for f in found
        for rank, (name, p) in enumerate(zip(f.classes, f.probabilities, strict=True), 1)
    ]
    assert [[*row[:3], float(row[3])] for row in rows[1:]] == [
        [*row[:3], pytest.approx(row[3], rel=1e-8)] for row in expected
    ]
    assert [p.name for p in path.parent.iterdir()] == ["table.csv"]
    write_predictions(found[:1], path)
    assert len(path.read_text("utf-8").splitlines()) == 4


def test_names_of_files_that_are_no_text_stay_byte_for_byte(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    path = write_predictions([Prediction(Path(name), ("a",), (1.0,))], tmp_path / "table.csv")
    assert path.read_bytes().splitlines()[1] == b"caf\xe9.png,1,a,1"
