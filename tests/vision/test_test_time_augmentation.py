"""Test-time augmentation against a loop over the views, and the copies of pictures by class."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from PIL import Image
from torchvision import transforms

import capaboost_vit
from capaboost_vit.methods.adapter_file import read_header
from capaboost_vit.vision.adapters import save_adapter
from capaboost_vit.vision.build import build_transform
from capaboost_vit.vision.evaluate import evaluate_images
from capaboost_vit.vision.predict import Prediction, predict_images
from capaboost_vit.vision.saved import merge_adapter
from capaboost_vit.vision.sort import Sorter
from capaboost_vit.vision.test_time_augmentation import VIEWS, MeanOfViews, view_transform

CONFIG = {
    "input_size": (3, 16, 16),
    "interpolation": "bilinear",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "crop_pct": 0.9,
    "crop_mode": "center",
}


@pytest.fixture
def picture():
    """Without a symmetry, 40 x 30."""
    values = torch.arange(30 * 40 * 3).view(30, 40, 3) * 37 % 256
    return Image.fromarray(values.byte().numpy())


def test_views_are_the_picture_and_its_mirror_image_or_the_crops_of_torchvision(picture):
    whole = build_transform(CONFIG)(picture)
    assert torch.equal(torch.as_tensor(view_transform(CONFIG, "none")(picture)), torch.as_tensor(whole))
    flipped = view_transform(CONFIG, "flip")(picture)
    assert torch.equal(flipped, torch.stack([whole, whole.flip(-1)]))
    crops = view_transform(CONFIG, "five_crop")(picture)
    resized = transforms.Resize(16 * 8 // 7)(picture)  # crop_pct 0.875
    expected = transforms.FiveCrop(16)(resized)
    assert torch.equal(crops, torch.stack([transforms.functional.pil_to_tensor(crop) for crop in expected]))


def test_five_crops_keep_a_margin_that_is_larger(picture):
    sizes = []
    for crop_pct in (1.0, 0.5):
        crops = view_transform({**CONFIG, "crop_pct": crop_pct, "crop_mode": "squash"}, "five_crop")(picture)
        resized = transforms.Resize((int(16 / min(crop_pct, 0.875)),) * 2)(picture)
        sizes.append(torch.equal(crops[0], transforms.functional.pil_to_tensor(resized)[:, :16, :16]))
    assert sizes == [True, True]


def test_probabilities_are_the_mean_over_the_views_at_the_temperature():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4))
    images = torch.randn(5, 3, 3, 2, 2)
    found = MeanOfViews(model, 1.7)(images)
    expected = torch.stack([(model(images[:, i]) / 1.7).softmax(-1) for i in range(3)]).mean(0)
    torch.testing.assert_close((found / 1.7).softmax(-1), expected)
    torch.testing.assert_close((found / 1.7).exp(), expected)
    assert torch.equal(MeanOfViews(model, 1.7)(images[:, 0]), model(images[:, 0]))


def test_a_symmetric_picture_has_the_same_probabilities_with_and_without_views(finished, tmp_path):
    Image.new("RGB", (24, 24), (200, 30, 30)).save(tmp_path / "plain.png")
    none, *others = (predict_images(finished[0], [tmp_path / "plain.png"], tta=tta)[0] for tta in VIEWS)
    for other in others:
        assert other.classes == none.classes
        assert other.probabilities == pytest.approx(none.probabilities, abs=1e-6)


@pytest.mark.parametrize("tta", ["flip", "five_crop"])
def test_an_evaluation_with_views_counts_what_predictions_with_views_say(finished, tmp_path, tta):
    scores = evaluate_images(finished[0], tta=tta, table=tmp_path / "t.csv")
    rows = [line.split(",") for line in (tmp_path / "t.csv").read_text().splitlines()]
    names = [name[2:-1] for name in rows[0][3:]]
    found = predict_images(finished[0], [row[0] for row in rows[1:]], tta=tta, top=3)
    for (_, _, answer, *shares), prediction in zip(rows[1:], found, strict=True):
        assert answer == prediction.classes[0]
        said = dict(zip(prediction.classes, prediction.probabilities, strict=True))
        assert list(map(float, shares)) == pytest.approx([said[name] for name in names], abs=1e-6)
    assert (scores["total"], scores["tta"]) == (6, tta)
    assert scores["right"] == sum(row[1] == row[2] for row in rows)


@pytest.mark.parametrize(
    ("tta", "config", "error"),
    [
        ("rotate", {}, "--tta must be none, flip or five_crop, got 'rotate'"),
        ("five_crop", {"crop_mode": "border"}, "--tta five_crop: this model takes whole pictures with borders"),
    ],
)
def test_views_that_cannot_be_are_named(tta, config, error):
    with pytest.raises(ValueError, match=error):
        view_transform({**CONFIG, **config}, tta)


# pictures by class


def write(path, colour):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), colour).save(path)
    return path


def said(path, name, probability):
    return Prediction(path, (name, "other"), (probability, 1 - probability))


def test_pictures_are_copied_by_class_and_those_below_the_threshold_are_unsure(tmp_path):
    pictures = [write(tmp_path / "in" / f"{i}.png", (i, 0, 0)) for i in range(4)]
    rows = [said(pictures[0], "cat", 0.9), said(pictures[1], "dog", 0.7), said(pictures[2], "cat", 0.69)]
    rows.append(said(pictures[3], "../a/b", 0.8))
    sorter = Sorter(tmp_path / "out", 0.7)
    assert list(sorter.sorting(rows)) == rows
    found = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png")}
    assert found == {"cat/0.png", "dog/1.png", "unsure/2.png", "_._a_b/3.png"}
    assert all(picture.exists() for picture in pictures)
    assert sorter.summary() == (f"sorted: 4 pictures copied into {tmp_path / 'out'} (cat 1, dog 1, unsure 1, ../a/b 1)")


def test_nothing_is_overwritten_and_a_second_run_copies_nothing(tmp_path):
    one, two = (write(tmp_path / name / "x.png", (i, 0, 0)) for i, name in enumerate(("a", "b")))
    mine = write(tmp_path / "out" / "cat" / "x.png", (9, 9, 9)).read_bytes()
    for copied in (2, 0):
        sorter = Sorter(tmp_path / "out")
        list(sorter.sorting([said(one, "cat", 0.6), said(two, "cat", 0.6)]))
        assert sorter.copied.total() == copied
        assert sorter.there == 2 - copied
    folder = tmp_path / "out" / "cat"
    contents = [(folder / name).read_bytes() for name in ("x.png", "x-2.png", "x-3.png")]
    assert contents == [mine, one.read_bytes(), two.read_bytes()]
    assert len(list(folder.iterdir())) == 3
    assert sorter.summary().endswith("out; 2 were there already")
    with pytest.raises(NotADirectoryError, match=r"--sort-into .* is a file: name a folder"):
        Sorter(one)


# plain models of timm


@pytest.fixture
def plain(tmp_path):
    """Weights of timm's test model with three classes, and pictures of each."""
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=3)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    for part in ("train", "test"):
        for i, name in enumerate(("0", "1", "2")):
            write(tmp_path / "data" / part / name / "x.png", (80 * i, 10, 90))
    return model.eval(), tmp_path / "weights.pth", tmp_path / "data"


