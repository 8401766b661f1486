"""The parts of training: reading texts, the loop filter, shards, the loss, calibration. Runs as a whole are in test_training_run.py."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpace.errors import BadInputError

torch = pytest.importorskip("torch")

from helper_tools import fitted_medusa
from toy_parts import toy_parts

from outpace.drafters.base import DrafterContext
from outpace.drafters.spec import create_drafter
from outpace.params import SamplingParams
from outpace.targets.toy import ToyTarget
from outpace.testing import make_request, run
from outpace.training import acceptance as calibration
from outpace.training import record
from outpace.training.checkpoint import restore, save_checkpoint
from outpace.training.data import answers, capture, shards
from outpace.training.data import texts as data
from outpace.training.data.shards import Index, Origin, Rows
from outpace.training.data.texts import Text
from outpace.training.loop import LoopSettings
from outpace.training.loss import FrozenHead
from outpace.training.replay import replay

_, TOY, TOKENIZER, *_ = toy_parts()
VOCAB = TOY.capabilities.vocab_size
ORIGIN = Origin("toy", "f00d", "toy", VOCAB, VOCAB, "all")


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# ---- reading


def test_every_form_of_a_text_is_read(tmp_path):
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    path = lines(
        tmp_path / "a.jsonl",
        {"id": "tokens", "prompt_ids": [1, 2], "token_ids": [3, 4, 5]},
        {"id": "chat", "messages": chat},
        {"id": "pair", "prompt": "hi", "completion": "hello"},
        {"id": "plain", "text": "abcdefghij"},
    )
    texts = data.read_texts(path, TOKENIZER, VOCAB, max_tokens=4)
    assert texts[0] == Text("tokens", [1, 2], [3, 4, 5])
    hi, hello = TOKENIZER.encode("hi"), TOKENIZER.encode("hello")
    assert [(t.id, t.prompt_ids, t.token_ids) for t in texts[1:3]] == [("chat", hi, hello[:4]), ("pair", hi, hello[:4])]
    whole = TOKENIZER.encode("abcdefghij")
    assert [t.prompt_ids + t.token_ids for t in texts[3:]] == [whole[:5], whole[5:]]
    assert len({t.id for t in texts}) == len(texts)


def test_a_plain_file_is_texts_or_prompts(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one two\nthree\n\nfour")
    texts = data.read_texts(path, TOKENIZER, VOCAB, max_tokens=6)
    assert [token for t in texts for token in t.prompt_ids + t.token_ids] == TOKENIZER.encode("one two\nthree\n\nfour")
    assert max(len(t.token_ids) for t in texts) == 6
    assert [p.messages[0]["content"] for p in data.read_prompts(path, TOKENIZER)] == ["one two\nthree", "four"]


def test_the_answer_is_no_part_of_a_prompt(tmp_path):
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    path = lines(tmp_path / "a.jsonl", {"messages": turns}, {"question_id": 7, "turns": ["x", "y"]}, {"id": 7, "prompt": "z"})
    assert [(p.id, p.messages) for p in data.read_prompts(path, TOKENIZER)] == [
        ("1", turns[:1]),
        ("7", [{"role": "user", "content": "x"}]),
        ("7#2", [{"role": "user", "content": "z"}]),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "hi"}, "a.jsonl:1: there is no answer; use --generate to let the model write it"),
        ({"prompt_ids": [1], "token_ids": "x"}, "a.jsonl:1: token_ids must be a list of token ids"),
        ({"prompt_ids": [1], "token_ids": [VOCAB]}, "text '1' has no prompt, or a token outside"),
        ({"prompt_ids": [], "token_ids": [1]}, "text '1' has no prompt, or a token outside"),
        ({"other": 1}, "needs a non-empty 'prompt'"),
    ],
)
def test_wrong_texts_are_one_clear_line(tmp_path, row, message):
    with pytest.raises(BadInputError, match=message):
        data.read_texts(lines(tmp_path / "a.jsonl", row), TOKENIZER, VOCAB, 8)


# ---- choosing


@given(st.lists(st.integers(0, 30), min_size=1, max_size=12), st.integers(4, 12))
def test_loops_are_seen(loop, times):
    text = (loop * times)[: max(48, 4 * len(loop))]
    assert data.is_looping(text) == (len(text) >= data.LOOP_MIN_TOKENS and len(text) >= 3 * len(loop))


def test_ordinary_answers_are_no_loops():
    text = "the quick brown fox jumps over the lazy dog and then it goes home to sleep until the next day comes"
    assert not data.is_looping(TOKENIZER.encode(text))
    assert not data.is_looping([1] * (data.LOOP_MIN_TOKENS - 1))


def test_what_is_dropped_is_counted_and_the_order_is_that_of_the_ids():
    rng = np.random.default_rng(0)
    good = [Text(str(i), [1], rng.integers(0, 30, 40).tolist()) for i in range(20)]
    bad = [Text("loop", [1], [1, 2] * 30), Text("short", [1], [2]), Text("long", [1] * 90, [2] * 40)]
    kept, counts = data.choose([*good, *bad], max_len=100)
    again, _ = data.choose([*bad, *reversed(good)], max_len=100)
    assert kept == again
    assert {text.id for text in kept} == {text.id for text in good}
    assert (counts.num_kept, counts.num_looping, counts.num_short, counts.num_long) == (20, 1, 1, 1)
    with pytest.raises(BadInputError, match="too little to train on: 1 texts; dropped: 1 looping, 1 too short, 1 too long"):
        data.choose([good[0], *bad], 100)


@given(st.sets(st.text(max_size=8), min_size=1, max_size=200), st.sets(st.text(max_size=8), max_size=50))
def test_held_out_texts_stay_held_out(ids, more):
    apart = data.held_out(sorted(ids))
    assert apart
    assert apart <= ids
    if len(apart) > 1:
        assert apart <= data.held_out(sorted(ids | more))


# ---- answers on disk


def test_a_torn_line_is_cut_off(tmp_path):
    path = tmp_path / "answers.jsonl"
    assert answers.answered(path) == set()
    path.write_bytes(b'{"id": "a"}\n{"id": "b"}\n{"id": "c", "tok')
    assert answers.answered(path) == {"a", "b"}
    assert path.read_bytes() == b'{"id": "a"}\n{"id": "b"}\n'
    path.write_bytes(b'{"id": "a"}\nnonsense\n')
    with pytest.raises(BadInputError, match="is damaged"):
        answers.answered(path)


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


# ---- the loss


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("is_trained", [False, True])
def test_the_loss_and_its_gradients_are_those_of_torch(has_bias, is_trained, monkeypatch):
    monkeypatch.setattr("outpace.training.loss.PIECE_ROWS", 7)
    torch.manual_seed(0)
    weight, bias = torch.randn(11, 6), torch.randn(11) if has_bias else None
    labels = torch.randint(-1, 11, (40,))
    importance = torch.rand(40)
    states = torch.randn(40, 6, requires_grad=True)
    weight.requires_grad_(is_trained)
    loss, hits = FrozenHead(weight, bias).loss(states, labels, importance)
    (3 * loss).backward()
    found, states.grad = states.grad, None
    found_weight, weight.grad = weight.grad, None
    logits = torch.nn.functional.linear(states, weight, bias)
    plain = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-1, reduction="none")
    (3 * (plain * importance).sum()).backward()
    torch.testing.assert_close(loss, (plain * importance).sum())
    torch.testing.assert_close(found, states.grad)
    assert (found_weight is not None) == is_trained
    if is_trained:
        torch.testing.assert_close(found_weight, weight.grad)
    assert torch.equal(hits, logits.argmax(1) == labels)


# ---- the schedule and checkpoints


@given(st.integers(1, 500), st.floats(0, 0.5))
def test_the_learning_rate_rises_and_falls(num_steps, share):
    loop = LoopSettings(learning_rate=2.0, warmup_share=share)
    rates = [loop.rate(step, num_steps) for step in range(num_steps)]
    top = rates.index(max(rates))
    assert all(0 < rate <= 2.0 for rate in rates)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_only_the_latest_whole_checkpoint_counts(tmp_path):
    module = torch.nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(module.parameters())
    assert restore(tmp_path, module, optimizer) == 0
    for step in (1, 2):
        module(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        save_checkpoint(tmp_path, step, module, optimizer)
    (tmp_path / ".step-00000003.1.tmp").mkdir()
    other = torch.nn.Linear(3, 3)
    again = torch.optim.AdamW(other.parameters())
    assert restore(tmp_path, other, again) == 2
    assert torch.equal(other.weight, module.weight)
    assert again.state_dict()["state"][0]["exp_avg"].equal(optimizer.state_dict()["state"][0]["exp_avg"])
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-00000002"]
    (tmp_path / "step-00000002" / "optimizer.pt").write_bytes(b"junk")
    with pytest.raises(BadInputError, match="cannot be read"):
        restore(tmp_path, other, again)


def test_metrics_of_lost_steps_are_taken_out(tmp_path):
    with record.Record(tmp_path, 0, tensorboard=False) as one:
        for step in (1, 2, 3):
            one.add(step, 0, {"loss": 1.0 / step, "held_out_accuracy_1": 0.5})
    with record.Record(tmp_path, 2, tensorboard=False) as two:
        two.add(3, 0, {"loss": 9.0})
    assert [(row["step"], row["loss"]) for row in record.read_metrics(tmp_path)] == [(1, 1.0), (2, 0.5), (3, 9.0)]
    pytest.importorskip("matplotlib")
    record.draw_curves(tmp_path)
    assert (tmp_path / record.CURVES).read_bytes().startswith(b"\x89PNG")


# ---- calibration


def all_trees(paths, num_nodes):
    """Every set of `num_nodes` paths in which each path's parent is there too."""
    for tree in itertools.combinations(paths, num_nodes):
        if all(len(path) == 1 or path[:-1] in tree for path in tree):
            yield tree


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 3))
def test_the_tree_is_the_best_of_all(seed, num_nodes, num_heads):
    num_ranks = 3
    ranks = np.random.default_rng(seed).choice([0, 0, 0, 1, 1, 2, calibration.NUM_RANKS], (40, num_heads))
    paths = [path for depth in range(1, num_heads + 1) for path in itertools.product(range(num_ranks), repeat=depth)]

    def hits(tree):
        return sum(int((ranks[:, : len(path)] == path).all(axis=1).sum()) for path in tree)

    found = [tuple(path) for path in calibration.best_tree(ranks, num_nodes, prior=0.0)]
    best = max((hits(tree) for tree in all_trees(paths, min(num_nodes, len(paths)))), default=0)
    assert all(len(path) == 1 or path[:-1] in found[:i] for i, path in enumerate(found))
    assert hits(found) == best


