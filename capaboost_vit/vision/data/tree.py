"""Files by their name below a root, `/` between the parts, in a folder or a zip. Hidden ones are not there."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path


def printable(name: str) -> str:
    """A file name as text that every terminal and file takes: bytes that are not UTF-8 as `\\xNN`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


class Folder:
    """Files of a folder. Links to folders are followed, but not in a circle, and to each folder only once per class.

    Args:
        with_zip: the files of its `images.zip`, if there is one, are read too, and come first; they are not listed.
    """

    def __init__(self, path: Path, *, with_zip: bool = False) -> None:
        self.path = path
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

    def walk(self, below: str = "") -> list[str]:
        """Names, below the root, of all files in the folders below a folder."""
        return [name for inner in self.folders(below) for name in self._inside(f"{below}{inner}/", self._above(below))]

    def read(self, name: str) -> bytes:
        """The bytes of a file."""
        return self.zip.read(name) if self.zip and name in self.zip else (self.path / name).read_bytes()

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

    One handle per process, as loader workers must not share one. Raises ValueError for a file that is no zip.

    Args:
        look_through: where all members lie in one folder, that folder is the root.
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


Tree = Folder | Zip


def _visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _is_file(entry: os.DirEntry[str]) -> bool:
    """A link that leads nowhere counts: reading it is an error that names it, while leaving it out would be silent."""
    return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))


def _identity(path: str | Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino
