"""Adapter files on the Hugging Face hub: `hf-hub:owner/name`, with `@revision` behind it where one is wanted."""

from __future__ import annotations

from pathlib import Path

PREFIX = "hf-hub:"
ADAPTER = "adapter.safetensors"  # its name in a repository


def is_on_hub(path: str | Path) -> bool:
    """Whether a path is one on the hub."""
    return str(path).startswith(PREFIX)


def fetch_adapter(path: str | Path) -> Path:
    """Where the adapter file of `hf-hub:owner/name[@revision]` lies in the cache, fetched first where it is not there.

    Raises:
        FileNotFoundError: no such repository, revision or file, or the hub cannot be reached.
    """
    from huggingface_hub import errors, hf_hub_download

    name, _, revision = str(path).removeprefix(PREFIX).partition("@")
    try:
        return Path(hf_hub_download(name, ADAPTER, revision=revision or None))
    except errors.LocalEntryNotFoundError as error:  # an EntryNotFoundError, too
        reason = "is not in the cache, and the hub cannot be reached (offline?)"
        raise FileNotFoundError(f"the {ADAPTER} of {path} {reason}") from error
    except errors.EntryNotFoundError as error:
        raise FileNotFoundError(f"{path} has no {ADAPTER}: is it a model that timm or transformers load?") from error
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
