"""The drafter eagle: its trees are those of a slow literal implementation, whatever came before, and no text ever changes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from helper_tools import fitted_eagle, random_eagle
from hypothesis import given, settings
from hypothesis import strategies as st

from outpace.config import EngineConfig
from outpace.drafters.base import DrafterContext
from outpace.drafters.combined import CombinedDrafter
from outpace.drafters.eagle import EagleDrafter
from outpace.drafters.spec import create_drafter, ready_drafters, usage
from outpace.errors import BadInputError
from outpace.heads import shipped
from outpace.heads.eagle import draft_tree as eagle_tree
from outpace.heads.eagle import prefix_cache as eagle_memory
from outpace.heads.eagle.cache import EagleCache
from outpace.heads.eagle.draft_tree import TreeShape, grow_trees
from outpace.heads.eagle.prefix_cache import EagleMemory
from outpace.heads.eagle.weights import eagle_weights
from outpace.heads.format import DraftHeads
from outpace.heads.runtime import EagleRows, build_eagle
from outpace.params import SamplingParams
from outpace.targets.base import Embeddings, LMHead, TargetOutput
from outpace.targets.identity import Base
from outpace.targets.toy import ToyTarget
from outpace.testing import InexactTarget, check_drafter, generate, make_request, run
from outpace.tree.draft import Draft, Verdict, depths, select

PROMPTS = [[1, 2, 3, 1, 2, 3, 1], [4], [5, 6, 5, 6, 5, 6, 7, 8, 5, 6]]
GREEDY, SAMPLED = SamplingParams(max_tokens=40), SamplingParams(temperature=0.8, max_tokens=40)
SPECS = ["eagle:{}", "eagle:{}:max_depth=2:branches=1:threshold=0.001", "prompt_lookup+eagle:{}", "auto:suffix+recycling+eagle:{}"]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A head that is right now and then on the toy model of sharpness 3."""
    folder = tmp_path_factory.mktemp("fitted")
    fitted_eagle(ToyTarget(sharpness=3.0), PROMPTS).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def random(tmp_path_factory):
    """A head whose guesses depend on all that it sees."""
    folder = tmp_path_factory.mktemp("random")
    random_eagle(ToyTarget(sharpness=3.0).base, reduced=9).save_pretrained(folder)
    return folder


# ---- the text never changes


@pytest.mark.parametrize("spec", SPECS)
def test_it_keeps_the_rules(fitted, spec):
    check_drafter(lambda context: create_drafter(spec.format(fitted), context))


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("period", [None, 3])
@pytest.mark.parametrize("spec", SPECS)
def test_the_text_never_changes(fitted, random, spec, period, params):
    target = ToyTarget(sharpness=3.0) if period is None else InexactTarget(period, sharpness=3.0)
    for folder, batch in itertools.product((fitted, random), (PROMPTS[:1], PROMPTS)):
        plain = generate(target, batch, params)
        drafter = create_drafter(spec.format(folder), DrafterContext(target))
        for count in (1, 9):
            assert generate(target, batch, params, drafter, "exact", count) == plain


def accepted(target, folder, spec="eagle:{}", **config) -> float:
    """Accepted guesses a step."""
    drafter = create_drafter(spec.format(folder), DrafterContext(target))
    requests = [make_request(target, prompt, GREEDY, drafter, seed=i) for i, prompt in enumerate(PROMPTS)]
    run(target, requests, EngineConfig(max_num_seqs=8, **config))
    return sum(r.stats.num_accepted_tokens for r in requests) / sum(r.stats.num_steps for r in requests)


def test_a_head_that_knows_something_helps(fitted, random):
    target = ToyTarget(sharpness=3.0)
    assert accepted(target, fitted) > accepted(target, random, "eagle:{}:threshold=0.0001") + 0.5


