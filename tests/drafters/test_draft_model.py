"""The helper-model drafter: in step with the text whatever is accepted, across tokenizers, and silent where the helper cannot go."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import prompt
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, pre_tokenizers, trainers
from tokenizers.models import BPE

from outpace import LLM, SamplingParams
from outpace.drafters.base import DrafterContext, DraftModel
from outpace.drafters.draft_model.drafter import likeliest
from outpace.drafters.draft_model.vocab_mapping import Reencoded, SameVocab, SharedVocab, start_tokens, token_texts, translation
from outpace.drafters.spec import create_drafter
from outpace.errors import BadInputError
from outpace.models.tokenizer import Tokenizer
from outpace.targets.toy import ToyTarget
from outpace.testing import InexactTarget, check_drafter, generate, make_request, run
from outpace.tree.draft import Draft

FEW = settings(deadline=None, derandomize=True, max_examples=25)
PROMPTS = [[1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3], [5, 6, 5, 6, 5], [7]]


def letters(tokens: list[str], merges: list[tuple[str, str]]) -> Tokenizer:
    """A tokenizer whose texts are letters; a token is one letter or several merged ones."""
    fast = FastTokenizer(BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    fast.decoder = decoders.Fuse()
    return Tokenizer(fast)


OURS = letters([*"abcdefg", "ab", "cd", "ef", "abcd", "ga"], [("a", "b"), ("c", "d"), ("e", "f"), ("ab", "cd"), ("g", "a")])
THEIRS = letters([*"gfedcba", "bc", "de", "fg", "ab"], [("b", "c"), ("d", "e"), ("f", "g"), ("a", "b")])


def helper(**options) -> DraftModel:
    """Partly right about ToyTarget(sharpness=3.0): the same noise, weighted otherwise."""
    return DraftModel(ToyTarget(**{"sharpness": 1.0, **options}))


def context(target, model: DraftModel, tokenizer=None) -> DrafterContext:
    return DrafterContext(target, tokenizer, lambda name, num_layers: model)


def drafter(target, model: DraftModel, options: str = "", tokenizer=None):
    return create_drafter(f"draft_model:helper{options}", context(target, model, tokenizer))


# ---- conformance


@pytest.mark.parametrize("options", ["", ":branches=2", ":branches=3:max_depth=3", ":min_confidence=0.5", ":max_depth=1"])
def test_the_rules_hold(options):
    check_drafter(lambda given: drafter(given.target, helper(), options))


@pytest.mark.parametrize("size", [9, 40])
def test_the_rules_hold_for_other_paddings_of_the_vocabulary(size):
    check_drafter(lambda given: drafter(given.target, helper(vocab_size=size), ":branches=2"))


@pytest.mark.parametrize("options", ["", ":vocab=shared", ":vocab=shared:branches=2"])
def test_the_rules_hold_between_tokenizers(options):
    model = DraftModel(ToyTarget(vocab_size=11, seed=3), THEIRS)
    check_drafter(lambda given: drafter(given.target, replace(model, target=ToyTarget(vocab_size=11, seed=3)), options, OURS))


@pytest.mark.parametrize("trees", [(False, True), (True, False), (False, False)])
def test_chains_where_either_has_no_trees(trees):
    ours, theirs = trees
    check_drafter(lambda given: drafter(given.target, helper(tree=theirs), ":branches=3"), ToyTarget(sharpness=3.0, tree=ours))


def test_beside_another_drafter():
    check_drafter(lambda given: create_drafter("suffix+draft_model:x", context(given.target, helper())))


# ---- in step with the text


@pytest.mark.parametrize("depth", [1, 2, 4, 7])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_perfect_helper_is_always_right_and_never_short_of_a_token(depth, batch):
    """After full acceptance the helper has not seen the last guess: it must, or the guess after it is wrong."""
    target, model, steps = ToyTarget(sharpness=3.0), DraftModel(ToyTarget(sharpness=3.0)), 6
    guess = drafter(target, model, f":max_depth={depth}")
    params = SamplingParams(max_tokens=steps * (depth + 1))
    before = model.target.num_passes
    requests = run(target, [make_request(target, p, params, guess) for p in PROMPTS[:batch]])
    for request in requests:
        assert request.stats.num_steps == steps
        assert request.stats.num_accepted_tokens == request.stats.num_draft_tokens == steps * depth
    assert [request.output_token_ids for request in requests] == generate(target, PROMPTS[:batch], params)
    assert model.target.num_passes - before <= batch * steps * depth  # catching up costs rows, not passes
    assert model.target.cache == {}


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("options", ["", ":branches=3"])
@pytest.mark.parametrize("target", [ToyTarget(sharpness=3.0), InexactTarget(sharpness=3.0), ToyTarget(sharpness=3.0, exact_trees=False)])
def test_the_cache_follows_the_text_through_rejections(target, options, temperature):
    model = helper()
    guess = drafter(target, model, options)
    propose, depths = guess.propose, set()

    def watched(request, budget):
        """The first guess must be what the helper says without any cache."""
        draft = propose(request, budget)
        slot, text = guess.slots[request.id], request.context
        assert slot.token_ids == text[: slot.num_cached]
        assert len(request.token_ids) - slot.num_cached == 1
        assert draft.token_ids[0] == model.target.logits_after(text).argmax()
        path = [*text, draft.token_ids[0]]
        deeper = [node for node in range(len(draft)) if draft.parents[node] == 0]
        assert not deeper or draft.token_ids[deeper[0]] == model.target.logits_after(path).argmax()
        return draft

    guess.propose = watched
    guess.observe = lambda request, verdict, output: depths.add(len(verdict.path))
    params = SamplingParams(temperature=temperature, max_tokens=60)
    assert generate(target, PROMPTS, params, guess) == generate(target, PROMPTS, params)
    assert len(depths) >= 3  # accepted to several depths, or not at all
    assert guess.slots == {}
    assert model.target.cache == {}


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_end_may_come_at_every_offset(temperature):
    target, params = ToyTarget(sharpness=3.0), SamplingParams(temperature=temperature, max_tokens=24)
    guess = drafter(target, DraftModel(ToyTarget(sharpness=3.0)), ":max_depth=4")
    whole = generate(target, PROMPTS[:1], params)[0]
    for offset, token in enumerate(whole):
        assert generate(target, PROMPTS[:1], replace(params, max_tokens=offset + 1), guess) == [whole[: offset + 1]]
        stopped = generate(target, PROMPTS[:1], replace(params, stop_token_ids=(token,)), guess)
        assert stopped == [whole[: whole.index(token) + 1]]
        count = iter(range(99))
        (request,) = run(target, [make_request(target, PROMPTS[0], params, guess, stop_check=lambda _, o=offset, c=count: next(c) == o)])
        assert (request.output_token_ids, request.finish_reason) == (whole[: offset + 1], "stop")
    assert guess.slots == {}


def test_trees_hold_the_likeliest_nodes_and_their_chances():
    target, model = ToyTarget(sharpness=3.0), helper()
    request = make_request(target, PROMPTS[0])
    draft = drafter(target, model, ":branches=3:max_depth=4").propose(request, 9)
    assert len(draft) == 9
    assert not draft.is_chain
    for node, parent in enumerate(draft.parents):
        path, at = [], parent
        while at >= 0:
            path, at = [draft.token_ids[at], *path], draft.parents[at]
        row = model.target.logits_after([*request.context, *path])
        weights = np.exp(row - row.max())
        assert draft.confidences[node] == pytest.approx(weights[draft.token_ids[node]] / weights.sum(), rel=1e-4)
        assert draft.token_ids[node] in np.argsort(-row)[:3]
    assert draft.draft_probs is None


def test_drafting_stops_where_a_pass_of_the_helper_costs_more_than_it_may_bring():
    target, request = ToyTarget(sharpness=3.0), make_request(ToyTarget(), PROMPTS[0])
    lengths = []
    for cost in (0.0, 0.3, 0.6, 5.0):
        draft = drafter(target, replace(helper(), pass_cost=cost)).propose(request, 7)
        lengths.append(len(draft))
        paths = np.cumprod(draft.confidences)
        assert all(paths[:-1] >= min(cost, 0.9))  # every node but the last was worth another pass
        assert len(draft) == 7 or paths[-1] < min(cost, 0.9)
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] == 7
    assert lengths[-1] >= 1
    assert len(drafter(target, replace(helper(), pass_cost=5.0), ":min_confidence=0").propose(request, 7)) == 7


# ---- no draft, never an error


def test_a_text_longer_than_the_helpers_context_decodes_plainly():
    target, params = ToyTarget(sharpness=3.0), SamplingParams(max_tokens=60)
    model = helper(max_len=40)
    guess = drafter(target, model)
    (request,) = run(target, [make_request(target, PROMPTS[0], params, guess)])
    assert request.output_token_ids == generate(target, PROMPTS[:1], params)[0]
    assert request.stats.num_draft_tokens > 0
    request.token_ids = [1] * 40
    assert len(guess.propose(request, 4)) == 0
    request.token_ids = [1] * 38
    assert len(guess.propose(request, 4)) == 2
    guess.end(request)


def test_a_helper_without_a_free_slot_leaves_the_others_alone():
    target, params = ToyTarget(sharpness=3.0), SamplingParams(max_tokens=30)
    guess = drafter(target, helper(max_slots=1))
    requests = run(target, [make_request(target, p, params, guess) for p in PROMPTS])
    assert [request.output_token_ids for request in requests] == generate(target, PROMPTS, params)
    assert requests[0].stats.num_draft_tokens > 0
    waited = sorted(request.stats.num_steps - request.stats.num_drafts for request in requests)
    assert waited[0] <= 1 < waited[1]  # who has the slot never waits, the others until it is free


def test_a_text_with_tokens_the_helper_lacks_is_not_continued():
    target = ToyTarget()
    guess = drafter(target, helper(vocab_size=6))
    request = make_request(target, [1, 2, 3])
    draft = guess.propose(request, 4)
    assert len(draft) == 4
    assert max(draft.token_ids) < 6
    request.token_ids = [1, 2, 9]
    assert len(guess.propose(request, 4)) == 0


# ---- between tokenizers


def byte_level(size: int, text: str) -> Tokenizer:
    """A byte-level BPE tokenizer as GPT-2's, trained on this text."""
    fast = FastTokenizer(BPE())
    fast.pre_tokenizer, fast.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    fast.train_from_iterator([text], trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, special_tokens=["<end>"]))
    return Tokenizer(fast)


