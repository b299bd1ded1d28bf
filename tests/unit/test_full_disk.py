"""A disk that fills at any moment leaves no run behind, neither a finished nor a failed one."""

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from expunge.store import directory, execute
from expunge.store.directory import Store
from expunge.store.execute import Session
from tests import runs

WANTED = runs.trained()


class Disk:
    """Counts what is written, and is full at the ``fails``-th time."""

    def __init__(self, fails: int | None) -> None:
        self.fails, self.writes = fails, 0

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(directory, "save_file", self._guarded(directory.save_file))
        patch.setattr(Path, "write_text", self._guarded(Path.write_text))
        patch.setattr(Path, "mkdir", self._guarded(Path.mkdir))
        for name in ("replace", "fsync"):
            patch.setattr(os, name, self._guarded(getattr(os, name)))

    def _guarded(self, function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            self.writes += not str(arguments[0]).startswith("/proc")
            if self.writes == self.fails:
                if function is REAL_SAVE:
                    Path(str(arguments[1])).write_bytes(b"half")
                    raise directory.SafetensorError("Error while serializing: I/O error: No space left (os error 28)")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return function(*arguments, **options)

        return call


REAL_SAVE = directory.save_file


def left(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name != ".locks"] if folder.exists() else []


def test_a_disk_that_fills_at_any_write_leaves_no_run(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(None)
        disk.watch(patch)
        done = execute.run(WANTED, Store(tmp_path / "whole"), Session())
    assert done.finished
    assert disk.writes > 8
    for write in range(1, disk.writes + 1):
        root = tmp_path / str(write)
        with pytest.MonkeyPatch.context() as patch:
            Disk(write).watch(patch)
            with pytest.raises(OSError, match="No space left"):
                execute.run(WANTED, Store(root), Session())
        written = left(root)
        if written:  # the run was complete: only the folder's own entry had not been flushed
            assert Store(root).directory(written[0]).finished, write
        assert execute.run(WANTED, Store(root), Session()).finished


def test_the_error_of_safetensors_says_which_file_and_why(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:

        def full(*_: object, **__: object) -> None:
            raise directory.SafetensorError("Error while serializing: I/O error: Disk quota exceeded (os error 122)")

        patch.setattr(directory, "save_file", full)
        with pytest.raises(OSError, match="quota") as caught:
            execute.run(WANTED, Store(tmp_path), Session())
    assert caught.value.errno == errno.EDQUOT
    assert str(caught.value.filename).endswith(".safetensors")
    assert left(tmp_path) == []


@pytest.mark.slow
def test_a_real_limit_on_the_size_of_files_leaves_no_run(tmp_path: Path) -> None:
    code = (
        "from tests.unit.test_full_disk import WANTED; from expunge.store.execute import Session, run;"
        "from expunge.store.directory import Store; from pathlib import Path; import sys, torch;"
        "torch.set_num_threads(1); run(WANTED, Store(Path(sys.argv[1])), Session())"
    )

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    command = [sys.executable, "-B", "-c", code, str(tmp_path / "runs")]
    done = subprocess.run(
        command, preexec_fn=limit, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert "OSError" in done.stderr.splitlines()[-1], done.stderr
    assert "File too large" in done.stderr
    assert left(tmp_path / "runs") == []
