"""Pruning of E^2VPT's prompts: what is removed is gone, scores against autograd by example, the start is the start."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from vits import vit as made

import capaboost_vit
from capaboost_vit import METHODS
from capaboost_vit.core.masking import Masking
from capaboost_vit.core.pruned_table import PrunedTable
from capaboost_vit.core.tied import TiedMaskedWeight
from capaboost_vit.methods import make_method
from capaboost_vit.methods.pruning import PromptPruning
from capaboost_vit.run import train
from capaboost_vit.training.checkpoint import Checkpoints

X = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 0, 1])
HALF = {"prompt_length": 4, "prefix_length": 2, "pruned_tokens": 0.5, "pruned_segments": 0.25, "segments": 8}


def vit(**options):
    model = made(**{"img_size": 16, "depth": 2, **options}).double().eval()
    torch.nn.init.normal_(model.head.weight, std=0.3)
    return model


def e2vpt(**options):
    return capaboost_vit.adapt(vit(), "e2vpt", **{**HALF, **options}).double().eval()


def pruning(model, method, **job):
    """That of a job of two batches."""
    batches = [SimpleNamespace(batches=[(X[:2], LABELS[:2]), (X[2:], LABELS[2:])])]
    values = {
        "model": model,
        "called": model,
        "state": SimpleNamespace(device=torch.device("cpu")),
        "front": None,
        "train": SimpleNamespace(epoch=lambda number: iter(batches)),
        "mix": lambda batch: batch,
        "prepare": lambda batch: batch,
        "objective": SimpleNamespace(loss=lambda y, targets: F.cross_entropy(y, targets, reduction="sum")),
        "logits": lambda inputs: model(inputs),
        "world": SimpleNamespace(sum=lambda tensor: tensor),
    }
    return PromptPruning(SimpleNamespace(**{**values, **job}), method.whole)


def tables(model):
    return [block.tokens.table for block in model.blocks]


@torch.no_grad()
@pytest.mark.parametrize("masking", [Masking(1, 1.0), Masking(3, 0.5)])
def test_a_pruned_table_is_the_whole_one_where_it_is_kept_and_zero_elsewhere(masking):
    whole = TiedMaskedWeight((4, 12), masking, path="a")
    whole.fill_normal(1.0)
    rows, segments = torch.tensor([1, 3]), torch.tensor([[0, 2], [1, 3]])
    pruned = PrunedTable(whole, rows=2, kept=2, count=4)
    pruned.take(whole, rows, segments)
    expected = torch.zeros(masking.num_branches, 2, 12)
    for i, row in enumerate(rows):
        for segment in segments[i].tolist():
            part = slice(3 * segment, 3 * segment + 3)
            expected[:, i, part] = whole()[:, row, part]
    assert torch.equal(pruned(), expected)
    assert sum(p.numel() for p in pruned.parameters()) == 2 * 2 * 3


@torch.no_grad()
def test_what_is_removed_is_not_there_which_is_another_model_than_zeros():
    options = {"prompt_length": 4, "pruned_segments": 0.0}
    half, whole = e2vpt(**options), e2vpt(**options, pruned_tokens=0.0)
    found = [sum(p.numel() for p in block.tokens.parameters()) for model in (half, whole) for block in model.blocks]
    assert found == [2 * 16, 2 * 16, 4 * 16, 4 * 16]
    seen = []
    hook = half.blocks[0].base.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    one = half(X)
    hook.remove()
    assert seen == [half.patch_embed.num_patches + 1 + 2]
    for tokens in (block.tokens for block in whole.blocks):
        tokens.table.weight[2:] = 0
    assert (whole(X) - one).abs().max() > 1e-4


def test_a_pruned_model_is_that_of_so_many_prompts():
    half = e2vpt(prompt_length=4, pruned_segments=0.0)
    small = e2vpt(prompt_length=2, pruned_segments=0.0, pruned_tokens=0.0)
    for one, other in zip(half.blocks, small.blocks, strict=True):
        other.tokens.table.weight.data.copy_(one.tokens())
    assert torch.equal(half(X), small(X))
    counts = []
    for model in (half, small, e2vpt(prompt_length=4, pruned_segments=0.0, pruned_tokens=0.0)):
        with FlopCounterMode(display=False) as counter:
            model(X)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] < counts[2]


def test_scores_are_means_of_absolute_gradients_by_example():
    method = make_method("e2vpt", **HALF)
    model = e2vpt()
    one = pruning(model, method)
    one.begin()
    assert [len(block.tokens()) for block in model.blocks] == [4, 4]
    of_tokens, of_segments = one.scores()
    expected = torch.zeros(5, 4, 8, dtype=torch.float64)
    for i in range(5):
        model.zero_grad()
        F.cross_entropy(model(X[i : i + 1]), LABELS[i : i + 1]).backward()
        for block in model.blocks:
            weight = block.tokens.table.weight
            expected[i] += (weight.grad * weight).detach().unflatten(-1, (8, -1)).sum(-1)
    torch.testing.assert_close(of_segments.double(), expected.abs().sum(0), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(of_tokens.double(), expected.sum(-1).abs().sum(0), rtol=1e-4, atol=1e-7)
    signed = expected.sum(-1).sum(0)
    assert not torch.allclose(of_tokens.double(), signed.abs())  # signs that cancel over the examples are not lost


def test_a_token_without_a_part_in_the_output_has_score_zero_and_goes_first():
    method = make_method("e2vpt", **HALF)
    model = e2vpt()
    one = pruning(model, method)
    one.begin()
    with torch.no_grad():
        for block in model.blocks:
            block.tokens.table.weight[1] = 0
            block.tokens.table.weight[2] *= 3
    of_tokens, of_segments = one.scores()
    assert of_tokens[1] == 0
    assert of_tokens[[0, 2, 3]].min() > 0
    assert torch.equal(of_segments[1], torch.zeros(8))
    for block in model.blocks:
        torch.nn.init.zeros_(block.base.attn.base.proj.weight)  # nobody hears of any token
    of_tokens, of_segments = one.scores()
    assert of_tokens.max() == of_segments.max() == 0


@pytest.mark.parametrize("masks", [{}, {"num_branches": 3, "density": 0.5}])
def test_what_is_kept_begins_with_its_values_of_step_0_and_all_else_is_as_it_was(masks):
    method = make_method("e2vpt", **HALF, **masks)
    model = e2vpt(**masks)
    parameters = dict(model.named_parameters())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    one = pruning(model, method)
    one.begin()
    start = [block.tokens().detach().clone() for block in model.blocks]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(X), LABELS).backward()
        optimizer.step()
    of_tokens, of_segments = one.scores()
    one.end()
    rows = of_tokens.topk(2).indices.sort().values
    for block, whole in zip(model.blocks, start, strict=True):
        kept = block.tokens().detach()
        segments = of_segments[rows].topk(6).indices
        assert torch.equal(block.tokens.table.segments.long(), segments.sort(1).values)
        expected = torch.zeros_like(kept).unflatten(-1, (8, -1))
        for i, row in enumerate(rows):
            expected[i, segments[i]] = whole[row].unflatten(-1, (8, -1))[segments[i]]
        assert torch.equal(kept, expected.flatten(-2))
        assert block.tokens.length == block.dropped == 2
    # the tensors that an optimizer holds, all others with their values
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())
    own = {name for name in before if ".table.values." in name or name.endswith(".segments")}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items() if name not in own)
    assert model(X).shape == (5, 3)


def test_the_class_row_alone_is_pruned_with_its_model():
    method = make_method("e2vpt", **HALF)
    model = e2vpt()
    twin = capaboost_vit.logits_only(model)
    one = pruning(model, method, called=twin, logits=twin)
    one.begin()
    torch.testing.assert_close(twin(X), model(X), rtol=1e-10, atol=1e-12)
    one.end()
    torch.testing.assert_close(twin(X), model(X), rtol=1e-10, atol=1e-12)


@pytest.fixture
def settings(configure, without_pictures):
    shares = {"pruned_tokens": 0.5, "pruned_segments": 0.5, "scored_after": 0.5}

    def make(dropout=0.1, **options):
        method = {"name": "e2vpt", "prompt_length": 4, "dropout": dropout, **shares}
        return configure(**{"model": "vit_tiny_patch16_224", "method": method, "warmup_epochs": 0, **options})

    return make


def test_a_run_prunes_and_its_file_has_what_is_left(settings, tmp_path, capsys):
    result = train(settings(output=str(tmp_path / "run")))
    text = capsys.readouterr().err
    assert "stage 1 of 2: all 4 prompt tokens are put in" in text
    assert "3 updates with all of them; then all begins anew with 2 tokens, 8 of 16 segments of each" in text
    stored = load_file(tmp_path / "run/adapter.safetensors")
    assert stored["blocks.0.tokens.table.values.weight"].shape == (2, 8)
    assert stored["blocks.0.tokens.table.segments"].shape == (2, 8)
    assert result["parameters"]["branches"] == 2 * 8 + 5 * 16
    assert len((tmp_path / "run/summary.csv").read_text().splitlines()) == 1 + 2  # the first training is in no table
    record = capaboost_vit.read_header(tmp_path / "run/adapter.safetensors")["methods"][0]
    assert METHODS["e2vpt"].label(record) == "e2vpt p4 k5 pruned 0.5 segments pruned 0.5"
    loaded = capaboost_vit.create_from_adapter(tmp_path / "run/adapter.safetensors", pretrained=False, force=True)
    assert loaded.blocks[0].tokens().shape == (2, 16)


def test_a_run_that_is_stopped_in_the_first_training_says_so_and_begins_anew(settings, tmp_path, monkeypatch):
    from capaboost_vit.training import loop
    from capaboost_vit.training.signals import Interrupted

    real = loop._step

    def asked(*arguments, stop, **options):
        stop.number = 15
        return real(*arguments, stop=stop, **options)

    saved = []
    monkeypatch.setattr(loop, "_step", asked)
    monkeypatch.setattr(Checkpoints, "save", lambda self, update, tree: saved.append(update))
    with pytest.raises(Interrupted, match="stopped in stage 2 of 2, which begin anew; go on with: capaboost train"):
        train(settings(output=str(tmp_path / "run")))
    assert saved == []
    monkeypatch.undo()
    train(settings(output=str(tmp_path / "run"), resume=True))
    train(settings(output=str(tmp_path / "whole")))
    one, other = (tmp_path / run / "adapter.safetensors" for run in ("run", "whole"))
    assert one.read_bytes() == other.read_bytes()


def test_refusals_say_what_to_do(settings):
    with pytest.raises(ValueError, match="e2vpt prunes prompt tokens, and prompt_length=0 has none: leave the pruning"):
        make_method("e2vpt", prompt_length=0, pruned_tokens=0.5)
    with pytest.raises(ValueError, match="tokens of width 16 do not divide into segments=5: say a number that divides"):
        e2vpt(segments=5)
    job = SimpleNamespace(config=SimpleNamespace(fsdp=True))
    with pytest.raises(ValueError, match="e2vpt scores whole tokens, which --fsdp has in no process: leave it, or the"):
        list(make_method("e2vpt", pruned_tokens=0.5).stages(job))
    assert list(make_method("e2vpt").stages(job)) == []
    assert make_method("e2vpt", prompt_length=1, pruned_tokens=0.9).left() == (1, 16)


@pytest.mark.slow
def test_two_processes_keep_what_one_keeps(settings, tmp_path, ready):
    train(settings(output=str(tmp_path / "one"), drop_path=0.0, dropout=0.0))  # each process draws its own
    command = ["train", "--config", str(tmp_path / "one/config.yaml"), "--output", str(tmp_path / "two")]
    done = ready.run(["capaboost", *command], ranks=2)
    assert done.returncode == 0, done.stderr
    one, two = (load_file(tmp_path / run / "adapter.safetensors") for run in ("one", "two"))
    assert torch.equal(one["blocks.0.tokens.table.segments"], two["blocks.0.tokens.table.segments"])
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)
