"""A store's lock is one for all users and processes of the machine, and is no way to another user's files."""

import os
import threading
from collections.abc import Iterator
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

import pytest

from pipeline.tracking.store import location
from pipeline.tracking.store.location import Lock, lock_of, opened

NOBODY = 65534
BUSY, REFUSED = 7, 8  # exit codes


def as_nobody(path: Path) -> int:
    """Take a lock as another user; return 0, BUSY or REFUSED."""
    if (child := os.fork()) == 0:
        code = REFUSED
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            flock(opened(path), LOCK_EX | LOCK_NB)
            code = 0
        except BlockingIOError:
            code = BUSY
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that all users share, as the one for temporary files."""
    folder = Path("/tmp") / f"pipeline-test-{os.getpid()}"  # below pytest's own no other user can go
    folder.mkdir()
    folder.chmod(0o1777)
    yield folder
    for path in folder.iterdir():
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    folder.rmdir()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_second_user_takes_the_lock_that_the_first_has_made(shared: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with Lock(shared / "lock"):
            assert as_nobody(shared / "lock") == BUSY
    finally:
        os.umask(before)
    assert as_nobody(shared / "lock") == 0
    assert as_nobody(shared / "made by nobody") == 0
    with Lock(shared / "made by nobody"):
        assert as_nobody(shared / "made by nobody") == BUSY
    assert (shared / "lock").stat().st_mode & 0o777 == 0o666


def test_what_is_no_lock_file_is_refused_and_stays(shared: Path) -> None:
    victim = shared / "victim"
    victim.write_text("precious")
    victim.chmod(0o600)
    (shared / "link").symlink_to(victim)
    (shared / "dangling").symlink_to(shared / "new")
    (shared / "folder").mkdir()
    os.mkfifo(shared / "pipe")
    for name in ("link", "dangling", "folder", "pipe"):
        with pytest.raises(OSError, match=name), Lock(shared / name):
            pass
    assert victim.read_text() == "precious"
    assert victim.stat().st_mode & 0o777 == 0o600
    assert not (shared / "new").exists()


def test_a_lock_whose_file_is_deleted_while_it_is_waited_for_is_that_of_the_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[object] = []

    def deleting(file: int, how: int) -> None:
        if not taken:
            (tmp_path / "lock").unlink()
        taken.append(file)
        flock(file, how)

    monkeypatch.setattr(location, "flock", deleting)
    with Lock(tmp_path / "lock"), pytest.raises(BlockingIOError):
        flock(os.open(tmp_path / "lock", os.O_RDWR), LOCK_EX | LOCK_NB)
    assert len(taken) == 2


def test_the_holder_may_take_the_lock_again_and_another_thread_may_not(tmp_path: Path) -> None:
    lock, order = Lock(tmp_path / "missing/lock"), []

    def other() -> None:
        with lock:
            order.append("other")

    with lock:
        thread = threading.Thread(target=other)
        thread.start()
        with lock:
            order.append("inner")
        order.append("outer")
    thread.join()
    assert order == ["inner", "outer", "other"]


def test_a_store_has_one_lock_whoever_reaches_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    same = {
        lock_of(f"postgresql{driver}://{user}srv/db").path for driver in ("", "+psycopg") for user in ("", "a:b@", "c@")
    }
    assert len(same) == 1
    [path] = same
    assert path.parent == Path(location.SHARED)
    assert path not in {lock_of(uri).path for uri in ("postgresql://srv/other", "http://srv/db")}
    assert lock_of("sqlite:////home/ann/mlflow.db").path == Path("/home/ann/mlflow.db.lock")
