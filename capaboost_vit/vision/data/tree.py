"""Files by their name below a root, `/` between the parts: in a folder, in a zip, or in a folder and its zip."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Protocol


class Tree(Protocol):
    """What the layouts need to know of a folder or a zip. Hidden files and `__MACOSX` are not there."""

    def folders(self, below: str = "") -> list[str]:
        """Names of the folders directly below a folder (`""`, or a name with `/` behind it), sorted."""

    def files(self, below: str = "") -> list[str]:
        """Names of the files directly below a folder, sorted."""

    def walk(self, below: str = "") -> list[str]:
        """Names, below the root, of all files in the folders below a folder."""

    def read(self, name: str) -> bytes:
        """The bytes of a file."""

    def locate(self, name: str) -> str:
        """Where a person finds it."""

    def __contains__(self, name: str) -> bool: ...


def printable(name: str) -> str:
    """A file name as text that every terminal and file takes: bytes that are not UTF-8 as `\\xNN`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


class Folder:
    """Files of a folder. Links to folders are followed, but not in a circle, and to each folder only once per class."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def folders(self, below: str = "") -> list[str]:
        above = self._above(below)
        with os.scandir(self.path / below) as entries:
            return sorted(e.name for e in entries if _visible(e.name) and e.is_dir() and _identity(e.path) not in above)

    def files(self, below: str = "") -> list[str]:
        with os.scandir(self.path / below) as entries:
            return sorted(e.name for e in entries if _visible(e.name) and _is_file(e))

    def walk(self, below: str = "") -> list[str]:
        files: list[str] = []
        for folder in self.folders(below):
            seen = self._above(below)
            stack = [f"{below}{folder}/"]
            while stack:
                inside = stack.pop()
                identity = _identity(self.path / inside)
                if identity in seen:
                    continue
                seen.add(identity)
                with os.scandir(self.path / inside) as entries:
                    for entry in sorted(entries, key=lambda e: e.name, reverse=True):
                        if _visible(entry.name) and entry.is_dir():
                            stack.append(f"{inside}{entry.name}/")
                        elif _visible(entry.name) and _is_file(entry):
                            files.append(inside + entry.name)
        return files

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def locate(self, name: str) -> str:
        return printable(str(self.path / name))

    def __contains__(self, name: str) -> bool:
        return (self.path / name).is_file()

    def _above(self, below: str) -> set[tuple[int, int]]:
        """The folder, and all that it lies in."""
        folder = self.path / below
        return {_identity(path) for path in (folder, *folder.absolute().parents, *folder.resolve().parents)}


class Zip:
    """Members of a zip file, without unpacking; one handle per process, as loader workers must not share one.

    Where all members lie in one folder, that folder is the root. Raises ValueError for a file that is no zip.
    """

    def __init__(self, path: Path, *, look_through: bool = False) -> None:
        self.path = path
        self.root = ""
        self.handles: dict[int, zipfile.ZipFile] = {}
        try:
            with zipfile.ZipFile(path) as file:
                names = file.namelist()
        except (zipfile.BadZipFile, NotImplementedError) as error:
            raise ValueError(f"cannot read {path}: {error}") from error
        # folders too, with `/` at their end
        self.members = frozenset(name for name in names if all(map(_visible, name.rstrip("/").split("/"))))
        if look_through and len(self.folders()) == 1 and not self.files() and self.folders()[0] != "train":
            self.root = self.folders()[0] + "/"

    def folders(self, below: str = "") -> list[str]:
        return sorted({name.partition("/")[0] for name in self._inside(below) if "/" in name})

    def files(self, below: str = "") -> list[str]:
        return sorted(name for name in self._inside(below) if name and "/" not in name)

    def walk(self, below: str = "") -> list[str]:
        return [below + name for name in self._inside(below) if "/" in name[:-1] and not name.endswith("/")]

    def read(self, name: str) -> bytes:
        if os.getpid() not in self.handles:
            self.handles = {os.getpid(): zipfile.ZipFile(self.path)}
        return self.handles[os.getpid()].read(self.root + name)

    def locate(self, name: str) -> str:
        return printable(f"{self.path}: {self.root}{name}")

    def __contains__(self, name: str) -> bool:
        return self.root + name in self.members

    def _inside(self, below: str) -> list[str]:
        """Names below a folder, at any depth, as seen from it."""
        start = self.root + below
        return [name[len(start) :] for name in self.members if name.startswith(start)]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "handles": {}}


class FolderWithZip(Folder):
    """A folder whose `images.zip` holds more files; the zip comes first."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.zip = Zip(path / "images.zip")

    def read(self, name: str) -> bytes:
        return self.zip.read(name) if name in self.zip else super().read(name)

    def locate(self, name: str) -> str:
        return self.zip.locate(name) if name in self.zip else super().locate(name)

    def __contains__(self, name: str) -> bool:
        return name in self.zip or super().__contains__(name)


def _visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _is_file(entry: os.DirEntry[str]) -> bool:
    """A link that leads nowhere counts: reading it is an error that names it, while leaving it out would be silent."""
    return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))


def _identity(path: str | Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino
