"""A finished run on the Hugging Face hub: adapter file, model card, learning curve and configuration."""

from __future__ import annotations

from pathlib import Path

from ..io.hub import ADAPTER, PREFIX
from ..training.card import LOAD, model_card
from ..training.saved import ModelSource, open_source

_BESIDE = ("config.yaml", "learning_curve.png")


def push_run(run: str | Path | ModelSource, repository: str, *, private: bool = False) -> str:
    """Uploads the adapter file of a run, with card, curve and configuration, in one commit; returns its URL.

    The repository is created if it does not exist. `create_from_adapter("hf-hub:owner/name")` loads it.

    Args:
        run: a run folder, or an adapter file, whose card has no scores.
        repository: owner/name.
        private: create a private repository; an existing one stays as it is.

    Raises:
        ValueError: no adapter, an invalid name, no token, or one without write access.
        OSError: the hub cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, errors, get_token
    from huggingface_hub.utils import validate_repo_id

    repository = repository.removeprefix(PREFIX)
    try:
        validate_repo_id(repository)
    except errors.HFValidationError as error:
        raise ValueError(f"{repository!r} is no name on the hub: it is owner/name") from error
    if "/" not in repository:
        raise ValueError(f"{repository!r} names no owner: say owner/name")
    source = open_source(run)
    if source.adapter is None:
        raise ValueError(f"{source.path} is a plain model: `hf upload {repository} FOLDER` pushes it")
    if get_token() is None:
        raise ValueError("no token for the hub: `hf auth login`, or set HF_TOKEN")
    files: dict[str, str | bytes] = {ADAPTER: str(source.path), "README.md": _card(source, repository)}
    if source.config:
        files |= {path.name: str(path) for name in _BESIDE if (path := source.path.with_name(name)).is_file()}
    additions = [CommitOperationAdd(name, content) for name, content in files.items()]
    api = HfApi()
    try:
        url = api.create_repo(repository, private=private, exist_ok=True)
        api.create_commit(repository, additions, commit_message="Adapter of capaboost_vit")
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403, 404):
            raise ValueError(
                f"the hub refuses to write to {repository} ({status}): log in with a token that may"
            ) from error
        raise OSError(f"cannot push to {repository}: {' '.join(str(error).split())[:200]}") from error
    except Exception as error:  # of the library below, whichever it is
        raise OSError(f"cannot push to {repository}: {type(error).__name__}: {' '.join(str(error).split())}") from error
    return str(url)


def _card(source: ModelSource, repository: str) -> bytes:
    """The card of the run, or a new one; ours says how to load from the hub."""
    assert source.adapter is not None
    path = source.path.with_name("README.md")
    if source.config and path.is_file():
        text = path.read_text("utf-8")
    else:
        text = model_card(source.adapter.header, {}, merged=False, has_curve=False)
    return text.replace(f'"{LOAD}"', f'"{PREFIX}{repository}"').encode()
