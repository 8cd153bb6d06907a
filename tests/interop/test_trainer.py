"""transformers' Trainer with `SaveAdapter`, and accelerate: small checkpoints, and the same bits behind a resume."""

from __future__ import annotations

import pytest
import small
import timm
import torch
from safetensors.torch import load_file

import capaboost_vit
from capaboost_vit import nlu

transformers = pytest.importorskip("transformers")
accelerate = pytest.importorskip("accelerate")
from capaboost_vit.transformers import SaveAdapter  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("ignore:.*pin_memory")]
VIT = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}


def text_model(*, seed=0, method="lora"):
    return nlu.adapt(small.build("bert", "SequenceClassification", seed=seed), method)


def image_model(*, seed=0, method="lora"):
    """A timm model as transformers takes it, by the registered name."""
    torch.manual_seed(seed)
    config = transformers.TimmWrapperConfig(
        architecture=f"vit_tiny_capaboost_{method}", num_labels=3, model_args={**VIT, "img_size": 16}
    )
    return transformers.TimmWrapperForImageClassification(config)


def adapted(model):
    return getattr(model, "timm_model", model)


def rows(model):
    generator = torch.Generator().manual_seed(0)
    if hasattr(model, "timm_model"):
        inputs = [{"pixel_values": torch.randn(3, 16, 16, generator=generator)} for _ in range(16)]
    else:
        inputs = [{"input_ids": torch.randint(1, 20, (6,), generator=generator)} for _ in range(16)]
    return [{**row, "labels": i % model.config.num_labels} for i, row in enumerate(inputs)]


def trainer_of(model, folder, *, steps=4, callback=None, **options):
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        save_steps=2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        **options,
    )
    data = rows(model)
    return transformers.Trainer(
        model, arguments, train_dataset=data, eval_dataset=data, callbacks=[callback or SaveAdapter()]
    )


@pytest.mark.parametrize("make", [text_model, image_model])
def test_a_checkpoint_holds_the_adapter_file_and_training_goes_on_from_it_to_the_same_bits(make, tmp_path, caplog):
    whole = make()
    trainer_of(whole, tmp_path / "whole").train()
    trainer_of(make(), tmp_path / "half", steps=2).train()
    checkpoint = tmp_path / "half" / "checkpoint-2"
    assert (checkpoint / "adapter.safetensors").is_file()
    assert not (checkpoint / "config.json").exists()
    prefix = "timm_model." if make is image_model else ""
    added = {f"{prefix}{name}" for name in capaboost_vit.state_dict(adapted(whole))}
    assert load_file(checkpoint / "model.safetensors").keys() == added | {f"{prefix}capaboost_base"}
    rest = make()
    trainer_of(rest, tmp_path / "rest").train(resume_from_checkpoint=str(checkpoint))
    wanted = whole.state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in rest.state_dict().items())
    assert "missing keys" not in caplog.text


def test_the_adapter_file_gives_the_model_of_its_checkpoint(tmp_path):
    model = image_model()
    trainer_of(model, tmp_path, callback=SaveAdapter(class_names=["a", "b", "c"])).train()
    fresh = image_model().timm_model
    capaboost_vit.load_adapter(fresh, tmp_path / "checkpoint-4" / "adapter.safetensors")
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(fresh.eval()(images), model.timm_model.eval()(images))


def test_the_best_checkpoint_is_loaded_at_the_end(tmp_path):
    options = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True}
    model = text_model()
    trainer = trainer_of(model, tmp_path, metric_for_best_model="loss", greater_is_better=True, **options)
    trainer.train()
    best = load_file(f"{trainer.state.best_model_checkpoint}/model.safetensors")
    state = model.state_dict()
    assert all(torch.equal(state[name], best[name]) for name in best.keys() - {"capaboost_base"})


def test_another_base_is_refused(tmp_path):
    trainer_of(text_model(), tmp_path, steps=2).train()
    with pytest.raises(ValueError, match="written beside other base weights than this BertForSequence"):
        trainer_of(text_model(seed=1), tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_what_it_cannot_save_is_refused_when_the_trainer_is_made(tmp_path):
    with pytest.raises(ValueError, match=r"carries no adapter: call capaboost_vit\.adapt"):
        trainer_of(small.build("bert", "SequenceClassification"), tmp_path)
    model = timm.create_model("test_vit_capaboost_lora")
    arguments = transformers.TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True)
    with pytest.raises(TypeError, match="put a timm model into TimmWrapperForImageClassification"):
        transformers.Trainer(model, arguments, callbacks=[SaveAdapter()])


def test_a_callback_that_comes_too_late_is_refused(tmp_path):
    trainer = trainer_of(text_model(), tmp_path, callback=transformers.TrainerCallback())
    trainer.add_callback(SaveAdapter())
    with pytest.raises(ValueError, match="too late to read checkpoints: Trainer"):
        trainer.train()


def test_a_merged_model_is_saved_whole_again(tmp_path):
    model = text_model()
    trainer_of(model, tmp_path, steps=2).train()
    merged = capaboost_vit.merge(model)
    merged.save_pretrained(tmp_path / "merged")
    again = type(merged).from_pretrained(tmp_path / "merged")
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in merged.state_dict().items())


# accelerate


def test_accelerate_saves_and_loads_the_state_of_an_adapted_model(tmp_path):
    def train(model, steps, *, saved=None):
        accelerator = accelerate.Accelerator(cpu=True)
        optimizer = torch.optim.AdamW(capaboost_vit.param_groups(model, 1e-2))
        prepared, optimizer = accelerator.prepare(model, optimizer)
        base = capaboost_vit.BaseLeftOut(prepared)

        def leave_out(models, weights, folder):
            weights[:] = [base.without_base(state) for state in weights]

        accelerator.register_save_state_pre_hook(leave_out)
        if saved is not None:
            accelerator.load_state(str(saved))
        for step in steps:
            images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(step))
            loss = torch.nn.functional.cross_entropy(prepared(images), torch.tensor([0, 1, 2, 0]))
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
        return accelerator

    whole, half, rest = (timm.create_model("vit_tiny_capaboost_lora", num_classes=3, **VIT) for _ in range(3))
    for model in (half, rest):
        model.load_state_dict(whole.state_dict())
    train(whole, range(4))
    train(half, range(2)).save_state(str(tmp_path / "state"))
    names = load_file(tmp_path / "state" / "model.safetensors").keys()
    assert names == capaboost_vit.state_dict(half).keys() | {"capaboost_base"}
    train(rest, range(2, 4), saved=tmp_path / "state")
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in rest.state_dict().items())
