"""The head of models of transformers, segmentation_models_pytorch and Lightning; and PEFT's layers beside ours."""

from __future__ import annotations

import warnings

import pytest
import timm
import torch
from torch import nn

import capaboost_vit
from capaboost_vit.core.heads import find_head

peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")

PICTURES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
PICTURES |= {"image_size": 32, "patch_size": 16}
TEXTS = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
T5 = {"vocab_size": 50, "d_model": 32, "d_ff": 32, "num_layers": 1, "num_heads": 2, "d_kv": 16}
SEGFORMER = {"hidden_sizes": [8] * 4, "depths": [1] * 4, "num_attention_heads": [1] * 4}


def of_transformers(name, config, **options):
    return getattr(transformers, name)(getattr(transformers, f"{config}Config")(**options))


@pytest.mark.parametrize(
    ("name", "config", "options", "head"),
    [
        ("ViTForImageClassification", "ViT", PICTURES, ("classifier",)),
        ("ViTModel", "ViT", PICTURES, ()),
        ("Dinov2ForImageClassification", "Dinov2", PICTURES, ("classifier",)),
        ("SiglipForImageClassification", "Siglip", {"vision_config": PICTURES}, ("classifier",)),
        ("SiglipVisionModel", "SiglipVision", PICTURES, ()),
        ("CLIPForImageClassification", "CLIP", {"vision_config": PICTURES}, ("classifier",)),
        ("SegformerForSemanticSegmentation", "Segformer", SEGFORMER, ("decode_head",)),
        ("TimmWrapperForImageClassification", "TimmWrapper", {"architecture": "test_vit"}, ("timm_model.head",)),
        ("BertForSequenceClassification", "Bert", TEXTS, ("classifier",)),
        ("BertForQuestionAnswering", "Bert", TEXTS, ("qa_outputs",)),
        ("BertForMaskedLM", "Bert", TEXTS, ()),
        ("LlamaForSequenceClassification", "Llama", TEXTS, ("score",)),
        ("LlamaForCausalLM", "Llama", TEXTS, ()),
        ("T5Model", "T5", T5, ()),
        ("T5ForSequenceClassification", "T5", T5, ("classification_head",)),
    ],
)
def test_the_head_of_a_model_of_transformers_stands_beside_what_was_pretrained(name, config, options, head):
    model = of_transformers(name, config, **options)
    assert find_head(model) == head
    outer = nn.Module()
    outer.net, outer.loss = model, nn.CrossEntropyLoss()
    assert find_head(outer) == tuple(f"net.{part}" for part in head)
    outer.out = nn.Linear(32, 2)
    assert find_head(outer) == (*(f"net.{part}" for part in head), "out")


def segmentation(kind, encoder, **options):
    smp = pytest.importorskip("segmentation_models_pytorch")
    return getattr(smp, kind)(encoder, encoder_weights=None, classes=2, **options)


@pytest.mark.parametrize(
    ("kind", "encoder", "options", "head"),
    [
        ("Unet", "tu-resnet10t", {}, ("decoder", "segmentation_head")),
        ("Unet", "resnet18", {"aux_params": {"classes": 3}}, ("decoder", "segmentation_head", "classification_head")),
        ("FPN", "mit_b0", {}, ("decoder", "segmentation_head")),
        # the classifier of this timm model is there, but never called
        ("DPT", "tu-vit_tiny_patch16_224", {}, ("encoder.model.head", "decoder", "segmentation_head")),
    ],
)
def test_the_head_of_a_segmentation_model_is_its_decoder_and_what_follows(kind, encoder, options, head):
    assert find_head(segmentation(kind, encoder, **options)) == head


def test_a_segmentation_model_with_a_timm_encoder_is_trained_saved_and_loaded(tmp_path):
    def build():
        torch.manual_seed(0)
        return segmentation("Unet", "tu-resnet10t", decoder_channels=(8, 8, 8, 4, 4))

    model, images = capaboost_vit.adapt(build(), "norm"), torch.randn(2, 3, 32, 32)
    assert model.capaboost["head"] == ["decoder", "segmentation_head"]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    before = {name: p.clone() for name, p in model.named_parameters()}
    model(images).square().mean().backward()
    optimizer.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert {name.partition(".")[0] for name in moved} == {"encoder", "decoder", "segmentation_head"}
    path = capaboost_vit.save_adapter(model, tmp_path / "unet.safetensors")
    again = capaboost_vit.load_adapter(build(), path)
    assert torch.equal(again.eval()(images), model.eval()(images))


