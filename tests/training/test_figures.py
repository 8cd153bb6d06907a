"""Pictures can be drawn of anything that a run may hold, and show what they say."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import capaboost_vit
from capaboost_vit.training.confusion import draw_confusion, most_confused
from capaboost_vit.training.curves import draw_curves, draw_learning_curve
from capaboost_vit.training.figures import draw_masks, draw_spectrum, save_figure

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


NO_VAL = [{name: value for name, value in row.items() if name != "val_accuracy"} for row in ROWS]
RATES = [(0, 0.0), (0.5, 0.01), (3, 0.001)]


@pytest.mark.parametrize(
    ("rows", "marks"),
    [
        (ROWS, {"rates": RATES, "best_epoch": 2, "test": 66.0}),
        (ROWS, {}),
        (NO_VAL, {"rates": RATES}),
        (NO_VAL[:1], {"test": 50.0}),
        ([{"epoch": 1, "train_loss": None, "val_mcc": None}], {"score": "mcc", "rates": RATES[:1]}),
        ([ROWS[0], {**ROWS[1], "train_loss": 0.0, "val_loss": 3.0}], {}),
        ([{**ROWS[0], "epoch": epoch} for epoch in range(1, 101)], {"best_epoch": 100, "test": 45.0}),
    ],
    ids=["all", "no marks", "no val", "one epoch", "nothing", "loss of zero", "many epochs"],
)
def test_a_run_of_any_length_is_a_picture(drawn, rows, marks):
    drawn(draw_learning_curve(rows, title="a $model on data", **marks))


def test_train_val_rate_best_epoch_and_test_are_in_one_picture():
    rows = [{**row, "val_loss": loss} for row, loss in zip(ROWS, (1.6, 0.9, None), strict=True)]
    figure = draw_learning_curve(rows, title="a run", rates=RATES, best_epoch=2, test=66.0)
    loss, accuracy, rate = figure.axes
    lines = [line.get_xydata().tolist() for line in loss.lines if len(line.get_xydata()) > 1]
    assert [[2, 0], [2, 1]] in lines
    assert [[1, 1.5], [2, 0.75], [3, 0.5]] in lines
    assert [[1, 1.6], [2, 0.9]] in lines
    lines = [line.get_xydata().tolist() for line in accuracy.lines]
    assert [[1, 40], [2, 70], [3, 75]] in lines
    assert [[1, 45], [2, 65]] in lines
    assert [[2, 65]] in lines  # the mark at the best epoch
    assert [[0, 66], [1, 66]] in lines
    assert rate.lines[0].get_xydata().tolist() == [list(point) for point in RATES]
    assert {text.get_text() for text in accuracy.texts} == {"train", "val", "test 66.00"}
    assert [text.get_text() for text in figure.texts] == [
        "a run",
        "best epoch on val: 2 of 3   test accuracy: 66.00 %",
    ]
    assert len({round(text.get_position()[1], 2) for text in accuracy.texts}) == 3  # none upon another


def test_noise_does_not_fill_the_axis_of_a_score():
    rows = [{"epoch": e, "train_loss": 1.0, "train_accuracy": score} for e, score in ((1, 99.6), (2, 99.7))]
    low, high = draw_learning_curve(rows, title="a run").axes[1].get_ylim()
    assert high - low >= 5
    assert low < 99.6 < 99.7 < high < 101


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
    assert drawn(draw_curves({"model": rows}, title="model on data")).shape == (492, 1080, 3)


def test_a_learning_curve_has_the_points_of_the_table_where_there_are_any():
    loss, accuracy = draw_curves({"run": ROWS}, title="a run").axes
    assert loss.lines[0].get_xydata().tolist() == [[1, 1.5], [2, 0.75], [3, 0.5]]
    assert accuracy.lines[0].get_xydata().tolist() == [[1, 45], [2, 65]]
    assert accuracy.get_ylabel() == "validation accuracy (%)"
    without = [{**row, "val_accuracy": None} for row in ROWS]
    accuracy = draw_curves({"run": without}, title="a run").axes[1]
    assert accuracy.lines[0].get_xydata().tolist() == [[1, 40], [2, 70], [3, 75]]
    assert accuracy.get_ylabel() == "train accuracy (%)"


def test_curves_of_errors_are_in_no_per_cent():
    rows = [{**row, "val_rmse": 3.0, "val_mAP": 70.0} for row in ROWS]
    for score, label in (("rmse", "validation rmse"), ("mAP", "validation mAP (%)")):
        assert draw_curves({"run": rows}, title="a run", score=score).axes[1].get_ylabel() == label


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
    recalls = axes.figure.axes[1]
    assert [text.get_text() for text in recalls.texts] == ["80.0 %  of 10", "100.0 %  of 5", "no image"]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["a", "$b", "a name of more than …"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("answer", "true class")
    assert axes.figure.axes[2].get_xlabel() == "share of the true class (colours by its square root)"
    assert axes.figure.texts[1].get_text() == "3 classes, 13 of 15 right (86.67 %, 95 % interval 62.1 to 96.3)"


def test_of_many_classes_the_worst_and_the_most_frequent_confusions_are_named():
    confusion = torch.eye(40, dtype=torch.long) * 10
    confusion[3, 7], confusion[5, 1] = 5, 30
    lines = [
        text.get_text() for text in draw_confusion(confusion, [f"c{i}" for i in range(40)], title="x").axes[1].texts
    ]
    assert lines[2:6] == ["c5", "25 % of 40", "c3", "67 % of 15"]
    assert lines[-4:] == ["c5, c1", "30 of 40", "c3, c7", "5 of 15"]


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


def test_the_most_frequent_confusions_come_first_and_right_answers_are_none():
    cells = [(0, 0, 9), (0, 1, 2), (1, 0, 5), (1, 1, 1), (1, 2, 1), (2, 2, 3)]
    assert most_confused(cells, "abc", 10) == (("b", "a", 5, 7), ("a", "b", 2, 11), ("b", "c", 1, 7))
    assert most_confused([(0, 0, 1), (1, 1, 1), (1, 2, 0)], "abc", 10) == ()
