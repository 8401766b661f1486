"""Files and folders appear complete or not at all."""

from __future__ import annotations

import pytest

from outpace.files import replacing, temporary, write_whole


def test_a_text_replaces_the_old_one(tmp_path):
    write_whole(tmp_path / "a", "old")
    write_whole(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    write_whole(tmp_path / "a", "old")

    def fail() -> None:
        with replacing(tmp_path / "a") as name:
            name.write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert (tmp_path / "a").read_text() == "old\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_replaces_the_old_one(tmp_path):
    for number in (1, 2):
        with replacing(tmp_path / "a") as name:
            name.mkdir()
            (name / f"file{number}").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["file2"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_is_left_at_a_temporary_name_is_deleted(tmp_path):
    with temporary(tmp_path / "a") as name:
        name.mkdir()
        (name / "file").touch()
    assert not list(tmp_path.iterdir())


def test_two_who_write_one_file_do_not_meet(tmp_path):
    """Threads of one process, or containers that share a folder and both are process 1: the last one to end wins, whole."""
    with replacing(tmp_path / "a") as mine:
        mine.write_text("mi")
        write_whole(tmp_path / "a", "theirs")
        assert (tmp_path / "a").read_text() == "theirs\n"
        mine.write_text("mine")
    assert (tmp_path / "a").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
