"""What counts as an input, and in which order."""

from __future__ import annotations

import fnmatch
import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from camcli.errors import NoInputsError, UsageError
from camcli.images import archives, keys
from camcli.images.listing import listed
from camcli.records import ImageRef
from camcli.shard import OUTPUTS, Shard

EXTENSIONS = frozenset({
    ".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".jpx",
    ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp",
})  # fmt: skip
# How the pages that `camcli compare` draws are named: no pictures either.
COMPARISON = ".compare.png"


@dataclass(frozen=True)
class Inputs:
    """Where to look: files and folders (`-` is a list on stdin), and lists of paths."""

    roots: tuple[str, ...] = ()
    list_files: tuple[str, ...] = ()
    null_separated: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


@dataclass
class Walk:
    """One walk over the inputs, and the count of what it passed over."""

    inputs: Inputs
    ignored: int = 0
    _paths: set[bytes] = field(default_factory=set)
    _keys: set[bytes] = field(default_factory=set)

    def refs(self) -> Iterator[ImageRef]:
        """Every input once, folders streamed, names sorted within a folder."""
        roots = [root for root in self.inputs.roots if root != "-"]
        lists = [*self.inputs.list_files, *("-" for root in self.inputs.roots if root == "-")]
        several = len(roots) + len(lists) > 1
        names: dict[str, int] = {}
        for root in roots:
            if os.path.isdir(root):
                found = self._folder(root, _root_name(root, names) if several else "")
                if not several:
                    yield from found
                    continue
                for ref in found:  # several sources can name the same file: it is remembered
                    yield from self._unseen(ref.path, ref.key)
            elif archives.is_archive(root):
                yield from self._archive(root, _root_name(root, names) if several else "")
            else:
                _check(root)
                yield from self._named(root)
        for source in lists:
            for path in listed(source, self.inputs.null_separated):
                if archives.is_archive(path):
                    yield from self._archive(path, keys.safe(keys.normalised(path)))
                else:
                    yield from self._named(path)

    def some(self) -> Iterator[ImageRef]:
        """The same; NoInputsError, at once, where there is none."""
        refs = self.refs()
        first = next(refs, None)
        if first is None:
            raise NoInputsError(
                f"no pictures found ({self.ignored} other files ignored); "
                "name a picture, or a folder that holds some"
            )
        return itertools.chain([first], refs)

    def _named(self, path: str) -> Iterator[ImageRef]:
        """A path the user named: always tried, unless a filter excludes it or it came before."""
        key = keys.safe(keys.normalised(path))
        if self._wanted(key):
            yield from self._unseen(path, key)

    def _unseen(self, path: str, key: str) -> Iterator[ImageRef]:
        """Each file once; a key that two files share (`/a` and `a`) gets a mark of its path."""
        where = keys.digest(os.path.abspath(path))
        if where in self._paths:
            return
        while keys.digest(key) in self._keys:
            key = f"{key}~{where.hex()[:8]}"
        self._paths.add(where)
        self._keys.add(keys.digest(key))
        yield ImageRef(path, key)

    def _archive(self, path: str, prefix: str) -> Iterator[ImageRef]:
        """The pictures in a tar or zip, in its order. One that is damaged is an input that fails,
        after what can be read of it.
        """
        where = keys.digest(os.path.abspath(path))
        if where in self._paths:
            return
        self._paths.add(where)
        itself = ImageRef(path, prefix or keys.safe_name(os.path.basename(path)))
        try:
            content = archives.opened(path)
        except (OSError, archives.ArchiveError):  # reading it will fail too
            yield itself
            return
        for name in content.members:
            hidden = any(part.startswith(".") and part != ".." for part in name.split("/"))
            if hidden or not is_image_name(name):
                self.ignored += not name.endswith(archives.LABELS)
            elif self._wanted(name):
                key = keys.joined(prefix, keys.safe(keys.of_member(name)))
                yield ImageRef(os.path.join(path, name), key, archives.label(path, name))
        if content.fault:
            yield itself

    def _folder(self, root: str, prefix: str) -> Iterator[ImageRef]:
        """Depth first; a folder's names are held in memory only while it is being walked."""
        try:
            stack = [_Folder.listed(root, "", prefix)]
        except OSError as error:
            raise UsageError(f"cannot list the folder '{root}': {error.strerror}") from error
        # Where the pictures' own folder is the output directory, its overlays are no pictures.
        ours = OUTPUTS if stack[0].is_run else ()
        filtered = bool(self.inputs.include or self.inputs.exclude)
        while stack:
            here = stack[-1]
            for name in here.names:
                if name in here.folders:
                    relative, path = here.relative + name, here.path + name
                    key = keys.safe(keys.joined(prefix, relative))
                    try:
                        # Our own output, or a link upwards.
                        if relative in ours or _leads_up(path, stack):
                            self.ignored += 1
                            continue
                        folder = _Folder.listed(path, relative + "/", key)
                        if folder.is_run:
                            self.ignored += 1
                            continue
                        stack.append(folder)
                        break
                    except OSError:  # reading it will fail too, and that failure is recorded
                        yield ImageRef(path, key)
                elif not is_image_name(name):
                    self.ignored += 1
                elif not filtered or self._wanted(here.relative + name):
                    yield ImageRef(
                        here.path + name, here.key + (name if here.plain else keys.safe_name(name))
                    )
            else:
                stack.pop()

    def _wanted(self, relative: str) -> bool:
        if not (self.inputs.include or self.inputs.exclude):
            return True

        def matches(patterns: Iterable[str]) -> bool:
            name = relative.rsplit("/", 1)[-1]
            return any(
                fnmatch.fnmatchcase(relative, pattern) or fnmatch.fnmatchcase(name, pattern)
                for pattern in patterns
            )

        included = not self.inputs.include or matches(self.inputs.include)
        wanted = included and not matches(self.inputs.exclude)
        self.ignored += not wanted
        return wanted


