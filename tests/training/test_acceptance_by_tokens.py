"""dev/training/acceptance_by_tokens.py: nested shares of texts, and a document that is gone on with."""

import importlib.util
import itertools
import json
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

spec = importlib.util.spec_from_file_location(
    "acceptance_by_tokens", Path(__file__).parents[2] / "dev" / "training" / "acceptance_by_tokens.py"
)
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)

ORIGIN = {"data": {"name": "tiny"}, "guesses": 10}


@given(st.lists(st.integers(2, 9), min_size=2, max_size=30), st.integers(1, 16), st.integers(1, 16))
def test_shares_are_whole_texts_and_nested(sizes, one, other):
    """The first text is held out, and the first row of each other one is of its prompt."""
    starts = np.cumsum([0, *sizes])
    chosen = np.concatenate([np.arange(begin + 1, end) for begin, end in itertools.pairwise(starts[1:])])
    few, many = (script.first_texts(SimpleNamespace(starts=starts), chosen, Fraction(share, 16)) for share in sorted((one, other)))
    for rows, share in ((few, min(one, other)), (many, max(one, other))):
        num_texts = max(1, round(Fraction(share, 16) * (len(sizes) - 1)))
        np.testing.assert_array_equal(rows, chosen[chosen < starts[num_texts + 1]])
    np.testing.assert_array_equal(few, many[: len(few)])


def test_a_document_is_gone_on_with_only_for_the_same_rows(tmp_path):
    path = tmp_path / "out.json"
    assert script.begun(path, ORIGIN) == {**ORIGIN, "points": {}}
    path.write_text(json.dumps({**ORIGIN, "points": {"1/4": {"num_tokens": 3}}}))
    assert script.begun(path, ORIGIN)["points"] == {"1/4": {"num_tokens": 3}}
    with pytest.raises(SystemExit, match="other rows or settings"):
        script.begun(path, {**ORIGIN, "guesses": 9})


def test_the_same_figures_give_the_same_picture(tmp_path):
    points = {
        str(size): {"num_tokens": size, "held_out": {"acceptance_best": length, "acceptance_fixed": length - 0.1}}
        for size, length in ((10_000, 1.4), (100_000, 1.8))
    }
    pictures = [tmp_path / "one", tmp_path / "two"]
    for picture in pictures:
        picture.mkdir()
        script.draw({**ORIGIN, "points": points}, picture / "curve.svg")
    first, second = ((picture / "curve.svg").read_bytes() for picture in pictures)
    assert first == second
    assert b"<svg" in first
