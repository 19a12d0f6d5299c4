"""`pipeline doctor` is silent where all is well, and names each thing that is not, and how to mend it."""

import os
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from conftest import copy_store, default_store, enter, reproduce, run, search
from dvc.exceptions import DvcException
from mlflow import MlflowClient

from pipeline.__main__ import main
from pipeline.commands import doctor
from pipeline.system import processes
from pipeline.tracking.store.client import plain

Diagnose = Callable[..., dict[str, str]]


@pytest.fixture
def inside(small: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    enter(small, monkeypatch)
    return small


@pytest.fixture
def diagnose(inside: Path, capsys: pytest.CaptureFixture[str]) -> Diagnose:
    """Run the command where it finds something, and return each finding with how to mend it."""
    assert inside == Path.cwd()

    def command(*options: str) -> dict[str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["doctor", *options])
        assert ended.value.code == 1
        *lines, last = capsys.readouterr().out.splitlines()
        assert last == f"{len(lines) // 2} findings"
        assert all(line.startswith("  mend: ") for line in lines[1::2])
        return dict(zip(lines[::2], [line.removeprefix("  mend: ") for line in lines[1::2]], strict=True))

    return command


def only(findings: dict[str, str]) -> tuple[str, str]:
    [finding] = findings.items()
    return finding


def test_a_healthy_repository_has_no_findings(small: Path) -> None:
    healthy = run("pipeline", "doctor", "--deep", cwd=small)
    looked_at = "installation, repository and store; as recorded: outs, cache, 8 runs, their artifacts"
    assert healthy.stdout == f"nothing found; looked at: {looked_at}\n"


def test_a_variant_that_was_dropped_from_the_sweep_is_no_damage(inside: Path) -> None:
    lock = inside / "dvc.lock"
    before = lock.read_text()
    assert "train@linear" in before
    stage = re.search(r"^  train@linear:\n(    .*\n)*", before, re.MULTILINE)
    assert stage is not None
    dropped = re.sub(r"..\.dir", "00.dir", stage[0].replace("linear", "dropped"))
    lock.write_text(before.replace(stage[0], stage[0] + dropped))
    try:
        assert "dropped" not in run("dvc", "status", cwd=inside).stdout
        assert doctor.examine(deep=True).findings == []
    finally:
        lock.write_text(before)


def test_another_python_on_path_is_named(diagnose: Diagnose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "python").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    what, mend = only(diagnose())
    assert what.startswith(f"python: the first on PATH is {tmp_path}/python")
    assert ". .venv/bin/activate" in mend
    monkeypatch.setenv("PATH", "/nonexistent")
    assert {what.split(":")[0] for what in diagnose()} == {"python", "dvc", "mlflow"}


def test_variables_that_lead_runs_astray_are_named(
    diagnose: Diagnose, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "1234")
    what, mend = only(diagnose())
    assert what.startswith("MLFLOW_RUN_ID")
    assert mend == "unset MLFLOW_RUN_ID"
    monkeypatch.delenv("MLFLOW_RUN_ID")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    what, mend = only(diagnose())
    assert what.startswith("MLFLOW_TRACKING_URI=sqlite:///mlflow.db is relative")
    assert f"export MLFLOW_TRACKING_URI={default_store(small)}" in mend
    monkeypatch.setenv("MLFLOW_TRACKING_URI", default_store(small))
    assert doctor.examine(deep=False).findings == []


def test_a_version_other_than_the_pinned_one_is_named(diagnose: Diagnose, small: Path) -> None:
    before = (small / "constraints.txt").read_text()
    pinned = re.findall(r"^filelock==(.*)$", before, re.MULTILINE)[0]
    (small / "constraints.txt").write_text(before.replace(f"filelock=={pinned}", "filelock==1.2.3"))
    try:
        finding = only(diagnose())
    finally:
        (small / "constraints.txt").write_text(before)
    assert finding == (f"filelock: version {pinned} is installed, constraints.txt pins 1.2.3", "make setup")


@contextmanager
def moved(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Move a repository, work in its new place, and put it back."""
    folder = repository.with_name("moved")
    repository.rename(folder)
    monkeypatch.chdir(folder)
    try:
        yield folder
    finally:
        if repository.exists():
            shutil.rmtree(repository)
        folder.rename(repository)
        monkeypatch.chdir(repository)


def test_a_moved_repository_is_named_and_its_mending_works(
    diagnose: Diagnose, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with moved(small, monkeypatch) as folder:
        what, mend = only(diagnose("--deep"))
        assert str(small / "mlartifacts") in what
        assert str(folder / "mlartifacts") in what
        command = mend.rpartition(", ")[2]
        run("bash", "-euc", command, cwd=folder)
        assert (small / "mlartifacts").resolve() == folder / "mlartifacts"
        assert doctor.examine(deep=False).findings == []
    assert doctor.examine(deep=True).findings == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (".dvc/tmp/rwlock", ""),
        ("dvc.lock", "schema: '2.0'\nstages: {"),
        ("dvc.lock", "<<<<<<< HEAD\nschema: '2.0'\n=======\nschema: '2.0'\n>>>>>>> other\n"),
    ],
)
def test_a_lock_file_that_dvc_cannot_read_is_named_and_its_mending_works(
    diagnose: Diagnose, small: Path, name: str, content: str
) -> None:
    (small / name).write_text(content)
    with pytest.raises((DvcException, NotImplementedError)):
        reproduce()
    what, mend = only(diagnose("--deep"))
    assert what.startswith(str(small / name))
    run("bash", "-euc", mend, cwd=small)
    reproduce()
    assert doctor.examine(deep=True).findings == []
    assert run("git", "status", "--porcelain", cwd=small).stdout == ""


def test_runs_that_say_running_are_named_unless_their_process_lives(
    diagnose: Diagnose, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = copy_store(small, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    client, experiment = MlflowClient(uri), search(uri)[0].info.experiment_id
    process = {"host": processes.host(), "pid": str(os.getpid()), "heartbeat": f"{time.time():.0f}"}
    started = psutil.Process().create_time()
    client.create_run(experiment, tags={**process, "pid_started": str(started)})
    assert doctor.examine(deep=False).findings == []
    stale = client.create_run(experiment, tags={**process, "pid_started": "1.0"}).info.run_id
    what, mend = only(diagnose())
    assert stale in what
    assert "KILLED" in what
    assert "dvc repro" in mend
    assert client.get_run(stale).info.status == "KILLED"
    ownerless = client.create_run(experiment).info.run_id
    what, mend = only(diagnose())
    assert ownerless in what
    assert mend.startswith("mlflow runs delete --run-id")


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "9p", "ext4"])
def test_a_store_on_a_network_file_system_is_named(
    diagnose: Diagnose, small: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def mounted(**_: object) -> list[SimpleNamespace]:
        mounts = {"/": "overlay", str(small): kind, str(small / "data"): "lustre", f"{small}-other": "smbfs"}
        return [SimpleNamespace(mountpoint=folder, fstype=fstype) for folder, fstype in mounts.items()]

    monkeypatch.setattr(psutil, "disk_partitions", mounted)
    assert doctor.file_system(small / "mlflow.db") == kind
    if kind == "ext4":
        assert doctor.examine(deep=False).findings == []
    else:
        what, mend = only(diagnose())
        assert what.startswith(f"{small / 'mlflow.db'}: is on a network file system ({kind})")
        assert "local disk" in mend


@contextmanager
def flipped(path: Path, bit: int) -> Iterator[None]:
    """Flip one bit of a file, its mode and times kept, and flip it back."""
    before, content = path.stat(), bytearray(path.read_bytes())

    def flip() -> None:
        content[bit // 8] ^= 1 << bit % 8
        path.chmod(0o644)
        path.write_bytes(content)
        path.chmod(before.st_mode)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    flip()
    try:
        yield
    finally:
        flip()


def recorded(repository: Path) -> dict[str, list[Path]]:
    """All files whose bytes a record names."""
    weights = [Path(one.info.artifact_uri.removeprefix("file://")) for one in search(default_store(repository))]
    stages = [
        "data/prepared",
        "data/trained",
        "data/evaluated",
        "plots",
        "leaderboard.csv",
        "metrics.json",
        "report.html",
    ]
    return {
        "outs": [file for name in stages for file in (repository / name, *(repository / name).rglob("*"))],
        "cache": list(repository.glob(".dvc/cache/files/md5/??/*")),
        "listings": list(repository.glob(".dvc/cache/files/md5/??/*.dir")),
        "weights": [folder / "weights.safetensors" for folder in weights],
    }


def test_each_of_20_single_flipped_bits_is_found_and_its_file_named(inside: Path) -> None:
    chosen = random.Random(3)
    files = {kind: sorted(path for path in paths if path.is_file()) for kind, paths in recorded(inside).items()}
    assert {kind: len(paths) >= 4 for kind, paths in files.items()} == dict.fromkeys(files, True)
    found = []
    for kind in [*files] * 5:
        path = chosen.choice(files[kind])
        with flipped(path, chosen.randrange(path.stat().st_size * 8)):
            findings = doctor.examine(deep=True).findings
        name = str(path.relative_to(inside)) if kind == "outs" else str(path)
        found.append(any(name in finding.what and finding.mend for finding in findings))
    assert found == [True] * 20
    assert doctor.examine(deep=True).findings == []


@pytest.mark.parametrize("old", [b"[", b'"md5"', b'"relpath"', b"weights"])
def test_a_damaged_listing_of_the_cache_is_named_whatever_the_damage(inside: Path, old: bytes) -> None:
    recorded_md5 = re.findall(
        r"path: data/trained/linear\n.*\n +md5: (..)(.*\.dir)", (inside / "dvc.lock").read_text()
    )[0]
    listing = inside.joinpath(".dvc/cache/files/md5", *recorded_md5)
    with flipped(listing, (listing.read_bytes().index(old) + len(old) // 2) * 8):
        assert any(finding.what.startswith(str(listing)) for finding in doctor.examine(deep=True).findings)


def test_missing_files_are_named(inside: Path, diagnose: Diagnose, tmp_path: Path) -> None:
    files = recorded(inside)
    lost = [files["weights"][0], next(path for path in files["outs"] if path.name == "curves.safetensors")]
    for n, path in enumerate(lost):
        path.rename(tmp_path / str(n))
    try:
        findings = diagnose("--deep")
    finally:
        for n, path in enumerate(lost):
            (tmp_path / str(n)).rename(path)
    names = [str(lost[0]), str(lost[1].relative_to(inside))]
    assert [len([what for what in findings if name in what]) for name in names] == [1, 1]
    assert len(findings) == 2


def test_weights_whose_md5_was_removed_from_the_record_are_named(
    inside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = copy_store(inside, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert doctor.examine(deep=True).findings == []
    run_id = search(uri)[0].info.run_id
    MlflowClient(uri).delete_tag(run_id, "weights_md5")
    [finding] = doctor.examine(deep=True).findings
    assert run_id in finding.what
    assert "weights_md5" in finding.what


@pytest.mark.parametrize("md5", ["../../x", "abc", "zz", "123", "12345678901234567890123456789012", "~", "[a]"])
def test_a_broken_md5_in_dvc_lock_is_named_and_no_traceback(inside: Path, diagnose: Diagnose, md5: str) -> None:
    lock = inside / "dvc.lock"
    before = lock.read_text()
    good = re.findall(r"path: data/trained/matrix\n.*\n +(md5: .*)", before)[0]
    lock.write_text(before.replace(good, f"md5: {md5}"))
    try:
        what, mend = only(diagnose("--deep"))
    finally:
        lock.write_text(before)
    assert what.startswith(f"{lock}: stage ")
    assert "data/trained/matrix" in what
    assert "git checkout" in mend


def test_outside_of_a_repository_and_in_a_clone_without_outs_doctor_says_so(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    enter(tmp_path, monkeypatch)
    main(["doctor", "--deep"])
    assert "no repository is here" in capsys.readouterr().out
    run("git", "clone", "--quiet", str(small), str(tmp_path / "clone"), cwd=tmp_path)
    monkeypatch.chdir(tmp_path / "clone")
    main(["doctor", "--deep"])
    said = capsys.readouterr().out
    assert "nothing found" in said
    assert "no outs" in said
    assert "no runs" in said
    assert not (tmp_path / "clone/mlflow.db").exists()


def test_runs_of_the_outs_that_mlflow_lacks_are_named_until_they_are_stored(
    diagnose: Diagnose,
    small: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'new.db'}")  # as after "lost MLflow"
    what, mend = only(diagnose())
    assert what.startswith("4 runs of the outs are not in MLflow: matrix bs=2 lr=1e-05 epochs=20 seed=1, ")
    assert not (tmp_path / "new.db").exists()
    assert mend == "pipeline sync"
    main(["sync"])
    capsys.readouterr()
    assert doctor.examine(deep=False).findings == []
    uri = copy_store(small, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    one = search(uri, "params.variant = 'linear' and params.batch_size = 'full' and params.lr = '1e-05'")[0]
    MlflowClient(uri).delete_run(one.info.run_id)
    assert only(diagnose())[0] == f"1 runs of the outs are not in MLflow: {plain(one).name}"


def test_make_repro_stores_what_mlflow_lacks(small: Path) -> None:
    told = run("make", "--dry-run", "repro", cwd=small).stdout
    assert 0 < told.index("pipeline doctor --mend\n") < told.index("dvc repro\n") < told.index("pipeline sync\n")


def test_no_password_is_shown(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert inside == Path.cwd()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "://ann:s3cr@et@host")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    said = "".join(finding.what + finding.mend for finding in doctor.examine(deep=False).findings)
    assert "MLFLOW_TRACKING_URI" in said
    assert "s3cr" not in said
    assert "et@host" not in said