def test_a_plain_timm_model_is_scored_with_the_classes_of_its_weights(plain):
    model, weights, data = plain
    config = timm.data.resolve_data_config({}, model=model)
    transform = timm.data.create_transform(**config)
    found = evaluate_images("test_vit", data=str(data), initial_checkpoint=str(weights), table=data / "t.csv")
    rows = [line.split(",") for line in (data / "t.csv").read_text().splitlines()]
    assert rows[0] == ["image", "label", "prediction", "p(0)", "p(1)", "p(2)"]
    for (name, label, answer, *shares), true in zip(rows[1:], "012", strict=True):
        with torch.no_grad():
            expected = model(transform(Image.open(name))[None]).softmax(-1)[0]
        assert (label, answer) == (true, str(expected.argmax().item()))
        assert list(map(float, shares)) == pytest.approx(expected.tolist(), abs=1e-5)
    assert (found["total"], found["temperature"], len(found["per_class"])) == (3, 1.0, 3)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, "test_vit is a plain timm model: say --pretrained or --initial-checkpoint FILE, one of them"),
        ({"initial_checkpoint": "headless.pth"}, r"headless\.pth holds no classifier of test_vit \(head\.weight\)"),
    ],
)
def test_a_plain_model_that_cannot_be_scored_is_named(plain, monkeypatch, options, error):
    _, weights, data = plain
    state = torch.load(weights)
    monkeypatch.chdir(data)
    torch.save({name: value for name, value in state.items() if not name.startswith("head.")}, "headless.pth")
    with pytest.raises(ValueError, match=error):
        evaluate_images("test_vit", data=str(data), **options)
    with pytest.raises(ValueError, match="is not in a run folder: say --data"):
        evaluate_images("test_vit", initial_checkpoint=str(weights))


# temperature in files


def test_the_temperature_of_a_file_scales_what_is_predicted_and_goes_into_the_merged_folder(
    finished, base, pictures, tmp_path
):
    options = {"initial_checkpoint": str(base)}
    assert read_header(finished[0] / "adapter.safetensors")["temperature"] == 1
    model = capaboost_vit.create_from_adapter(finished[0] / "adapter.safetensors", initial_checkpoint=base)
    header = read_header(finished[0] / "adapter.safetensors")
    path = save_adapter(model, tmp_path / "warm.safetensors", data_config=header["input"], temperature=2.5)
    picture = pictures / "red" / "1.png"
    (cold,) = predict_images(finished[0], [picture])
    (warm,) = predict_images(path, [picture], **options)
    scaled = (torch.tensor(cold.probabilities).log() / 2.5).softmax(-1)
    assert warm.probabilities == pytest.approx(scaled.tolist(), abs=1e-5)
    folder = merge_adapter(path, tmp_path / "merged", **options)
    assert json.loads((folder / "config.json").read_text())["temperature"] == 2.5
    assert predict_images(folder, [picture])[0].probabilities == pytest.approx(warm.probabilities, abs=1e-5)
    config = folder / "config.json"
    config.write_text(config.read_text().replace("2.5", "-1"))
    with pytest.raises(ValueError, match=r"temperature in .*config\.json must be positive, got -1"):
        predict_images(folder, [picture])
