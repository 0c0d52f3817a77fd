"""Pictures in tar and zip archives: `train-000.tar/cat/1.jpg` names a member as if in a folder.

Tars are those of WebDataset: the files of one sample lie beside each other and share a name up to
its first dot, and its class is in a member `.cls` or `.json`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from camcli.records import CLASS_FIELDS

if TYPE_CHECKING:
    import tarfile  # which --help does not wait for
    import zipfile

EXTENSIONS = (".tar", ".zip")
LABELS = (".cls", ".json")
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
_LARGEST = 2**20
_BLOCK = 512
_TAR_BLOCKS = b"\0" * 1024


class ArchiveError(Exception):
    """An archive that cannot be read, or a member of it."""


class Member(NamedTuple):
    """Where a member's bytes are: at `offset` of a tar, or where the zip says."""

    size: int
    offset: int
    packed: zipfile.ZipInfo | None = None


class Archive(NamedTuple):
    """The files of one archive, by name in its order; of members with one name the last counts."""

    members: dict[str, Member]
    fault: str
    """What is wrong with it from some member on; empty where it is whole."""
    unpack: Callable[[zipfile.ZipInfo, int], bytes] | None = None


def is_archive(path: str) -> bool:
    """Whether a file is an archive by its name."""
    return path.lower().endswith(EXTENSIONS) and os.path.isfile(path)


def compressed(path: str) -> bool:
    """Whether it is a tar that can only be read from its beginning."""
    return path.lower().endswith(_COMPRESSED) and os.path.isfile(path)


def containing(path: str) -> str | None:
    """The archive that a path leads into; None where it leads nowhere, or through folders."""
    above = os.path.dirname(path)
    while above and above != os.path.dirname(above):
        if os.path.isfile(above):
            return above if is_archive(above) else None
        if os.path.isdir(above):
            return None
        above = os.path.dirname(above)
    return None


def status(path: str) -> os.stat_result:
    """That of a file, or of the archive it is in."""
    try:
        return os.stat(path)
    except NotADirectoryError:
        archive = containing(path)
        if archive is None:
            raise
        return os.stat(archive)


def opened(path: str) -> Archive:
    """The members of an archive, remembered until the file changes; OSError, or ArchiveError where
    nothing of it can be read.
    """
    found = os.stat(path)
    with _lock:
        return _opened(path, found.st_size, found.st_mtime_ns)


def check(path: str) -> None:
    """ArchiveError that says what is wrong with a file that is an archive by its name."""
    raise ArchiveError(opened(path).fault or "an archive is no picture; name it as an input")


def read(archive: str, name: str, most: int) -> bytes:
    """A member's bytes. ArchiveError where it is damaged or larger than `most`."""
    content = opened(archive)
    member = content.members.get(name)
    if member is None:
        raise FileNotFoundError(errno.ENOENT, content.fault or os.strerror(errno.ENOENT))
    if member.size > most:
        raise ArchiveError(f"{member.size} bytes are more than the {most} that are allowed")
    if member.packed is None:
        with open(archive, "rb") as file:
            data = os.pread(file.fileno(), member.size, member.offset)
    else:
        assert content.unpack is not None
        data = content.unpack(member.packed, member.size)
    if len(data) != member.size:
        raise ArchiveError("the archive ends within this picture")
    return data


def sha256(path: str) -> str:
    """That of a file or a member. OSError, ValueError or ArchiveError where it cannot be read."""
    archive = None if os.path.lexists(path) else containing(path)
    if archive is not None:
        return hashlib.sha256(read(archive, path[len(archive) + 1 :], sys.maxsize)).hexdigest()
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def label(archive: str, name: str) -> str | None:
    """The class that the member `.cls` or `.json` beside a picture gives; None where none does."""
    folder, slash, base = name.rpartition("/")
    stem = folder + slash + base.partition(".")[0]
    members = opened(archive).members
    with contextlib.suppress(OSError, ArchiveError, ValueError, RecursionError):
        if stem + ".cls" in members:
            return read(archive, stem + ".cls", _LARGEST).decode().strip()
        if stem + ".json" in members:
            content = json.loads(read(archive, stem + ".json", _LARGEST))
            fields = content if isinstance(content, dict) else {}
            found = next((fields[name] for name in CLASS_FIELDS if name in fields), None)
            return str(found) if isinstance(found, str | int) else None
    return None


