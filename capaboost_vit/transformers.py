"""A callback for transformers' Trainer: checkpoints with the adapter file instead of the whole base.

>>> from capaboost_vit.transformers import SaveAdapter
>>> trainer = transformers.Trainer(model, args, train_dataset=data, callbacks=[SaveAdapter()])
"""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

try:
    from transformers import PreTrainedModel, TrainerCallback, TrainingArguments
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"{error.name} is not installed: pip install 'capaboost_vit[nlu]'", name=error.name
    ) from error

from safetensors.torch import save_file

from .adapters import save_adapter
from .interop.base_left_out import BaseLeftOut


class SaveAdapter(TrainerCallback):
    """Callback for the Trainer: writes `adapter.safetensors` in each `checkpoint-N`, and no frozen base weights.

    `model.safetensors` holds the trained parameters, the head, and a fingerprint of the base; `resume_from_checkpoint`
    and `load_best_model_at_end` read it, and need a model with the same base weights. There is no config.json beside
    it, so it cannot be opened as a complete model by mistake. `trainer.save_model()` and the model's `save_pretrained`
    write these two files, too; `capaboost_vit.merge(model)` returns a plain model that is saved completely.

    Give it in the Trainer's argument `callbacks`; with `add_callback` it would come too late to read checkpoints.

    Args:
        save_options: of `capaboost_vit.save_adapter`, such as `class_names`.

    Raises:
        ValueError: nothing in the model is adapted, or several models in it are (when the Trainer is created); or the
            callback was added by `add_callback` (when training begins).
        TypeError: no model of transformers, such as a bare timm model.
    """

    def __init__(self, **save_options: Any) -> None:
        self.save_options = save_options
        self._base: BaseLeftOut | None = None

    def on_init_end(self, args: TrainingArguments, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Prepares the model, before the Trainer reads a checkpoint."""
        if not isinstance(model, PreTrainedModel):
            raise TypeError(
                f"SaveAdapter needs a model of transformers, got {type(model).__name__}: put a timm model into "
                "TimmWrapperForImageClassification"
            )
        self._base = BaseLeftOut(model)
        model.save_pretrained = types.MethodType(self._saver(self._base), model)  # type: ignore[method-assign]

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Raises ValueError if the callback was added after the Trainer was created."""
        if self._base is None:
            raise ValueError("SaveAdapter came by add_callback, too late to read checkpoints: Trainer(callbacks=[...])")

    def _saver(self, base: BaseLeftOut) -> Any:
        def save_pretrained(
            model: Any, save_directory: Any, is_main_process: bool = True, state_dict: Any = None, **_: Any
        ) -> None:
            if not is_main_process:
                return
            folder = Path(save_directory)
            folder.mkdir(parents=True, exist_ok=True)
            save_adapter(base.model, folder / "adapter.safetensors", **self.save_options)
            state = base.without_base(model.state_dict() if state_dict is None else state_dict)
            state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
            save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

        return save_pretrained
