"""Files behind URLs, through fsspec: listed, asked for, and read."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from bottleneck.errors import (
    BottleneckError,
    DataError,
    MissingExtraError,
    PathMissingError,
    first_line,
)
from bottleneck.extras import import_extra

__all__ = ["Stated", "forget_stated", "known_size", "list_remote", "read_remote", "stated"]

_PACKAGES = {
    "s3": ("s3fs", "s3fs", "s3"),
    "s3a": ("s3fs", "s3fs", "s3"),
    "gs": ("gcsfs", "gcsfs", "gcs"),
    "gcs": ("gcsfs", "gcsfs", "gcs"),
    "http": ("aiohttp", "aiohttp", "http"),
    "https": ("aiohttp", "aiohttp", "http"),
    "hf": ("huggingface_hub", "huggingface_hub", "hf"),
}
"""Scheme to the module, the package and our extra."""
_TAGS = ("ETag", "etag", "md5Hash", "Content-MD5", "blob_id", "generation")
_TIMES = ("LastModified", "Last-Modified", "last_modified", "updated", "mtime")
_FIRST_WAIT, _LONGEST_WAIT, _PATIENCE = 0.2, 3.0, 20.0
"""Seconds: no attempt begins later than `_PATIENCE` after the first."""
_CONNECT, _READ, _CONNECTIONS = 5, 15, 32
_FINAL = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)
_GONE, _DENIED = {404, 410}, {401, 403}
_FOR_ALL = {
    **dict.fromkeys(("s3", "s3a"), "FSSPEC_S3_ANON=true"),
    **dict.fromkeys(("gs", "gcs"), "FSSPEC_GS_TOKEN=anon"),
}
"""With which a bucket that everybody may read is read."""
_T = TypeVar("_T")
_known: dict[str, "Stated"] = {}
_given_up: set[str] = set()
"""Servers for which nothing was gained by patience, until they answer again."""


class Stated(NamedTuple):
    """What a server states of a file: its bytes, and what changes when they do ("" if nothing)."""

    size: int
    version: str


def list_remote(url: str) -> list[str]:
    """Return the URLs of the files in a folder and below, sorted.

    Parameters
    ----------
    url : str
        The folder.

    Returns
    -------
    list of str

    Raises
    ------
    MissingExtraError
        The package for such URLs is not installed.
    PathMissingError
        There is no such folder.
    DataError
        The server does not answer or refuses; the message says why.
    """
    with _told(url):
        files, path = _file_system(url)

        def find() -> Mapping[str, Mapping[str, Any]]:
            files.invalidate_cache()
            return files.find(path, detail=True)  # type: ignore[no-any-return]

        found = _retried(url, find)
        full = {files.unstrip_protocol(name): facts for name, facts in found.items()}
    if not full:
        raise PathMissingError(f"no files at {url!r}; correct the URL of the folder")
    listed = {name: _stated(facts) for name, facts in full.items()}
    _known.update({name: each for name, each in listed.items() if each.version})
    return sorted(full)


def stated(url: str, *, fresh: bool = False) -> Stated:
    """Return what a server states of a file.

    Parameters
    ----------
    url : str
        The file.
    fresh : bool
        Whether to ask, even if it was listed before.

    Returns
    -------
    Stated

    Raises
    ------
    MissingExtraError, PathMissingError, DataError
        As for `list_remote`.
    """
    if fresh or url not in _known:
        with _told(url):
            files, path = _file_system(url)
            if fresh:
                files.invalidate_cache()
            _known[url] = _stated(_retried(url, lambda: files.info(path)))
    return _known[url]


def forget_stated() -> None:
    """Forget what servers state, as it may have changed since they were asked."""
    _known.clear()


def read_remote(url: str, start: int | None = None, end: int | None = None) -> bytes:
    """Return the bytes of a file, or of a part of it; all of them if its server knows no parts.

    Parameters
    ----------
    url : str
        The file.
    start, end : int, optional
        The part, in bytes.

    Returns
    -------
    bytes

    Raises
    ------
    MissingExtraError, PathMissingError, DataError
        As for `list_remote`.
    """
    with _told(url):
        files, path = _file_system(url)
        return bytes(_retried(url, lambda: files.cat_file(path, start=start, end=end)))


def known_size(url: str) -> int:
    """Return the size of a file whose version is known, without asking for it.

    Parameters
    ----------
    url : str
        The file.

    Returns
    -------
    int
        Bytes; -1 if it is not known.
    """
    return _known[url].size if url in _known else -1


def _file_system(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it."""
    scheme = url.partition(":")[0].lower()
    what = f"reading {scheme}:// URLs"
    fsspec = import_extra("fsspec", what, "fsspec")
    if scheme in _PACKAGES:
        module, package, extra = _PACKAGES[scheme]
        import_extra(module, what, package, extra=extra)
    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(url, **_options(scheme))
    except ImportError as error:
        raise MissingExtraError(f"{what} needs a package: {first_line(error)}") from error
    if hasattr(found[0], "retries"):
        found[0].retries = 1  # `_retried` tells what may pass, and ends in bounded time
    return found