def test_deeper_guesses_know_the_ones_before_them(tmp_path):
    """Where the next token is known from the last one, every guess is right, to the last level."""
    target = ToyTarget()
    target.table[:] = 20 * np.roll(np.eye(12), 1, axis=1)
    target.detail[:] = 0
    fitted_eagle(target, [[3, 4]]).save_pretrained(tmp_path)
    drafter = create_drafter(f"eagle:{tmp_path}:max_depth=4", DrafterContext(target))
    (request,) = run(target, [make_request(target, [3, 4], SamplingParams(max_tokens=41), drafter)])
    assert request.output_token_ids == [(5 + i) % 12 for i in range(41)]
    assert request.stats.num_steps == -(-41 // 5)  # the first step has a draft too


# ---- a tree is what the formulas say


BASE = Base("tiny", "f" * 16, 24, 40)


class Slow:
    """One text, one row at a time, everything computed anew for each path: what the fast trees are compared with."""

    def __init__(self, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.embeddings, self.lm_head = rng.normal(0, 0.3, (2, BASE.vocab_size, BASE.hidden_size)).astype(np.float32)
        self.helper = random_eagle(BASE, seed=seed)
        self.weights = eagle_weights(self.helper)
        lent = Embeddings(self.embeddings), LMHead("numpy", self.lm_head, BASE.vocab_size)
        self.head = build_eagle(self.weights, *lent, 10)

    def guesses(self, rows, path):
        """(tokens, chances) after a path; rows (position, token, feature) are those of the text."""
        rows = list(rows)
        for depth in range(len(path) + 1):
            n = len(rows)
            kv = np.zeros((1, self.weights.num_kv_heads, 0, self.weights.head_dim), np.float32)
            temperature = self.weights.temperatures[min(depth, len(self.weights.temperatures) - 1)]
            found = self.head(
                EagleRows(
                    np.array([[token for _, token, _ in rows]]),
                    np.array([[feature for _, _, feature in rows]], np.float32),
                    np.array([[position for position, _, _ in rows]], np.float32),
                    np.array([[n - 1]], np.int32),
                    kv,
                    kv,
                    np.ones((1, 1, n), bool),
                    np.array([[temperature]], np.float32),
                )
            )
            if depth < len(path):
                rows.append((rows[-1][0] + 1, path[depth], found.features[0, 0]))
        return found.token_ids[0, 0].tolist(), found.confidences[0, 0].tolist()

    def tree(self, rows, shape):
        """The same levels, from the definition."""
        tree, open_nodes = {}, {(): 1.0}
        for _ in range(shape.max_depth):
            level = sorted(open_nodes.items(), key=lambda item: -item[1])[: shape.branches]
            for path, confidence in level:
                del open_nodes[path]
                tree[path] = list(zip(*self.guesses(rows, path), strict=True))
                children = {(*path, token): confidence * c for token, c in tree[path] if confidence * c >= shape.threshold}
                open_nodes |= {child: c for child, c in children.items() if len(child) < shape.max_depth}
        return tree


def same_tree(found, expected) -> None:
    assert found.keys() == expected.keys()
    for path, successors in expected.items():
        assert [token for token, _ in found[path]] == [token for token, _ in successors]
        np.testing.assert_allclose([c for _, c in found[path]], [c for _, c in successors], rtol=1e-3)


def rows_of(length: int, seed: int):
    """Features of a text with two holes in it."""
    rng = np.random.default_rng(seed)
    places = [place for place in range(3, 3 + length) if place % 11 not in (5, 6)]
    return [(place, int(rng.integers(BASE.vocab_size)), rng.normal(size=BASE.hidden_size).astype(np.float32)) for place in places]


@pytest.mark.parametrize("shape", [(5, 4, 0.02), (3, 2, 0.001), (1, 4, 0.02), (4, 1, 0.0001)])
def test_trees_are_those_of_the_literal_implementation(shape, monkeypatch):
    monkeypatch.setattr(eagle_tree, "FILL", 7)
    slow, shape = Slow(), TreeShape(*shape, np.array([0.4, 0.7], np.float32))
    slow.weights.temperatures[:] = shape.temperatures
    texts = [rows_of(length, length) for length in (1, 9, 40, 140)]
    caches = []
    for text in texts:
        caches.append(EagleCache(slow.weights))
        for place, token, feature in text:
            caches[-1].add(place, [token], feature[None])
    for found, text in zip(grow_trees(slow.head, caches, shape), texts, strict=True):
        same_tree(found, slow.tree(text, shape))
    for cache, text in zip(caches, texts, strict=True):  # one at a time, and with a memory
        more = (text[-1][0] + 1, 7, np.ones(BASE.hidden_size, np.float32))
        cache.add(more[0], [more[1]], more[2][None])
        (found,) = grow_trees(slow.head, [cache], shape)
        same_tree(found, slow.tree([*text, more], shape))


# ---- features never get out of step with tokens


def shown(drafter, request, rows):
    """A drafter of its own that is shown these features (place, feature) and nothing else: its tree."""
    fresh = EagleDrafter.__new__(EagleDrafter)
    fresh.__dict__.update({**vars(drafter), "texts": {}})
    fresh.begin(request)
    text = fresh.texts[request.id]
    for place, feature in rows:
        text.cache.add(place, [request.context[place + 1]], feature[None])
    text.length = len(request.context)
    return fresh._tree(request)


class Checked(EagleDrafter):
    """Compares every tree with that of a drafter that is shown the same features afresh."""

    num_checked = 0

    def begin(self, request):
        super().begin(request)
        self.rows = {}

    def observe_prompt(self, request, start, hidden):
        super().observe_prompt(request, start, hidden)
        self.rows.update({start + i: state.copy() for i, state in enumerate(hidden)})

    def observe(self, request, verdict, output):
        super().observe(request, verdict, output)
        start = len(request.context) - len(verdict.path) - 2
        self.rows = {place: state for place, state in self.rows.items() if place < start}
        for i, row in enumerate([0, *(node + 1 for node in verdict.path)]):
            self.rows[start + i] = output.hidden[row].copy()

    def propose(self, request, budget):
        draft, tree = super().propose(request, budget), self._tree(request)
        assert bool(tree) == (max(self.rows, default=0) == len(request.context) - 2)
        if tree:
            same_tree(tree, shown(self, request, sorted(self.rows.items())))
            type(self).num_checked += 1
        return draft


class Wild(Checked):
    """Side branches first, so that tokens are left pending and some of them do not hold."""

    def propose(self, request, budget):
        draft = super().propose(request, budget)
        level = depths(draft.parents)
        return select(draft, sorted(range(len(draft)), key=lambda node: (level[node], -node)))


@pytest.mark.parametrize("kind", [Checked, Wild])
@pytest.mark.parametrize("chunk", [512, 3])
@pytest.mark.parametrize("period", [None, 2, 3])
def test_any_history_gives_the_tree_of_a_fresh_drafter(fitted, kind, period, chunk):
    target = ToyTarget(sharpness=3.0) if period is None else InexactTarget(period, sharpness=3.0)
    config = EngineConfig(max_num_batched_tokens=chunk, min_prefill_chunk=chunk)
    kind.num_checked, num_restarts = 0, 0
    for params, prompt in itertools.product((GREEDY, SAMPLED), PROMPTS):
        drafter = kind(DrafterContext(target), str(fitted), threshold=0.005)
        reset = drafter.reset

        def count(*args, reset=reset):
            nonlocal num_restarts
            num_restarts += 1
            reset(*args)

        drafter.reset = count
        (plain,) = generate(target, [prompt], params)
        (request,) = run(target, [make_request(target, prompt, params, drafter)], config)
        assert request.output_token_ids == plain
        assert request.id not in drafter.texts
    assert kind.num_checked > 50
    assert (num_restarts > 0) == (period is not None)


@settings(deadline=None, derandomize=True, max_examples=25)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 4)), min_size=1, max_size=12))
def test_a_cache_holds_the_latest_row_of_each_place(steps):
    """Each step shows some places, from a little before the last known one."""
    cache, known, place, number = EagleCache(Slow().weights), {}, 4, 0
    for count, back in steps:
        place = max(0, place - back)
        known = {at: value for at, value in known.items() if at < place}
        for i in range(count):
            known[place + i] = number + i
        cache.add(place, range(number, number + count), np.zeros((count, BASE.hidden_size)))
        number, place = number + count, place + count
        if number % 3 == 0:
            rows = cache.take(len(cache.waiting))
            cache.reserve(cache.num_rows)
            values = np.array([[[row.token_id]] * 8 for row in rows], float).reshape(1, len(rows), 8).repeat(2, axis=0)
            cache.write(cache.num_rows - len(rows), values, values)
    stored = zip(cache.positions, cache.keys[0, :, 0].tolist(), strict=False)
    assert [*stored, *((row.position, row.token_id) for row in cache.waiting)] == sorted(known.items())


