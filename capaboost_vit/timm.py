"""`python -m capaboost_vit.timm SCRIPT ARGUMENTS` runs a script of timm's, unedited, with our names in timm's registry.

    python -m capaboost_vit.timm train.py --model vit_base_capaboost_lora --model-kwargs rank=4 ...
    torchrun --nproc_per_node 4 -m capaboost_vit.timm train.py ...

The script sees what `python SCRIPT ARGUMENTS` shows it: its own arguments, its folder first among the places for
imports, and the name `__main__`.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

import timm  # the package: imports are absolute, so this file does not hide it

from .vision import registry


def main(arguments: Sequence[str]) -> None:
    """Runs the script that the first argument names, with the others. Raises SystemExit, one line, if there is none."""
    usage = "python -m capaboost_vit.timm SCRIPT ARGUMENTS, where SCRIPT is timm's train.py, validate.py, ..."
    if not arguments or arguments[0].startswith("-"):
        raise SystemExit(f"capaboost_vit.timm: which script? {usage}")
    if not Path(arguments[0]).is_file():
        raise SystemExit(f"capaboost_vit.timm: no script {arguments[0]}: {usage}")
    assert timm.is_model(f"{next(iter(registry.FAMILIES))}_capaboost_lora")
    sys.argv[:] = arguments
    sys.path[0] = str(Path(arguments[0]).resolve().parent)  # `-m` has put the working folder there
    runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
