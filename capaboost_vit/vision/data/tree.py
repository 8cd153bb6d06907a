"""Files by their name below a root, `/` between the parts, in a folder or a zip. Hidden ones are not there."""

from __future__ import annotations

import copy
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ...io.printable import printable

_LARGEST = 1 << 29  # bytes of a file; PIL's limit of pixels, in 16-bit colour, is as many


class Folder:
    """Files of a folder. Links to folders are followed, but not in a circle, and to each folder only once per class.

    Args:
        with_zip: the files of its `images.zip`, if there is one, are read too, and come first; they are not listed.
    """

    def __init__(self, path: Path, *, with_zip: bool = False) -> None:
        self.path, self.with_zip = path, with_zip
        packed = path / "images.zip"
        self.zip = Zip(packed) if with_zip and packed.exists() else None

    def folders(self, below: str = "") -> list[str]:
        """Names of the folders directly below a folder (`""`, or a name with `/` behind it), sorted."""
        above = self._above(below)
        with os.scandir(self.path / below) as entries:
            return sorted(e.name for e in entries if _visible(e.name) and e.is_dir() and _identity(e.path) not in above)

    def files(self, below: str = "") -> list[str]:
        """Names of the files directly below a folder, sorted."""
        with os.scandir(self.path / below) as entries:
            return sorted(e.name for e in entries if _visible(e.name) and _is_file(e))

    def by_folder(self, below: str = "") -> Iterator[tuple[str, list[str]]]:
        """Each folder directly below a folder, with the names, below the root, of all files in it at any depth."""
        above = self._above(below)
        for inner in self.folders(below):
            yield inner, self._inside(f"{below}{inner}/", set(above))

    def below(self, folder: str) -> Folder:
        """A folder directly below as a root of its own."""
        return Folder(self.path / folder, with_zip=self.with_zip)

    def read(self, name: str) -> bytes:
        """The bytes of a file."""
        if self.zip and name in self.zip:
            return self.zip.read(name)
        with open(self.path / name, "rb") as file:
            return _read(file, os.fstat(file.fileno()).st_size)

    def locate(self, name: str) -> str:
        """Where a person finds it."""
        return self.zip.locate(name) if self.zip and name in self.zip else printable(str(self.path / name))

    def __contains__(self, name: str) -> bool:
        return (self.zip is not None and name in self.zip) or (self.path / name).is_file()

    def _inside(self, folder: str, seen: set[tuple[int, int]]) -> list[str]:
        """Names, below the root, of all files of a folder at any depth, each folder once; `seen` has those left out."""
        identity = _identity(self.path / folder)
        if identity in seen:
            return []
        seen.add(identity)
        deeper = (name for inner in self.folders(folder) for name in self._inside(f"{folder}{inner}/", seen))
        return [*(folder + name for name in self.files(folder)), *deeper]

    def _above(self, below: str) -> set[tuple[int, int]]:
        """The folder, and all that it lies in."""
        folder = self.path / below
        return {_identity(path) for path in (folder, *folder.absolute().parents, *folder.resolve().parents)}


class Zip:
    """Members of a zip file, found and read as files of a folder are; nothing is unpacked.

    One handle per process, as loader workers must not share one. Where no name has a `/`, backslashes stand for it, as
    some programs of Windows write them. Raises ValueError for a file that is no zip.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.root = ""
        self.handles: dict[int, zipfile.ZipFile] = {}
        try:
            with zipfile.ZipFile(path) as file:
                stored = file.namelist()
        except (zipfile.BadZipFile, NotImplementedError) as error:
            raise ValueError(f"cannot read {path}: {error}") from error
        backslashes = not any("/" in name for name in stored)
        self.members: dict[str, str] = {}  # the files, by their names here, as they are stored
        self.entries: dict[str, tuple[set[str], set[str]]] = {"": (set(), set())}  # folders and files of each folder
        for name in stored:
            *folders, last = (name.replace("\\", "/") if backslashes else name).split("/")
            if all(map(_visible, (*folders, last))):
                self._enter([folder for folder in folders if folder], last, name)

    def folders(self, below: str = "") -> list[str]:
        return sorted(self.entries[self.root + below][0])

    def files(self, below: str = "") -> list[str]:
        return sorted(self.entries[self.root + below][1])

    def by_folder(self, below: str = "") -> Iterator[tuple[str, list[str]]]:
        for inner in self.folders(below):
            yield inner, self._inside(f"{below}{inner}/")

    def below(self, folder: str) -> Zip:
        inner = copy.copy(self)
        inner.root = f"{self.root}{folder}/"
        return inner

    def read(self, name: str) -> bytes:
        if os.getpid() not in self.handles:
            self.handles = {os.getpid(): zipfile.ZipFile(self.path)}
        member = self.handles[os.getpid()].getinfo(self.members[self.root + name])
        with self.handles[os.getpid()].open(member) as file:
            return _read(file, member.file_size)

    def locate(self, name: str) -> str:
        return printable(f"{self.path}: {self.root}{name}")

    def __contains__(self, name: str) -> bool:
        return self.root + name in self.members

    def _enter(self, folders: list[str], file: str, stored: str) -> None:
        above = ""
        for folder in folders:
            self.entries[above][0].add(folder)
            above += folder + "/"
            self.entries.setdefault(above, (set(), set()))
        if file:
            self.entries[above][1].add(file)
            self.members[above + file] = stored

    def _inside(self, folder: str) -> list[str]:
        deeper = (name for inner in self.folders(folder) for name in self._inside(f"{folder}{inner}/"))
        return [*(folder + name for name in self.files(folder)), *deeper]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "handles": {}}


Tree = Folder | Zip


def _read(file: IO[bytes], size: int) -> bytes:
    """What a file holds. Raises ValueError for more than half a GiB, by the size that is told or by what comes."""
    content = b"" if size > _LARGEST else file.read(min(size, _LARGEST) + 1)
    if max(size, len(content)) > _LARGEST:
        raise ValueError(f"it takes more than {_LARGEST >> 20} MiB, as no image does")
    return content


def _visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _is_file(entry: os.DirEntry[str]) -> bool:
    """A link that leads nowhere counts: reading it is an error that names it, while leaving it out would be silent."""
    return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))


def _identity(path: str | Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino
