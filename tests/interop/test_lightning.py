"""Lightning's Trainer with `AdapterCheckpoint`: small checkpoints, from which training goes on to the same bits."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import capaboost_vit

lightning = pytest.importorskip("lightning")
callbacks = pytest.importorskip("lightning.pytorch.callbacks")
from capaboost_vit.lightning import AdapterCheckpoint  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*number of training batches"),
    pytest.mark.filterwarnings("ignore:.*exists and is not empty"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]
VIT = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}


class Classifier(lightning.LightningModule):
    """As users write them: a model in a slot, and something of their own beside it."""

    def __init__(self, *, method="lora", seed=0, temperature=1.0, **options):
        super().__init__()
        torch.manual_seed(seed)
        self.backbone = capaboost_vit.adapt(timm.create_model("vit_tiny_patch16_224", **VIT), method, **options)
        self.temperature = nn.Parameter(torch.tensor(temperature))

    def training_step(self, batch, index):
        images, labels = batch
        return nn.functional.cross_entropy(self.backbone(images) * self.temperature, labels)

    def configure_optimizers(self):
        groups = capaboost_vit.param_groups(self.backbone, 1e-2)
        return torch.optim.AdamW([*groups, {"params": [self.temperature]}], lr=1e-2)


def loader():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(16, 3, 16, 16, generator=generator)
    return DataLoader(TensorDataset(images, torch.arange(16) % 3), batch_size=4)


def fit(folder, module, epochs, *, callback=None, **options):
    trainer = lightning.Trainer(
        default_root_dir=folder,
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            callback or AdapterCheckpoint(),
            callbacks.ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1),
        ],
    )
    trainer.fit(module, loader(), weights_only=True, **options)
    return trainer


def test_a_checkpoint_holds_no_base_and_training_goes_on_from_it_to_the_same_bits(tmp_path):
    whole = Classifier()
    fit(tmp_path / "whole", whole, 3)
    fit(tmp_path / "half", Classifier(), 1)
    path = tmp_path / "half" / "epoch=0.ckpt"
    names = torch.load(path, weights_only=True)["state_dict"].keys()
    added = {f"backbone.{name}" for name in capaboost_vit.state_dict(whole.backbone)}
    assert names == added | {"temperature", "backbone.capaboost_base"}
    rest = Classifier(temperature=7.0)
    fit(tmp_path / "rest", rest, 3, ckpt_path=path)
    wanted = whole.state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in rest.state_dict().items())


@pytest.mark.parametrize("method", ["adapter", "prompt", "bitfit"])
def test_of_any_method_what_is_trained_comes_back(tmp_path, method):
    trained, fresh = Classifier(method=method), Classifier(method=method)
    fit(tmp_path, trained, 1)
    AdapterCheckpoint().setup(None, fresh, "fit")
    state = torch.load(tmp_path / "epoch=0.ckpt", weights_only=True)["state_dict"]
    assert not fresh.load_state_dict(state).missing_keys
    assert all(torch.equal(tensor, trained.state_dict()[name]) for name, tensor in fresh.state_dict().items())


def test_the_adapter_file_is_that_of_the_last_checkpoint(tmp_path):
    module = Classifier()
    fit(tmp_path / "run", module, 2, callback=AdapterCheckpoint(tmp_path / "here", class_names=["a", "b", "c"]))
    plain = capaboost_vit.detach(Classifier().backbone)
    capaboost_vit.load_adapter(plain, tmp_path / "here" / "adapter.safetensors")
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(plain.eval()(images), module.backbone.eval()(images))
    assert capaboost_vit.read_header(tmp_path / "here" / "adapter.safetensors")["class_names"] == ["a", "b", "c"]


def test_another_base_is_refused(tmp_path):
    fit(tmp_path, Classifier(), 1)
    with pytest.raises(ValueError, match="written beside other base weights than this VisionTransformer has"):
        fit(tmp_path, Classifier(seed=1), 2, ckpt_path=tmp_path / "epoch=0.ckpt")


def test_a_missing_branch_is_as_strict_as_ever(tmp_path):
    fit(tmp_path, Classifier(), 1)
    with pytest.raises(RuntimeError, match="Missing key"):
        fit(tmp_path, Classifier(targets=("query", "value", "mlp_in")), 2, ckpt_path=tmp_path / "epoch=0.ckpt")


def test_a_whole_checkpoint_is_read_too(tmp_path):
    trained, fresh = Classifier(seed=1), Classifier()
    AdapterCheckpoint().setup(None, fresh, "fit")
    fresh.load_state_dict(trained.state_dict())
    assert all(torch.equal(tensor, trained.state_dict()[name]) for name, tensor in fresh.state_dict().items())


def test_a_module_without_an_adapter_is_refused(tmp_path):
    module = Classifier()
    module.backbone = timm.create_model("vit_tiny_patch16_224", **VIT)
    with pytest.raises(ValueError, match=r"this Classifier carries no adapter: call capaboost_vit\.adapt"):
        AdapterCheckpoint().setup(None, module, "fit")