def metaspace(size: int, text: str) -> Tokenizer:
    """A BPE tokenizer with spaces as in SentencePiece, and single bytes for what it does not know."""
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    fast = FastTokenizer(BPE(byte_fallback=True, unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.Metaspace()
    fast.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=["<unk>", *byte_tokens])
    fast.train_from_iterator([text], trainer)
    saved = json.loads(fast.to_str())
    saved["added_tokens"] = saved["added_tokens"][:1]  # the trainer knows no other way to bytes than as special tokens
    return Tokenizer(FastTokenizer.from_str(json.dumps(saved)))


TEXT = "the cat sat on the mat and the dog sat on the cat; the mat was flat. naïve café, 東京 — “yes” 🙂 " * 3
PLAIN = "the dog and the cat sat on a flat mat. that was the end of the cat and the dog, they say in the café 🙂 "
BYTES_A, BYTES_B, SPACES = byte_level(330, TEXT), byte_level(300, PLAIN), metaspace(330, TEXT + PLAIN)
PAIRS = [(BYTES_A, BYTES_B), (BYTES_B, BYTES_A), (BYTES_A, SPACES), (SPACES, BYTES_B)]


def say(bridge, target: Tokenizer, other: Tokenizer, before: str, after: str):
    """The target's draft for a helper that continues `before` with `after`."""
    context = target.encode(before)
    helper_context = bridge.to_helper(context)
    drafted = other.encode(after)
    draft = replace(Draft.chain(drafted), confidences=[0.5] * len(drafted))
    return helper_context, bridge.to_target(context, helper_context, draft)


@pytest.mark.parametrize("pair", PAIRS, ids=["bytes-bytes", "bytes-bytes back", "bytes-spaces", "spaces-bytes"])
def test_texts_cross_between_tokenizers(pair):
    target, other = pair
    bridge = translation(target, other, 1000, 1000, is_shared=False)
    assert isinstance(bridge, Reencoded)
    before, after = "the cat sat on", " the mat and the dog"
    helper_context, draft = say(bridge, target, other, before, after)
    assert other.decode(helper_context) == before
    assert target.decode([*target.encode(before), *draft.token_ids]) == before + after
    assert list(draft.token_ids) == target.encode(before + after)[len(target.encode(before)) :]
    assert draft.is_chain
    assert all(0 < confidence <= 1 for confidence in draft.confidences)
    assert np.prod(draft.confidences) == pytest.approx(0.5 ** len(other.encode(after)))


def test_a_continuation_that_would_change_the_text_before_it_is_not_drafted():
    bridge = Reencoded(OURS, THEIRS, 12)
    assert OURS.encode("fab") == [5, 7]
    _, draft = say(bridge, OURS, THEIRS, "fab", "cd")  # "ab" + "cd" is one token: nothing of it can follow the context
    assert len(draft) == 0
    _, draft = say(bridge, OURS, THEIRS, "fab", "ecd")
    assert list(draft.token_ids) == [4, 8]


@pytest.mark.parametrize("pair", PAIRS, ids=["bytes-bytes", "bytes-bytes back", "bytes-spaces", "spaces-bytes"])
@pytest.mark.parametrize("is_shared", [False, True])
@FEW
@given(data=st.data())
def test_no_tokens_whatever_raise(pair, is_shared, data):
    target, other = pair
    sizes = target.fast.get_vocab_size(), other.fast.get_vocab_size()
    bridge = translation(target, other, *sizes, is_shared=is_shared)
    context = data.draw(st.lists(st.integers(0, sizes[0] - 1), min_size=1, max_size=12))
    helper_context = bridge.to_helper(context)
    if helper_context is None:
        return
    assert all(0 <= token < sizes[1] for token in helper_context)
    allowed = bridge.token_at(np.arange(len(np.arange(sizes[1])[bridge.columns]))).tolist()
    drafted = data.draw(st.lists(st.sampled_from(allowed), min_size=1, max_size=6))
    draft = bridge.to_target(context, helper_context, replace(Draft.chain(drafted), confidences=[0.9] * len(drafted)))
    assert all(0 <= token < sizes[0] for token in draft.token_ids)
    assert len(draft.confidences or ()) == len(draft)
    if is_shared:
        texts, others = token_texts(target, sizes[0]), token_texts(other, sizes[1])
        assert [texts[token] for token in draft.token_ids] == [others[token] for token in drafted]


def test_a_text_that_ends_inside_a_character_waits_for_the_rest():
    bridge = translation(BYTES_A, SPACES, 400, 400, is_shared=False)
    letter_bytes = [BYTES_A.fast.token_to_id(letter) for letter in ("ð", "Ł", "ĺ", "Ģ")]  # an emoji, byte by byte
    assert BYTES_A.decode(letter_bytes) == "😀"
    for cut in (1, 2, 3):
        assert bridge.to_helper([*BYTES_A.encode("the cat"), *letter_bytes[:cut]]) is None
    assert SPACES.decode(bridge.to_helper([*BYTES_A.encode("the cat"), *letter_bytes])) == "the cat😀"
    _, draft = say(translation(SPACES, BYTES_A, 400, 400, is_shared=False), SPACES, BYTES_A, "the cat", "")
    assert len(draft) == 0


def test_the_texts_of_tokens_agree_between_kinds_of_tokenizers():
    ours, theirs = token_texts(BYTES_A, 400), token_texts(SPACES, 400)
    assert ours[BYTES_A.fast.token_to_id("Ġthe")] == theirs[SPACES.fast.token_to_id("\u2581the")] == b" the"
    assert ours[BYTES_A.fast.token_to_id("<end>")] == b"\0<end>"
    assert {bytes([byte]) for byte in range(256)} <= set(theirs.values())
    bridge = SharedVocab(BYTES_A, SPACES, 400, 400)
    assert [theirs[token] for token in bridge.to_helper(BYTES_A.encode(" the cat"))] == [b" the", b" cat"]
    assert max(token_texts(BYTES_A, 100)) == 99


def test_equal_tokenizers_are_known_by_their_tokens_not_by_their_sizes():
    assert isinstance(translation(BYTES_A, byte_level(330, TEXT), 512, 384, is_shared=False), SameVocab)
    assert translation(BYTES_A, byte_level(330, TEXT), 512, 384, is_shared=False).size == 384
    assert translation(BYTES_A, None, 512, 384, is_shared=True).size == 384
    longer = byte_level(330, TEXT)
    longer.fast.add_special_tokens(["<tool>"])
    size = BYTES_A.fast.get_vocab_size()
    assert translation(BYTES_A, longer, 512, 512, is_shared=False).size == size
    assert translation(longer, BYTES_A, 512, 512, is_shared=False).size == size
    assert isinstance(translation(OURS, THEIRS, 12, 12, is_shared=False), Reencoded)  # 12 and 11 tokens of other meaning
    with pytest.raises(BadInputError, match="needs the target's tokenizer"):
        translation(None, OURS, 12, 12, is_shared=False)
    with pytest.raises(BadInputError, match="no token in common"):
        translation(OURS, letters([*"xyz"], []), 12, 3, is_shared=True)


def test_what_a_tokenizer_puts_in_front_is_kept():
    from tokenizers.processors import TemplateProcessing

    other = byte_level(300, PLAIN)
    other.fast.post_processor = TemplateProcessing(single="<end> $A <end>", special_tokens=[("<end>", 0)])
    assert start_tokens(other) == [0]
    assert start_tokens(BYTES_A) == []
    for is_shared in (False, True):
        ids = translation(BYTES_A, other, 400, 400, is_shared=is_shared).to_helper(BYTES_A.encode("the cat"))
        assert ids[0] == 0
        assert 0 not in ids[1:]


def test_likeliest():
    row = np.log(np.array([0.1, 0.4, 0.1, 0.3, 0.1], np.float32))
    for k in (1, 2, 3, 9):
        tokens, confidences = likeliest(row, k)
        assert tokens.tolist() == [1, 3, 0, 2, 4][:k] or (k == 3 and tokens.tolist()[:2] == [1, 3])
        np.testing.assert_allclose(confidences, [0.4, 0.3, 0.1, 0.1, 0.1][:k], rtol=1e-5)


# ---- specs


def test_the_path_and_the_number_of_layers_are_read():
    asked = []

    def load(name, num_layers):
        asked.append((name, num_layers))
        return helper()

    given = DrafterContext(ToyTarget(), None, load)
    for spec in ("self", "self:4", "org/name", "/some/folder:max_depth=5", "org/name:12:branches=2:max_depth=3", "path=a.gguf"):
        guess = create_drafter(f"draft_model:{spec}", given)
    assert asked == [("self", None), ("self", 4), ("org/name", None), ("/some/folder", None), ("org/name", 12), ("a.gguf", None)]
    assert guess.max_depth == guess.num_draft_tokens == 7


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("draft_model", "needs a path: draft_model:PATH"),
        ("draft_model:max_depth=2", "needs a path: draft_model:PATH"),
        ("draft_model:path=", "needs a path: draft_model:PATH"),
        ("draft_model:a:path=b", "'a' is not of the form key=value"),
        ("draft_model:a:max_depth=0", "at least 1"),
        ("draft_model:a:branches=0", "at least 1"),
        ("draft_model:a:min_confidence=2", "auto or a number from 0 to 1"),
        ("draft_model:a:min_confidence=low", "auto or a number from 0 to 1"),
        ("draft_model:a:vocab=all", "auto or shared"),
        ("draft_model:a:width=3", "no option 'width'"),
    ],
)
def test_bad_specs_are_told_in_one_line(spec, message):
    with pytest.raises(BadInputError, match=message) as caught:
        create_drafter(spec, context(ToyTarget(), helper()))
    assert "\n" not in str(caught.value)


