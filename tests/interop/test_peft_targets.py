"""LoRA stands where PEFT puts it by default, in every model of transformers that PEFT's own table names."""

from __future__ import annotations

import pytest
import zoo
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as TARGETS

import capaboost_vit
from capaboost_vit.core.names import slots

NAMES = [name for name in zoo.MODELS if zoo.config_of(name).model_type in TARGETS]


def test_peft_names_most_text_models_of_the_zoo():
    assert {"bert", "roberta", "electra", "deberta-v2", "llama", "qwen3", "gemma", "gpt2", "t5", "bart"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_query_and_value_are_the_modules_that_peft_would_adapt(name):
    model = zoo.build(name)
    suffixes = TARGETS[model.config.model_type]
    expected = {module for module, _ in slots(model) if module.rpartition(".")[2] in suffixes}
    adapted = capaboost_vit.branches(capaboost_vit.adapt(model, "lora"))
    assert {branch.partition(".branches.")[0] for branch in adapted} == expected
