"""Adapter files and models on the Hugging Face hub: `hf-hub:owner/name`, or `hf-hub:owner/name@revision`."""

from __future__ import annotations

import functools
from pathlib import Path

PREFIX = "hf-hub:"
ADAPTER = "adapter.safetensors"  # its name in a repository
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # of timm; the first that is there


class NotInRepository(FileNotFoundError):
    """The repository is there, and the file is not."""


def is_on_hub(path: str | Path) -> bool:
    """Whether a path is one on the hub."""
    return str(path).startswith(PREFIX)


def fetch_adapter(path: str | Path) -> Path:
    """Where the adapter file of `hf-hub:owner/name[@revision]` lies in the cache; see `_fetch`."""
    return _fetch(path, ADAPTER, "is it a model that timm or transformers load?")


@functools.cache  # a run asks several times, and each is an answer of the hub
def fetch_model(path: str) -> Path:
    """The folder in the cache with `config.json` and weights of a timm model of the hub; see `_fetch`."""
    config = _fetch(path, "config.json", "it is no model that timm loads")
    try:
        _fetch(path, _WEIGHTS[0], "")
    except NotInRepository:
        _fetch(path, _WEIGHTS[1], f"nor {_WEIGHTS[0]}: it has no weights that timm loads")
    return config.parent


def _fetch(path: str | Path, file: str, hint: str) -> Path:
    """Where a file of `hf-hub:owner/name[@revision]` lies in the cache, fetched first where it is not there.

    Args:
        hint: said where the repository has no such file.

    Raises:
        FileNotFoundError: no such repository, revision or file, or the hub cannot be reached.
    """
    from huggingface_hub import errors, hf_hub_download

    name, _, revision = str(path).removeprefix(PREFIX).partition("@")
    try:
        return Path(hf_hub_download(name, file, revision=revision or None))
    except errors.LocalEntryNotFoundError as error:  # an EntryNotFoundError, too
        reason = "is not in the cache, and the hub cannot be reached (offline?)"
        raise FileNotFoundError(f"the {file} of {path} {reason}") from error
    except errors.EntryNotFoundError as error:
        raise NotInRepository(f"{path} has no {file}: {hint}") from error
    except errors.GatedRepoError as error:
        raise FileNotFoundError(f"{path} is gated: ask for access on its page, then `hf auth login`") from error
    except errors.RepositoryNotFoundError as error:
        reason = "or it is private: `hf auth login`, or set HF_TOKEN"
        raise FileNotFoundError(f"the hub has no repository {name!r}, {reason}") from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(f"the repository {name!r} has no revision {revision!r}") from error
    except errors.HFValidationError as error:
        raise FileNotFoundError(f"{path} is no name on the hub: it is {PREFIX}owner/name") from error
    except errors.HfHubHTTPError as error:
        raise FileNotFoundError(f"cannot fetch {path}: {' '.join(str(error).split())[:200]}") from error