def test_unknown_ranks_count_for_nothing():
    ranks = np.array([[0, 0], [0, -1], [1, -1], [-1, -1]])
    tree = calibration.best_tree(ranks, 3, prior=0.0)
    assert tree == [[0], [0, 0], [1]]
    assert calibration.accuracies(ranks)[1][0] == 1.0


def test_few_joint_hits_lean_on_the_marginals():
    ranks = np.array([[0, 0]] * 50 + [[1, 0]] * 50 + [[2, 1]])
    assert [2, 0] in calibration.best_tree(ranks, 8)
    assert [2, 0] not in calibration.best_tree(ranks, 8, prior=0.0)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_the_walk_decodes_every_text(seed, is_fixed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 12, 3)
    starts = [0, *np.cumsum(lengths).tolist()]
    ranks = rng.choice([0, 0, 1, calibration.NUM_RANKS], (starts[-1], 3))
    for end in starts[1:]:
        for k in range(3):
            ranks[max(0, end - 1 - k) : end, k] = -1
    tree = [[0], [0, 0], [1]]
    confidences = np.full((starts[-1], 3, calibration.NUM_RANKS), 0.001)
    confidences[:, :, 0], confidences[:, :, 1] = 0.6, 0.3  # three likeliest paths: 0 (.6), 0 0 (.36), 1 (.3)
    longest = calibration.with_tree(ranks, tree) if is_fixed else calibration.with_likeliest(ranks, confidences, 3, 0.02)
    found = calibration.walk(starts, longest)
    num_steps = 0
    for begin, end in itertools.pairwise(starts):
        committed = 1  # the first step has nothing to draft from
        num_steps += 1
        while committed < end - begin:
            row = ranks[begin + committed - 1]
            accepted = 2 if row[0] == 0 and row[1] == 0 else 1 if row[0] in (0, 1) else 0
            committed = min(end - begin, committed + accepted + 1)
            num_steps += 1
    assert (found.num_tokens, found.num_steps) == (int(lengths.sum()), num_steps)