def test_a_lightning_module_is_adapted_as_a_whole(tmp_path):
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = timm.create_model("test_vit", num_classes=0)
            self.out = nn.Linear(self.net.num_features, 3)

        def training_step(self, batch, _):
            return nn.functional.cross_entropy(self.out(self.net(batch[0])), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)

    torch.manual_seed(0)
    model = capaboost_vit.adapt(Module(), "lora", rank=2)
    assert model.capaboost["head"] == ["out"]
    before = {name: p.clone() for name, p in model.named_parameters()}
    batches = torch.utils.data.DataLoader([(torch.randn(3, 160, 160), 1)] * 2, batch_size=2)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the number of workers, and of Lightning's own imports
        trainer = lightning.Trainer(max_steps=2, accelerator="cpu", default_root_dir=tmp_path, **quiet)
        trainer.fit(model, batches)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert {"out.weight", "out.bias"} < moved
    assert all("branches" in name for name in moved - {"out.weight", "out.bias"})
    path = capaboost_vit.save_adapter(model, tmp_path / "module.safetensors")
    assert set(capaboost_vit.read_header(path)["head"]) == {"out"}


def test_what_fabric_has_set_up_is_saved_like_the_model_in_it(tmp_path):
    lightning = pytest.importorskip("lightning")
    model = capaboost_vit.adapt(timm.create_model("test_vit"), "lora")
    path = capaboost_vit.save_adapter(model, tmp_path / "model.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = lightning.Fabric(accelerator="cpu", devices=1).setup_module(model)
    assert capaboost_vit.save_adapter(wrapped, tmp_path / "wrapped.safetensors").read_bytes() == path.read_bytes()


def test_a_part_of_a_larger_model_is_exported_by_its_name(tmp_path):
    outer = nn.Sequential(capaboost_vit.adapt(timm.create_model("test_vit"), "lora"))
    with pytest.raises(ValueError, match=r"what is adapted of this Sequential is model\.0: give that"):
        capaboost_vit.export_peft(outer, tmp_path / "peft")


# PEFT's layers beside ours

REFUSED = r"carries PEFT's \w+( at '[\w.]+')?, and PEFT and capaboost_vit freeze each other's .*import_peft$"


def test_a_model_with_layers_of_peft_is_not_adapted():
    base = timm.create_model("test_vit", num_classes=3)
    theirs = peft.get_peft_model(base, peft.LoraConfig(target_modules=["qkv"]))
    trained = [name for name, p in theirs.named_parameters() if p.requires_grad]
    for model in (theirs, base):
        with pytest.raises(ValueError, match=REFUSED):
            capaboost_vit.adapt(model, "lora")
    assert [name for name, p in theirs.named_parameters() if p.requires_grad] == trained
    assert capaboost_vit.branches(capaboost_vit.adapt(theirs.merge_and_unload(), "lora"))


def test_an_adapted_model_that_peft_has_frozen_is_not_saved_or_merged_without_a_word(tmp_path):
    model = capaboost_vit.adapt(timm.create_model("test_vit", num_classes=3), "lora")
    path = capaboost_vit.save_adapter(model, tmp_path / "before.safetensors")
    theirs = peft.get_peft_model(model, peft.LoraConfig(target_modules=["fc1"]))
    for verb in (
        lambda: capaboost_vit.save_adapter(model, tmp_path / "after.safetensors"),
        lambda: capaboost_vit.save_adapter(theirs, tmp_path / "after.safetensors"),
        lambda: capaboost_vit.load_adapter(model, path),
        lambda: capaboost_vit.merge(model),
        lambda: capaboost_vit.import_peft(model, tmp_path),
    ):
        with pytest.raises(ValueError, match=REFUSED):
            verb()
    assert "none of these is trained" in str(capaboost_vit.summary(model, flops=False, verbose=False))
    theirs.merge_and_unload()
    assert capaboost_vit.save_adapter(model, tmp_path / "after.safetensors").is_file()
