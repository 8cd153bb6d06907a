"""`python -m capaboost_vit.timm SCRIPT ARGUMENTS` runs an unchanged script of timm with our names in timm's registry.

    python -m capaboost_vit.timm train.py --model vit_base_capaboost_lora --model-kwargs rank=4 ...
    torchrun --nproc_per_node 4 -m capaboost_vit.timm train.py ...

The script runs as by `python SCRIPT ARGUMENTS`: with its own arguments, its folder first in the import path, and the
name `__main__`.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

import timm  # the package: imports are absolute, so this file does not hide it

from .vision import registry


def main(arguments: Sequence[str]) -> None:
    """Runs the script named by the first argument with the other arguments.

    Raises SystemExit, with one line, if there is no such script.
    """
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
