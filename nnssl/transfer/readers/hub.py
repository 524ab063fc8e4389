"""Files of Hugging Face repositories, through `huggingface_hub` where it is installed; its cache comes first."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit
from urllib.request import getproxies

from nnssl.errors import MissingError, NnsslError

ENDINGS = (".pth", ".pt", ".safetensors")
USUAL = "fold_all/checkpoint_final.pth"
CONNECT_SECONDS = 5.0
_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+?)(?:[:/](?P<file>[\w./-]+))?")


def is_hub_name(source: str) -> bool:
    """Whether a text reads as `owner/repository`, `owner/repository/file` or `owner/repository:file`."""
    found = _NAME.fullmatch(source)
    return bool(found) and not source.startswith((".", "/", "-")) and not str(found and found["repo"]).endswith(ENDINGS)


def fetch(source: str) -> Path:
    """The local path of a repository's file: from the cache, or downloaded into it.

    Args:
        source: `owner/repository`, then `/file` or `:file` where the repository has several files of weights.

    Raises:
        NnsslError: huggingface_hub is missing, there is no such repository or file, several files could be meant, or
            nothing is cached and there is no network.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise NnsslError(
            f"{source} is no file here; to read it from the Hugging Face hub: pip install huggingface_hub"
        ) from error
    found = _NAME.fullmatch(source)
    if not found:
        raise MissingError(f"{source} is neither a file nor the name of a repository (owner/repository)")
    repository, file = found["repo"], found["file"]
    if file is None:
        file = _choose(_cached_files(huggingface_hub, repository), repository)
    if file is None:
        file = _choose(_online_files(huggingface_hub, repository), repository)
    if file is None:
        raise NnsslError(f"{repository} on the Hugging Face hub holds no file of weights ({', '.join(ENDINGS)})")
    return _fetch_file(huggingface_hub, repository, file)


def _fetch_file(hub: ModuleType, repository: str, file: str) -> Path:
    try:
        return Path(hub.hf_hub_download(repository, file, local_files_only=True))
    except (hub.errors.LocalEntryNotFoundError, hub.errors.EntryNotFoundError):
        pass  # not in the cache: next, the network
    try:
        _check_network(hub)
        return Path(hub.hf_hub_download(repository, file))
    except Exception as error:  # the hub's, the HTTP library's and the system's errors alike mean: not to be had
        raise _unreachable(hub, f"{repository}/{file}", error) from error


def _cached_files(hub: ModuleType, repository: str) -> list[str]:
    try:
        folder = Path(hub.snapshot_download(repository, local_files_only=True))
    except hub.errors.LocalEntryNotFoundError:
        return []
    return [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]


def _online_files(hub: ModuleType, repository: str) -> list[str]:
    try:
        _check_network(hub)
        return list(hub.HfApi().list_repo_files(repository))
    except Exception as error:  # as above
        raise _unreachable(hub, repository, error) from error


def _check_network(hub: ModuleType) -> None:
    """Try once whether the hub can be reached; huggingface_hub itself tries for half a minute.

    Raises:
        OSError: it cannot.
    """
    if hub.constants.HF_HUB_OFFLINE or getproxies():  # then it is not for us to say
        return
    address = urlsplit(hub.constants.ENDPOINT)
    port = address.port or (443 if address.scheme == "https" else 80)
    socket.create_connection((address.hostname or "", port), CONNECT_SECONDS).close()


def _choose(files: Iterable[str], repository: str) -> str | None:
    """The one file of weights, or the usual one among several; None where there is none."""
    weights = sorted(f for f in files if f.endswith(ENDINGS))
    if len(weights) > 1 and USUAL not in weights:
        raise NnsslError(
            f"{repository} holds several files of weights: name one, {repository}:FILE ({', '.join(weights)})"
        )
    return USUAL if USUAL in weights else next(iter(weights), None)


def _unreachable(hub: ModuleType, what: str, error: Exception) -> NnsslError:
    if isinstance(error, (hub.errors.RepositoryNotFoundError, hub.errors.EntryNotFoundError)) and not isinstance(
        error, hub.errors.LocalEntryNotFoundError
    ):
        return MissingError(f"{what} is not on the Hugging Face hub, or needs a login (hf auth login)")
    why = "HF_HUB_OFFLINE is set" if hub.constants.HF_HUB_OFFLINE else " ".join(str(error).split())[:120]
    return NnsslError(
        f"{what} is no file here, not in the cache of the Hugging Face hub ({hub.constants.HF_HUB_CACHE}), and cannot be "
        f"fetched ({why}): "
        "fetch it where there is a network, or give a file"
    )
