"""Small data in the layouts that suites are found in; every picture is another one."""

from __future__ import annotations

import io
import itertools
import shutil
import zipfile

import datasets
import numpy as np
from PIL import Image

_NUMBERS = itertools.count()


def picture(kind="png"):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(next(_NUMBERS)).integers(0, 255, (5, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def lists(folder, *, kind="png", classes=2, **counts):
    """VTAB-1k's layout: `folder/name.txt` for each count; train800val200 holds train800 and val200."""
    (folder / "images").mkdir(parents=True)
    lines = {}
    for name, count in counts.items():
        lines[name] = []
        for i in range(count):
            path = f"images/{name}_{i}.{ {'jpeg': 'jpg'}.get(kind, kind) }"
            (folder / path).write_bytes(picture(kind))
            lines[name].append(f"{path} {i % classes}\n")
    if {"train800", "val200"} <= lines.keys():
        lines["train800val200"] = lines["train800"] + lines["val200"]
    for name, found in lines.items():
        (folder / f"{name}.txt").write_text("".join(found))
    return folder


def pack(folder):
    """The folder as `folder.zip`, and no longer as a folder."""
    path = folder.with_name(f"{folder.name}.zip")
    with zipfile.ZipFile(path, "w") as file:
        for member in sorted(folder.rglob("*")):
            if member.is_file():
                file.write(member, f"{folder.name}/{member.relative_to(folder)}")
    shutil.rmtree(folder)
    return path


def parquet(folder, *, columns=("label",), classes=2, **counts):
    """Parquet as a download from the hub has it: data/train-00000-of-00001.parquet."""
    (folder / "data").mkdir(parents=True)
    label = datasets.ClassLabel(names=[str(i) for i in range(classes)])
    features = datasets.Features({"image": datasets.Image(), **dict.fromkeys(columns, label)})
    for name, count in counts.items():
        rows = {"image": [{"bytes": picture(), "path": None} for _ in range(count)]}
        rows |= {column: [(i + place) % classes for i in range(count)] for place, column in enumerate(columns)}
        table = datasets.Dataset.from_dict(rows, features=features)
        table.to_parquet(folder / "data" / f"{name}-00000-of-00001.parquet")
    return folder


def folders(folder, classes=2, **counts):
    """Folders of splits that hold a folder per class, `count` pictures in each."""
    for name, count in counts.items():
        for label in range(classes):
            (folder / name / f"class {label}").mkdir(parents=True)
            for i in range(count):
                (folder / name / f"class {label}" / f"{i}.png").write_bytes(picture())
    return folder
