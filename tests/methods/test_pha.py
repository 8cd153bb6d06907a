"""PHA: its hypernetwork, choice of tasks and losses against naive ones, runs of two tasks, and one task taken out."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from vits import vit as made

import capaboost_vit
from capaboost_vit import core
from capaboost_vit.cli import main
from capaboost_vit.methods import Pass, make_method
from capaboost_vit.methods.initial import start_from
from capaboost_vit.methods.one_task import export_task
from capaboost_vit.run import train
from capaboost_vit.vision.evaluate import evaluate_images

X = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
TINY_VIT = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}  # of `configure`
LABELS = torch.tensor([0, 4, 1, 2])  # of the tasks 0, 2, 0, 1
CLASSES = (2, 1, 3)


def pha(classes=CLASSES, **options):
    """With start values that are no longer near the base."""
    model = made(img_size=16, depth=3, num_classes=sum(classes or (6,)))
    model = capaboost_vit.adapt(model, "pha", task_classes=classes, bottleneck=4, **options).double().eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for module in (m for m in model.modules() if isinstance(m, core.Hypernetwork)):
            for head in (module.down, module.down_bias, module.up, module.up_bias):
                head.weight.copy_(0.1 * torch.randn(head.weight.shape, generator=generator))
                head.bias.copy_(0.1 * torch.randn(head.bias.shape, generator=generator))
    return model


def choice_of(model):
    return next(m for m in model.modules() if isinstance(m, core.TaskChoice))


def naive_adapter(adapter, task, x):
    """The definition, with einsum."""
    net = adapter.hypernetwork
    z = torch.cat([net.prototypes[task], adapter.layer])
    h = torch.einsum("ij,j->i", net.inner.weight, z) + net.inner.bias
    h = torch.einsum("ij,j->i", net.outer.weight, h.clamp(min=0)) + net.outer.bias
    h = (h - h.mean()) / (h.var(unbiased=False) + 1e-5).sqrt() * net.norm.weight + net.norm.bias
    width, a = net.in_features, net.bottleneck
    down = torch.einsum("kij,j->ki", net.down.weight.view(a, width, 64), h) + net.down.bias.view(a, width)
    up = torch.einsum("okj,j->ok", net.up.weight.view(-1, a, 64), h) + net.up.bias.view(-1, a)
    down_bias, up_bias = net.down_bias.weight @ h + net.down_bias.bias, net.up_bias.weight @ h + net.up_bias.bias
    hidden = (torch.einsum("...i,ki->...k", x, down) + down_bias).clamp(min=0)
    return torch.einsum("...k,ok->...o", hidden, up) + up_bias


def naive_tokens(model, x, task):
    """Of one image; None: those of the base."""
    tokens = model._pos_embed(model.patch_embed(x[None]))
    for block in model.blocks:
        block = getattr(block, "base", block)
        tokens = tokens + block.attn(block.norm1(tokens))
        z = block.norm2(tokens)
        tokens = tokens + block.mlp.base(z) + (0 if task is None else naive_adapter(block.mlp.branch, task, z))
    return model.norm(tokens)


def naive(model, task):
    head = getattr(model.head, "base", model.head)
    return [head(naive_tokens(model, x, t)[:, 0])[0] for x, t in zip(X, task, strict=True)]


def test_each_example_has_the_adapters_of_its_task_and_no_other_rows_win():
    model, choice = pha(), None
    choice = choice_of(model)
    with choice.knowing(LABELS):
        logits = model(X)
        twin = capaboost_vit.logits_only(model)(X)
    torch.testing.assert_close(twin, logits, rtol=1e-10, atol=1e-12)
    tasks = [0, 2, 0, 1]
    rows = {0: [0, 1], 1: [2], 2: [3, 4, 5]}
    for row, expected, task in zip(logits, naive(model, tasks), tasks, strict=True):
        own = rows[task]
        torch.testing.assert_close(row[own], expected[own], rtol=1e-10, atol=1e-12)
        others = [i for i in range(6) if i not in own]
        torch.testing.assert_close(row[others], (expected[own].min() - 30).expand(len(others)))
    # so the loss over all classes is that over the task's
    loss = F.cross_entropy(logits, LABELS, reduction="none")
    of_rows = [row[rows[task]].log_softmax(0) for row, task in zip(naive(model, tasks), tasks, strict=True)]
    alone = [-logs[rows[t].index(int(c))] for logs, t, c in zip(of_rows, tasks, LABELS, strict=True)]
    torch.testing.assert_close(loss, torch.stack(alone), rtol=0, atol=1e-11)


def test_the_task_of_an_image_is_that_of_the_prototype_nearest_to_what_the_base_makes_of_it():
    model = pha()
    retriever = next(m for m in model.modules() if isinstance(m, core.Retriever))
    with torch.no_grad():  # so that the images differ
        retriever.outer.weight.mul_(30)
    pooled = torch.cat([naive_tokens(model, x, None).mean(1) for x in X])
    hidden = (pooled @ retriever.inner.weight.T + retriever.inner.bias).clamp(min=0)
    queries = hidden @ retriever.outer.weight.T + retriever.outer.bias
    torch.testing.assert_close(retriever(pooled), queries, rtol=1e-10, atol=1e-12)
    tasks = (queries @ next(m for m in model.modules() if isinstance(m, core.Hypernetwork)).prototypes.T).argmax(1)
    logits = model(X)
    choice = choice_of(model)
    assert torch.equal(choice.of_class[logits.argmax(1)], tasks)
    with choice.knowing(torch.tensor([0, 2, 3])[tasks]):
        torch.testing.assert_close(model(X), logits, rtol=0, atol=0)
    assert choice.known is choice.tasks is choice.pooled is None
    torch.testing.assert_close(copy.deepcopy(model)(X), logits, rtol=0, atol=0)


def test_nothing_of_a_batch_stays_and_so_the_model_is_a_program():
    model = pha().float()
    with torch.no_grad():
        expected = model(X.float())
        assert choice_of(model).tasks is None
        program = torch.export.export(model, (X.float(),)).module()
        torch.testing.assert_close(program(X.float()), expected)


def test_one_task_is_no_choice_and_is_the_plain_adapter():
    model = pha(None)
    assert not any(isinstance(m, core.Retriever | core.TaskChoice) for m in model.modules())
    torch.testing.assert_close(model(X), torch.stack(naive(model, [0] * 4)), rtol=1e-10, atol=1e-12)


def test_start_values_have_the_size_of_the_definition():
    net = core.Hypernetwork(192, 192, 8, tasks=2)
    for head, fan in ((net.down, 192), (net.up, 8), (net.up_bias, 1)):
        bound = 1e-3 * math.sqrt(3 / (64 * fan))
        assert 0.99 * bound < head.weight.abs().max() <= bound
        assert not head.bias.any()
    with torch.no_grad():
        made = net(torch.randn(64))
    assert made.down.std() == pytest.approx(1e-3 / math.sqrt(192), rel=0.2)
    assert made.up.std() == pytest.approx(1e-3 / math.sqrt(8), rel=0.2)


def naive_instance(queries, tasks, t):
    losses = []
    for i, task in enumerate(tasks):
        others = [j for j in range(len(tasks)) if j != i and tasks[j] >= 0]
        positives = [j for j in others if tasks[j] == task]
        below = sum(math.exp(queries[i] @ queries[j] / t) for j in others)
        logs = [math.log(math.exp(queries[i] @ queries[j] / t) / below) for j in positives]
        losses.append(-sum(logs) / len(logs) if logs and task >= 0 else 0.0)
    return torch.tensor(losses, dtype=torch.float64)


@pytest.mark.parametrize("tasks", [[0, 1, 0, 0, 2], [0, 0, 0, 0, 0], [0, 1, 2, 3, 4], [0, -1, 0, -1, 1]], ids=str)
def test_contrasts_are_their_definition_and_padding_has_no_part(tasks):
    generator = torch.Generator().manual_seed(2)
    queries, prototypes = (torch.randn(5, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    queries.requires_grad_()
    labels = torch.tensor(tasks)
    found = core.instance_contrast(queries, labels, temperature=0.5)
    torch.testing.assert_close(found.detach(), naive_instance(queries.detach(), tasks, 0.5))
    towards = core.prototype_contrast(queries, prototypes, labels, temperature=0.5)
    logs = (queries @ prototypes.T / 0.5).log_softmax(1)
    expected = [-logs[i, task].item() if task >= 0 else 0.0 for i, task in enumerate(tasks)]
    torch.testing.assert_close(towards.detach(), torch.tensor(expected, dtype=torch.float64))
    (gradient,) = torch.autograd.grad((found + towards).sum(), queries)
    assert gradient.isfinite().all()
    assert not gradient[labels < 0].any()


def test_infonce_is_zero_and_finite_at_a_perfect_fit_and_with_one_task():
    """As published, without the positive below, both are minus infinity."""
    z = 100 * torch.eye(3, 64, requires_grad=True)
    for queries, prototypes, task in ((z, z, torch.arange(3)), (z[:1], z[:1], torch.zeros(1, dtype=torch.long))):
        loss = core.prototype_contrast(queries, prototypes, task, temperature=0.1)
        assert loss.tolist() == [0.0] * len(task)
        assert torch.autograd.grad(loss.sum(), z)[0].isfinite().all()
    alone = core.instance_contrast(z[:1], torch.zeros(1, dtype=torch.long), temperature=0.1)
    assert alone.tolist() == [0.0]
    assert torch.autograd.grad(alone.sum(), z)[0].isfinite().all()


@pytest.mark.parametrize("recomputed", [False, True])
def test_every_trained_parameter_has_a_gradient_in_training(recomputed):
    model, method = pha().train(), make_method("pha", ins_weight=0.3, pro_weight=0.2)
    model.set_grad_checkpointing(recomputed)
    once_more = Pass(model, F.cross_entropy, model)
    with method.knowing(model, LABELS):
        outputs = model(X)
        losses = method.losses(once_more, X, outputs, LABELS)
        pooled = torch.cat([naive_tokens(model, x, None).mean(1) for x in X]).detach()
        retriever = next(m for m in model.modules() if isinstance(m, core.Retriever))
        queries, prototypes = (
            retriever(pooled),
            next(m for m in model.modules() if isinstance(m, core.Hypernetwork)).prototypes,
        )
        tasks = torch.tensor([0, 2, 0, 1])
        expected = 0.3 * core.instance_contrast(queries, tasks, temperature=0.1)
        expected = expected + 0.2 * core.prototype_contrast(queries, prototypes, tasks, temperature=0.1)
        torch.testing.assert_close(losses, expected.sum(), rtol=1e-8, atol=1e-10)
        (F.cross_entropy(outputs, LABELS, reduction="sum") + losses).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert choice_of(model).known is None


def test_what_is_counted_of_a_batch():
    model, method = pha(), make_method("pha")
    once_more = Pass(model, F.cross_entropy, model)
    labels = torch.tensor([0, 4, 1, -1])
    with torch.no_grad():
        outputs = model(X)
        counts = method.count(once_more, X, outputs, labels)
        told = torch.stack(naive(model, [0, 2, 0, 0]))
    of_class = choice_of(model).of_class
    found = (of_class[outputs.argmax(1)] == of_class[labels.clamp(min=0)])[:3].sum()
    assert counts["retrieved"] == (100 * int(found), 3)
    right = sum(int(told[i, rows].argmax()) == label for i, rows, label in ((0, [0, 1], 0), (1, [3, 4, 5], 1)))
    right += int(told[2, :2].argmax() == 1)
    assert counts["known"] == (100 * right, 3)


def test_the_file_of_one_task_computes_what_the_model_does_where_it_is_known(tmp_path):
    model = pha()
    names = ["a/x", "a/y", "b/x", "c/x", "c/y", "c/z/w"]
    path = capaboost_vit.save_adapter(model, tmp_path / "pha.safetensors", class_names=names)
    loaded = capaboost_vit.load_adapter(made(img_size=16, depth=3, num_classes=6).double(), path).eval()
    torch.testing.assert_close(loaded(X), model(X))
    assert capaboost_vit.read_header(path)["methods"][0]["task_classes"] == list(CLASSES)
    for task, rows in (("a", [0, 1]), ("b", [2]), ("c", [3, 4, 5])):
        alone = export_task(path, task, tmp_path / f"{task}.safetensors")
        header = capaboost_vit.read_header(alone)
        assert header["class_names"] == [names[row].partition("/")[2] for row in rows]
        assert header["methods"][0]["method"] == "adapter"
        plain = made(img_size=16, depth=3, num_classes=6)
        plain.reset_classifier(len(rows))
        with choice_of(model).knowing(torch.full((4,), rows[0])):
            expected = model(X)[:, rows]
        torch.testing.assert_close(capaboost_vit.load_adapter(plain.double(), alone).eval()(X), expected)
    with pytest.raises(FileExistsError, match="choose another --output"):
        export_task(path, "a", tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="has no task 'd': say one of a, b, c"):
        export_task(path, "d", tmp_path / "d.safetensors")
    one = capaboost_vit.save_adapter(pha(None), tmp_path / "one.safetensors")
    assert len(load_file(export_task(one, None, tmp_path / "plain.safetensors"))) == 3 * 4 + 2
    with pytest.raises(ValueError, match="has no task 'a': it is of one task alone, so say none"):
        export_task(one, "a", tmp_path / "d.safetensors")
    lora = capaboost_vit.adapt(made(img_size=16, depth=1, num_classes=2), "lora")
    with pytest.raises(ValueError, match="the tasks of method 'lora' have no adapters of their own"):
        export_task(capaboost_vit.save_adapter(lora, tmp_path / "l.safetensors"), None, tmp_path / "d.safetensors")


def test_what_several_tasks_do_not_go_with_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"heads of 2 \+ 1 classes in one linear layer, and the head of .* has 5"):
        capaboost_vit.adapt(made(img_size=16, num_classes=5), "pha", task_classes=(2, 1))
    swin = timm.create_model("swin_tiny_patch4_window7_224", num_classes=3, depths=(1, 1, 1, 1), embed_dim=24)
    with pytest.raises(ValueError, match="no retrieval of tasks is known for SwinTransformer"):
        capaboost_vit.adapt(swin, "pha", task_classes=(2, 1))
    model = pha()
    with pytest.raises(capaboost_vit.CannotMerge, match="retrieval of tasks is no change of a weight"):
        capaboost_vit.merge(model)
    for option in ("smoothing", "mixup", "cutmix"):
        config = SimpleNamespace(**{**dict.fromkeys(("smoothing", "mixup", "cutmix"), 0.0), option: 0.1})
        with pytest.raises(ValueError, match=f"--{option} spreads a target over the classes of all tasks"):
            make_method("pha").stages(SimpleNamespace(model=model, config=config))
    with pytest.raises(ValueError, match=r"task_classes of method 'pha' is \(2, 1\), and the data have \(2, 2\)"):
        make_method("pha", task_classes=(2, 1)).for_tasks([2, 2])
    assert make_method("pha").for_tasks([2, 2]).record()["task_classes"] == [2, 2]
    assert capaboost_vit.METHODS["pha"].label(make_method("pha").record()) == "pha w8"
    assert capaboost_vit.METHODS["pha"].label(make_method("pha", task_classes=CLASSES).record()) == "pha w8 3 tasks"


def settings(**options):
    data = ("digits:0-2", "digits:5-6:inverted")
    return {"model": "vit_tiny_patch16_224", "data": data, "method": {"name": "pha", "bottleneck": 4}, **options}


def test_a_run_learns_two_tasks_goes_on_to_the_same_bits_and_leaves_plain_adapters(
    configure, tmp_path, killed_behind, without_pictures
):
    result = train(configure(**settings(output=str(tmp_path / "whole"))))
    with killed_behind(40):
        train(configure(**settings(output=str(tmp_path / "killed"), checkpoint_interval=20)))
    train(configure(**settings(output=str(tmp_path / "killed"), resume=True, checkpoint_interval=20)))
    whole, killed = (tmp_path / run / "adapter.safetensors" for run in ("whole", "killed"))
    assert whole.read_bytes() == killed.read_bytes()
    rows = result["test"]["per_task"]
    found = sum(row["retrieved"] * row["total"] for row in rows) / sum(row["total"] for row in rows)
    assert result["test_retrieved"] == pytest.approx(found)
    assert found > 90  # inverted digits are easy to tell
    assert result["test_known"] >= result["test_accuracy"]
    assert "val_retrieved" in (tmp_path / "whole" / "summary.csv").read_text()
    assert evaluate_images(tmp_path / "whole")["per_task"] == rows
    alone = tmp_path / "alone.safetensors"
    words = ["export", str(whole), "--format", "adapter", "--task", "digits:5-6:inverted", "--output", str(alone)]
    assert main(words) == 0
    assert main([*words[:2], "--task", "digits:0-2", "--output", str(alone)]) == 2
    base = result["config"]["initial_checkpoint"]
    scores = evaluate_images(alone, data="digits:5-6:inverted", initial_checkpoint=base)
    assert scores["accuracy"] >= rows[1]["accuracy"] - 1e-9


def test_a_new_task_starts_from_the_hypernetwork_of_others_with_a_prototype_and_a_head_of_its_own(
    configure, tmp_path, without_pictures
):
    file = tmp_path / "others.safetensors"
    from_tiny = capaboost_vit.adapt(
        timm.create_model("vit_tiny_patch16_224", img_size=16, num_classes=5, **TINY_VIT),
        "pha",
        task_classes=(3, 2),
        bottleneck=4,
        init_seed=7,
    )
    capaboost_vit.save_adapter(from_tiny, file)
    others, prefix = load_file(file), "blocks.0.mlp.branch."
    found = {}
    for ratio in (0.0, 1.0):
        method = {"name": "pha", "bottleneck": 4, "hypernetwork_lr_ratio": ratio}
        options = {"model": "vit_tiny_patch16_224", "data": "digits:5-6", "shots": 2, "max_steps": 2, "batch_size": 2}
        output = str(tmp_path / str(ratio))
        train(configure(**options, method=method, initial_adapter=str(file), output=output, test_split=None))
        found[ratio] = load_file(tmp_path / str(ratio) / "adapter.safetensors")
    kept = [f"{prefix}hypernetwork.{name}" for name in ("inner.weight", "norm.bias", "down.weight", "up_bias.bias")]
    for name in kept:
        assert torch.equal(found[0.0][name], others[name])
        assert not torch.equal(found[1.0][name], others[name])
        torch.testing.assert_close(found[1.0][name], others[name], rtol=0, atol=0.05)
    torch.testing.assert_close(found[0.0][f"{prefix}layer"], others[f"{prefix}layer"], rtol=0, atol=0.05)
    prototype = found[0.0][f"{prefix}hypernetwork.prototypes"]
    assert prototype.shape == (1, 64)
    assert (prototype - others[f"{prefix}hypernetwork.prototypes"]).abs().amax(1).min() > 0.5
    assert not any(".retriever." in name for name in found[0.0])


def test_a_start_that_does_not_fit_is_refused_in_one_line(tmp_path):
    lora = capaboost_vit.adapt(made(img_size=16), "lora")
    file = capaboost_vit.save_adapter(lora, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match=r"was made by lora, and this run is of pha: start from a file of the same"):
        start_from(pha(None), file)
    wide = capaboost_vit.save_adapter(pha(None), tmp_path / "pha.safetensors")
    narrow = capaboost_vit.adapt(made(img_size=16, depth=3, num_classes=2), "pha", bottleneck=3)
    with pytest.raises(
        ValueError, match=r"is no start of this VisionTransformer: .* is \(64,\) in the file, and here \(48,\)"
    ):
        start_from(narrow, wide)
    assert start_from(capaboost_vit.adapt(made(img_size=16, depth=3, num_classes=2), "pha", bottleneck=4), wide) == 17