def label_of(path: str) -> str | None:
    """The class beside a picture, by its path; None where it is in no archive."""
    if os.path.lexists(path):
        return None
    archive = containing(path)
    try:
        return label(archive, path[len(archive) + 1 :]) if archive else None
    except (OSError, ArchiveError):
        return None


_lock = Lock()


@lru_cache(maxsize=8)
def _opened(path: str, size: int, mtime_ns: int) -> Archive:
    try:
        return _zip(path) if path.lower().endswith(".zip") else _tar(path)
    except _damage() as error:
        raise ArchiveError(f"not an archive that can be read ({error})") from error


def _damage() -> tuple[type[Exception], ...]:
    """What the libraries raise for archives that are damaged."""
    import tarfile
    import zipfile
    import zlib

    return (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, OverflowError)


def _tar(path: str) -> Archive:
    import tarfile

    members: dict[str, Member] = {}
    fault = ""
    end = os.path.getsize(path)
    with (
        open(path, "rb") as raw,
        tarfile.open(mode="r:", fileobj=raw, errors="surrogateescape") as file,
    ):
        try:
            for name, size, offset in _regular(file, raw.fileno()):
                members[_plain(name)] = Member(size, offset)
                if offset + size > end:
                    raise tarfile.ReadError("it ends within a member")
        except _damage() as error:
            fault = f"the archive is damaged ({error})"
        if not fault and file.offset < end and not _ends(path, file.offset):
            fault = "the archive is damaged (what follows its last member is none)"
    return Archive(members, fault)


def _regular(file: tarfile.TarFile, descriptor: int) -> Iterator[tuple[str, int, int]]:
    """The name, the size and the offset of each file.

    `tarfile` takes several times as long for ordinary headers as it takes to read them here.
    """
    while (info := file.next()) is not None:
        file.members.clear()  # type: ignore[attr-defined]  # it would hold them all
        if info.isreg() and not info.issparse():
            yield info.name, info.size, info.offset_data
        while not file.pax_headers and (
            plain := _plain_header(os.pread(descriptor, _BLOCK, file.offset))
        ):
            name, size = plain
            yield name, size, file.offset + _BLOCK
            file.offset += _BLOCK + -(-size // _BLOCK) * _BLOCK


def _plain_header(block: bytes) -> tuple[str, int] | None:
    """The name and the size of a file; None for anything that is not ordinary."""
    if block[156:157] != b"0" or block[257:263] not in (b"ustar\0", b"ustar "):
        return None
    try:
        size, check = int(block[124:135], 8), int(block[148:154], 8)
    except ValueError:
        return None
    if check != sum(block) - sum(block[148:156]) + 256:
        return None
    name = block[:100].partition(b"\0")[0]
    prefix = block[345:500].partition(b"\0")[0] if block[262] == 0 else b""
    whole = prefix + b"/" + name if prefix else name
    return whole.decode("utf-8", "surrogateescape"), size


def _ends(path: str, offset: int) -> bool:
    """Whether the blocks of zeros that end a tar are there."""
    with open(path, "rb") as file:
        return _TAR_BLOCKS.startswith(os.pread(file.fileno(), len(_TAR_BLOCKS), offset))


def _zip(path: str) -> Archive:
    import zipfile

    file = zipfile.ZipFile(path)
    members = {
        _plain(info.filename): Member(info.file_size, 0, info)
        for info in file.infolist()
        if not info.is_dir()
    }

    # The latter two where it is encrypted, or packed in an unknown way.
    refusals: tuple[type[Exception], ...] = (*_damage(), RuntimeError, NotImplementedError)

    def unpack(info: zipfile.ZipInfo, size: int) -> bytes:
        try:
            with file.open(info) as member:
                return member.read(size + 1)
        except refusals as error:
            raise ArchiveError(f"it cannot be unpacked ({error})") from error

    return Archive(members, "", unpack)


def _plain(name: str) -> str:
    """`./a//b` is the member `a/b`, as it would be in a folder."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))
