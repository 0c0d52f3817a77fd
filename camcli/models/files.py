"""What kind of file a model file is, told from its bytes: nothing is unpickled or executed."""

from __future__ import annotations

import errno
import io
import json
import os
import pickletools
import re
import struct
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import IO, Any, Literal

from camcli.errors import ModelError, UsageError

Kind = Literal["torchscript", "exported", "checkpoint", "pickled", "safetensors"]

_SUFFIXES = (".pt", ".pth", ".pt2", ".bin", ".ckpt", ".safetensors", ".torchscript", ".ts", ".tar")
_MAGIC = 0x1950A86A20F9469CFC6C  # the number that files of torch before 1.6 begin with
_GIVE = "give a file that torch saved"
_PICTURE = "a picture; give pictures first, and the model's file with --model"
# What stands where in files of other kinds.
_OTHERS = (
    (0, b"version https://git-lfs", "a Git LFS pointer, and the model is still on the server; "
     "run git lfs pull"),
    (0, b"\x89HDF\r\n\x1a\n", f"an HDF5 file (Keras); {_GIVE}"),
    (0, b"\x93NUMPY", f"a NumPy array; {_GIVE}"),
    (0, b"\x1f\x8b", "compressed with gzip: unpack it first"),
    (0, b"BZh", "compressed with bzip2: unpack it first"),
    (0, b"\xfd7zXZ", "compressed with xz: unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it first"),
    (257, b"ustar", "a tar archive: unpack it first"),
    (0, b"GGUF", f"a GGUF file; {_GIVE}"),
    (4, b"PTMF", "a TorchScript file optimized for mobile (flatbuffer); use the original file"),
    (4, b"ET12", "an ExecuTorch program, optimized for mobile; use the original file"),
    (4, b"TFL3", "a TensorFlow Lite file; give the PyTorch model that it was made from"),
    (0, b"\x89PNG", _PICTURE),
    (0, b"\xff\xd8\xff", _PICTURE),
    (0, b"GIF8", _PICTURE),
)  # fmt: skip
# What a state dict is made of: tensors, numbers, containers. Anything else is an object.
_DATA = re.compile(
    r"collections (OrderedDict|defaultdict|Counter)|torch\._utils _rebuild\w+|"
    r"torch(\.storage|\.cuda)? \w*Storage|torch [a-z]\w*|torch (Size|Tensor)|"
    r"torch\.nn\.parameter Parameter|torch\.serialization _get_layout|_codecs encode|"
    r"numpy(\._?core)?(\.multiarray)? (_reconstruct|scalar|dtype|ndarray)|"
    r"numpy\.dtypes \w+|(__builtin__|builtins) (set|frozenset|int|float|bool|complex|bytearray)"
)


def names_file(name: str) -> bool:
    """Whether a model's name means a file: it is one, or is spelled like one."""
    return not name.isidentifier() and (
        os.path.lexists(name) or os.sep in name or name.lower().endswith(_SUFFIXES)
    )


def kind_of(path: str) -> Kind:
    """The kind of a model file; what is none is a ModelError that says what it is instead."""
    if not os.path.exists(path):
        raise UsageError(f"no model file '{path}', and no model of that name; see camcli models")
    if not os.path.isfile(path):
        raise ModelError(f"'{path}' is not a regular file; name the model file itself")
    try:
        with open(path, "rb") as file:
            start = file.read(1024)
            if start.startswith(b"PK"):
                return _zip_kind(path)
            if start.startswith(b"\x80"):
                return _pickle_kind(path, file)
            if _is_safetensors(start, file):
                return "safetensors"
    except OSError as error:
        raise ModelError(
            f"'{path}' cannot be read ({error.strerror}); check the file and who may read it"
        ) from error
    raise ModelError(f"'{path}' is no model file: it is {_what(path, start)}")


def foreign_names(path: str) -> list[str]:
    """What a pickled file names beyond tensors and containers: the classes of its objects."""
    with open(path, "rb") as file:
        if file.read(2) == b"PK":
            with zipfile.ZipFile(path) as archive:
                member = archive.getinfo(_member(archive, "data.pkl"))
                member.CRC = None  # type: ignore[assignment]  # torch may be told to compute none
                stream: IO[bytes] = io.BytesIO(archive.read(member))
        else:
            file.seek(0)
            stream = file
            for _ in range(3):  # the magic number, the protocol, the machine
                for _ in pickletools.genops(stream):
                    pass
        names = dict.fromkeys(_globals(stream))
    return [name.replace(" ", ".") for name in names if not _DATA.fullmatch(name)]


def extra_files(path: str) -> Mapping[str, bytes]:
    """The files that were saved along with a model (`_extra_files`), by name."""
    with zipfile.ZipFile(path) as archive:
        found = {}
        for name in archive.namelist():
            _, _, inner = name.partition("/")
            if inner.startswith("extra/") and not inner.endswith("/"):
                found[inner.removeprefix("extra/")] = archive.read(name)
    return found


def refuse_damage(path: str) -> None:
    """A ModelError where a byte of an archive is not what was written; reads all of it."""
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except Exception as error:  # whatever damage makes the reader raise
        raise damaged(path) from error
    if bad is not None:
        raise damaged(path)