def test_tokens_that_a_limit_cut_are_not_mistaken_for_others(fitted):
    """The context is shorter than what was verified: no feature is put at another's place."""
    drafter = create_drafter(f"eagle:{fitted}", DrafterContext(ToyTarget(sharpness=3.0)))
    request = make_request(ToyTarget(), [0, 1])
    drafter.begin(request)
    request.token_ids += [2, 3]  # without the last token
    hidden = np.zeros((3, 12), np.float32)
    drafter.observe(request, Verdict(Draft.chain([2, 3]), [0, 1], 4), TargetOutput(hidden, hidden, [1, 2, 3]))
    assert len(drafter.propose(request, 8)) == 0
    request.token_ids.append(4)
    drafter.observe(request, Verdict(Draft.chain([2, 3]), [0, 1], 4), TargetOutput(hidden, hidden, [1, 2, 3]))
    assert len(drafter.propose(request, 8)) > 0
    request.token_ids.append(5)  # a resting drafter sees one step in a few
    assert len(drafter.propose(request, 8)) == 0


# ---- prompts


class Noted(EagleDrafter):
    """Tells its drafts, and what of the prompt it was shown."""

    def begin(self, request):
        super().begin(request)
        self.drafts, self.shown = [], []

    def observe_prompt(self, request, start, hidden):
        super().observe_prompt(request, start, hidden)
        self.shown.append((start, len(hidden)))

    def propose(self, request, budget):
        draft = super().propose(request, budget)
        self.drafts.append((list(draft.token_ids), list(draft.parents)))
        return draft


