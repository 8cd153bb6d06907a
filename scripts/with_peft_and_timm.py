"""What `capaboost train` does in one command, written with timm and PEFT: to compare lines, seconds and accuracy.

    python scripts/with_peft_and_timm.py FOLDER [WEIGHTS]
    capaboost train --model vit_tiny_capaboost_lora --pretrained --data FOLDER --img-size 64 --epochs 10 \\
        --batch-size 32 --lr 3e-3 --drop-path 0

FOLDER has train/, val/ and test/ with class folders; WEIGHTS is a local file, else they come from the hub. It neither
goes on after a crash, nor looks at the pictures, nor draws or writes anything but the adapter.
"""

import sys

import peft
import timm
import torch
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.scheduler import CosineLRScheduler

folder, weights = sys.argv[1], (sys.argv[2:] or [None])[0]
overlay = {"file": weights} if weights else None
torch.manual_seed(0)
data = {name: create_dataset("", root=f"{folder}/{name}") for name in ("train", "val", "test")}
classes = len(data["train"].reader.class_to_idx)
model = timm.create_model(
    "vit_tiny_patch16_224", pretrained=True, num_classes=classes, img_size=64, pretrained_cfg_overlay=overlay
)
config = resolve_data_config({"input_size": (3, 64, 64)}, model=model)
options = {"batch_size": 32, "use_prefetcher": False, "num_workers": 0, **config}
loaders = {
    name: create_loader(part, is_training=name == "train", no_aug=True, **options) for name, part in data.items()
}
lora = peft.LoraConfig(r=8, lora_alpha=8, target_modules=["qkv"], modules_to_save=["head"])
model = peft.get_peft_model(model, lora)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3, weight_decay=1e-4)
updates = len(loaders["train"])
scheduler = CosineLRScheduler(
    optimizer, t_initial=10 * updates, warmup_t=updates, warmup_prefix=True, warmup_lr_init=1e-7, t_in_epochs=False
)


def accuracy(loader):
    model.eval()
    with torch.inference_mode():
        right = sum((model(images).argmax(1) == labels).sum().item() for images, labels in loader)
    return 100 * right / len(loader.dataset)


for epoch in range(10):
    model.train()
    for step, (images, labels) in enumerate(loaders["train"]):
        scheduler.step_update(epoch * updates + step)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    print(f"epoch {epoch + 1}  val {accuracy(loaders['val']):.2f}")
print(f"test {accuracy(loaders['test']):.2f}")
model.save_pretrained("with_peft")
