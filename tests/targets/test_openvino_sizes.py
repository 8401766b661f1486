"""Sizes of forward passes: measured once per processor and model, padding only where it pays, and few large ones."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_models import prompt

from outpace import machine
from outpace.targets.openvino.padding import rounded, widened
from outpace.targets.openvino.sizes import Sizes, kept, measured
from outpace.targets.openvino.target import OpenVINOTarget
from outpace.targets.toy import ToyTarget
from outpace.tree.segment import Segment, Slot

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


def test_large_sizes_are_rounded_up_a_little():
    sizes = {size: rounded(size) for size in range(65, 600)}
    assert all(0 <= after - size < size / 16 for size, after in sizes.items())
    assert len(set(sizes.values())) < 55
    assert [rounded(size) for size in (65, 68, 127, 128, 129, 256, 511, 513)] == [68, 68, 128, 128, 136, 256, 512, 544]


def test_dummies_go_where_there_is_room():
    full, short, long = (Segment(Slot(0, 0, [5] * cached, [0, 1]), [7] * count) for cached, count in ((60, 4), (30, 9), (0, 40)))
    for num_more, lengths in ((0, (4, 9, 40)), (8, (4, 17, 40)), (25, (4, 34, 40)), (26, (4, 9, 40))):
        assert tuple(map(len, widened([full, short, long], num_more))) == lengths
    _, filled, _ = widened([full, short, long], 3)
    assert filled.parents == [*range(-1, 8), -1, -1, -1]
    assert np.array_equal(filled.mask[:9, :9], short.mask)
    assert not filled.mask[:9, 9:].any()  # no real token attends to them


@pytest.fixture
def passes_of_many_sizes(tiny):
    """Runs passes of these sizes: ten tokens of one text whose logits it returns, among those of two others."""
    target = OpenVINOTarget(tiny[1].path, vocab_size=96, max_len=256, precision="f32", kv_cache_tokens=1024)
    text, slots = prompt(240), [target.allocate(240) for _ in range(3)]

    def run(*sizes):
        for size in range(*sizes):
            rest = size - 10
            others = [
                Segment(slot, text[:count], wants_output=False) for slot, count in zip(slots, (rest // 2, rest - rest // 2), strict=False)
            ]
            yield target.forward([*others, Segment(slots[2], text[:10])]).logits.copy(), len(target.feed["input_ids"])

    return run


def test_large_passes_come_in_few_sizes_and_keep_their_bits(passes_of_many_sizes):
    (want, _), *found = passes_of_many_sizes(30, 490, 4)
    assert all(np.array_equal(logits, want) for logits, _ in found)
    assert len({size for _, size in found if size > 64}) <= 48


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_number_of_sizes(passes_of_many_sizes):
    """OpenVINO keeps what it has prepared for each size."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    list(passes_of_many_sizes(70, 490, 6))
    before = resident()
    list(passes_of_many_sizes(321, 490))
    assert resident() - before < 20e6  # 50 MB if each size is prepared


def test_the_kv_of_a_rounded_prompt_keep_their_bits(tiny):
    target, text, found = tiny[1], prompt(140), []
    for chunk in (133, 20):
        slot = target.allocate(180)
        for start in range(0, 133, chunk):
            part = text[start : min(133, start + chunk)]
            target.forward([Segment(slot, part, wants_output=False)])
            target.accept(slot, part, range(len(part)))
        found.append(target.forward([Segment(slot, text[133:])]).logits.copy())
        target.free(slot)
    assert np.array_equal(*found)