def repeated(archive: zipfile.ZipFile) -> list[str]:
    """Names of several members: torch's reader and Python's may take different ones."""
    counts = Counter(name.lower() for name in archive.namelist())
    return [name for name, count in counts.items() if count > 1]


def _zip_kind(path: str) -> Kind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.partition("/")[2] or name for name in archive.namelist()]
            plain = all(
                member.compress_type or member.compress_size == member.file_size
                for member in archive.infolist()
            )
    except OSError as error:
        if error.errno in (None, errno.EINVAL):  # a place that is not in the file
            raise damaged(path) from error
        raise
    except Exception as error:  # whatever damage makes the reader raise
        raise damaged(path) from error
    if not (plain and _ends_in_one_directory(path)):
        raise damaged(path)
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        return "torchscript"
    graphs = [name for name in names if re.fullmatch(r"models/.*\.json", name)]
    if graphs or "serialized_exported_program.json" in names:
        return "exported"
    if any("aotinductor" in name for name in names):
        raise ModelError(
            f"'{path}' is a compiled package (AOTInductor), which has no graph to explain; "
            "give the file that torch.export.save wrote"
        )
    if "data.pkl" in names:
        return _object_kind(path)
    raise ModelError(f"'{path}' is a zip archive, but none that torch wrote; {_GIVE}")


def _pickle_kind(path: str, file: IO[bytes]) -> Kind:
    file.seek(0)
    try:
        number = [arg for op, arg, _ in pickletools.genops(file) if op.name.startswith("LONG")]
    except Exception as error:  # whatever damage makes the reader raise
        raise damaged(path) from error
    if number != [_MAGIC]:
        raise ModelError(
            f"'{path}' is a Python pickle that torch did not write, and stays shut; {_GIVE}"
        )
    return _object_kind(path)


def _object_kind(path: str) -> Kind:
    try:
        return "pickled" if foreign_names(path) else "checkpoint"
    except Exception as error:  # whatever damage makes the reader raise
        raise damaged(path) from error


def _ends_in_one_directory(path: str) -> bool:
    """Whether an archive's directory is where all readers look for it, once, at the file's end.

    Python finds it where an archive was appended to another file, or cut within another archive
    that it holds, and torch's reader then takes other members than those that were checked.
    """
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 98))
        tail = file.read().rjust(98, b"\0")
    end, locator, large = tail[76:], tail[56:76], tail[:56]
    length, offset = struct.unpack("<II", end[12:20])
    place = size - 22
    if locator.startswith(b"PK\x06\x07"):  # its numbers have 64 bits, as torch writes them
        place = size - 98
        length, offset = struct.unpack("<QQ", large[40:])
        if not large.startswith(b"PK\x06\x06") or struct.unpack("<Q", locator[8:16])[0] != place:
            return False
    alone = end.startswith(b"PK\x05\x06") and end.endswith(b"\0\0")
    return alone and bool(offset + length == place)


def damaged(path: str) -> ModelError:
    """The error for a file of which part is missing, or is not what was written."""
    return ModelError(
        f"'{path}' is truncated or damaged ({os.path.getsize(path):,} bytes); "
        "copy or download it again"
    )


def _member(archive: zipfile.ZipFile, name: str) -> str:
    return next(m for m in archive.namelist() if m.partition("/")[2] == name or m == name)


def _globals(stream: IO[bytes]) -> Iterator[str]:
    """`module name` of every global that a pickle would import."""
    texts: list[str] = []
    memo: dict[int, str] = {}
    argument: Any
    for op, argument, _ in pickletools.genops(stream):
        if op.name in ("GLOBAL", "INST"):
            yield str(argument)
        elif op.name == "STACK_GLOBAL":
            yield " ".join(texts[-2:])
        elif op.name == "MEMOIZE":
            memo[len(memo)] = texts[-1] if texts else ""
        elif op.name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[int(argument)] = texts[-1] if texts else ""
        elif op.name in ("BINGET", "LONG_BINGET", "GET"):
            texts.append(memo.get(int(argument), ""))
        elif isinstance(argument, str):
            texts.append(argument)


def _is_safetensors(start: bytes, file: IO[bytes]) -> bool:
    length = int.from_bytes(start[:8], "little")
    if start[8:9] != b"{" or length > 100_000_000:
        return False
    file.seek(8)
    try:
        return isinstance(json.loads(file.read(length)), dict)
    except ValueError:
        return False


def _what(path: str, start: bytes) -> str:
    """What a file that is no model is, as far as its first bytes tell."""
    if not start:
        return f"empty; {_GIVE}"
    if path.lower().endswith(".onnx"):
        return "an ONNX file; give the PyTorch model that it was made from"
    for place, magic, what in _OTHERS:
        if start.startswith(magic, place):
            return what
    if re.match(rb"\s*<(!doctype )?html", start, re.IGNORECASE):
        return "a web page: its download did not give the model"
    try:
        text = start[:-4].decode() if len(start) > 4 else start.decode()
    except UnicodeDecodeError:
        text = "\0"
    if text.replace("\n", "").replace("\r", "").replace("\t", "").isprintable():
        return f"text (it begins {text.split(chr(10))[0][:40]!r}); {_GIVE}"
    return f"of a kind that camcli does not know (it begins {start[:8].hex(' ')}); {_GIVE}"
