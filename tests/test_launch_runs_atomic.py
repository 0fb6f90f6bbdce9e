"""Atomic writes: what concurrent writers, killed processes and full disks leave."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from analysis.folder import CONFIG, FAILURE, JOB, LOCK, read_failure, read_job
from baselines.errors import UserError
from launch.config.run import Run
from launch.runs import atomic
from launch.runs.atomic import LEFTOVER_AGE, one_sync, write_file, write_json, write_text
from launch.runs.folder import RunFolder

RUN = Run.make("digits", "dense")


def test_a_process_that_opens_a_folder_spares_the_files_that_others_write(tmp_path):
    folder = RunFolder(RUN, tmp_path)
    folder.path.mkdir()

    def write(number):
        write_json(folder.path / JOB, {"job": str(number), "log": "x" * 1000})
        assert read_job(folder.path)["log"] == "x" * 1000

    def open_it(_):
        with folder.opened(patience=60):
            pass

    with ThreadPoolExecutor(3) as pool:
        done = [pool.submit(write if i % 4 else open_it, i) for i in range(400)]
    assert all(found.exception() is None for found in done)


def test_ranks_that_fail_together_leave_one_whole_reason(tmp_path):
    folder = RunFolder(RUN, tmp_path)
    folder.path.mkdir()
    for _ in range(20):
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda rank: folder.fail(f"rank {rank}" * 100), range(4)))
        assert read_failure(folder.path)["reason"] in {f"rank {rank}" * 100 for rank in range(4)}
        (folder.path / FAILURE).unlink()
    assert list(folder.path.iterdir()) == []


def test_temporary_files_are_removed_if_old_or_written_under_the_lock_only(tmp_path):
    folder = RunFolder(RUN, tmp_path)
    (folder.path / "snapshots").mkdir(parents=True)
    names = (".x.tmp", ".y.tmp", ".z.locked.tmp", "snapshots/.z.tmp", "snapshots/.tmpAbC123")
    old, new, *locked = (folder.path / name for name in names)
    for file in (old, new, *locked):
        file.write_text("")
    then = time.time() - LEFTOVER_AGE - 1
    os.utime(old, (then, then))
    with folder.opened():
        assert not old.exists() and new.exists()
        assert not any(map(Path.exists, locked))


def test_what_a_kill_leaves_of_a_state_or_rows_is_removed_however_new(tmp_path, monkeypatch):
    def kill(*_):
        raise KeyboardInterrupt

    folder = RunFolder(RUN, tmp_path)
    with folder.opened():
        for write in (lambda: folder.save_state({}), lambda: folder.write_rows(("x", "y"))):
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(atomic, "_sync", kill)
                patch.setattr(Path, "unlink", lambda *_, **__: None)  # nor is anything cleaned up
                write()
    assert len(list(folder.path.glob(".*.tmp"))) == 2
    with folder.opened():
        assert {path.name for path in folder.path.iterdir()} == {CONFIG, LOCK}


@pytest.mark.parametrize("stop", [SystemExit(-1), KeyboardInterrupt()])
def test_a_write_that_is_stopped_leaves_nothing(tmp_path, stop):
    def write(path):
        path.write_text("half")
        raise stop

    (tmp_path / "file").write_text("whole")
    with pytest.raises(type(stop)):
        write_file(tmp_path / "file", write)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["whole"]


@pytest.mark.parametrize("target", ["no/such/folder.json", "there.json"])
def test_a_file_that_cannot_be_written_is_named(tmp_path, target):
    (tmp_path / "there.json").mkdir()
    with pytest.raises(UserError, match=rf"cannot write .*{target}: "):
        write_text(tmp_path / target, "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there.json"]


def test_folders_are_synchronised_after_each_file_or_once(tmp_path, monkeypatch):
    synced = []
    original = atomic._sync

    def sync(path: Path) -> None:
        synced.append(path.name if path.is_dir() else "file")
        original(path)

    monkeypatch.setattr(atomic, "_sync", sync)
    (tmp_path / "a").mkdir()
    for name in ("x", "a/y"):
        write_text(tmp_path / name, "")
    assert synced == ["file", tmp_path.name, "file", "a"]
    synced.clear()
    with one_sync():
        for name in ("x", "y", "a/z"):
            write_text(tmp_path / name, "")
    assert synced[:3] == ["file"] * 3 and sorted(synced[3:]) == sorted([tmp_path.name, "a"])
