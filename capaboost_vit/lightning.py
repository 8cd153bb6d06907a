"""A callback for Lightning's Trainer: checkpoints without the frozen base, and the adapter file beside them.

>>> from capaboost_vit.lightning import AdapterCheckpoint
>>> trainer = lightning.Trainer(callbacks=[AdapterCheckpoint()])
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"{error.name} is not installed: pip install 'capaboost_vit[lightning]'", name=error.name
    ) from error

from .adapters import save_adapter
from .interop.base_left_out import BaseLeftOut


class AdapterCheckpoint(Callback):
    """Callback for Lightning's Trainer: checkpoints without the frozen base, and `adapter.safetensors` with each.

    It applies to all checkpoints of the Trainer. `ckpt_path=` loads them, strictly, if the Trainer has this callback
    and the fingerprint of the base is the same. The adapter file has the weights of the last checkpoint that was
    written, which is the best one with `ModelCheckpoint(monitor=..., save_top_k=1)`.

    Args:
        dirpath: folder of the adapter file; None: that of the checkpoints.
        save_options: of `capaboost_vit.save_adapter`, such as `class_names`.

    Raises:
        ValueError: nothing in the LightningModule is adapted, or several models in it are, when fit, validate, test or
            predict begins.
    """

    def __init__(self, dirpath: str | Path | None = None, **save_options: Any) -> None:
        self.dirpath = dirpath
        self.save_options = save_options
        self._base: BaseLeftOut | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Computes the fingerprint of the base, before a checkpoint is read."""
        if self._base is not None:
            self._base.remove()
        self._base = BaseLeftOut(pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Removes the base from the checkpoint, and writes the adapter file."""
        assert self._base is not None  # by setup
        base = self._base
        checkpoint["state_dict"] = base.without_base(checkpoint["state_dict"])
        if trainer.is_global_zero:
            saver = trainer.checkpoint_callback
            folder = self.dirpath or getattr(saver, "dirpath", None) or trainer.default_root_dir
            save_adapter(base.model, Path(folder, "adapter.safetensors"), **self.save_options)
