"""The table that recycling begins with: means against a count, the file, what is refused, and what a drafter makes of it."""

from __future__ import annotations

import json
from collections import defaultdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cli_tools import train

torch = pytest.importorskip("torch")

from toy_parts import toy_parts

from outpace.drafters.base import DrafterContext
from outpace.drafters.spec import create_drafter
from outpace.errors import BadInputError
from outpace.heads import shipped
from outpace.heads.format import DraftHeads
from outpace.heads.successor_table import Successors, pair_key
from outpace.params import SamplingParams
from outpace.targets.base import TargetOutput
from outpace.targets.identity import Base
from outpace.targets.toy import ToyTarget
from outpace.testing import check_drafter, generate, make_request
from outpace.training.data import capture
from outpace.training.data.shards import Origin, Rows
from outpace.training.data.texts import Text
from outpace.training.recycling import table as recycling
from outpace.tree.draft import Draft, Verdict

VOCAB = 12  # of ToyTarget()
PROMPTS = [[1, 2, 3, 1, 2, 3, 1], [4], [5, 6, 5, 6, 5, 6, 7, 8, 5, 6]]


# ---- the means


@pytest.fixture(scope="module")
def texts() -> list[Text]:
    """Texts with few tokens, so that pairs come again; two prompts have one token."""
    rng = np.random.default_rng(0)
    ends = [[3], [5], *(rng.integers(0, 6, 4).tolist() for _ in range(10))]
    return [Text(str(i), end, rng.integers(0, 6, rng.integers(2, 40)).tolist()) for i, end in enumerate(ends)]


@pytest.fixture(scope="module")
def rows(texts, tmp_path_factory) -> Rows:
    _, target, *_ = toy_parts()
    size, folder = target.capabilities.vocab_size, tmp_path_factory.mktemp("shards")
    capture.capture(target, texts, Origin("toy", "f00d", "toy", size, size, "all"), folder, shard_bytes=10_000)
    assert len(list(folder.glob("*.safetensors"))) > 2
    return Rows(folder)


def counted(rows: Rows, texts: list[Text]) -> tuple[dict, dict]:
    """(key -> rows, key -> token -> sum of the chances), one row after the other."""
    size = rows.index.origin.vocab_size
    visits, sums, number = defaultdict(int), defaultdict(lambda: defaultdict(float)), 0
    tops = [(tokens, confidences) for shard in rows.likeliest() for tokens, confidences in zip(*shard, strict=True)]
    for text in texts:
        sequence = [*text.prompt_ids, *text.token_ids]
        for place in range(len(sequence) - 1):
            keys = [sequence[place], *([pair_key(sequence[place - 1], sequence[place], size)] if place else [])]
            for key in keys:
                visits[key] += 1
                for token, confidence in zip(*tops[number], strict=True):
                    sums[key][int(token)] += float(np.exp(np.float64(confidence)))
            number += 1
    assert number == len(rows)
    return visits, sums


@pytest.mark.parametrize("num_waiting", [100, 1 << 22])
def test_a_table_has_the_means_of_a_count(rows, texts, num_waiting, monkeypatch):
    monkeypatch.setattr(recycling, "MAX_WAITING", num_waiting)
    visits, sums = counted(rows, texts)
    size = rows.index.origin.vocab_size
    num_pairs = 20
    table = recycling.successors_of(rows, *recycling.row_keys(rows), num_pairs)
    singles = {key for key in visits if key < size}
    pairs = sorted((key for key in visits if key >= size), key=lambda key: (-visits[key], key))
    assert len(pairs) > num_pairs
    assert table.keys.tolist() == sorted({*singles, *pairs[:num_pairs]})
    for key, tokens, confidences in zip(table.keys.tolist(), table.tokens.tolist(), table.confidences, strict=True):
        means = {token: total / visits[key] for token, total in sums[key].items()}
        assert len(set(tokens)) == 8
        np.testing.assert_allclose(confidences, sorted(means.values(), reverse=True)[:8], rtol=1e-5)
        np.testing.assert_allclose(confidences, [means[token] for token in tokens], rtol=1e-5)


def test_the_first_rows_of_an_answer_lean_on_the_prompt(rows, texts):
    singles, pairs = recycling.row_keys(rows)
    size = rows.index.origin.vocab_size
    for text, start in zip(texts, rows.answers, strict=True):
        *before, last = text.prompt_ids
        assert singles[start] == last
        assert pairs[start] == (pair_key(before[-1], last, size) if before else -1)
        assert pairs[start + 1] == pair_key(last, text.token_ids[0], size)