def test_without_a_way_to_load_models_it_says_so():
    with pytest.raises(BadInputError, match="no helper model can be loaded here"):
        create_drafter("draft_model:self", DrafterContext(ToyTarget()))


def test_a_helper_is_loaded_once(make_toy):
    llm = make_toy("none")
    first = llm.strategy("draft_model:self").drafter.helper
    assert first is llm.strategy("draft_model:self:max_depth=3").drafter.helper
    assert first is not llm.strategy("draft_model:self:1").drafter.helper
    assert first.target is not llm.target
    texts, params = ["a text", "another", "the third one"], SamplingParams(max_tokens=64, ignore_eos=True)
    plain = llm.generate(texts, params, speculative_config="none")
    guessed = llm.generate(texts, params, speculative_config="draft_model:self:min_confidence=0")
    assert [output.token_ids for output in guessed] == [output.token_ids for output in plain]
    assert all(output.tokens_per_step == 8.0 for output in guessed)


# ---- the first layers of real models


def live_model(num_layers: int = 3):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": num_layers, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.2, "eos_token_id": 1}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).eval()


def words() -> Tokenizer:
    from tokenizers.models import WordLevel

    return Tokenizer(FastTokenizer(WordLevel({f"<{i}>": i for i in range(96)}, "<0>")))


