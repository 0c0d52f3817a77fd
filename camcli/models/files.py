"""What kind of file a model file is, told from its bytes: nothing is unpickled or executed."""

from __future__ import annotations

import io
import json
import os
import pickletools
import re
import zipfile
from collections.abc import Iterator, Mapping
from typing import IO, Any, Literal

from camcli.errors import ModelError, UsageError

Kind = Literal["torchscript", "exported", "checkpoint", "pickled", "safetensors"]

_SUFFIXES = (".pt", ".pth", ".pt2", ".bin", ".ckpt", ".safetensors", ".torchscript", ".ts", ".tar")
_MAGIC = 0x1950A86A20F9469CFC6C  # the number that files of torch before 1.6 begin with
_OTHERS = {
    b"\x89HDF\r\n\x1a\n": "an HDF5 file (Keras)",
    b"\x93NUMPY": "a NumPy array",
    b"\x1f\x8b": "compressed with gzip: unpack it first",
    b"GGUF": "a GGUF file",
}
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
            if start.startswith(b"PK\x03\x04"):
                return _zip_kind(path)
            if start.startswith(b"\x80"):
                return _pickle_kind(path, file)
            if _is_safetensors(start, file):
                return "safetensors"
    except OSError as error:
        raise ModelError(f"'{path}' cannot be read ({error.strerror})") from error
    raise ModelError(f"'{path}' is no model file: it is {_what(path, start)}")


def foreign_names(path: str) -> list[str]:
    """What a pickled file names beyond tensors and containers: the classes of its objects."""
    with open(path, "rb") as file:
        if file.read(2) == b"PK":
            with zipfile.ZipFile(path) as archive:
                stream: IO[bytes] = io.BytesIO(archive.read(_member(archive, "data.pkl")))
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


def _zip_kind(path: str) -> Kind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.partition("/")[2] or name for name in archive.namelist()]
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise _damaged(path) from error
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
    raise ModelError(f"'{path}' is a zip archive, but none that torch wrote")


def _pickle_kind(path: str, file: IO[bytes]) -> Kind:
    file.seek(0)
    try:
        number = [arg for op, arg, _ in pickletools.genops(file) if op.name.startswith("LONG")]
    except (ValueError, EOFError) as error:
        raise _damaged(path) from error
    if number != [_MAGIC]:
        raise ModelError(f"'{path}' is a Python pickle that torch did not write, and stays shut")
    return _object_kind(path)


def _object_kind(path: str) -> Kind:
    try:
        return "pickled" if foreign_names(path) else "checkpoint"
    except (zipfile.BadZipFile, ValueError, EOFError, KeyError, IndexError) as error:
        raise _damaged(path) from error


def _damaged(path: str) -> ModelError:
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
        return "empty"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, and the model is still on the server; run git lfs pull"
    if path.lower().endswith(".onnx"):
        return "an ONNX file; give the PyTorch model that it was made from"
    for magic, what in _OTHERS.items():
        if start.startswith(magic):
            return what
    if re.match(rb"\s*<(!doctype )?html", start, re.IGNORECASE):
        return "a web page: its download did not give the model"
    try:
        text = start[:-4].decode() if len(start) > 4 else start.decode()
    except UnicodeDecodeError:
        text = "\0"
    if text.replace("\n", "").replace("\r", "").replace("\t", "").isprintable():
        return f"text (it begins {text.split(chr(10))[0][:40]!r})"
    return f"of a kind that camcli does not know (it begins {start[:8].hex(' ')})"
