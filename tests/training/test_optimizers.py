"""Optimizers of timm go on from a checkpoint to the same bits, or are refused before the first update."""

from __future__ import annotations

import math

import pytest
import torch
from toys import Fixed, begin, go_on, largest_difference, small, state, train

from capaboost_vit.training.checkpoint import CheckpointError, Checkpoints

OPTIMIZERS = ["adamw", "sgd", "momentum", "lion", "adafactor", "lamb", "adan", "lookahead_adam", "muon", "madgrad"]
OPTIMIZERS += [
    "adabelief",
    "adadelta",
    "adagrad",
    "adamax",
    "adamuon",
    "adopt",
    "cadamw",
    "laprop",
    "lars",
    "mars",
    "nadamw",
]
OPTIMIZERS += ["novograd", "radam", "rmsproptf", "sgdp", "lookahead_sgd", "qlion8"]


@pytest.fixture
def stored(tmp_path):
    """Puts a state through a checkpoint file."""

    def store(at):
        checkpoints = Checkpoints(tmp_path)
        checkpoints.save(at.progress.update, {"state": at.pack(), "events": {}, "record": {}, "machine": {}})
        return checkpoints.newest(pytest.fail)["state"]

    return store


def continued(stored, at, **options):
    """(weights, rows) of a run that goes on from its checkpoint after update `at`, and of one that was not stopped."""
    trees = {}

    def save(now):
        if now.progress.update == at and at not in trees:
            trees[at] = stored(now)

    options = {"epochs": 3, "lr": 1e-3, "checkpoint_interval": 1, **options}
    whole = small(drop_path_rate=0.2)
    log = train(whole, hooks={"save": save}, **options)
    other = begin(small(drop_path_rate=0.2), **options)
    with torch.no_grad():
        for p in other.trained():
            p.add_(1)  # the checkpoint replaces it
    other.unpack(trees[at])
    torch.rand(7)  # the global random state has no part in it
    rest = go_on(other)
    assert rest.updates == list(range(at + 1, 10))
    return (state(whole), log.rows), (state(other.model), rest.rows)


@pytest.mark.parametrize("opt", OPTIMIZERS)
@pytest.mark.parametrize("at", [1, 7])
def test_an_optimizer_goes_on_from_a_checkpoint_to_the_same_bits(stored, opt, at):
    first, second = continued(stored, at, opt=opt)
    assert largest_difference(first[0], second[0]) == 0
    assert first[1] == second[1]


@pytest.mark.filterwarnings("ignore:It is highly recommended to have 'opt_einsum'")
def test_an_optimizer_that_draws_random_numbers_goes_on_to_the_same_bits(stored):
    with torch.compiler.set_stance("force_eager"):  # kron compiles itself, for 15 s
        first, second = continued(stored, 4, opt="kron")
    assert largest_difference(first[0], second[0]) == 0


@pytest.mark.parametrize(
    "options",
    [
        {"layer_decay": 0.7},
        {"amp": True, "amp_dtype": "float16"},
        {"amp": True},
        {"model_ema": True, "model_ema_decay": 0.9},
        {"sched": "none", "layer_decay": 0.7},
        {"sched": "step", "clip_grad": 0.05, "smoothing": 0.1},
        {"max_steps": 9, "epochs": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("at", [3, 5])
def test_every_part_of_a_run_goes_on_from_a_checkpoint_to_the_same_bits(stored, options, at):
    first, second = continued(stored, at, **options)
    assert largest_difference(first[0], second[0]) == 0
    assert first[1] == second[1]


@pytest.mark.parametrize(
    ("opt", "error"),
    [
        ("adahessian", "--opt adahessian needs second derivatives, which this loop does not make: choose adamw"),
        ("adafactorbv", "--opt adafactorbv: a checkpoint cannot hold .*momentum_dtype: a dtype; choose adamw, sgd"),
        ("fusedadamw", "--opt fusedadamw: "),
        ("bnbadamw8bit", "--opt bnbadamw8bit: "),
        ("lookahead_adahessian", "--opt lookahead_adahessian needs second derivatives"),
    ],
)
def test_an_optimizer_that_cannot_be_used_is_refused_at_the_start(opt, error):
    if torch.cuda.is_available() and opt.startswith(("fused", "bnb")):
        pytest.skip("they may work here")
    with pytest.raises(ValueError, match=error):
        begin(small(), opt=opt)


def test_the_checkpoint_of_an_optimizer_that_was_not_fused_goes_on_fused(stored):
    first = begin(small(pattern="random"))
    go_on(first)
    tree = stored(first)
    for group in tree["optimizer"]["param_groups"]:
        group["fused"] = None
    tree["scaler"] = begin(small(pattern="random"), amp=True, amp_dtype="float16").scaler.state_dict()
    second = begin(
        small(pattern="random"), epochs=8, amp=True, amp_dtype="float16"
    )  # a scaler asks more of a fused optimizer
    second.unpack(tree)
    assert all(group["fused"] for group in second.optimizer.param_groups)
    assert go_on(second).updates == list(range(13, 25))
    assert {int(entry["step"]) for entry in second.optimizer.state.values()} == {24}


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"amp": True, "amp_dtype": "float16", "clip_grad": 0.05}], ids=str)
@pytest.mark.parametrize("opt", ["adamw", "sgd"])
def test_a_fused_optimizer_goes_on_from_a_checkpoint_on_a_gpu(stored, opt, options):
    hooks = {"prepare": lambda batch: (batch[0].cuda(), batch[1].cuda())}
    first = begin(small().cuda(), opt=opt, **options)
    go_on(first, **hooks)
    tree = stored(first)
    for fused in (True, None):
        for group in tree["optimizer"]["param_groups"]:
            group["fused"] = fused
        second = begin(small().cuda(), opt=opt, epochs=8, **options)
        second.unpack(tree)
        assert all(entry["step"].is_cuda for entry in second.optimizer.state.values() if "step" in entry)
        assert go_on(second, **hooks).updates == list(range(13, 25))


def test_a_checkpoint_of_an_optimizer_with_other_groups_is_refused(stored):
    tree = stored(begin(small()))
    with pytest.raises(
        CheckpointError, match="another optimizer, with other groups of weights: choose another --output"
    ):
        begin(small(), layer_decay=0.7).unpack(tree)


def test_a_checkpoint_of_another_model_is_refused(stored):
    tree = stored(begin(small()))
    with pytest.raises(CheckpointError, match=r"the checkpoint is of another model: .* differs"):
        begin(small("adapter")).unpack(tree)
    with pytest.raises(CheckpointError, match=r"head\.(bias|weight) differs"):
        begin(small(num_classes=4), Fixed()).unpack(tree)


@pytest.mark.parametrize("part", ["model", "optimizer", "scaler", "best", "progress"])
def test_a_state_that_lacks_a_part_or_holds_another_thing_there_is_refused(part):
    options = {"amp": True, "amp_dtype": "float16", "select": "best"}
    tree = begin(small(), **options).pack()
    for lie in (3, {"a": 1}):
        with pytest.raises(CheckpointError):
            begin(small(), **options).unpack({**tree, part: lie})
    with pytest.raises(CheckpointError, match=f"the checkpoint holds no state of this run: KeyError.'{part}'"):
        begin(small(), **options).unpack({name: value for name, value in tree.items() if name != part})


def test_a_score_that_is_no_number_is_never_the_best():
    state = begin(small())
    for score in (math.nan, 1.0, math.nan, 2.0):
        state.keep_best(score)
    assert (state.progress.best_score, state.progress.stale) == (2.0, 0)
