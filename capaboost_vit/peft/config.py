"""The configuration of a CapaBoost adapter, and its member of PEFT's enum of methods."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from peft import PeftConfig, PeftType

from ..io.options import check_value
from ..methods.lora import Lora

NAME = "CAPABOOST"


def add_peft_type(name: str) -> None:
    """Makes `PeftType.<name>`, which `register_peft_method` asks for: a member as the class statement would make it.

    Nothing is done where there is one already.
    """
    if name in PeftType.__members__:
        return
    member = str.__new__(PeftType, name)
    vars(member).update(vars(PeftType.LORA) | {"_name_": name, "_value_": name, "_sort_order_": len(PeftType)})
    setattr(PeftType, name, member)  # before it is in the map: members cannot be assigned to
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = PeftType._value2member_map_[name] = member


add_peft_type(NAME)


@dataclass
class CapaBoostConfig(PeftConfig):
    """`y = W x + scaling * sum_i (B * MB_i) (A * MA_i) dropout(x)`: the method `lora` of this library in PEFT's words.

    num_branches=1 with density=1 is PEFT's LoRA but for the start values. Masks and start values are functions of their
    seeds and the layer's name, so adapters of the same seeds have the same ones.

    Args:
        r: rank of one branch.
        lora_alpha: the update is scaled by `lora_alpha / r`, with use_rslora by `lora_alpha / sqrt(r)`.
        lora_dropout: probability of dropping an input entry of the branches, in training.
        num_branches: d, how many masked views of A and B are summed.
        density: fraction kept by each mask; None: the pattern's own (random 0.5, n:m n/m, complementary 1/d, sign 1).
        pattern: random (the paper's), complementary, sign, or n:m such as 2:4; None: sign with coefficients by rank
            where there are several branches and no density, else random.
        coefficients: "rank" or "branch": learned factors of all branches but the first, which then has no mask.
        mask_seed: of the masks. init_seed: of the start of A.
        target_modules: names, or ends of names, of linear layers; a regular expression; or "all-linear". None: those
            of PEFT's LoRA for this architecture.
        exclude_modules, layers_to_transform, layers_pattern, modules_to_save: as PEFT's LoRA takes them.
        bias: which biases of the base are trained, "none", "all" or "capaboost_only" (those of the adapted layers).

    Raises:
        ValueError: a value outside of its range, or masks that do not exist. TypeError: one of another type.
    """

    r: int = 8
    lora_alpha: float = 8.0
    lora_dropout: float = 0.0
    use_rslora: bool = False
    num_branches: int = 2
    density: float | None = None
    pattern: str | None = None
    coefficients: str | None = None
    mask_seed: int = 0
    init_seed: int = 0
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    bias: str = field(default="none")
    modules_to_save: list[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType[NAME]
        check_value("r", self.r, int, {"low": 1})
        check_value("lora_alpha", self.lora_alpha, float, {})
        check_value("lora_dropout", self.lora_dropout, float, {"low": 0, "below": 1})
        check_value("bias", self.bias, str, {"choices": ("none", "all", "capaboost_only")})
        method = self.method()
        # as they are meant, so that a stored adapter does not depend on what None means in another release
        self.pattern, self.coefficients = method.pattern, method.coefficients
        if self.layers_pattern and self.layers_to_transform is None:
            raise ValueError("layers_pattern says where layers_to_transform counts: give that too")
        if isinstance(self.target_modules, str) and self.layers_to_transform is not None:
            raise ValueError(
                "layers_to_transform needs a list of target_modules: a regular expression names the layers"
            )
        for name in ("target_modules", "exclude_modules"):  # what PEFT compares and condenses are sets
            if isinstance(getattr(self, name), (list, tuple)):
                setattr(self, name, set(getattr(self, name)))

    def method(self) -> Lora:
        """The method with these options."""
        same: Any = {name: getattr(self, name) for name in _SAME}
        return Lora(rank=self.r, alpha=self.lora_alpha, dropout=self.lora_dropout, **same)


# options that `lora` has by the same name
_SAME = ("use_rslora", "num_branches", "density", "pattern", "coefficients", "mask_seed", "init_seed")