def _options(scheme: str) -> dict[str, Any]:
    """Return options with which a server that does not answer is given up in bounded time."""
    if scheme.startswith("s3"):
        limits = {"connect_timeout": _CONNECT, "read_timeout": _READ}
        more = {"retries": {"max_attempts": 0}, "max_pool_connections": _CONNECTIONS}
        return {"config_kwargs": {**limits, **more}}
    if scheme in {"http", "https"}:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT, sock_read=_READ)
        return {"client_kwargs": {"timeout": timeout, "trust_env": True}}
    return {}


def _stated(facts: Mapping[str, Any]) -> Stated:
    size = facts.get("size")
    tags = [str(facts[key]) for key in (*_TAGS, *_TIMES) if facts.get(key)]
    return Stated(-1 if size is None else int(size), f"{size}-{tags[0]}" if tags else "")


def _retried(url: str, work: Callable[[], _T]) -> _T:
    """Call a function, again after a while if it fails for what may pass.

    For a server that did not answer for so long, one attempt is made for each further file.
    """
    server = "/".join(url.split("/", 3)[:3])
    ends, wait = time.monotonic() + _PATIENCE * (server not in _given_up), _FIRST_WAIT
    while True:
        try:
            found = work()
        except Exception as raised:  # noqa: BLE001 - raised again, unless it may pass
            error = _meant(raised)
            passing = _may_pass(error)
            if passing and time.monotonic() + wait < ends:
                time.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT)
                continue
            if passing:
                _given_up.add(server)
            raise error from None
        _given_up.discard(server)
        return found


def _meant(error: Exception) -> Exception:
    """Return the error of a request that fsspec takes for a missing file, whatever it was."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and isinstance(cause, Exception):
        return error if _status(cause) in _GONE else cause
    return error


def _may_pass(error: Exception) -> bool:
    """Return whether an error may be gone at the next attempt."""
    if status := _status(error):
        return status in {408, 425, 429} or status >= 500  # noqa: PLR2004 - HTTP
    if isinstance(error, _FINAL) or "Credential" in type(error).__name__:
        return False
    names = {each.__module__.partition(".")[0] for each in type(error).__mro__}
    return isinstance(error, OSError) or bool(names & {"aiohttp", "botocore", "requests", "httpx"})


def _status(error: BaseException) -> int:
    """Return the status of HTTP that an error tells, as those of aiohttp and the Hub do; or 0."""
    found = getattr(error, "status", None) or getattr(
        getattr(error, "response", None), "status_code", None
    )
    return found if isinstance(found, int) else 0


def _how_to_sign_in(scheme: str) -> str:
    if scheme in {"http", "https"}:
        return "in the file ~/.netrc"
    how = f"as fsspec's package for {scheme}:// expects, such as in the environment"
    for_all = _FOR_ALL.get(scheme)
    return f"{how}, or set {for_all} if everybody may read it" if for_all else how


@contextmanager
def _told(url: str) -> Iterator[None]:
    """Turn what libraries raise into one sentence."""
    try:
        yield
    except BottleneckError:
        raise
    except Exception as error:
        if isinstance(error, FileNotFoundError) or _status(error) in _GONE:
            raise PathMissingError(f"no file or folder {url!r}; correct the URL") from error
        reason = first_line(error) or type(error).__name__
        denied = isinstance(error, PermissionError) or _status(error) in _DENIED
        if denied or "Credential" in type(error).__name__:
            raise DataError(
                f"{url!r} cannot be read without valid credentials ({reason}); give them "
                f"{_how_to_sign_in(url.partition(':')[0].lower())}"
            ) from error
        raise DataError(
            f"{url!r} cannot be read ({reason}); check the URL and the network"
        ) from error