def noted(target, folder, prompt, drafter=None, config=None):
    """A request with this prompt, and the drafter that guessed for it."""
    drafter = drafter or Noted(DrafterContext(target), str(folder), threshold=0.001)
    (request,) = run(target, [make_request(target, prompt, GREEDY, drafter)], config)
    return request, drafter


@pytest.mark.parametrize("chunk", [1, 2, 3, 512])
def test_chunks_of_a_prompt_make_no_difference(random, chunk, monkeypatch):
    monkeypatch.setattr(eagle_tree, "FILL", 5)
    target, prompt = ToyTarget(sharpness=3.0), [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]
    configs = [EngineConfig(max_num_batched_tokens=size, min_prefill_chunk=size) for size in (chunk, 512)]
    one, other = (noted(target, random, prompt, config=config)[1].drafts for config in configs)
    assert one == other
    assert all(token_ids for token_ids, _ in one)  # the first too: of the prompt's tokens but the last the features are known


def test_it_sees_the_prompt_and_others_do_not_pay(random):
    target = ToyTarget(sharpness=3.0)
    seen, forward = [], target.forward
    target.forward = lambda batch, width=0: seen.append([s.wants_hidden for s in batch]) or forward(batch, width)
    for spec, wants in (("recycling", False), (f"eagle:{random}", True), (f"recycling+eagle:{random}", True)):
        seen.clear()
        drafter = create_drafter(spec, DrafterContext(target))
        run(target, [make_request(target, [1, 2, 3, 4], SamplingParams(max_tokens=3), drafter)])
        assert seen[0] == [wants]
        assert not any(any(segments) for segments in seen[1:])


# ---- what the target and the head remember


def num_alike(one, other):
    """Tokens until two texts part."""
    return len([*itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))])


class Remembering(ToyTarget):
    """Does not run again what begins like a text that it has run."""

    def __init__(self, **options):
        super().__init__(**options)
        self.texts = []

    def allocate(self, num_tokens, prompt_token_ids=()):
        slot, prompt = super().allocate(num_tokens), list(prompt_token_ids[:-1])
        known = max((num_alike(text, prompt) for text in self.texts), default=0)
        slot.token_ids.extend(prompt[:known])
        self.cache[slot.index] = [(token, i) for i, token in enumerate(prompt[:known])]
        return slot

    def free(self, slot):
        self.texts.append(list(slot.token_ids))
        super().free(slot)


def test_a_prompt_that_others_have_run_is_run_again_for_the_head(random):
    target = Remembering(sharpness=3.0)
    generate(target, PROMPTS[2:], GREEDY)
    _, drafter = noted(target, random, PROMPTS[2])
    assert drafter.shown == [(0, len(PROMPTS[2]) - 1)]
    assert drafter.drafts == noted(ToyTarget(sharpness=3.0), random, PROMPTS[2])[1].drafts


def test_the_next_turn_is_not_read_again_and_guessed_as_well(random):
    target = Remembering(sharpness=3.0)
    turn, drafter = noted(target, random, PROMPTS[2])
    longer = [*turn.token_ids[:30], 3, 1, 4, 1, 5]
    _, drafter = noted(target, random, longer, drafter)
    ((start, _),) = drafter.shown
    assert 9 < start <= 30
    fresh, other = noted(ToyTarget(sharpness=3.0), random, longer)
    assert other.shown == [(0, 34)]
    assert drafter.drafts == other.drafts
    assert len(fresh.output_token_ids) == 40


