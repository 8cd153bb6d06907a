"""A linear layer adapted by us and by PEFT, with the same numbers in float64."""

from __future__ import annotations

import warnings

import torch
from torch import nn

import capaboost_vit
from capaboost_vit.core.inject import branches


def layer(out_features, in_features):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(in_features, out_features))


def update_of(method, out_features, in_features, **options):
    """Our model, and its one update with numbers of no particular kind, in float64."""
    ours = capaboost_vit.adapt(layer(out_features, in_features), method, targets=["0"], head=[], **options).double()
    (update,) = branches(ours).values()
    with torch.no_grad():
        for seed, parameter in enumerate(update.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
    return ours.eval(), update


def assert_the_same_as_peft(config, pairs, method, *, shape=(12, 8), **options):
    """Outputs, gradients and merged weights.

    Args:
        config: PEFT's class of configurations with what differs from its defaults.
        pairs: of our update and PEFT's layer makes (parameter of ours, of theirs, what makes theirs of ours).
    """
    import peft

    ours, update = update_of(method, *shape, **options)
    kind, values = config
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(layer(*shape), getattr(peft, kind)(target_modules=["0"], **values)).double().eval()
    matched = list(pairs(update, theirs.base_model.model[0]))
    trained = [p for p in theirs.parameters() if p.requires_grad]
    assert sum(p.numel() for p in update.parameters()) == sum(p.numel() for p in trained)
    for mine, other, form in matched:
        other.data.copy_(form(mine))
    x = torch.randn(5, 3, shape[1], generator=torch.Generator().manual_seed(9)).double()
    expected = theirs(x)
    torch.testing.assert_close(ours(x), expected, rtol=1e-9, atol=1e-9)
    assert (expected - layer(*shape).double()(x)).abs().max() > 0.1
    for model in (ours, theirs):
        model(x).sin().sum().backward()
    for mine, other, form in matched:
        if mine.requires_grad:
            assert other.grad.abs().max() > 0
            torch.testing.assert_close(form(mine.grad), other.grad, rtol=1e-7, atol=1e-9)
    merged, plain = capaboost_vit.merge(ours), theirs.merge_and_unload()
    torch.testing.assert_close(merged[0].weight, plain[0].weight, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(capaboost_vit.detach(ours)[0].weight, layer(*shape).double()[0].weight)
