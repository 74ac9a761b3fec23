# SPDX-License-Identifier: Apache-2.0
"""The files of a store, wherever its URL leads: a folder, ``s3://``, ``gs://``, by fsspec.

Each file appears whole, and none is changed. So any number of hosts write at once, and there is no
lock between them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kickbench.errors import KickbenchError, MeasurementError, UsageError
from kickbench.results.files import replace_file
from kickbench.results.schema import one_line, place

INSTALL = "pip install 'kickbench[fleet]'"


class Files:
    """The files below a URL, by names such as ``runs/host=a/month=2026-11/run.parquet``.

    A local folder that is missing is made when something is written: see also :meth:`existing`.

    Raises UsageError for a URL that is empty, that no library here knows or whose local path is no
    folder, and MeasurementError, in one line, for what cannot be read or written.
    """

    def __init__(self, url: str) -> None:
        try:
            import fsspec.core
        except ImportError:
            raise UsageError(f"a store needs fsspec; {INSTALL}") from None
        if not url:  # to fsspec the current folder: hardly what "$UNSET" means
            raise UsageError("the store's name is empty; name a folder or a URL")
        self.url = url
        with self._told("opened"):
            try:
                self._system, self._root = fsspec.core.url_to_fs(url)
            except (ImportError, ValueError) as error:
                raise UsageError(
                    one_line(f"{place(url)} is no store that can be opened here: {error}")
                ) from None
        self._is_local = "file" in self._system.protocol
        if self._is_local:
            with self._told("opened"):
                path = Path(self._root)
                if path.exists() and not path.is_dir():
                    # fsspec would find nothing in it: a store without runs.
                    raise UsageError(f"the store {place(url)} is no folder; name a folder")
        # What was listed may be older than what others wrote since.
        self._system.use_listings_cache = False

    @classmethod
    def existing(cls, url: str) -> Files:
        """The files of a store that is only read.

        Raises UsageError, too, for a local folder that does not exist. Its name is probably
        mistyped, and would be a store without runs. A bucket has no folders that could be missing.
        """
        files = cls(url)
        with files._told("opened"):
            if files._is_local and not Path(files._root).exists():
                raise UsageError(
                    f"the store {place(url)} does not exist; kickbench fleet add makes it"
                )
        return files

    def write(self, name: str, data: bytes) -> None:
        """Write a file. Readers see all of it or nothing, and then it is stored for good."""
        path = self._path(name)
        with self._told("written to"):
            if self._is_local:
                _write_local(Path(path), data)
            else:
                self._system.pipe_file(path, data)

    def copy_folder(self, folder: Path, name: str) -> None:
        """Copy the regular files of a folder here, but for those whose names begin with a dot.

        Readers may see a part of them.
        """
        for path in sorted(folder.rglob("[!.]*")):
            if path.is_file() and not path.is_symlink():
                self.write(f"{name}/{path.relative_to(folder).as_posix()}", path.read_bytes())

    def list(self, name: str, suffix: str) -> list[str]:
        """The names below ``name`` that end so, sorted; none if there is nothing.

        Raises MeasurementError, too, for what is not a regular file. Reading a pipe never ends.
        """
        with self._told("read"):
            self._system.invalidate_cache()
            found = self._system.find(self._path(name), detail=True) if self._exists(name) else {}
            prefix = len(self._root.rstrip("/")) + 1
            names = []
            for path, what in found.items():
                # A writer's own file, before it has its name, begins with a dot.
                if path.endswith(suffix) and not path.rpartition("/")[2].startswith("."):
                    names.append(path[prefix:])
                    # A link is called so, too.
                    if what.get("type") == "other" and not Path(path).is_file():
                        raise OSError(f"{one_line(names[-1])} is not a regular file; remove it")
        return sorted(names)

    def read(self, name: str) -> bytes:
        """The contents of a file."""
        with self._told("read"):
            data: bytes = self._system.cat_file(self._path(name))
        return data

    @contextmanager
    def open(self, name: str) -> Iterator[Any]:
        """A file to read parts of."""
        with self._told("read"), self._system.open(self._path(name), "rb") as file:
            yield file

    def remove(self, names: Sequence[str]) -> None:
        """Remove files. It is no error if others have removed them."""
        with self._told("written to"):
            if not self._is_local:
                self._remove_remote([self._path(name) for name in names])
                return
            for name in names:
                path = Path(self._path(name))
                path.unlink(missing_ok=True)
                # The folder of a month that is empty now. Others may write there again.
                with suppress(OSError):
                    path.parent.rmdir()

    def _remove_remote(self, paths: Sequence[str]) -> None:
        try:
            self._system.rm(list(paths))
        except FileNotFoundError:
            for path in paths:
                with suppress(FileNotFoundError):
                    self._system.rm_file(path)

    def address(self, name: str) -> str:
        """What DuckDB calls a file: see :attr:`system`."""
        path = self._path(name)
        return path if self._is_local else str(self._system.unstrip_protocol(path))

    @property
    def system(self) -> Any:
        """The file system of fsspec that knows the addresses; None for plain files."""
        return None if self._is_local else self._system

    @property
    def absolute_url(self) -> str:
        """The URL for a process that was started in another folder, or on another host."""
        return str(self._system.unstrip_protocol(self._root))

    def _exists(self, name: str) -> bool:
        path = self._path(name)
        if not self._is_local:
            return bool(self._system.exists(path))
        try:
            self._system.info(path)  # its exists() takes any error for a no, even Ctrl-C
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Errors of any file system, which share no class, as one line."""
        try:
            yield
        except KickbenchError:
            raise
        except Exception as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise MeasurementError(
                one_line(f"the store {place(self.url)} cannot be {what}: {reason}")
            ) from error


def _write_local(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        replace_file(path, data)
    except MeasurementError as error:
        # Somebody may have removed the folder while it was empty.
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, data)