def test_together_with_others_it_reads_the_prompt_all_the_same(random):
    target, seen = Remembering(sharpness=3.0), []
    generate(target, PROMPTS[2:], GREEDY)
    accept = target.accept
    target.accept = lambda slot, token_ids, nodes: seen.append(slot.num_cached) or accept(slot, token_ids, nodes)
    for spec in ("recycling", f"recycling+eagle:{random}", f"auto:suffix+recycling+eagle:{random}"):
        seen.clear()
        drafter = create_drafter(spec, DrafterContext(target))
        run(target, [make_request(target, PROMPTS[2], SamplingParams(max_tokens=3), drafter)])
        assert (seen[0] == 0) == ("eagle" in spec)


texts = st.lists(st.integers(0, 1), min_size=2, max_size=8)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.lists(st.tuples(texts, st.integers(0, 8)), max_size=8), texts, st.integers(0, 8))
def test_a_memory_knows_what_it_was_given(random, kept, asked, wanted):
    """The keys of a row say which tokens it is of; some texts have a gap."""
    weights, memory = eagle_weights(DraftHeads.from_pretrained(random)), EagleMemory()
    known = [0]
    for text, gap in kept:
        cache = EagleCache(weights)
        cache.positions = [place for place in range(len(text) - 1) if place != gap]
        cache.reserve(len(cache.positions))
        for row, place in enumerate(cache.positions):
            cache.keys[:, row], cache.values[:, row] = [text[place] * 2 + text[place + 1]], [place]
        memory.keep(text, cache)
        known.append(min(num_alike(text, asked) - 1, gap))
    assert memory.num_reusable_prefix(asked) == max(known)
    found = EagleCache(weights)
    memory.recall(asked, wanted, found)
    assert found.positions == list(range(min(wanted, max(known))))
    for row in found.positions:
        assert (found.keys[:, row] == asked[row] * 2 + asked[row + 1]).all()
        assert (found.values[:, row] == row).all()


def test_a_memory_has_bounds(random, monkeypatch):
    monkeypatch.setattr(eagle_memory, "MAX_ROWS", 20)
    monkeypatch.setattr(eagle_memory, "MAX_TEXTS", 3)
    weights, memory = eagle_weights(DraftHeads.from_pretrained(random)), EagleMemory()

    def keep(*token_ids):
        cache = EagleCache(weights)
        cache.positions = list(range(len(token_ids) - 1))
        cache.reserve(len(token_ids))
        memory.keep(token_ids, cache)

    for first in range(5):
        keep(first, 1, 2, 3)
    assert [memory.num_reusable_prefix([first, 1, 2, 3]) for first in range(5)] == [0, 0, 3, 3, 3]
    memory.recall([2, 1, 2, 3], 3, EagleCache(weights))  # what is used stays longest
    keep(5, 1, 2, 3)
    assert [memory.num_reusable_prefix([first, 1, 2, 3]) for first in range(6)] == [0, 0, 3, 0, 3, 3]
    keep(5, 1, 2, 3, 4, 5)  # the next turn takes the place of the one before
    assert (len(memory.texts), memory.num_reusable_prefix([5, 1, 2, 3, 4, 5])) == (3, 5)
    keep(*range(6, 22))
    assert [kept.num_rows for kept in memory.texts] == [5, 15]
    keep(7)
    assert [kept.num_rows for kept in memory.texts] == [5, 15]
    keep(*range(8, 38))  # longer than all there is room for: its beginning is kept, and nobody has to read it again
    assert [kept.num_rows for kept in memory.texts] == [20]
    assert (
        memory.num_reusable_prefix([*range(8, 37)]),
        memory.num_reusable_prefix([*range(8, 20)]),
        memory.num_reusable_prefix([8, 9, 1]),
    ) == (29, 11, 1)


# ---- what it costs


