"""Specs in tables: broken at joints only."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from outpace.bench.spec_text import SpecText


@pytest.mark.parametrize(
    ("spec", "width", "lines"),
    [
        ("auto", 2, ["auto"]),
        ("prompt_lookup+recycling", 23, ["prompt_lookup+recycling"]),
        ("prompt_lookup+recycling", 22, ["prompt_lookup+", "recycling"]),
        ("auto:prediction+suffix+recycling", 20, ["auto:prediction+", "suffix+recycling"]),
        ("llama.cpp:ngram-simple:size_n=3", 14, ["llama.cpp:", "ngram-simple:", "size_n=3"]),
        ("suffix, 8 drafted", 12, ["suffix, 8", "drafted"]),
    ],
)
def test_lines(spec, width, lines):
    assert SpecText(spec).lines(width) == lines


@given(st.lists(st.text("abc_=", min_size=1, max_size=9), min_size=1, max_size=6), st.sampled_from("+:"), st.integers(1, 40))
def test_nothing_is_lost_and_no_name_is_cut(names, joint, width):
    lines = SpecText(joint.join(names)).lines(width)
    assert "".join(lines) == joint.join(names)
    assert [name for line in lines for name in line.rstrip(joint).split(joint)] == names
    assert all(len(line) <= width or joint not in line[:-1] for line in lines)


def test_a_table_gives_it_the_room_that_there_is():
    def rows(width: int) -> list[str]:
        table, out = Table("drafter", "tokens/s"), io.StringIO()
        table.add_row(SpecText("suffix+recycling"), "71.0")
        Console(file=out, width=width).print(table)
        return [line.split("│")[1].strip() for line in out.getvalue().splitlines() if "│" in line]

    assert rows(60) == ["suffix+recycling"]
    assert rows(24) == ["suffix+", "recycling"]