def test_first_layers_share_the_weights_and_leave_the_model_alone():
    import torch

    from outpace.models.transformers_io import first_layers

    model, ids = live_model(), torch.tensor([prompt(9)])
    with torch.inference_mode():
        before = model(ids).logits
        part = first_layers(model, 2)
        got = part(ids).logits
        assert torch.equal(model(ids).logits, before)
        model.model.layers = model.model.layers[:2]
        assert torch.equal(model(ids).logits, got)
    assert part.config.num_hidden_layers == 2
    assert model.config.num_hidden_layers == 3
    assert {p.data_ptr() for p in part.parameters()} == {p.data_ptr() for p in model.parameters()}


def test_first_layers_that_cannot_be_had_are_told():
    from outpace.models.transformers_io import first_layers

    model = live_model()
    for number in (0, 4):
        with pytest.raises(BadInputError, match="the model has 3 layers"):
            first_layers(model, number)
    model.forward = model.forward
    with pytest.raises(BadInputError, match="on one device"):
        first_layers(model, 1)


SPECS = [
    "draft_model:self:1",
    "draft_model:self:1:branches=3:min_confidence=0",
    "draft_model:self:min_confidence=0",
    "suffix+draft_model:self:2",
]


def same_texts(llm: LLM, spec: str, temperature: float) -> list[float]:
    """Compares with plain decoding, alone and in a ragged batch; the mean acceptance lengths."""
    params = SamplingParams(max_tokens=32, temperature=temperature, seed=5, ignore_eos=True)
    prompts = [prompt(length, seed=length) * 2 for length in (5, 17, 40)]
    plain = [output.token_ids for output in llm.generate(prompts, params, speculative_config="none")]
    for batch in (prompts[:1], prompts):
        outputs = llm.generate(batch, params, speculative_config=spec)
        assert [output.token_ids for output in outputs] == plain[: len(batch)]
        assert all(output.stats.num_draft_tokens > 0 for output in outputs)
    assert llm.strategy(spec).drafter.__dict__.get("slots", {}) == {}
    return [output.tokens_per_step for output in outputs]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("spec", SPECS)