def _check(path: str) -> None:
    """UsageError where what the user named cannot be a picture."""
    if archives.compressed(path):
        raise UsageError(
            f"'{path}' is compressed as a whole and could only be read from its beginning; "
            "unpack it, or pack it again as .tar"
        )
    if not (os.path.lexists(path) or is_image_name(path) or archives.containing(path)):
        raise UsageError(
            f"no file or folder '{path}'; give pictures, folders, archives or - (stdin)"
        )


def is_image_name(name: str) -> bool:
    """Whether a folder's file of this name counts as a picture."""
    _, dot, extension = name.rpartition(".")
    return dot + extension.lower() in EXTENSIONS and not name.endswith(COMPARISON)


@dataclass(frozen=True)
class _Folder:
    """A folder that is being walked: how far, and what its names are appended to."""

    names: Iterator[str]
    folders: set[str]
    identity: tuple[int, int]
    path: str
    relative: str
    key: str
    plain: bool
    """Whether its names can stand in keys as they are."""
    is_run: bool
    """Whether it is an output directory: it holds a run file that camcli wrote."""

    @classmethod
    def listed(cls, path: str, relative: str, key: str) -> _Folder:
        """List a folder, but for what is hidden; OSError where that is not allowed."""
        names, folders, is_run = [], set(), False
        with os.scandir(path) as found:
            for entry in found:  # not kept: an entry takes five times the memory of its name
                name = entry.name
                if name.startswith("."):
                    continue
                names.append(name)
                if name.startswith("run") and Shard.of_run_file(name):
                    is_run = is_run or _is_ours(entry.path)
                try:
                    if entry.is_dir():
                        folders.add(name)
                except OSError:  # a link that leads nowhere or to itself: a file that will fail
                    continue
        # Text and bytes sort alike, but for bytes that are no text.
        names.sort(key=None if all(map(str.isascii, names)) else os.fsencode)
        plain = all(map(keys.is_plain, names))
        above, below = os.path.join(path, ""), keys.joined(key, "")
        return cls(iter(names), folders, _identity(path), above, relative, below, plain, is_run)


def _leads_up(folder: str, stack: list[_Folder]) -> bool:
    identity = _identity(folder)
    return any(above.identity == identity for above in stack)


def _identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _is_ours(run_file: str) -> bool:
    try:
        with open(run_file, "rb") as file:
            return b'"camcli_version"' in file.read(4096)
    except OSError:
        return False


def _root_name(root: str, names: dict[str, int]) -> str:
    name = os.path.basename(os.path.abspath(root)) or "root"
    names[name] = names.get(name, 0) + 1
    return name if names[name] == 1 else f"{name}~{names[name]}"
