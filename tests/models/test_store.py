"""Entries of the cache appear whole or not at all, and everything wrong is told in one line."""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from model_tools import left

from outpace.errors import BadInputError, OutpaceError
from outpace.models import store
from outpace.models.store import MANIFEST, entry, home, is_whole, listing, measuring

pytestmark = pytest.mark.usefixtures("cache")


def build_ab(folder: Path) -> None:
    (folder / "a").write_text("first")
    (folder / "b").write_bytes(b"\0" * 100)


# ---- entries of the cache


def test_an_entry_is_built_once(cache):
    calls = []

    def build(folder: Path) -> None:
        calls.append(folder)
        assert list(folder.iterdir()) == []
        build_ab(folder)

    for _ in range(2):
        assert entry("kind/name", build) == cache / "kind" / "name"
        assert left(cache) == ["kind/name/a", "kind/name/b", f"kind/name/{MANIFEST}"]
        assert is_whole(cache / "kind" / "name")
    assert len(calls) == 1
    assert calls[0] != cache / "kind" / "name"  # built elsewhere, then renamed


class Stop(BaseException):
    """Not an Exception."""


@pytest.mark.parametrize("error", [RuntimeError("x"), BadInputError("x"), KeyboardInterrupt(), SystemExit(3), Stop()])
def test_a_build_that_fails_leaves_nothing(cache, error):
    def build(folder: Path) -> None:
        build_ab(folder)
        raise error

    for _ in range(2):
        with pytest.raises(type(error)) as caught:
            entry("kind/name", build)
        assert caught.value is error
        assert left(cache) == []
        assert [p.name for p in (cache / "kind").iterdir() if p.suffix != ".lock"] == []
    entry("kind/name", build_ab)  # and nothing is in the way of the next try
    assert is_whole(cache / "kind" / "name")


def damage_nothing(folder: Path) -> None:
    pass


def change_a_byte(folder: Path) -> None:
    (folder / "a").write_text("fIrst")


def cut_a_file(folder: Path) -> None:
    (folder / "b").write_bytes(b"\0" * 99)


def remove_a_file(folder: Path) -> None:
    (folder / "b").unlink()


def remove_the_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def cut_the_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text()[:20])


def empty_the_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("")


def odd_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("[1, 2]")


def other_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text('{"a": {"size": 5}}')


def folder_for_a_file(folder: Path) -> None:
    (folder / "a").unlink()
    (folder / "a").mkdir()


@pytest.mark.parametrize(
    "damage",
    [
        change_a_byte,
        cut_a_file,
        remove_a_file,
        remove_the_manifest,
        cut_the_manifest,
        empty_the_manifest,
        odd_manifest,
        other_manifest,
        folder_for_a_file,
        damage_nothing,
    ],
)
def test_a_damaged_entry_is_built_again(cache, damage):
    folder, calls = entry("kind/name", build_ab), []
    damage(folder)
    assert is_whole(folder) == (damage is damage_nothing)

    def build(to: Path) -> None:
        calls.append(to)
        build_ab(to)

    entry("kind/name", build)
    assert len(calls) == (damage is not damage_nothing)
    assert is_whole(folder)
    assert left(cache) == ["kind/name/a", "kind/name/b", f"kind/name/{MANIFEST}"]
    assert (folder / "a").read_text() == "first"


def test_a_start_reads_no_file_that_was_checked_before(cache, monkeypatch):
    folder = aged(entry("kind/name", build_ab))
    assert is_whole(folder)
    monkeypatch.setattr("outpace.models.store.sha256", lambda path: pytest.fail(f"{path} was read"))
    assert is_whole(folder)
    assert entry("kind/name", lambda to: pytest.fail("built again")) == folder


def aged(folder: Path) -> Path:
    """As if its files had been written yesterday."""
    for name in ("a", "b"):
        os.utime(folder / name, ns=(time.time_ns(), time.time_ns() - 86_400 * 10**9))
    return folder


@pytest.mark.parametrize("older", [True, False])
def test_a_file_with_another_time_is_checked_once(cache, monkeypatch, older):
    """As after copying the cache, and of an entry of an earlier version, whose manifest has no times."""
    folder = aged(entry("kind/name", build_ab))
    assert is_whole(folder)
    if older:
        facts = json.loads((folder / MANIFEST).read_text("utf-8"))
        (folder / MANIFEST).write_text(json.dumps({name: {"size": f["size"], "sha256": f["sha256"]} for name, f in facts.items()}))
    else:
        os.utime(folder / "a", ns=(1, 1))
    read = []
    digest = store.sha256
    monkeypatch.setattr("outpace.models.store.sha256", lambda path: read.append(path.name) or digest(path))
    assert is_whole(folder)
    assert read == (["a", "b"] if older else ["a"])
    assert is_whole(folder)
    assert len(read) == (2 if older else 1)
    change_a_byte(folder)
    assert not is_whole(folder)