def test_the_head_runs_only_if_asked_and_for_all_requests_at_once(random):
    target = ToyTarget(sharpness=3.0)
    part = create_drafter(f"eagle:{random}:max_depth=3:threshold=0.0001", DrafterContext(target))
    calls, head = [], part.head
    part.head = lambda rows: calls.append(rows.token_ids.shape) or head(rows)
    drafter = CombinedDrafter([part], ["eagle"], is_ordered=False)
    requests = [make_request(target, [i, i], SamplingParams(max_tokens=12), drafter, num_draft_tokens=8) for i in range(5)]
    run(target, requests)
    assert len(calls) == 3 * max(request.stats.num_drafts for request in requests)
    assert calls[0] == (5, 4)
    calls.clear()
    run(target, [make_request(target, [3, 4], SamplingParams(max_tokens=5), drafter, num_draft_tokens=0)])
    assert calls == []


def test_long_prompts_do_not_wait(random, monkeypatch):
    monkeypatch.setattr("outpace.drafters.eagle.FILL", 4)
    target = ToyTarget(sharpness=3.0)
    drafter, waiting = create_drafter(f"eagle:{random}", DrafterContext(target)), []
    observe_prompt = drafter.observe_prompt

    def note(request, start, hidden):
        observe_prompt(request, start, hidden)
        waiting.append(len(drafter.texts[request.id].cache.waiting))

    drafter.observe_prompt = note
    run(target, [make_request(target, [1] * 9, GREEDY, drafter)], EngineConfig(max_num_batched_tokens=3, min_prefill_chunk=3))
    assert waiting == [3, 1, 3]


def test_a_head_that_fails_once_is_asked_again_request_by_request(random):
    target = ToyTarget(sharpness=3.0)
    drafter = create_drafter(f"eagle:{random}", DrafterContext(target))
    calls, head = itertools.count(), drafter.head
    drafter.head = lambda rows: head(rows) if next(calls) != 3 else 1 / 0
    requests = [make_request(target, prompt, GREEDY, drafter) for prompt in PROMPTS]
    run(target, requests, EngineConfig(on_drafter_error="continue"))
    assert [r.output_token_ids for r in requests] == generate(target, PROMPTS, GREEDY)
    assert all(r.stats.num_drafts > 5 and not r.stats.drafter_error for r in requests)


# ---- what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (":max_depth=0", "max_depth and branches must be from 1 to 32"),
        (":branches=33", "max_depth and branches must be from 1 to 32"),
        (":threshold=0", "threshold must be"),
        (":threshold=1", "threshold must be"),
    ],
)
def test_wrong_options_are_refused(fitted, options, message):
    with pytest.raises(BadInputError, match=message):
        create_drafter(f"eagle:{fitted}{options}", DrafterContext(ToyTarget(sharpness=3.0)))


def test_heads_that_do_not_fit_are_refused(fitted, tmp_path, monkeypatch):
    with pytest.raises(BadInputError, match="eagle: no heads for toy come with outpace; train some and give their folder: eagle:PATH"):
        create_drafter("eagle", DrafterContext(ToyTarget()))
    with pytest.raises(BadInputError, match=r"does not fit: it was made for toy \(toy-3-0\), but this model is toy with other weights"):
        create_drafter(f"eagle:{fitted}", DrafterContext(ToyTarget()))
    with pytest.raises(BadInputError, match="there is no helper in"):
        create_drafter(f"eagle:{tmp_path}", DrafterContext(ToyTarget()))
    DraftHeads("medusa", ToyTarget().base, {}, {}).save_pretrained(tmp_path)
    with pytest.raises(BadInputError, match="this helper is of kind 'medusa', not eagle"):
        create_drafter(f"eagle:{tmp_path}", DrafterContext(ToyTarget()))
    monkeypatch.delattr(ToyTarget, "embeddings")
    with pytest.raises(BadInputError, match="does not lend its embeddings"):
        create_drafter(f"eagle:{fitted}", DrafterContext(ToyTarget(sharpness=3.0)))


def test_it_is_ready_where_a_head_comes_with_outpace(fitted, tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "ASSETS", tmp_path)
    target = ToyTarget(sharpness=3.0)
    assert usage("eagle") == "eagle[:PATH]"
    assert "eagle" not in ready_drafters(target.base)
    DraftHeads.from_pretrained(fitted).save_pretrained(tmp_path / "eagle-toy")
    assert "eagle" in ready_drafters(target.base)
    drafter = create_drafter("eagle", DrafterContext(target))
    assert isinstance(drafter, EagleDrafter)
    assert generate(target, PROMPTS, GREEDY, drafter) == generate(target, PROMPTS, GREEDY)