def test_hits_are_counted_over_known_rows():
    table = Successors(np.array([1, 5]), np.array([[3, 4], [6, 7]]), np.array([[0.5, 0.2], [0.6, 0.1]]))
    assert recycling.Hits.of(table, np.array([1, 1, 5, 9]), np.array([3, 4, 8, 3])) == recycling.Hits(0.75, 0.3333, 0.6667)
    assert recycling.Hits.of(table, np.array([9]), np.array([3])) == recycling.Hits(0.0, 0.0, 0.0)


# ---- the file


def table_for(base: Base, num_pairs: int = 30) -> Successors:
    """Random successors of the first tokens and of some pairs of them."""
    rng, num_singles = np.random.default_rng(0), 12
    pairs = np.sort(rng.choice(num_singles * num_singles, num_pairs, replace=False))
    keys = np.concatenate([np.arange(num_singles), pair_key(pairs // num_singles, pairs % num_singles, base.vocab_size)])
    tokens = np.array([rng.choice(base.vocab_size, 8, replace=False) for _ in keys])
    confidences = -np.sort(-rng.dirichlet(np.ones(8), len(keys)).astype(np.float32), axis=1)
    return Successors(keys, tokens, confidences)


def test_a_table_survives_its_file(tmp_path):
    for vocab_size, tensor_type in ((VOCAB, np.uint16), (70_000, np.int32)):
        table = table_for(Base("tiny", "f00d", 8, vocab_size))
        table.to_draft_heads(Base("tiny", "f00d", 8, vocab_size), {}).save_pretrained(tmp_path)
        helper = DraftHeads.from_pretrained(tmp_path)
        assert {name: tensor.dtype.type for name, tensor in helper.tensors.items()} == {
            "singles": tensor_type,
            "pairs": tensor_type,
            "tokens": tensor_type,
            "chances": np.uint8,
        }
        loaded = Successors.of(helper)
        assert (loaded.keys == table.keys).all()
        assert (loaded.tokens == table.tokens).all()
        np.testing.assert_allclose(loaded.confidences, table.confidences, atol=0.5 / 255 + 1e-6)


def test_a_whole_table_is_small(tmp_path):
    base = Base("default", "f00d", 576, 49_152)
    pairs = base.vocab_size + np.arange(65_536) * 7
    Successors(pairs, np.zeros((65_536, 8), np.int64), np.zeros((65_536, 8))).to_draft_heads(base, {}).save_pretrained(tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 2_000_000


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("pairs", lambda t: t[::-1], "in ascending order"),
        ("singles", lambda t: t * 0, "in ascending order"),
        ("singles", lambda t: t[1:], r"singles must be integers \[12\], not \[11\]"),
        ("tokens", lambda t: t + VOCAB, "tokens has tokens outside the vocabulary of 12"),
        ("tokens", lambda t: t.astype(np.float32), "tokens must be integers"),
        ("chances", lambda t: t[:, ::-1], "descending order"),
        ("chances", lambda t: t.astype(np.int32), "chances must be uint8"),
        ("pairs", lambda t: None, "pairs must be integers .* not missing"),
    ],
)
def test_damaged_tables_are_refused(tmp_path, name, change, message):
    target = ToyTarget()
    helper = table_for(target.base).to_draft_heads(target.base, {})
    changed = change(helper.tensors.pop(name))
    if changed is not None:
        helper.tensors[name] = changed
    helper.save_pretrained(tmp_path)
    with pytest.raises(BadInputError, match=f"recycling: the table in .* does not fit: .*{message}"):
        create_drafter(f"recycling:table={tmp_path}", DrafterContext(target))


def test_tables_that_cannot_serve_are_refused(tmp_path):
    target = ToyTarget()
    context = DrafterContext(target)
    with pytest.raises(BadInputError, match="there are no heads in"):
        create_drafter(f"recycling:table={tmp_path}", context)
    helper = table_for(target.base).to_draft_heads(target.base, {})
    helper.save_pretrained(tmp_path / "table")
    with pytest.raises(BadInputError, match=r"they were made for toy \(toy-2-0\), but this model is toy with other weights \(toy-3-0\)"):
        create_drafter(f"recycling:table={tmp_path / 'table'}", DrafterContext(ToyTarget(sharpness=3.0)))
    DraftHeads("medusa", target.base, {"width": 8}, helper.tensors).save_pretrained(tmp_path / "heads")
    with pytest.raises(BadInputError, match="of kind 'medusa', not recycling"):
        create_drafter(f"recycling:table={tmp_path / 'heads'}", context)
    for width in (0, 13, "8", None):
        DraftHeads("recycling", target.base, {**helper.settings, "width": width}, helper.tensors).save_pretrained(tmp_path / "wide")
        with pytest.raises(BadInputError, match="width must be an integer from 1 to 12"):
            create_drafter(f"recycling:table={tmp_path / 'wide'}", context)
    target.base = None
    with pytest.raises(BadInputError, match="does not say which model it runs"):
        create_drafter(f"recycling:table={tmp_path / 'table'}", context)
    assert not has_pairs(create_drafter("recycling", context))


def has_pairs(drafter) -> bool:
    return drafter.start.num_own > drafter.start.num_singles


def test_a_table_serves_other_models_with_the_same_tokens(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "ASSETS", tmp_path)
    sibling, tokens = ToyTarget(sharpness=3.0), SimpleNamespace(mark="tokens of the toy")
    table_for(ToyTarget().base).to_draft_heads(ToyTarget().base, {}, "tokens of the toy").save_pretrained(tmp_path / "recycling-toy")
    for spec in ("recycling", f"recycling:table={tmp_path / 'recycling-toy'}"):
        assert has_pairs(create_drafter(spec, DrafterContext(sibling, tokens)))
    for other in (DrafterContext(sibling), DrafterContext(sibling, SimpleNamespace(mark="others"))):
        assert not has_pairs(create_drafter("recycling", other))
    larger = ToyTarget(vocab_size=VOCAB + 1, sharpness=3.0)
    assert not has_pairs(create_drafter("recycling", DrafterContext(larger, tokens)))


# ---- the drafter


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A table that comes with outpace for the toy model: after a token comes the next one, but after 2, 3 comes 9."""
    monkeypatch.setattr(shipped, "ASSETS", tmp_path)
    base = ToyTarget().base
    keys = np.array([*range(VOCAB), pair_key(2, 3, VOCAB)])
    tokens = np.array([[(token + 1) % VOCAB, (token + 2) % VOCAB] for token in range(VOCAB)] + [[9, 4]])
    Successors(keys, tokens, np.full((VOCAB + 1, 2), [0.8, 0.1])).to_draft_heads(base, {}).save_pretrained(tmp_path / "recycling-toy")
    return tmp_path / "recycling-toy"


def drafter_of(spec: str = "recycling"):
    return create_drafter(spec, DrafterContext(ToyTarget()))


def guesses(drafter, context: list[int], scope: str = "") -> list[int]:
    """What the drafter says comes next."""
    request = make_request(ToyTarget(), context, drafter=drafter)
    request.cache_salt = scope
    return [token for token, _ in drafter.successors(request, [])]


def teach(drafter, context: list[int], token: int, scope: str) -> None:
    """A step in which the model was sure of this token."""
    request = make_request(ToyTarget(), context, drafter=drafter)
    request.cache_salt = scope
    logits = np.where(np.arange(VOCAB) == token, 30.0, 0.0).astype(np.float32)[None]
    request.token_ids.append(token)
    drafter.observe(request, Verdict(Draft(), [], token), TargetOutput(logits, None, [context[-1]]))
    drafter.end_step()


@pytest.mark.parametrize("spec", ["recycling", "recycling:table={}", "recycling:pairs=1:successors=1", "recycling:successors=12"])
def test_it_guesses_from_the_first_step(folder, spec):
    drafter = drafter_of(spec.format(folder))
    assert guesses(drafter, [7, 8])[0] == 9
    assert guesses(drafter, [2, 3])[0] == 9
    assert guesses(drafter, [1, 3])[0] == 4
    draft = drafter.propose(make_request(ToyTarget(), [1, 2], drafter=drafter), 3)
    assert draft.token_ids[:2] == [3, 9]
    assert not drafter.scopes


def test_none_and_other_models_begin_empty(folder):
    assert not guesses(drafter_of("recycling:table=none"), [7, 8])
    other = create_drafter("recycling", DrafterContext(ToyTarget(sharpness=3.0)))
    assert not guesses(other, [7, 8])


def test_what_a_scope_learns_stays_there(folder):
    drafter = drafter_of()
    keys, entries = drafter.start.keys.copy(), drafter.start.entries.copy()
    for _ in range(3):
        teach(drafter, [2, 3], 6, "alice")
        teach(drafter, [5, 11], 7, "alice")
    assert (guesses(drafter, [2, 3], "alice")[0], guesses(drafter, [5, 11], "alice")[0]) == (6, 7)
    assert guesses(drafter, [7, 8], "alice")[0] == 9, "and it keeps what it began with"
    for scope in ("bob", ""):
        assert (guesses(drafter, [2, 3], scope)[0], guesses(drafter, [5, 11], scope)[0]) == (9, 0)
    teach(drafter, [7, 7], 1, "bob")
    assert guesses(drafter, [2, 3], "bob")[0] == 9
    assert (drafter.start.keys == keys).all()
    assert (drafter.start.entries == entries).all()


def test_new_pairs_push_none_of_the_table_out(folder):
    drafter = drafter_of("recycling:pairs=1")
    for before in range(VOCAB):
        for token in range(VOCAB):
            if (before, token) != (2, 3):
                teach(drafter, [before, token], 1, "")
    assert drafter.scopes[""].get(pair_key(2, 3, VOCAB))[0] == [9, 4]
    assert drafter.scopes[""].get(pair_key(11, 11, VOCAB))[0][0] == 1
    assert drafter.scopes[""].get(pair_key(11, 10, VOCAB)) == ([], [])


def test_a_visit_is_averaged_into_the_table(folder):
    drafter = drafter_of()
    teach(drafter, [2, 3], 4, "")
    tokens, confidences = drafter.scopes[""].get(pair_key(2, 3, VOCAB))
    assert tokens[:2] == [4, 9]
    np.testing.assert_allclose(confidences[:2], [0.5 + 0.05, 0.4], atol=0.005)


@pytest.mark.parametrize(
    "params", [SamplingParams(max_tokens=40), SamplingParams(temperature=0.8, max_tokens=40)], ids=["greedy", "sampled"]
)
def test_the_text_stays_the_same(tmp_path, params):
    target = ToyTarget()
    table_for(target.base).to_draft_heads(target.base, {}).save_pretrained(tmp_path)
    plain = generate(target, PROMPTS, params)
    for spec in ("recycling:table={}", "suffix+recycling:table={}", "auto:suffix+recycling:table={}"):
        assert generate(target, PROMPTS, params, create_drafter(spec.format(tmp_path), DrafterContext(target))) == plain


def test_it_keeps_the_rules(folder):
    made = []
    check_drafter(lambda context: made.append(create_drafter("recycling", context)) or made[-1])
    assert made


# ---- the command


outpace = partial(train, "recycling")


@pytest.fixture(scope="module")
def model(tiny_models, tiny_home) -> Path:
    return tiny_models["llama"]


def test_the_command_makes_a_table(model, tmp_path):
    rng, data = np.random.default_rng(0), tmp_path / "answers.jsonl"
    lines = [{"id": str(i), "prompt_ids": [5, 6], "token_ids": rng.integers(2, 9, 20).tolist()} for i in range(60)]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ("--model", model, "--data", data, "--pairs", 40)
    result = outpace(*words, "--out", tmp_path / "a", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["settings"]["width"], document["settings"]["num_pairs"]) == (8, 40)
    held = document["training"]["held_out"]
    assert (held["singles"]["known"], 0 < held["pairs"]["known"] <= 1) == (1, True)
    again = outpace(*words, "--out", tmp_path / "a", "--resume")
    assert again.exit_code == 0, again.output
    assert f"recycling:table={tmp_path / 'a'}" in again.stdout
    other = outpace("--model", model, "--data", tmp_path / "a" / "shards", "--out", tmp_path / "b", "--pairs", 40)
    assert other.exit_code == 0, other.output
    first, second = (DraftHeads.from_pretrained(tmp_path / name).tensors for name in "ab")
    assert all((first[name] == second[name]).all() for name in first)


def test_rows_of_another_model_are_refused(model, rows, tmp_path):
    result = outpace("--model", model, "--data", rows.folder, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "the rows captured from" in result.stderr.splitlines()[-1]