def test_live_models_lend_their_first_layers(spec, temperature):
    llm = LLM(live_model(), "none", tokenizer=words())
    lengths = same_texts(llm, spec, temperature)
    if ":self:min_confidence" in spec and temperature == 0:
        assert lengths == [pytest.approx(8.0)] * 3
    else:
        part = next(iter(llm.strategies.helpers.values())).target.model
        own = {p.data_ptr() for p in llm.target.model.parameters()}
        assert {p.data_ptr() for p in part.parameters()} <= own


@pytest.fixture(scope="module")
def loaded(tiny_models):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTPACE_HOME", str(tiny_models.home))
        return LLM(str(tiny_models["llama"]), "none", target="openvino", precision="f32")


@pytest.fixture
def converted_llm(loaded, tiny_models, monkeypatch):
    """An LLM over a tiny converted model; its first layers are converted into the same cache."""
    monkeypatch.setenv("OUTPACE_HOME", str(tiny_models.home))
    return loaded


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("spec", [*SPECS[:3], "suffix+draft_model:self:1"])  # each number of layers is one more conversion
def test_converted_models_lend_their_first_layers(converted_llm, spec, temperature):
    lengths = same_texts(converted_llm, spec, temperature)
    if ":self:min_confidence" in spec and temperature == 0:
        assert min(lengths) >= 4.0


def test_more_layers_than_there_are_is_one_clear_line(converted_llm):
    with pytest.raises(BadInputError, match="the model has 2 layers; its first 9 cannot be had"):
        converted_llm.strategy("draft_model:self:9")


@pytest.mark.real
def test_the_default_model_with_its_first_ten_layers(llm):
    for text in ("Count from one to twelve in words.", "Why is the sky blue?"):
        for temperature in (0.0, 0.8):
            params = SamplingParams(max_tokens=24, temperature=temperature, seed=1)
            messages = [{"role": "user", "content": text}]
            plain, guessed = (llm.chat(messages, params, speculative_config=spec)[0] for spec in ("none", "draft_model:self:10"))
            assert guessed.token_ids == plain.token_ids
            assert guessed.stats.num_draft_tokens > 0
