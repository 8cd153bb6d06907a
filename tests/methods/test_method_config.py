"""Method options: checked words, defaults that are the paper's, plain methods at one branch and density 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from capaboost_vit.core.inject import Anatomy, branches
from capaboost_vit.methods import METHODS, Method, make_method, register
from capaboost_vit.methods.apply import apply_method
from capaboost_vit.methods.ia3 import Ia3
from capaboost_vit.methods.index import method_of, option_names
from capaboost_vit.methods.lora import Lora
from capaboost_vit.methods.method import MaskedMethod


def test_the_default_contains_the_plain_method_and_the_papers_masks_are_a_word_away():
    config = make_method("lora")
    assert (config.rank, config.num_branches, config.targets) == (8, 2, ("query", "value"))
    assert (config.pattern, config.coefficients, config.masking.kept) == ("sign", "rank", 1)
    for papers in (make_method("lora", pattern="random"), make_method("lora", density=0.5)):
        assert (papers.num_branches, papers.pattern, papers.coefficients) == (2, "random", None)
        assert papers.masking.kept == 0.5
    assert make_method("lora", num_branches=1, density=1.0).masking.kept == 1
    assert make_method("lora", pattern="sign").coefficients is None
    assert make_method("adapter").masking == config.masking
    assert make_method("prefix").pattern == make_method("prompt").pattern == "random"


@pytest.mark.parametrize(
    ("method", "options", "error", "message"),
    [
        ("lore", {}, ValueError, r"unknown method 'lore' \(did you mean 'lora'\?\)"),
        ("lora", {"rnak": 4}, TypeError, r"no option 'rnak' \(did you mean 'rank'\?\)"),
        ("adapter", {"rank": 4}, TypeError, "method 'adapter' has no option 'rank'"),
        ("head", {"rank": 4}, TypeError, "it has: none"),
    ],
)
def test_wrong_words_name_the_nearest_right_one(method, options, error, message):
    with pytest.raises(error, match=message):
        make_method(method, **options)


@pytest.mark.parametrize("option", ["num_branches", "density", "pattern", "mask_seed"])
def test_who_gives_masks_to_a_method_that_takes_none_is_told_why(option):
    unmasked = [name for name, cls in METHODS.items() if not issubclass(cls, MaskedMethod)]
    own = [name for name in unmasked if METHODS[name].__module__.startswith("capaboost_vit.")]
    assert {"snell", "ether", "hra", "boft", "gralora", "vera", "randlora", "deep_lora", "pafi", "hiwi"} < set(own)
    for name in own:
        with pytest.raises(TypeError, match=f"^method '{name}' takes no masks, as .+: leave out '{option}'$"):
            make_method(name, **{option: 1})
    with pytest.raises(TypeError, match="as a masked unit vector is none: leave out 'density'"):
        make_method("ether", density=0.5)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("lora", {"alpha": "32"}, "alpha of method 'lora' must be float, got '32'"),
        ("lora", {"rank": 4.0}, "rank of method 'lora' must be int, got 4.0"),
        ("lora", {"rank": None}, "rank of method 'lora' must be int, got None"),
        ("lora", {"freeze_down": 1}, "freeze_down of method 'lora' must be bool, got 1"),
        ("lora", {"dropout": True}, "dropout of method 'lora' must be float, got True"),
        ("lora", {"density": "half"}, r"density of method 'lora' must be float \| None, got 'half'"),
        ("adapter", {"targets": [1]}, "targets of method 'adapter' must be words"),
    ],
)
def test_values_of_another_type_are_refused(method, options, message):
    with pytest.raises(TypeError, match=message):
        make_method(method, **options)


SCALES = ("alpha", "scale", "scaling", "d_initial")
SCALED = [(name, option) for name in METHODS for option in SCALES if option in METHODS[name].__dataclass_fields__]


@pytest.mark.parametrize(("method", "option"), SCALED)
def test_a_scale_of_zero_which_would_train_nothing_is_refused(method, option):
    with pytest.raises(ValueError, match=f"{option} of method '{method}' must not be 0: what it scales would not be"):
        make_method(method, **{option: 0})


def test_integers_are_numbers_numpys_too():
    config = make_method("lora", rank=np.int64(4), alpha=8, density=1, dropout=np.float32(0))
    assert (config.rank, config.alpha) == (4, 8.0)


@pytest.mark.parametrize("targets", ["0", ["0"], ("0",)])
def test_one_target_may_be_a_plain_string(targets):
    assert make_method("lora", targets=targets).targets == ("0",)


def test_option_names_are_in_the_order_of_the_fields():
    assert option_names("lora")[:2] == ["num_branches", "density"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"placement": "beside"}, "placement of method 'adapter' must be parallel or sequential, got 'beside'"),
        ({"activation": "swish"}, "activation of method 'adapter' must be relu, gelu, silu or tanh"),
    ],
)
def test_wrong_adapter_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_method("adapter", **options)


@pytest.mark.parametrize(
    ("placement", "scale", "expected"), [("parallel", None, 0.1), ("sequential", None, 1.0), ("parallel", 4.0, 4.0)]
)
def test_adapter_scale_follows_the_placement_unless_given(placement, scale, expected):
    model = nn.Sequential(nn.Linear(8, 8))
    apply_method(model, Anatomy(), make_method("adapter", targets=["0"], placement=placement, scale=scale))
    assert branches(model)["0.branch"].scaling == expected


def test_prefix_needs_an_anatomy_that_knows_attention():
    with pytest.raises(ValueError, match="no prefix attention is known for Sequential"):
        apply_method(nn.Sequential(nn.Linear(8, 8)), Anatomy(), make_method("prefix", targets=["0"]))


def test_full_trains_everything_and_head_only_the_head():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    apply_method(model, Anatomy(head=("1",)), make_method("head"))
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]
    apply_method(model, Anatomy(head=("1",)), make_method("full"))
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_one_branch_at_density_one_is_peft_lora():
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 4))
    theirs = nn.Sequential(nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 4))
    theirs.load_state_dict(ours.state_dict())
    config = make_method("lora", rank=3, alpha=5, num_branches=1, density=1, targets=["0", "2"])
    apply_method(ours, Anatomy(), config)
    theirs = peft.get_peft_model(theirs, peft.LoraConfig(r=3, lora_alpha=5, target_modules=["0", "2"]))
    for name, branch in branches(ours).items():
        layer = theirs.base_model.model.get_submodule(name.partition(".")[0])
        nn.init.normal_(branch.up.weight)
        layer.lora_A["default"].weight.data = branch.down.weight.detach().clone()
        layer.lora_B["default"].weight.data = branch.up.weight.detach().clone()
    x = torch.randn(5, 24)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-5)
    ours(x).square().sum().backward()
    theirs(x).square().sum().backward()
    for name, branch in branches(ours).items():
        layer = theirs.base_model.model.get_submodule(name.partition(".")[0])
        torch.testing.assert_close(branch.down.weight.grad, layer.lora_A["default"].weight.grad, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(branch.up.weight.grad, layer.lora_B["default"].weight.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["lora", "adapter", "prefix", "prompt"])
def test_one_branch_with_masks_that_nobody_asked_for_is_cautioned(name):
    (caution,) = make_method(name, num_branches=1).cautions()
    assert f"add --method.density 1 for plain {name}, or --method.density 0.5 if that is meant" in caution
    meant = {"density": 1.0}, {"density": 0.5}, {"pattern": "2:4"}, {"pattern": "sign"}, {"pattern": "complementary"}
    for options in meant:
        assert not [*make_method(name, num_branches=1, **options).cautions()]
    assert not [*make_method(name).cautions()]


@dataclass(frozen=True)
class NoHelp(Method):
    """An option without words."""

    name: ClassVar[str] = "no_help"
    strength: float = 0.1


class NoDataclass(Method):
    """Its decorator was forgotten."""

    name: ClassVar[str] = "no_dataclass"


@dataclass(frozen=True)
class NoName(Method):
    """Nobody could call it."""


@dataclass(frozen=True)
class SecondLora(Method):
    """Its name is taken."""

    name: ClassVar[str] = "lora"


@pytest.mark.parametrize(
    ("method", "error", "message"),
    [
        (NoHelp, TypeError, r"NoHelp\.strength needs a help: strength: \.\.\. = option\(default, help\)"),
        (NoDataclass, TypeError, "NoDataclass is no dataclass: put @dataclass"),
        (NoName, ValueError, "NoName needs `name: ClassVar"),
        (SecondLora, ValueError, r"there is a method 'lora' already, capaboost_vit\.methods\.lora\.Lora"),
    ],
)
def test_a_method_that_cannot_be_registered_is_refused_and_changes_nothing(method, error, message):
    before = dict(METHODS)
    with pytest.raises(error, match=message):
        register(method)
    assert before == METHODS


def test_what_was_given_is_what_a_configuration_keeps():
    assert method_of({"rank": 8}, implied="lora").as_given() == {"rank": 8}
    assert method_of({"name": "lora", "rank": 4}).as_given() == {"name": "lora", "rank": 4}
    assert method_of({}, implied="lora").as_given() == {}
    assert method_of({}) is None
    assert Ia3(inputs=()).as_given() == {"name": "ia3", "inputs": []}
    for made in (Lora(rank=4), Lora(pattern="sign")):  # what the default masks are is written out
        assert method_of(made.as_given()) == made
    with pytest.raises(ValueError, match=r"--method\.rank is an option of no method: say --method\.name too"):
        method_of({"rank": 4})


def test_start_values_follow_the_run_unless_they_were_chosen():
    assert method_of({"name": "lora"}).seeded(5).init_seed == 5
    assert method_of({"name": "lora", "init_seed": 0}).seeded(5).init_seed == 0
    assert make_method("head").seeded(5) == make_method("head")