def test_a_plain_file_in_the_place_of_an_entry_is_one_clear_line(cache):
    (cache / "kind").mkdir(parents=True)
    (cache / "kind" / "name").write_text("mine")
    with pytest.raises(OutpaceError, match="cannot write to") as caught:
        entry("kind/name", build_ab)
    assert "\n" not in str(caught.value)
    assert left(cache) == ["kind/name"]  # not ours, so it stays


def slow_build(folder: Path) -> None:
    """Counts its calls in a file and takes a while."""
    with (home() / "calls").open("a") as file:
        file.write("x")
    time.sleep(0.5)
    build_ab(folder)


def build_in_a_process(_: int) -> bool:
    return is_whole(entry("kind/name", slow_build))


def test_two_processes_build_once(cache):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(build_in_a_process, range(2), chunksize=1) == [True, True]
    assert (cache / "calls").read_text() == "x"


def test_what_a_killed_process_left_is_removed_and_its_lock_is_free(cache):
    code = (
        "import sys, time; from outpace.models.store import entry\n"
        "def build(folder): (folder / 'half').write_text('x'); print('begun', flush=True); time.sleep(60)\n"
        "entry('kind/name', build)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert [Path(name).name for name in left(cache)] == ["half"]
    assert listing() == []
    entry("kind/name", build_ab)
    assert left(cache) == ["kind/name/a", "kind/name/b", f"kind/name/{MANIFEST}"]


def hear_interrupts() -> None:
    """A process started in the background inherits that SIGINT is ignored; ours is to hear it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_a_terminated_process_cleans_up(cache):
    """Ctrl-C is a KeyboardInterrupt in the middle of the build."""
    code = (
        "import time; from outpace.models.store import entry\n"
        "def build(folder): (folder / 'half').write_text('x'); print('begun', flush=True); time.sleep(60)\n"
        "entry('kind/name', build)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hear_interrupts
    ) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in process.communicate(timeout=20)[1]
    assert left(cache) == []


DISK_ERRORS = [(errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "the disk is full"), (errno.EROFS, "Read-only"), (errno.EACCES, "denied")]


@pytest.mark.parametrize(("number", "message"), DISK_ERRORS)
@pytest.mark.parametrize("where", ["mkdir", "build", "rename"])
def test_a_full_or_read_only_disk_is_one_clear_line(cache, monkeypatch, number, message, where):
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    if where != "build":
        monkeypatch.setattr(Path, where, fail)
    with pytest.raises(OutpaceError, match=message) as caught:
        entry("kind/name", fail if where == "build" else build_ab)
    assert not isinstance(caught.value, BadInputError)
    assert str(cache / "kind") in str(caught.value)
    assert "OUTPACE_HOME" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert left(cache) == []


def test_a_build_that_waits_too_long_for_another_is_told(monkeypatch, capsys):
    from outpace.models import store

    class Busy:
        def __init__(self, path: Path): ...

        def acquire(self, timeout: float) -> None:
            waits.append(timeout)
            raise store.Timeout("lock")

    waits: list[float] = []
    monkeypatch.setattr(store, "FileLock", Busy)
    with pytest.raises(OutpaceError, match="another process is making"):
        entry("kind/name", build_ab)
    assert "another process is making name; waiting for it" in capsys.readouterr().err
    assert waits[0] <= 1
    assert waits[1] >= 3600


def test_one_measures_at_a_time(cache, capsys):
    """Two measurements at once would each find the machine slow."""
    running, most = [], []

    def measure(_: int) -> None:
        with measuring():
            running.append(1)
            most.append(len(running))
            time.sleep(1.2)
            running.pop()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(measure, range(2)))
    assert most == [1, 1]
    assert capsys.readouterr().err == "another process is measuring this machine; waiting for it\n"


def test_who_cannot_lock_or_waits_too_long_measures_all_the_same(cache, monkeypatch):
    with measuring(), measuring(seconds=0.1):
        pass
    monkeypatch.setenv("OUTPACE_HOME", "/dev/null/nothing")
    with measuring():
        pass


def test_the_cache_folder(cache, monkeypatch):
    assert home() == cache
    monkeypatch.setenv("OUTPACE_HOME", "~/somewhere")
    assert home() == Path.home() / "somewhere"
    for setting in (None, ""):
        monkeypatch.delenv("OUTPACE_HOME") if setting is None else monkeypatch.setenv("OUTPACE_HOME", setting)
        assert home().name == "outpace"
        assert home().is_absolute()


def test_listing(cache):
    assert listing() == []
    entry("models/b", lambda folder: (folder / "x").write_bytes(bytes(250_000)))
    entry("converted/a", build_ab)
    assert [(e["name"], e["megabytes"]) for e in listing()] == [("converted/a", 0.0), ("models/b", 0.3)]
