"""CapaBoost-LoRA as a tuner of the package peft; importing this module registers it there.

>>> from peft import get_peft_model
>>> from capaboost_vit.peft import CapaBoostConfig
>>> model = get_peft_model(llm, CapaBoostConfig(r=8, num_branches=2, pattern="sign", target_modules="all-linear"))

PEFT's list of methods, the enum `PeftType`, is closed: `config.add_peft_type` extends it, the one place that reaches
into PEFT beyond the base classes and hooks that its own tuners use. A process that loads a stored adapter imports this
module first, or PEFT does not know what CAPABOOST is.
"""

from ..interop.peft_format import import_client

import_client()  # says in one line how to install it

from .config import CapaBoostConfig  # noqa: E402
from .layer import CapaBoostLayer  # noqa: E402
from .model import CapaBoostModel  # noqa: E402

__all__ = ["CapaBoostConfig", "CapaBoostLayer", "CapaBoostModel"]
