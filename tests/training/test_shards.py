"""Captured rows: what a plain forward pass gives, resumed and refused."""

from __future__ import annotations

import numpy as np
import pytest

from outpace.errors import BadInputError

torch = pytest.importorskip("torch")

from toy_parts import toy_parts
from toy_training import VOCAB

from outpace.training.data import capture, shards
from outpace.training.data.shards import Index, Origin, Rows
from outpace.training.data.texts import Text

ORIGIN = Origin("toy", "f00d", "toy", VOCAB, VOCAB, "all")


# ---- shards


def captured(folder, seed=0, num_texts=9, shard_bytes=8_000):
    rng = np.random.default_rng(seed)
    texts = [
        Text(f"{i}", rng.integers(0, VOCAB, rng.integers(1, 9)).tolist(), rng.integers(0, VOCAB, rng.integers(2, 60)).tolist())
        for i in range(num_texts)
    ]
    _, target, *_ = toy_parts()
    capture.capture(target, texts, ORIGIN, folder, shard_bytes)
    return texts, target


def test_shards_hold_what_a_plain_pass_gives_and_stay_small(tmp_path):
    texts, target = captured(tmp_path)
    rows = Rows(tmp_path)
    assert list(rows.ids) == [text.id for text in texts]
    assert len(rows) == sum(text.num_rows for text in texts)
    assert rows.num_answer_tokens == sum(len(text.token_ids) for text in texts)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert all(path.stat().st_size <= 9_000 for path in tmp_path.glob("*.safetensors"))
    assert not list(tmp_path.glob("*.tmp"))
    number = 4
    begin, end = rows.starts[number : number + 2]
    alone = capture.run(target, [texts[number]], max_rows=5)  # in pieces of five rows
    np.testing.assert_array_equal(rows.hidden(np.arange(begin, end)).numpy(), alone["hidden"])
    np.testing.assert_array_equal(rows.best[begin:end], alone["top_ids"][:, 0])
    whole = [*texts[number].prompt_ids, *texts[number].token_ids]
    np.testing.assert_array_equal(rows.inputs[begin:end], whole[:-1])
    np.testing.assert_array_equal(rows.tokens[begin:end], whole[1:])
    np.testing.assert_array_equal(rows.tokens[rows.answers[number] : end], texts[number].token_ids)


def test_rows_come_in_the_order_asked_for(tmp_path):
    captured(tmp_path)
    rows = Rows(tmp_path)
    whole = rows.hidden(np.arange(len(rows)))
    mixed = np.random.default_rng(1).integers(0, len(rows), 50)
    assert torch.equal(rows.hidden(mixed), whole[torch.from_numpy(mixed)])


def test_labels_end_with_the_text(tmp_path):
    texts, _ = captured(tmp_path)
    rows = Rows(tmp_path)
    for distance in (1, 3):
        expected = []
        for text in texts:
            whole = [*text.prompt_ids, *text.token_ids]
            expected += [*whole[1 + distance :], *[-1] * min(distance, text.num_rows)]
        assert rows.labels(np.arange(len(rows)), distance).tolist() == expected


def test_capture_goes_on_where_it_stopped(tmp_path, monkeypatch):
    class Stop(Exception):
        pass

    add, calls = capture.add_shard, []

    def stops(*args):
        if len(calls) == 2:
            raise Stop
        calls.append(1)
        return add(*args)

    monkeypatch.setattr(capture, "add_shard", stops)
    with pytest.raises(Stop):
        captured(tmp_path / "a")
    with pytest.raises(BadInputError, match="finish it with --resume"):
        Rows(tmp_path / "a")
    (tmp_path / "a" / "shard-00002.tmp").write_bytes(b"half")
    monkeypatch.setattr(capture, "add_shard", add)
    captured(tmp_path / "a")
    captured(tmp_path / "b")
    one, other = Rows(tmp_path / "a"), Rows(tmp_path / "b")
    assert torch.equal(one.hidden(np.arange(len(one))), other.hidden(np.arange(len(one))))
    assert one.index == other.index


def test_rows_of_other_texts_or_damaged_ones_are_refused(tmp_path):
    captured(tmp_path)
    with pytest.raises(BadInputError, match="have another data: all, not others"):
        capture.begin(tmp_path, Origin(**{**vars(ORIGIN), "data": "others"}), 9)
    shards.shard_path(tmp_path, 1).write_bytes(b"junk")
    with pytest.raises(BadInputError, match="missing or damaged"):
        Rows(tmp_path)
    (tmp_path / shards.INDEX).write_text("{")
    with pytest.raises(BadInputError, match="is damaged"):
        Index.load(tmp_path)
    with pytest.raises(BadInputError, match="no captured rows"):
        Rows(tmp_path / "nowhere")
