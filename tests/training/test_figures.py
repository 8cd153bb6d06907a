"""Pictures can be drawn of anything that a run may hold, and show what they say."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import capaboost_vit
from capaboost_vit.training.figures import draw_confusion, draw_curves, draw_masks, draw_spectrum, save_figure

SMALL = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
ROWS = [
    {"epoch": 1, "update": 3, "train_loss": 1.5, "train_accuracy": 40.0, "val_accuracy": 45.0},
    {"epoch": 2, "update": 6, "train_loss": 0.75, "train_accuracy": 70.0, "val_accuracy": 65.0},
    {"epoch": 3, "update": 9, "train_loss": 0.5, "train_accuracy": 75.0, "val_accuracy": None},
]


@pytest.fixture
def drawn(tmp_path):
    """Writes a figure and gives its pixels back."""

    def draw(figure):
        save_figure(figure, tmp_path / "figure.png")
        assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]
        with Image.open(tmp_path / "figure.png") as image:
            assert len(image.convert("L").getcolors()) > 20
            return np.asarray(image.convert("RGB"))

    return draw


# learning curves


@pytest.mark.parametrize(
    "rows",
    [
        ROWS,
        [{name: value for name, value in row.items() if name != "val_accuracy"} for row in ROWS],
        ROWS[:1],
        [ROWS[0], {**ROWS[1], "train_loss": 0.0}],
        [{**ROWS[0], "epoch": epoch} for epoch in range(1, 40)],
    ],
    ids=["with val", "without val", "one epoch", "loss of zero", "many epochs"],
)
def test_a_learning_curve_is_a_picture(drawn, rows):
    assert drawn(draw_curves({"model": rows}, title="model on data")).shape == (432, 1080, 3)


def test_a_learning_curve_has_the_points_of_the_table_where_there_are_any():
    loss, accuracy = draw_curves({"run": ROWS}, title="a run").axes
    assert loss.lines[0].get_xydata().tolist() == [[1, 1.5], [2, 0.75], [3, 0.5]]
    assert accuracy.lines[0].get_xydata().tolist() == [[1, 45], [2, 65]]
    assert accuracy.get_ylabel() == "validation accuracy (%)"
    without = [{**row, "val_accuracy": None} for row in ROWS]
    accuracy = draw_curves({"run": without}, title="a run").axes[1]
    assert accuracy.lines[0].get_xydata().tolist() == [[1, 40], [2, 70], [3, 75]]
    assert accuracy.get_ylabel() == "train accuracy (%)"


@pytest.mark.parametrize("name", ["$x_{$", "a_b$ and $c^", "under_score", "%d [x] \\alpha"])
def test_names_are_drawn_as_they_are_not_as_formulas(drawn, name):
    drawn(draw_curves({name: ROWS}, title=f"run on {name}"))


def test_curves_of_several_runs_share_the_picture_even_if_one_has_no_validation():
    without = [{name: value for name, value in row.items() if name != "val_accuracy"} for row in ROWS]
    loss, accuracy = draw_curves({"one": ROWS, "two": without}, title="two").axes
    assert (len(loss.lines), [len(line.get_xdata()) for line in accuracy.lines]) == (2, [2, 0])


# confusion matrix


def confusion_of(classes):
    return torch.randint(0, 30, (classes, classes), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("classes", [1, 2, 10, 20, 30, 31, 100])
def test_a_confusion_matrix_of_any_size_is_a_picture(drawn, classes):
    names = [f"class {i} with $a long name_{i}^2" for i in range(classes)]
    drawn(draw_confusion(confusion_of(classes), names, title="a $run"))


def test_a_confusion_matrix_shows_shares_of_the_true_class_and_writes_the_counts():
    confusion = torch.tensor([[8, 2, 0], [0, 5, 0], [0, 0, 0]])  # nobody is of the last class
    axes = draw_confusion(confusion, ["a", "$b", "a name of more than twenty-two letters"], title="x").axes[0]
    assert axes.images[0].get_array().tolist() == [[0.8, 0.2, 0], [0, 1, 0], [0, 0, 0]]
    assert {text.get_position(): text.get_text() for text in axes.texts} == {(0, 0): "8", (1, 0): "2", (1, 1): "5"}
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["a", "$b", "a name of more than …"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("answer", "true class")


# masks


@pytest.mark.parametrize(
    ("method", "options", "branches"),
    [
        ("lora", {}, 2),
        ("lora", {"num_branches": 4, "density": 0.25}, 4),
        ("lora", {"pattern": "2:4"}, 2),
        ("lora", {"pattern": "sign"}, 2),
        ("lora", {"pattern": "complementary"}, 2),
        ("adapter", {}, 2),
        ("prefix", {}, 2),
        ("prompt", {"num_branches": 3}, 3),
    ],
    ids=str,
)
def test_masks_are_drawn_branch_by_branch(drawn, method, options, branches):
    figure = draw_masks(timm.create_model(f"vit_tiny_capaboost_{method}", **SMALL, **options))
    drawn(figure)
    pictures = [axes.images[0].get_array() for axes in figure.axes if axes.get_ylabel()]
    assert len(pictures) == branches + 1
    used = sum((picture != 0).astype(int) for picture in pictures[:-1])
    assert np.array_equal(used, pictures[-1])


def test_without_masks_there_is_no_picture_of_them():
    plain = timm.create_model("vit_tiny_capaboost_lora", num_branches=1, density=1.0, **SMALL)
    assert draw_masks(plain) is None
    head = timm.create_model("vit_tiny_patch16_224", **SMALL)
    capaboost_vit.adapt(head, "head")
    assert draw_masks(head) is None
    assert draw_spectrum(head) is None


# spectra


@pytest.mark.parametrize("options", [{}, {"num_branches": 1, "density": 1.0}, {"alpha": 3, "num_branches": 3}], ids=str)
def test_the_singular_values_are_those_of_the_update_itself(drawn, options):
    model = timm.create_model("vit_tiny_capaboost_lora", rank=4, **SMALL, **options)
    found = capaboost_vit.branches(model)
    with torch.no_grad():
        for branch in found.values():
            for p in branch.parameters():
                p.normal_(generator=torch.Generator().manual_seed(p.numel()))
    figure = draw_spectrum(model)
    drawn(figure)
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines if len(line.get_ydata()) > 2}
    assert lines.keys() == found.keys()
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ([] if options.get("num_branches") == 1 else ["rank 4 of one branch"])
    for name, branch in found.items():
        expected = torch.linalg.svdvals(branch.delta_weight().detach().double())
        shown = torch.as_tensor(lines[name])
        rank = min(len(shown), len(expected))
        torch.testing.assert_close(shown[:rank], expected[:rank].clamp(min=1e-12), rtol=1e-5, atol=1e-6)
        assert expected[rank:].abs().max().item() < 1e-5 if len(expected) > rank else True


def test_an_update_that_is_still_zero_can_be_drawn(drawn):
    drawn(draw_spectrum(timm.create_model("vit_tiny_capaboost_lora", **SMALL)))


@pytest.mark.parametrize("method", ["adapter", "prefix", "prompt"])
def test_what_is_no_linear_update_has_no_spectrum(method):
    assert draw_spectrum(timm.create_model(f"vit_tiny_capaboost_{method}", **SMALL)) is None
