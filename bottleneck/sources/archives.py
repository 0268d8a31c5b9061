"""Images in tar and zip archives, read in place; nothing is unpacked to a disk."""

import bz2
import gzip
import io
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, ClassVar

from bottleneck.errors import BadImageError, DataError, first_line
from bottleneck.sources.blobs import Blob, Unpacked, window
from bottleneck.sources.members import Members
from bottleneck.sources.memory import remembered
from bottleneck.sources.places import is_remote

__all__ = ["Tar", "Zip"]

_BLOCK = 512
_OPENERS: dict[str, Callable[[BinaryIO], Any]] = {
    ".gz": gzip.open,
    ".tgz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
}
_LONGEST_NAME = 2**20
"""Bytes of a tar archive's header with a long name and other facts."""
_LONG = {
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
}
"""Kinds of these headers."""
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_KNOWN = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA}
"""Not bzip2, of which 100 bytes may be 100 MB, all of which `zipfile` would inflate at once."""
_OF_MEMBERS = ("header_offset", "compress_size", "file_size", "compress_type", "CRC")
"""What is needed of a zip archive's entry to read the file."""
_ENCRYPTED, _WINDOWS = 1, 0
_AGAIN = "copy or download it again"
_DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, EOFError, lzma.LZMAError, zlib.error, struct.error),
    *(OSError, ValueError, NotImplementedError),
)


class _Archive(ABC):
    """An archive; subclasses read what is in it, and open its files. See `Container`.

    Parameters
    ----------
    blob : Blob
        The file.
    path : str
        Where it lies: behind a URL, what is in it may be remembered.
    """

    numbers: ClassVar[int]
    """How many tell where a file lies."""

    def __init__(self, blob: Blob, path: str) -> None:
        self.version = blob.version
        known, version = remembered(), blob.version if is_remote(path) else ""
        before = Members.recalled(known.find(path, version), self.numbers) if known else None
        self._members = before or _index_of(self._indexed)
        if known and not before and all(name for name, _ in self._members.refused):
            known.add(path, version, self._members.places, self._members.refused)

    @abstractmethod
    def _indexed(self) -> Members: ...

    def names(self) -> list[str]:
        """Return the names of the files, in their order in the archive."""
        return list(self._members.places)

    def refused(self) -> list[tuple[str, str]]:
        """Return the names of what is no file that can be read, with the reasons."""
        return self._members.refused

    def has(self, name: str) -> bool:
        """Return whether there is a file of a name, see `Container`.

        Parameters
        ----------
        name : str
            Its name.

        Returns
        -------
        bool
        """
        return name in self._members.places


class Tar(_Archive):
    """A tar archive; see `Container`.

    Parameters
    ----------
    blob : Blob
        The file.
    suffix : str
        Its ending, which tells whether it is compressed.
    path : str
        Where it lies: behind a URL, what is in it may be remembered.

    Raises
    ------
    DataError
        It is no tar archive; the message is the reason.
    """

    numbers = 2

    def __init__(self, blob: Blob, suffix: str, path: str) -> None:
        opener = next((each for end, each in _OPENERS.items() if suffix.endswith(end)), None)
        self._blob = Unpacked(blob, opener) if opener else blob
        super().__init__(blob, path)

    def _indexed(self) -> Members:
        found = Members()
        try:
            for name, place, reason in self._read():
                found.add(name, place, reason)
        except _DAMAGE as error:
            if not found.places:
                raise
            found.refused.append(("", f"the archive is damaged ({first_line(error)}); {_AGAIN}"))
        return found

    def _read(self) -> Iterator[tuple[str, tuple[int, int], str]]:
        file = window(self._blob, 0, self._blob.size)
        with tarfile.open(fileobj=file, mode="r:", tarinfo=_Header) as tar:
            while member := tar.next():
                vars(tar)["members"].clear()  # else all are kept
                if member.isdir():
                    continue
                place = member.offset_data, member.size
                yield member.name, place, self._against(member)
            end = tar.offset
        if self._blob.read_at(end, _BLOCK).strip(b"\0"):
            raise ValueError("what follows the last whole file is no file")

    def _against(self, member: tarfile.TarInfo) -> str:
        if member.issym() or member.islnk():
            return "a link, which is not followed in archives"
        if not member.isreg():
            return "not a regular file"
        if member.issparse():
            return "a sparse file, which cannot be read in an archive"
        if 0 <= self._blob.size < member.offset_data + member.size:
            return f"the archive ends before it does; {_AGAIN}"
        return ""

    def open(self, name: str) -> BinaryIO:
        """Open a file, see `Container`.

        Parameters
        ----------
        name : str
            Its name.

        Returns
        -------
        binary file
        """
        start, size = self._members.places[name]
        return window(self._blob, start, size)


