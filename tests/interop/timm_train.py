"""A training script of the shape of timm's train.py, run as it is: its arguments, builders and saver."""

import argparse

import sibling  # beside the script, as `python SCRIPT` finds it
import torch
from timm.models import create_model, load_checkpoint, resume_checkpoint
from timm.optim import create_optimizer_v2, optimizer_kwargs
from timm.utils import CheckpointSaver, ModelEmaV3, ParseKwargs

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="resnet50")
parser.add_argument("--device-modules", default=None, nargs="+")
parser.add_argument("--pretrained", action="store_true")
parser.add_argument("--initial-checkpoint", default="")
parser.add_argument("--resume", default="")
parser.add_argument("--num-classes", type=int, default=None)
parser.add_argument("--gp", default=None)
parser.add_argument("--in-chans", type=int, default=None)
parser.add_argument("--input-size", default=None, nargs=3, type=int)
parser.add_argument("--mean", type=float, nargs="+", default=None)
parser.add_argument("--model-kwargs", nargs="*", default={}, action=ParseKwargs)
parser.add_argument("--opt", default="adamw")
parser.add_argument("--lr", type=float, default=1e-2)
parser.add_argument("--weight-decay", type=float, default=0.05)
parser.add_argument("--momentum", type=float, default=0.9)
parser.add_argument("--layer-decay", type=float, default=None)
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--output", default="")
args = parser.parse_args()

for module in args.device_modules or ():
    __import__(module)
torch.manual_seed(sibling.SEED)
model = create_model(
    args.model, num_classes=args.num_classes, in_chans=args.in_chans or 3, global_pool=args.gp, **args.model_kwargs
)
if args.initial_checkpoint:
    load_checkpoint(model, args.initial_checkpoint, strict=False)
optimizer = create_optimizer_v2(model, **optimizer_kwargs(cfg=args))
first = resume_checkpoint(model, args.resume, optimizer) if args.resume else 0
average = ModelEmaV3(model, decay=0.5)
if args.resume:
    load_checkpoint(average.module, args.resume, use_ema=True)
saver = CheckpointSaver(model, optimizer, args=args, model_ema=average, checkpoint_dir=args.output, max_history=9)
for epoch in range(first, args.epochs):
    images = torch.randn(4, 3, *args.model_kwargs["img_size"], generator=torch.Generator().manual_seed(epoch))
    loss = torch.nn.functional.cross_entropy(model(images), torch.tensor([0, 1, 2, 0]))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    average.update(model)
    saver.save_checkpoint(epoch, metric=-loss.item())
    print(f"epoch {epoch} loss {loss.item():.6f}")
