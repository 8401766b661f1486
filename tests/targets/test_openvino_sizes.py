"""Sizes of forward passes: measured once per processor and model, and padding only where it pays."""

from __future__ import annotations

import json

import pytest

from outpace import machine
from outpace.targets.openvino.sizes import Sizes, kept, measured
from outpace.targets.toy import ToyTarget

FOUND = Sizes(min_tokens=4, pass_tokens=64, max_padding=3)


def test_sizes_are_measured_once_per_key(tmp_path):
    file = tmp_path / "sizes.json"
    assert kept(file, "a", lambda: FOUND) == FOUND
    assert kept(file, "a", lambda: pytest.fail("measured again")) == FOUND
    other = Sizes()
    assert kept(file, "b", lambda: other) == other
    assert set(json.loads(file.read_text())) == {"a", "b"}


@pytest.mark.parametrize("text", ["", "[]", '{"a": 3}', '{"a": {"width": 1}}', "\0"])
def test_a_damaged_file_is_written_anew(tmp_path, text):
    file = tmp_path / "sizes.json"
    file.write_text(text)
    assert kept(file, "a", lambda: FOUND) == FOUND
    assert kept(file, "a", lambda: pytest.fail("measured again")) == FOUND


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    assert kept(tmp_path / "missing" / "sizes.json", "a", lambda: FOUND) == FOUND


def test_an_exact_target_has_no_limits():
    found = measured(ToyTarget(vocab_size=600))
    assert (found.min_tokens, found.pass_tokens) == (2, 1 << 30)


def test_a_target_that_changes_with_the_size_is_limited():
    target = ToyTarget(vocab_size=600)
    forward = target.forward

    def changed(batch, num_tokens=0):
        output, size = forward(batch), max(sum(map(len, batch)), num_tokens)
        output.logits[:] += 1.0 if size > 128 or size < 8 else 0.0
        return output

    target.forward = changed
    found = measured(target)
    assert found.min_tokens == 8


def test_a_target_without_a_steady_size_promises_no_bits():
    target = ToyTarget(vocab_size=600)
    forward = target.forward

    def changed(batch, num_tokens=0):
        output = forward(batch)
        output.logits[:] += max(sum(map(len, batch)), num_tokens)
        return output

    target.forward = changed
    found = measured(target)
    assert (found.min_tokens, found.is_exact) == (2, False)
    assert measured(ToyTarget(vocab_size=600)).is_exact


def test_the_processor_has_a_name_and_a_mark():
    assert machine.processor()
    assert len(machine.processor_mark()) == 8
    assert machine.num_cores() >= 1