class _Header(tarfile.TarInfo):
    """A file of a tar archive, whose name and other facts are not read if they are too long."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _LONG and self.size > _LONGEST_NAME:
            raise tarfile.ReadError(f"a header says that it has {self.size:,} bytes")
        member: tarfile.TarInfo = super()._proc_member(tar)  # type: ignore[misc]
        return member


class _Inflated(zipfile.ZipExtFile):
    """A file of a zip archive, which gives at most as many bytes as the archive says it has.

    Nor are many more inflated, whatever it holds: deflate is told how many are wanted, and 512
    bytes of lzma are up to 4 MB.
    """

    MIN_READ_SIZE = 512

    def __init__(self, file: Any, member: zipfile.ZipInfo) -> None:
        super().__init__(file, "r", member)
        self.size = member.file_size
        self._piece = 2**16 if member.compress_type == zipfile.ZIP_DEFLATED else 512

    def read(self, n: int | None = -1) -> bytes:
        """Read up to `n` bytes, or all."""
        left, pieces = self.size if n is None or n < 0 else n, list[bytes]()
        while left > 0 and (piece := super().read(min(left, self._piece))):
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)


class Zip(_Archive):
    """A zip archive; see `Container`.

    Parameters
    ----------
    blob, path : Blob, str
        As for `Tar`.

    Raises
    ------
    DataError
        It is no zip archive; the message is the reason.
    """

    numbers = len(_OF_MEMBERS)

    def __init__(self, blob: Blob, path: str) -> None:
        self._blob = blob
        super().__init__(blob, path)

    def _indexed(self) -> Members:
        found = Members()
        with zipfile.ZipFile(window(self._blob, 0, self._blob.size)) as archive:
            members = sorted(archive.infolist(), key=lambda each: each.header_offset)
        for member in members:
            if not member.is_dir():
                place = tuple(int(getattr(member, each)) for each in _OF_MEMBERS)
                of_windows = member.create_system == _WINDOWS
                name = member.filename.replace("\\", "/") if of_windows else member.filename
                found.add(name, place, self._against(member))
        return found

    @staticmethod
    def _against(member: zipfile.ZipInfo) -> str:
        mode = member.external_attr >> 16
        if stat.S_ISLNK(mode):
            return "a link, which is not followed in archives"
        if stat.S_IFMT(mode) not in {0, stat.S_IFREG}:
            return "not a regular file"
        if member.flag_bits & _ENCRYPTED:
            return "it is encrypted; unpack the archive with its password"
        if member.compress_type not in _KNOWN:
            return "it is compressed by a method that cannot be read; pack the archive again"
        return ""

    def open(self, name: str) -> BinaryIO:
        """Open a file, see `Container`.

        Parameters
        ----------
        name : str
            Its name.

        Returns
        -------
        binary file

        Raises
        ------
        BadImageError
            It is not where the archive says.
        """
        member = zipfile.ZipInfo(name)
        for each, value in zip(_OF_MEMBERS, self._members.places[name], strict=True):
            setattr(member, each, value)
        length = _LOCAL_HEADER.size
        # The header has a name and further fields of up to 64 KiB each: usually, a little.
        head = self._blob.read_at(member.header_offset, length)
        if len(head) < length or not head.startswith(b"PK\3\4"):
            raise BadImageError(f"it is not where its archive says; {_AGAIN}")
        _, named, extra = _LOCAL_HEADER.unpack(head)
        start = member.header_offset + length + named + extra
        file = window(self._blob, start, member.compress_size)
        inflated: Any = _Inflated(file, member)
        return inflated if member.file_size or member.compress_size else io.BytesIO()


def _index_of(indexed: Callable[[], Members]) -> Members:
    """Return the files of an archive; `DataError` if it is damaged, or none."""
    try:
        return indexed()
    except _DAMAGE as error:
        reason = first_line(error) or type(error).__name__
        raise DataError(f"it is damaged or no such archive ({reason}); {_AGAIN}") from error
