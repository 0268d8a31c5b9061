"""Files of models in repositories of the Hugging Face Hub, in its local cache or downloaded.

What is in the cache is used as it is, without asking the Hub. All files of a repository are of one
commit.
"""

import os
import threading
from collections.abc import Callable
from pathlib import Path

from bottleneck.errors import UnknownNameError, UsageError, WeightsError, first_line

__all__ = ["Repository"]

_PATIENCE = 1.5
"""Seconds to wait for the Hub's first answer, unless HF_HUB_ETAG_TIMEOUT is set."""


class Repository:
    """A repository of the Hugging Face Hub, as `bottleneck.bases.model_files.ModelFiles`.

    Parameters
    ----------
    repository : str
        ``ORG/NAME``, or ``ORG/NAME@REVISION`` for a branch, tag or commit.
    name : str
        Name of the model as given by the user.

    Raises
    ------
    UsageError
        The Hub has no such names.
    """

    def __init__(self, repository: str, name: str) -> None:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.constants import HF_HUB_CACHE

        self.name = name
        self._id, _, revision = repository.partition("@")
        self._revision = revision or "main"
        try:
            hf_hub_url(self._id, "config.json")
        except ValueError as error:
            raise UsageError(
                f"{name!r} does not name a repository of the Hugging Face Hub; expected ORG/NAME "
                f"or ORG/NAME@REVISION"
            ) from error
        self._cache = str(HF_HUB_CACHE)
        self.place = str(Path(self._cache, f"models--{self._id.replace('/', '--')}"))

    def find(self, *names: str) -> Path | None:
        """See `bottleneck.bases.model_files.ModelFiles`."""
        return next((path for path in map(self._get, names) if path), None)

    def _get(self, file: str) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(
            self._id, file, cache_dir=self._cache, revision=self._revision
        )
        path = cached if cached is None or isinstance(cached, str) else ""
        path = self._downloaded(file) if path is None else path
        if not path:
            return None
        # All other files must be of the same commit, even if the branch moves on.
        self._revision = Path(path).relative_to(self.place, "snapshots").parts[0]
        return Path(path)

    def _downloaded(self, file: str) -> str:
        """Download a file of the repository; return its path, or ``""`` if there is none."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
        from huggingface_hub.constants import HF_HUB_ETAG_TIMEOUT
        from huggingface_hub.errors import (
            EntryNotFoundError,
            GatedRepoError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        patience = HF_HUB_ETAG_TIMEOUT if "HF_HUB_ETAG_TIMEOUT" in os.environ else _PATIENCE
        url = hf_hub_url(self._id, file, revision=self._revision)
        unknown = f"the Hugging Face Hub has no repository {self._id!r} for {self.name!r}"
        try:
            # `hf_hub_download` alone would retry for half a minute where there is no network.
            _within(patience, lambda: get_hf_file_metadata(url))
            revision = self._revision
            return hf_hub_download(self._id, file, cache_dir=self._cache, revision=revision)
        except LocalEntryNotFoundError as error:  # the network failed meanwhile
            raise OSError(_reason(error)) from error
        except GatedRepoError as error:
            raise WeightsError(
                f"{self.name} needs an agreement to its terms: accept them on the repository's "
                f"page, then log in with 'hf auth login'"
            ) from error
        except RevisionNotFoundError as error:
            raise UnknownNameError(f"{self._id!r} has no revision {self._revision!r}") from error
        except RepositoryNotFoundError as error:
            raise UnknownNameError(
                f"{unknown}, or it is private; check the name, or log in with 'hf auth login'"
            ) from error
        except EntryNotFoundError:
            return ""
        except Exception as error:  # of several libraries, by the version of huggingface_hub
            raise OSError(_reason(error)) from error


def _within(seconds: float, work: Callable[[], object]) -> None:
    """Do `work`; raise what it raises, or `TimeoutError` if it takes longer.

    A time limit of the connection would not cover the look-up of the host's name.
    """
    ended: list[Exception | None] = []

    def run() -> None:
        try:
            work()
            ended.append(None)
        except Exception as error:  # noqa: BLE001 - raised by the caller
            ended.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not ended:
        raise TimeoutError(
            f"no answer within {seconds:g} s, set HF_HUB_ETAG_TIMEOUT to wait for more seconds"
        )
    if ended[0]:
        raise ended[0]


def _reason(error: Exception) -> str:
    from huggingface_hub.errors import OfflineModeIsEnabled

    return "HF_HUB_OFFLINE is set" if isinstance(error, OfflineModeIsEnabled) else first_line(error)
