"""Adapters are pushed to the hub and loaded from it: huggingface_hub itself, against a stand-in of its HTTP API."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub import constants

import capaboost_vit
from capaboost_vit.cli import main
from capaboost_vit.run import train
from capaboost_vit.vision.evaluate import evaluate_images
from capaboost_vit.vision.saved import merge_adapter

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_of_a_test"


class _Hub(BaseHTTPRequestHandler):
    """The paths of the hub's API that creating a repository, committing and downloading take."""

    def log_message(self, *_):
        pass

    def _answer(self, status, content=b"", **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        hub = self.server
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self._answer(401, {"error": "Invalid credentials"})
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            hub.private[name] = asked.get("private") or asked.get("visibility") == "private"
            return self._answer(200, {"url": f"{hub.url}/{name}", "id": name})
        if self.path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if self.path.endswith("/preupload/main"):
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self._answer(200, {"files": files})
        name = self.path.removeprefix("/api/models/").removesuffix("/commit/main")
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                hub.files[name, line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        url = f"{hub.url}/{name}/commit/{COMMIT}"
        return self._answer(200, {"commitUrl": url, "commitOid": COMMIT, "pullRequestUrl": None, "success": True})

    def do_GET(self):
        repository, _, file = self.path[1:].partition("/resolve/main/")
        if not any(name == repository for name, _ in self.server.files):
            return self._answer(404, {"error": "none"}, X_Error_Code="RepoNotFound")
        if (repository, file) not in self.server.files:
            return self._answer(404, {"error": "none"}, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        content = self.server.files[repository, file]
        return self._answer(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=COMMIT)

    do_HEAD = do_GET


@pytest.fixture
def hub(monkeypatch, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    server.url, server.files, server.private = f"http://127.0.0.1:{server.server_port}", {}, {}
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
    huggingface_hub.close_session()


def test_a_pushed_run_is_loaded_from_the_hub(hub, finished, base, pictures, capsys):
    folder, _ = finished
    assert main(["push", str(folder), "me/mine", "--private"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"pushed: {hub.url}/me/mine",
        'load it: capaboost_vit.create_from_adapter("hf-hub:me/mine")',
    ]
    assert hub.private == {"me/mine": True}
    names = {"adapter.safetensors", "README.md", "config.yaml", "learning_curve.png"}
    assert {name for _, name in hub.files} == names
    for name in names - {"README.md"}:
        assert hub.files["me/mine", name] == (folder / name).read_bytes()
    card = hub.files["me/mine", "README.md"].decode()
    assert yaml.safe_load(card.split("---\n")[1])["library_name"] == "timm"
    assert 'create_from_adapter("hf-hub:me/mine")' in card
    here = capaboost_vit.create_from_adapter(folder / "adapter.safetensors", initial_checkpoint=base)
    there = capaboost_vit.create_from_adapter("hf-hub:me/mine", initial_checkpoint=base)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(here(x), there(x))
    capaboost_vit.load_adapter(there, "hf-hub:me/mine")
    assert torch.equal(here(x), there(x))
    assert capaboost_vit.read_header("hf-hub:me/mine@main") == capaboost_vit.read_header(folder / "adapter.safetensors")
    picture = str(pictures / "red" / "0.png")
    assert main(["predict", "hf-hub:me/mine", picture, "--initial-checkpoint", str(base)]) == 0
    assert " red" in capsys.readouterr().out


def test_an_adapter_file_alone_gets_a_card_without_scores(hub, finished, tmp_path):
    file = tmp_path / "mine.safetensors"
    file.write_bytes((finished[0] / "adapter.safetensors").read_bytes())
    assert main(["push", str(file), "me/alone"]) == 0
    assert {name for _, name in hub.files} == {"adapter.safetensors", "README.md"}
    assert b"test_accuracy" not in hub.files["me/alone", "README.md"]
    assert hub.private == {"me/alone": False}


@pytest.mark.parametrize(
    ("repository", "token", "text"),
    [
        ("me/mine", None, "no token for the hub: `hf auth login`, or set HF_TOKEN"),
        ("me/mine", "hf_wrong", "the hub refuses to write to me/mine (401): log in with a token that may"),
        ("mine", TOKEN, "'mine' names no owner: say owner/name"),
        ("me/my/own", TOKEN, "'me/my/own' is no name on the hub: it is owner/name"),
    ],
)
def test_what_cannot_be_pushed_is_told_in_one_line(
    hub, finished, monkeypatch, tmp_path, capsys, repository, token, text
):
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.delenv("HF_TOKEN")
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    assert main(["push", str(finished[0]), repository]) == 2
    assert capsys.readouterr().err == f"capaboost push: error: {text}\n"
    assert hub.files == {}


def test_merged_folders_are_pushed_by_the_hub_s_own_command(hub, finished, tmp_path, capsys):
    merged = merge_adapter(finished[0], tmp_path / "merged")
    assert main(["push", str(merged), "me/mine"]) == 2
    assert "is a plain model: `hf upload me/mine FOLDER` pushes it" in capsys.readouterr().err


def test_a_timm_model_of_the_hub_is_trained_scored_and_told_in_the_adapter(hub, finished, configure, pictures, capsys):
    merged = merge_adapter(finished[0], Path(configure().output + " merged"))
    for name in ("config.json", "model.safetensors"):
        hub.files["me/plain", name] = (merged / name).read_bytes()
    assert main(["eval", "hf-hub:me/plain", "--data", str(pictures)]) == 0
    assert f"accuracy {finished[1]['test_accuracy']:.2f} %" in capsys.readouterr().out
    options = {"model_kwargs": {}, "initial_checkpoint": None, "method": {"name": "lora"}, "epochs": 1}
    result = train(configure(model="hf-hub:me/plain", **options))
    folder = configure().output
    assert capaboost_vit.read_header(f"{folder}/adapter.safetensors")["base"]["folder"] == "hf-hub:me/plain"
    assert evaluate_images(folder)["accuracy"] == pytest.approx(result["test_accuracy"])
    alone = capaboost_vit.create_from_adapter(f"{folder}/adapter.safetensors", initial_checkpoint="hf-hub:me/plain")
    again = evaluate_images(merge_adapter(folder, Path(folder, "merged")), data=str(pictures))
    assert again["right"] == result["test_right"]
    assert alone.num_classes == 3
    hub.files["me/empty", "config.json"] = hub.files["me/plain", "config.json"]
    with pytest.raises(FileNotFoundError, match=r"hf-hub:me/empty has no pytorch_model\.bin: nor model\.safetensors"):
        train(configure(model="hf-hub:me/empty", **{**options, "overwrite": True}))


def test_what_the_hub_does_not_have_is_told_in_one_line(hub, monkeypatch):
    with pytest.raises(
        FileNotFoundError, match="the hub has no repository 'me/gone', or it is private: `hf auth login`"
    ):
        capaboost_vit.create_from_adapter("hf-hub:me/gone")
    hub.files["me/other", "README.md"] = b"here"
    with pytest.raises(FileNotFoundError, match=r"hf-hub:me/other has no adapter\.safetensors"):
        capaboost_vit.read_header("hf-hub:me/other")
    with pytest.raises(FileNotFoundError, match=r"hf-hub:a/b/c is no name on the hub: it is hf-hub:owner/name"):
        capaboost_vit.read_header("hf-hub:a/b/c")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="is not in the cache, and the hub cannot be reached"):
        capaboost_vit.read_header("hf-hub:me/unseen")


def test_a_run_on_texts_is_pushed_likewise(hub, finished_text):
    folder, _ = finished_text("opinions")
    assert main(["push", str(folder), "me/texts"]) == 0
    card = hub.files["me/texts", "README.md"].decode()
    assert yaml.safe_load(card.split("---\n")[1])["library_name"] == "transformers"
    header = capaboost_vit.read_header("hf-hub:me/texts")
    assert header == capaboost_vit.read_header(folder / "adapter.safetensors")


def test_a_hub_that_cannot_be_reached_is_told_in_one_line(hub, finished, monkeypatch, capsys):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    assert main(["push", str(finished[0]), "me/mine"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("capaboost push: error: cannot push to me/mine: ")
    assert error.count("\n") == 1
