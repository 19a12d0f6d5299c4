"""Make DVC replace `dvc.lock` and `.dvc/tmp/rwlock` in one step, as it does with all else that it writes.

DVC truncates these two and then writes them: killed in between, it leaves half a file, at which every later command of
it stops. A bare `dvc repro` runs none of the pipeline's code before it does so. Hence this is a module of its own,
installed beside `dvc_atomic.pth`, which imports it whenever Python starts: it may import only what is loaded anyway.
"""

import io
import os
import sys


class Replacing(io.StringIO):
    """Text that takes the place of a file when it is closed; after an error the file stays as it was."""

    def __init__(self, path: str, encoding: str | None) -> None:
        super().__init__()
        self._path, self._encoding = os.path.realpath(path), encoding

    def close(self) -> None:
        """Write the text beside the file, and rename it."""
        if self.closed:
            return
        text = self.getvalue()
        super().close()
        folder, name = os.path.split(self._path)
        temporary = os.path.join(folder, f".{name}.{os.getpid()}.tmp")
        with open(temporary, "w", encoding=self._encoding) as file:
            file.write(text)
        os.replace(temporary, self._path)

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        super().close() if error else self.close()


class Finder:
    """An import finder that finds nothing: it is told when DVC is imported, and mends its file system then."""

    @classmethod
    def find_spec(cls, name: str, *_: object) -> None:
        """Let DVC's local file system write text by `Replacing`."""
        if name != "dvc.repo":
            return
        sys.meta_path.remove(cls)
        from dvc_objects.fs.local import FsspecLocalFileSystem

        def open_file(_: object, path: str, mode: str = "r", encoding: str | None = None, **__: object) -> object:
            return Replacing(path, encoding) if mode in {"w", "w+"} else open(path, mode, encoding=encoding)

        FsspecLocalFileSystem.open = open_file  # type: ignore[assignment, method-assign]


sys.meta_path.insert(0, Finder)
