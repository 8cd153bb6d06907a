"""Makes the golden files: adapter files of format version 1, a run that was killed in mid-epoch, and a finished one.

They were made by commit 3800acf, the last one before methods became classes, and must stay readable for ever. This is
run again for a new format version only, into a folder of its own: `python tests/golden/make.py tests/golden/v2`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import save_file

VIT = {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": 16, "num_classes": 3}
BERT = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
BERT |= {"intermediate_size": 24, "max_position_embeddings": 16, "num_labels": 3}

# by file name: method and options
IMAGE_METHODS = {
    "lora": ("lora", {}),
    "lora_sign": ("lora", {"rank": 4, "num_branches": 4, "pattern": "sign", "rescale": "norm", "freeze_down": True}),
    "lora_all": ("lora", {"rank": 4, "targets": ["query", "mlp_in", "mlp_out"], "pattern": "2:4", "mask_seed": 3}),
    "adapter": ("adapter", {"bottleneck": 4, "learned_scale": "channel", "pattern": "complementary"}),
    "adapter_sequential": ("adapter", {"placement": "sequential", "init": "houlsby", "activation": "gelu"}),
    "prefix": ("prefix", {"prefix_length": 3}),
    "prefix_shared": ("prefix", {"prefix_length": 3, "bottleneck": 4, "shared": True}),
    "prompt": ("prompt", {"prompt_length": 3}),
    "prompt_shallow": ("prompt", {"prompt_length": 3, "deep": False, "bottleneck": 4}),
    "ia3": ("ia3", {}),
    "ssf": ("ssf", {}),
    "norm": ("norm", {}),
    "bitfit": ("bitfit", {}),
    "head": ("head", {}),
    "full": ("full", {}),
}
TEXT_METHODS = {
    "text_lora": ("lora", {"rank": 4}),
    "text_prefix": ("prefix", {"prefix_length": 3, "bottleneck": 4, "shared": True}),
    "text_unipelt": (
        "unipelt",
        {"parts": ["lora", "prefix", "adapter", "ia3", "prompt"], "copies": 2, "bottleneck": 4, "prefix_bottleneck": 4},
    ),
}
RUN = {
    "model": "vit_tiny_capaboost_lora",
    "model_kwargs": {k: v for k, v in VIT.items() if k not in ("img_size", "num_classes")},
    "initial_checkpoint": "base.safetensors",
    "data": "digits",
    "train_split": "train[:64]",
    "val_split": "val[:32]",
    "test_split": "test[:32]",
    "output": "run",
    "img_size": 16,
    "epochs": 3,
    "batch_size": 16,
    "lr": 1e-2,
    "model_ema": True,
    "model_ema_decay": 0.9,
    "select": "best",
    "method": {"rank": 4, "dropout": 0.1, "pattern": "sign"},
}
KILLED_AFTER = 6  # of twelve updates, in the middle of the second epoch


def fill(parameters) -> None:
    """Values that depend on the name alone, from numpy's frozen generator."""
    with torch.no_grad():
        for name, tensor in parameters:
            seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
            values = np.random.RandomState(seed).normal(0.0, 0.3, tuple(tensor.shape))
            tensor.copy_(torch.from_numpy(values).to(tensor.dtype))


def image_model():
    model = timm.create_model("vit_tiny_patch16_224", **VIT)
    fill(model.named_parameters())
    return model.eval()


def text_model():
    from transformers import BertConfig, BertForSequenceClassification

    model = BertForSequenceClassification(BertConfig(**BERT))
    fill(model.named_parameters())
    return model.eval()


def images():
    return torch.from_numpy(np.random.RandomState(1).normal(size=(2, 3, 16, 16))).float()


def texts():
    ids = torch.from_numpy(np.random.RandomState(2).randint(1, 32, (2, 8)))
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[1, 5:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def train_as(model) -> None:
    """Moves what would be trained as training might: a little, each weight by its name."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                key = f"{name.replace('.base', '')}:trained"
                seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "little")
                step = np.random.RandomState(seed).normal(0.0, 0.1, tuple(parameter.shape))
                parameter.add_(torch.from_numpy(step).to(parameter.dtype))


def run_config(**options):
    from capaboost_vit.vision.config import TrainConfig

    return TrainConfig(**RUN, checkpoint_interval=2, **options)


def main(folder: Path) -> None:
    import capaboost_vit
    from capaboost_vit import nlu
    from capaboost_vit import run as run_module
    from capaboost_vit.training.checkpoint import Checkpoints

    folder.mkdir(parents=True)
    torch.set_num_threads(1)
    logits = {}
    with torch.no_grad():
        for name, (method, options) in IMAGE_METHODS.items():
            model = image_model()
            with torch.enable_grad():
                capaboost_vit.adapt(model, method, **options)
            train_as(model)
            model.eval()
            logits[name] = model(images()).tolist()
            capaboost_vit.save_adapter(model, folder / f"{name}.safetensors", class_names=("a", "b", "c"))
        for name, (method, options) in TEXT_METHODS.items():
            model = text_model()
            nlu.adapt(model, method, **options)
            train_as(model)
            model.eval()
            logits[name] = model(**texts()).logits.tolist()
            nlu.save_adapter(model, folder / f"{name}.safetensors", class_names=("a", "b", "c"))

    class Killed(BaseException):
        pass

    def save_and_die(self, update, tree):
        path = save(self, update, tree)
        if update == KILLED_AFTER:
            raise Killed
        return path

    os.chdir(folder)
    save_file({n: t for n, t in image_model().state_dict().items() if not n.startswith("head.")}, "base.safetensors")
    # uninterrupted, and killed after a checkpoint in mid-epoch
    run_module.train(run_config())
    for path in ("checkpoints", "tensorboard", "learning_curve.png", "confusion_matrix.png"):
        shutil.rmtree(f"run/{path}") if Path(f"run/{path}").is_dir() else Path(f"run/{path}").unlink()
    os.rename("run", "finished")
    save, Checkpoints.save = Checkpoints.save, save_and_die
    try:
        run_module.train(run_config())
    except Killed:
        shutil.rmtree("run/tensorboard", ignore_errors=True)
        os.rename("run", "killed")
    Path("logits.json").write_text(json.dumps(logits, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