def test_no_drafts_give_one_token_a_step():
    found = calibration.walk([0, 5, 9], lambda row: 0)
    assert (found.num_steps, found.mean_length) == (9, 1.0)


# ---- decoding on paper


@pytest.mark.parametrize("name", ["prompt_lookup", "suffix", "medusa"])
def test_a_replay_takes_the_steps_of_decoding(name, tmp_path):
    target = ToyTarget(sharpness=6.0)
    prompts = [[1, 2, 3], [4, 5], [7, 8, 9, 1, 2], [3], [3, 3, 4]]
    fitted_medusa(target, prompts).save_pretrained(tmp_path / "heads")
    drafter = create_drafter(f"medusa:{tmp_path / 'heads'}" if name == "medusa" else name, DrafterContext(target))
    params = SamplingParams(max_tokens=60)
    requests = run(target, [make_request(target, prompt, params, drafter) for prompt in prompts])
    texts = [Text(str(i), prompt, request.output_token_ids) for i, (prompt, request) in enumerate(zip(prompts, requests, strict=True))]
    size = target.capabilities.vocab_size
    capture.capture(target, texts, Origin("toy", "f00d", "toy", size, size, "all"), tmp_path / "shards")
    found = replay(target, drafter, Rows(tmp_path / "shards"), range(len(texts)), drafter.num_draft_tokens)
    assert found.num_tokens == 60 * len(prompts)
    assert found.num_steps == sum(request.stats.num_steps for request in requests) < 0.9 * found.num_tokens
