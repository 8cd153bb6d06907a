"""Fingerprints of data are stored with every result: those of old results must mean the same images and texts for ever.

The values were computed at commit da8e9c2, before images and texts shared their tables. They go over file contents, so
the images are written byte by byte (PPM), and not by a library whose next version may compress otherwise.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capaboost_vit.nlu.data import open_texts
from capaboost_vit.nlu.tasks import TASKS
from capaboost_vit.vision.data import open_data

GOLDEN = {
    ("folder", "train"): "364c78b8e3e07a8b2287a7a5d56e4783",
    ("folder", "val"): "44ad8834336c644c1fe9ae7073f5b672",
    ("folder", "mixed(train)[:90%]"): "c73ae1f979aa2dafa5a2d48262662b36",
    ("folder", "mixed(train+val)[25%:][3:]"): "3ae53e3df90a612827f9b47021653df8",
    ("lists", "train"): "0877ca757c697dff29a94f0bebd300bc",
    ("lists", "mixed(train+val)"): "fad399ca9b199317d65bf7e425ade17d",
    ("parquet", "train"): "4d8f44ea4b7341c7c5b0cc240f661660",
    ("parquet", "train[2:][:50%]"): "39c47f98ab7c1e9c615d7847811b0bb6",
    ("tables", "train"): "4d8f44ea4b7341c7c5b0cc240f661660",
    ("tables", "train[:2]+val"): "9af03c6f579f652589956dac59e32286",
    ("tables", "mixed(train+val)[:7]"): "c984aad357305499a018f88180cb8145",
    ("tsv", "own train"): "e6853abf3113a7dc4845cdc5dfeb1b10",
    ("tsv", "own val"): "574acda674eedcf75798d434e8fa17e6",
    ("tsv", "halves val"): "9e8804fa29f2386fb71352c8c70b3ce0",
    ("tsv", "halves test"): "9116d88382ab12712dba8a5063f50f40",
}


def ppm(number):
    return b"P6 3 2 255\n" + bytes((number * 37 + k * 11) % 256 for k in range(18))


def write_folder(path):
    for label, name in enumerate(("cat", "dog")):
        (path / name).mkdir(parents=True)
        for i in range(20):
            (path / name / f"{i}.ppm").write_bytes(ppm(20 * label + i))


def write_lists(path):
    path.mkdir()
    for i in range(6):
        (path / f"{i}.ppm").write_bytes(ppm(i))
    (path / "train800.txt").write_text("".join(f"{i}.ppm {i % 2}\n" for i in range(4)))
    (path / "val200.txt").write_text("4.ppm 0\n5.ppm 1\n")


def write_parquet(path):
    """Bytes and classes by their names."""
    rows = {"image": [ppm(i) for i in range(9)], "label": [f"class {i % 3}" for i in range(9)]}
    path.mkdir()
    pq.write_table(pa.table(rows), path / "train.parquet")


def write_tables(path):
    """Two splits, images as pandas writes them, classes by their numbers."""
    path.mkdir()
    for name, numbers in {"train": range(9), "validation": range(9, 13)}.items():
        rows = {"img": [{"bytes": ppm(i), "path": None} for i in numbers], "label": [i % 3 for i in numbers]}
        pq.write_table(pa.table(rows), path / f"{name}-00000-of-00001.parquet")


def write_tsv(path):
    path.mkdir()
    for name, numbers in {"train": range(9), "dev": range(9, 15)}.items():
        lines = [f'{i}\tpremise {i}\tüber "{i}"\t{("entailment", "not_entailment")[i % 2]}\n' for i in numbers]
        (path / f"{name}.tsv").write_text("index\tsentence1\tsentence2\tlabel\n" + "".join(lines), "utf-8")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fingerprints")
    for write in (write_folder, write_lists, write_parquet, write_tables, write_tsv):
        write(folder / write.__name__.removeprefix("write_"))
    return folder


@pytest.mark.parametrize(("data", "split"), GOLDEN)
def test_a_fingerprint_is_the_one_that_was_released(written, data, split):
    if data == "tsv":
        protocol, split_name = split.split()
        record = open_texts(str(written / "tsv"), TASKS["rte"], protocol=protocol).splits[split_name].record()
    else:
        spec = written / data / "train.parquet" if data == "parquet" else written / data
        record = open_data(str(spec)).split(split).record()
    assert record["sha256"].startswith(GOLDEN[data, split])
