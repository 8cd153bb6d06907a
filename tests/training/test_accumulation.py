"""An update that is computed in parts is the update."""

from __future__ import annotations

import pytest
import torch
from toys import Fixed, largest_difference, small, state, train

from capaboost_vit.vision.data import Split
from capaboost_vit.vision.loader import image_train_loader


@pytest.mark.parametrize("parts", [2, 3, 5, 8, 100])
@pytest.mark.parametrize("method", ["lora", "adapter"])
def test_parts_of_any_number_give_the_update_of_one_batch(method, parts):
    whole, divided = small(method), small(method)
    first = train(whole, Fixed((8, 7, 1)), opt="sgd")
    second = train(divided, Fixed((8, 7, 1), parts=parts), opt="sgd")
    assert largest_difference(state(whole), state(divided)) <= 1e-6
    assert first.losses == pytest.approx(second.losses, abs=1e-6)
    assert first.norms == pytest.approx(second.norms, abs=1e-6)
    assert first.state.progress.examples == second.state.progress.examples == 4 * 16
    assert first.rows[-1]["train_accuracy"] == second.rows[-1]["train_accuracy"]


@pytest.mark.parametrize("options", [{"smoothing": 0.3}, {"clip_grad": 0.05}, {"amp": True, "amp_dtype": "float16"}])
def test_what_acts_on_loss_and_gradient_acts_on_the_whole_update(options):
    whole, divided = small(), small()
    train(whole, opt="sgd", **options)
    train(divided, Fixed(parts=3), opt="sgd", **options)
    assert largest_difference(state(whole), state(divided)) <= (2e-3 if "amp" in options else 1e-6)


def blank(count):
    """Images whose pixels are their index."""
    names = tuple(map(str, range(count)))
    return Split(names, tuple(range(count)), lambda name: torch.full((1, 1, 3), int(name)))


@pytest.mark.parametrize("accumulation", [1, 2, 3, 8, 20])
@pytest.mark.parametrize("world_size", [1, 2, 3, 10])
def test_the_parts_of_all_processes_are_the_update_each_image_once(monkeypatch, accumulation, world_size):
    monkeypatch.setattr(Split, "image", lambda self, index: torch.full((3, 1, 1), index, dtype=torch.uint8))

    def updates(**options):
        return list(image_train_loader(blank(19), lambda image: image, batch_size=8, seed=5, **options).epoch(2))

    whole = updates()
    shares = [updates(accumulation=accumulation, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert [update.size for update in whole] == [8, 8, 3]
    for i, update in enumerate(whole):
        mine = [share[i] for share in shares]
        assert {share.size for share in mine} == {update.size}
        labels = [torch.cat([labels for _, labels in share.batches]).tolist() for share in mine]
        counted = [[label for label in found if label >= 0] for found in labels]
        assert sorted(label for found in counted for label in found) == sorted(update.batches[0][1].tolist())
        assert [share.indices for share in mine] == counted
        assert max(map(len, counted)) - min(map(len, counted)) <= 1
        for share, found in zip(mine, counted, strict=True):
            assert len(share.batches) == max(1, min(accumulation, len(found)))  # never none: others would wait
            sizes = [len(part) for _, part in share.batches]
            assert max(sizes) - min(sizes) <= 1
