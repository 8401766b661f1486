"""LLM: text in, text out. With the default model (marked real), and on a toy model where only the bookkeeping counts."""

from __future__ import annotations

import numpy as np
import pytest

from outpace.config import EngineConfig, SpeculativeConfig
from outpace.drafters.base import Drafter
from outpace.errors import BadInputError
from outpace.llm import LLM
from outpace.params import SamplingParams
from outpace.testing import AcceptEverythingVerifier
from outpace.tree.draft import Draft

TWICE = "Repeat twice: The quick brown fox jumps over the lazy dog. The lazy dog sleeps, and the quick brown fox sleeps too."
CHAT = [{"role": "user", "content": TWICE}]
RAW = ["One, two, three, four, five, six,", "The capital of France is", "def add(a, b):\n    return"]
DRAFTERS = ["blind", "prompt_lookup", "prompt_lookup:branches=1:choose=recent", "test_llm:Repeat"]
TWO = ["prompt_lookup", "test_llm:Repeat"]


class Repeat(Drafter):
    """A user's drafter: guesses the last tokens once more."""

    num_draft_tokens = 5

    def __init__(self, context, window: int = 9):
        self.window = window

    def propose(self, request, budget):
        return Draft.chain(request.context[-self.window :][:budget])


class NoSubclass:
    """Not a Drafter."""


def facts(output) -> tuple:
    """Everything about an answer that speculation must not change."""
    return output.text, output.token_ids, output.pieces, output.finish_reason, output.prompt_token_ids, output.seed, output.logprobs


def params(max_tokens: int = 24, **options) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, **options)


@pytest.fixture
def idle(llm):
    """The default model, and a check that nothing was left in the engine."""
    yield llm
    assert (llm.engine.scheduler.running, list(llm.engine.scheduler.waiting), llm._jobs) == ([], [], {})


def sibling(llm: LLM, monkeypatch, **config) -> LLM:
    """Another LLM over the same loaded model, with other sizes."""
    loaded = (llm.name, llm.target, llm.tokenizer, llm.eos_token_ids, llm.precision)
    monkeypatch.setattr("outpace.llm.load", lambda *_: loaded)
    return LLM(engine=EngineConfig(**config))


# ---- the default model


@pytest.mark.real
def test_one_prompt_or_several_text_or_tokens(idle):
    several = idle.generate(RAW, params(8))
    assert [output.prompt_token_ids for output in several] == [idle.tokenizer.encode(text) for text in RAW]
    for text, output in zip(RAW, several, strict=True):
        (single,) = idle.generate(text, params(8))
        assert facts(single) == facts(output)
        assert facts(idle.generate(idle.tokenizer.encode(text), params(8))[0]) == facts(output)
        assert output.text == idle.tokenizer.decode(output.token_ids) == "".join(output.pieces)
        assert len(output.token_ids) == len(output.from_draft) == len(output.pieces) == 8
        assert output.finish_reason == "length"
    assert "seven" in several[0].text


@pytest.mark.real
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_batch_gives_what_single_runs_give(idle, temperature):
    """Four prompts of different lengths in one batch, bit for bit, log-probabilities included."""
    prompts = [*RAW, idle.tokenizer.encode_chat(CHAT)]
    asked = params(20, temperature=temperature, seed=5, logprobs=2)
    batch = idle.generate(prompts, asked)
    assert [facts(output) for output in batch] == [facts(idle.generate(p, asked, speculative_config=False)[0]) for p in prompts]
    assert sum(output.stats.num_accepted_tokens for output in batch) > 0


@pytest.mark.real
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_drafters_change_nothing(idle, temperature):
    """Same text, tokens and log-probabilities as plain decoding, and fewer passes where the guesses are good."""
    asked = params(40, temperature=temperature, seed=11, logprobs=3)
    plain = idle.chat(CHAT, asked, speculative_config="none")[0]
    assert plain.from_draft == [False] * len(plain.token_ids)
    for name in DRAFTERS:
        fast = idle.chat(CHAT, asked, speculative_config=name)[0]
        assert facts(fast) == facts(plain), name
        assert fast.drafter == name
        if name != "prompt_lookup":  # chains; in trees a guess may be kept one step later
            assert sum(fast.from_draft) == fast.stats.num_accepted_tokens
        assert fast.stats.num_accepted_tokens - (len(fast.token_ids) - fast.stats.num_steps) in (0, 1)  # 1: the end was a guess
        if temperature == 0 and name.startswith("prompt_lookup"):
            assert fast.stats.num_steps < 0.7 * plain.stats.num_steps
            assert fast.tokens_per_step > 1.4


@pytest.mark.real
def test_seeds(idle):
    (free,) = idle.chat(CHAT, params(temperature=1.5))
    (again,) = idle.chat(CHAT, params(temperature=1.5, seed=free.seed))
    assert facts(again) == facts(free)  # the seed that was drawn is told
    (other,) = idle.chat(CHAT, params(temperature=1.5, seed=free.seed + 1))
    assert other.token_ids != free.token_ids


@pytest.mark.real
def test_chat_is_the_chat_format(idle):
    talk = [*CHAT, {"role": "assistant", "content": "No."}, {"role": "user", "content": "Please!"}]
    first, second = idle.chat([CHAT, talk], params(6))
    for messages, output in ((CHAT, first), (talk, second)):
        prompt = idle.tokenizer.encode_chat(messages)
        assert idle.tokenizer.fast.decode(prompt, skip_special_tokens=False).endswith("<|im_start|>assistant\n")
        assert facts(idle.generate(prompt, params(6))[0]) == facts(output) == facts(idle.chat(messages, params(6))[0])


@pytest.mark.real
def test_stream(idle):
    (want,) = idle.chat(CHAT, params())
    pieces = list(idle.stream(idle.tokenizer.encode_chat(CHAT), params()))
    assert len(pieces) == want.stats.num_steps
    assert "".join(piece.text for piece in pieces) == want.text
    assert [token for piece in pieces for token in piece.token_ids] == want.token_ids
    assert [flag for piece in pieces for flag in piece.from_draft] == want.from_draft
    assert [piece.finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + [want.finish_reason]
    assert [piece.output is None for piece in pieces] == [True] * (len(pieces) - 1) + [False]
    assert facts(pieces[-1].output) == facts(want)


@pytest.mark.real
def test_leaving_a_stream_early_frees_its_slot(idle):
    for piece in idle.stream(RAW[0], params(500)):
        assert len(idle.engine.scheduler.running) == 1
        assert piece.output is None
        break
    assert idle.engine.scheduler.running == []
    stream = idle.stream(RAW[0], params(500))
    next(stream)
    stream.close()
    assert idle.engine.scheduler.running == []


@pytest.mark.real
def test_streamers(idle, capsys):
    class Fake:
        def __init__(self):
            self.calls = []

        def put(self, value):
            self.calls.append(value)

        def end(self):
            self.calls.append("end")

    fake = Fake()
    (want,) = idle.generate(RAW[0], params(), streamer=fake)
    prompt, *steps, end = fake.calls
    assert end == "end"
    assert prompt.tolist() == [want.prompt_token_ids]
    assert np.concatenate(steps).tolist() == want.token_ids
    assert len(steps) == want.stats.num_steps

    transformers = pytest.importorskip("transformers")
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=idle.tokenizer.fast)
    capsys.readouterr()
    idle.chat(CHAT, params(), streamer=transformers.TextStreamer(theirs, skip_prompt=True, skip_special_tokens=True))
    assert capsys.readouterr().out == idle.chat(CHAT, params())[0].text + "\n"

    class Broken(Fake):
        def put(self, value):
            raise RuntimeError("the reader went away")

    with pytest.raises(RuntimeError, match="went away"):
        idle.generate(RAW[0], params(), streamer=Broken())
    with pytest.raises(BadInputError, match="one prompt"):
        idle.generate(RAW, params(), streamer=Fake())


@pytest.mark.real
def test_stop_strings_inside_accepted_blocks(idle):
    """A stop string that begins and ends in the middle of tokens ends the answer at the same place with and without drafts."""
    (whole,) = idle.chat(CHAT, params(40), speculative_config="none")
    flags = idle.chat(CHAT, params(40))[0].from_draft
    at = [i for i in range(1, len(flags) - 2) if flags[i] and flags[i + 1]][-1]
    before = sum(map(len, whole.pieces[:at]))
    stop = whole.text[before + 1 : before + len(whole.pieces[at]) + 1]
    place = whole.text.find(stop)
    for stops in (stop, ["nowhere at all", stop], [whole.text[place:], stop]):
        outputs = [idle.chat(CHAT, params(40, stop=stops), speculative_config=name)[0] for name in ("none", *TWO)]
        for output in outputs:
            assert facts(output) == facts(outputs[0])
            assert output.text == "".join(output.pieces) == whole.text[:place]
            assert output.finish_reason == "stop"
            assert output.token_ids == whole.token_ids[: len(output.token_ids)]
            assert stop in idle.tokenizer.decode(output.token_ids)
    (late,) = idle.chat(CHAT, params(30, stop=stop, min_tokens=30))
    assert late.finish_reason == "length"
    assert late.text.startswith(whole.text)


@pytest.mark.real
def test_the_model_ends_its_answer_and_ignore_eos_goes_on(idle):
    messages = [{"role": "user", "content": "Say only: yes"}]
    (short,) = idle.chat(messages, params(60))
    assert short.finish_reason == "stop"
    assert short.token_ids[-1] in idle.eos_token_ids
    assert short.pieces[-1] == ""
    (long,) = idle.chat(messages, params(60, ignore_eos=True))
    assert (long.finish_reason, len(long.token_ids)) == ("length", 60)
    assert long.token_ids[: len(short.token_ids)] == short.token_ids


@pytest.mark.real
def test_a_prompt_that_was_seen_is_not_read_again(idle):
    """The second time its start comes from the cache, and the answer is the same bit for bit."""
    prompt = "A text that no other test has: " + ", ".join(f"item {i} costs {i * 7 % 13} coins" for i in range(30)) + ". In short,"
    first, second = (idle.generate(prompt, params(12, logprobs=1))[0] for _ in range(2))
    assert facts(second) == facts(first)
    assert first.stats.num_cached_prompt_tokens < 64 < second.stats.num_cached_prompt_tokens < len(first.prompt_token_ids)
    (longer,) = idle.generate(prompt + first.text + " and then", params(4))
    assert longer.stats.num_cached_prompt_tokens >= second.stats.num_cached_prompt_tokens


@pytest.mark.real
def test_the_context_limits_the_answer(idle, monkeypatch):
    small = sibling(idle, monkeypatch, max_model_len=40)
    prompt = idle.tokenizer.encode(RAW[0])
    (output,) = small.generate(RAW[0], params(500, min_tokens=499))
    assert (output.finish_reason, len(output.token_ids)) == ("length", 40 - len(prompt))
    assert output.token_ids == idle.generate(RAW[0], params(40 - len(prompt), ignore_eos=True))[0].token_ids
    (last,) = small.generate([prompt[i % len(prompt)] for i in range(39)], params(5))
    assert len(last.token_ids) == 1
    with pytest.raises(BadInputError, match="the prompt has 40 tokens; with one new token at most 40 fit"):
        small.generate([prompt[i % len(prompt)] for i in range(40)], params(5))
    limit = idle.engine.max_len
    assert limit >= 8000
    with pytest.raises(BadInputError, match=f"the prompt has {limit} tokens; with one new token at most {limit} fit"):
        idle.generate([5] * limit)


@pytest.mark.real
def test_a_hook_that_raises_ends_only_its_own_request(idle):
    prompts = [idle.tokenizer.encode(text) for text in RAW]

    def hook(token_ids, logits):
        if token_ids[: len(prompts[1])] == prompts[1] and len(token_ids) > len(prompts[1]) + 5:
            raise RuntimeError("the hook is broken")
        return logits

    good_first, bad, good_last = idle.generate(prompts, params(logits_processors=(hook,)))
    plain = [idle.generate(p, params())[0] for p in prompts]
    assert [facts(good_first), facts(good_last)] == [facts(plain[0]), facts(plain[2])]
    assert (bad.finish_reason, str(bad.error)) == ("error", "the hook is broken")
    assert 1 <= len(bad.token_ids) <= 6
    assert bad.token_ids == plain[1].token_ids[: len(bad.token_ids)]
    assert len(bad.token_ids) == len(bad.from_draft) == len(bad.pieces)
    assert bad.text == "".join(bad.pieces) == plain[1].text[: len(bad.text)]
    assert [output.error for output in (good_first, good_last)] == [None, None]
    (piece,) = [p for p in idle.stream(prompts[1], params(logits_processors=(hook,))) if p.output]
    assert (piece.finish_reason, str(piece.output.error)) == ("error", "the hook is broken")


@pytest.mark.real
def test_hooks_see_the_path_of_every_guess(idle):
    """A hook that depends on the number of tokens gives the same text with and without drafts."""

    def hook(token_ids, logits):
        if len(token_ids) % 3 == 0:
            logits = logits.copy()
            logits[np.argmax(logits)] = -np.inf
        return logits

    plain, *fast = (
        idle.chat(CHAT, params(30, logits_processors=(hook,), repetition_penalty=1.1), speculative_config=n)[0] for n in ("none", *TWO)
    )
    assert [facts(output) for output in fast] == [facts(plain)] * len(fast)
    assert plain.token_ids != idle.chat(CHAT, params(30, repetition_penalty=1.1))[0].token_ids


@pytest.mark.real
@pytest.mark.parametrize(
    ("speculative", "name"),
    [
        (None, "prompt_lookup"),
        (True, "prompt_lookup"),
        (False, "none"),
        ("blind:tokens=frequent", "blind:tokens=frequent"),
        ({"method": "blind", "num_draft_tokens": 2}, "blind"),
        ({"num_draft_tokens": 0}, "prompt_lookup"),
        ({"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4, "prompt_lookup_min": 2}, None),
        (SpeculativeConfig("test_llm:Repeat:window=3"), "test_llm:Repeat:window=3"),
        ({"verifier": "rejection"}, "prompt_lookup"),
    ],
)
def test_every_call_may_speculate_in_its_own_way(idle, speculative, name):
    (output,) = idle.generate(RAW[0], params(16), speculative_config=speculative)
    assert facts(output) == facts(idle.generate(RAW[0], params(16), speculative_config="none")[0])
    assert output.drafter == (name or "prompt_lookup:max_ngram=4:min_ngram=2")
    if speculative is False or speculative == {"num_draft_tokens": 0}:
        assert output.stats.num_draft_tokens == 0
    if isinstance(speculative, dict) and "num_speculative_tokens" in speculative:
        assert output.stats.num_draft_tokens <= 3 * output.stats.num_drafts


@pytest.mark.real
def test_numbers_of_an_answer(idle):
    (output,) = idle.chat(CHAT, params(40, logprobs=2))
    assert output.tokens_per_step == len(output.token_ids) / output.stats.num_steps > 1
    assert output.acceptance_rate == output.stats.num_accepted_tokens / output.stats.num_draft_tokens
    assert output.tokens_per_second == pytest.approx(len(output.token_ids) / output.stats.decode_seconds)
    assert output.stats.prefill_seconds >= 0
    assert len(output.logprobs) == len(output.token_ids)
    for token, found in zip(output.token_ids, output.logprobs, strict=True):
        assert token == max(found, key=found.get)  # greedy
        assert len(found) == 2
        assert all(value <= 0 for value in found.values())


# ---- bookkeeping, on the toy model


def test_wrong_settings_are_told_before_the_model_loads(monkeypatch):
    def never(*_):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("outpace.llm.load", never)
    for options in (
        {"speculative_config": "nonsense"},
        {"speculative_config": "blind:tokens"},
        {"speculative_config": {"methd": "blind"}},
        {"speculative_config": 5},
        {"num_draft_tokens": -1},
        {"num_draft_tokens": 65},
    ):
        with pytest.raises(BadInputError):
            LLM(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speculative_config": "blind:tokens=odd"}, "tokens must be random or frequent"),
        ({"speculative_config": "blind:nothing=1"}, "has no option 'nothing'"),
        ({"speculative_config": "prompt_lookup:max_ngram=x"}, "max_ngram must be int"),
        ({"speculative_config": "test_llm:Nothing"}, "cannot import test_llm:Nothing"),
        ({"speculative_config": "no_such_module:Drafter"}, "cannot import no_such_module:Drafter"),
        ({"speculative_config": "test_llm:NoSubclass"}, "not a subclass"),
        ({"verifier": "nonsense"}, "unknown verifier 'nonsense'"),
    ],
)
def test_wrong_parts_are_told_when_the_model_is_there(make_toy, options, message):
    with pytest.raises(BadInputError, match=message):
        make_toy(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "nonsense"}, "no model 'nonsense'"),
        ({"target": "nonsense"}, "unknown target 'nonsense'"),
        ({"precision": "nonsense"}, "unknown precision 'nonsense'"),
        ({"precision": "nonsense", "target": "hf"}, "no precision 'nonsense'"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"model": object(), "target": "openvino"}, "a live model object needs target hf"),
        ({"model": object()}, "pass the tokenizer"),
    ],
)
def test_wrong_models(options, message, tmp_path, monkeypatch):
    monkeypatch.setenv("OUTPACE_HOME", str(tmp_path))
    monkeypatch.setattr(
        "outpace.models.load.locate", lambda name: pytest.fail("nothing needs to be fetched") if name == "default" else None
    )
    if options.get("target") == "hf":
        pytest.importorskip("torch")
        monkeypatch.setattr("outpace.models.load.locate", lambda name: type("Source", (), {"name": name, "path": tmp_path}))
    with pytest.raises(BadInputError, match=message) as caught:
        LLM(**{"model": "default", **options})
    assert "\n" not in str(caught.value)


def test_empty_prompts(toy_llm):
    for prompts, message in (("", "the prompt is empty"), ([""], "the prompt is empty"), ([[]], "the prompt is empty"), ([], "no prompt")):
        with pytest.raises(BadInputError, match=message):
            toy_llm.generate(prompts)
    with pytest.raises(BadInputError, match="the prompt is empty"):
        toy_llm.chat([{"role": "user", "content": ""}])
    with pytest.raises(BadInputError, match="the conversation is empty"):
        toy_llm.chat([])
    with pytest.raises(BadInputError, match="outside the vocabulary"):
        toy_llm.generate([[1, 10**6]])
    assert not toy_llm.engine.has_unfinished


def test_a_wrong_prompt_among_good_ones_leaves_nothing(toy_llm):
    with pytest.raises(BadInputError):
        toy_llm.generate(["abc", "", "abc"], params())
    assert not toy_llm.engine.has_unfinished
    assert toy_llm._jobs == {}


@pytest.mark.parametrize("prompt", [(1, 2, 3), [np.int64(1), np.int64(2)], range(1, 3)])
def test_tokens_in_other_clothes(toy_llm, prompt):
    assert toy_llm.generate(prompt, params(3))[0].prompt_token_ids == [int(token) for token in prompt]


@pytest.mark.parametrize(
    ("method", "value"),
    [
        ("generate", 5),
        ("generate", [None]),
        ("generate", [1.5]),
        ("generate", [[1, "a"]]),
        ("chat", "hello"),
        ("chat", ["hello"]),
        ("chat", {"role": "user", "content": "hello"}),
        ("chat", None),
    ],
)
def test_prompts_of_a_wrong_type(toy_llm, method, value):
    with pytest.raises(BadInputError):
        getattr(toy_llm, method)(value, params(2))


def test_an_array_of_tokens(toy_llm):
    assert toy_llm.generate(np.array([1, 2, 3]), params(3))[0].prompt_token_ids == [1, 2, 3]


def test_two_streams_side_by_side(toy_llm):
    """One of them is longer: each gets all of its text."""
    lengths = {"abc": 4, "hello": 30}
    want = {prompt: toy_llm.generate(prompt, params(n))[0].text for prompt, n in lengths.items()}
    streams = {prompt: toy_llm.stream(prompt, params(n)) for prompt, n in lengths.items()}
    texts = dict.fromkeys(lengths, "")
    while streams:
        for prompt, stream in list(streams.items()):
            piece = next(stream, None)
            if piece is None:
                del streams[prompt]
            else:
                texts[prompt] += piece.text
    assert texts == want


def test_a_call_inside_the_loop_of_a_stream(toy_llm):
    """What a request got while somebody else drove the engine is delivered too."""
    (want,) = toy_llm.generate("hello", params(30))
    text, last = "", None
    for number, piece in enumerate(toy_llm.stream("hello", params(30))):
        text, last = text + piece.text, piece
        if number == 0:
            toy_llm.generate("abc", params(100))
    assert text == want.text
    assert last.output is not None
    assert facts(last.output) == facts(want)


def test_a_call_inside_the_loop_of_a_longer_stream(toy_llm):
    (want,) = toy_llm.generate("hello", params(60))
    pieces = []
    for piece in toy_llm.stream("hello", params(60)):
        pieces.append(piece)
        if len(pieces) == 1:
            toy_llm.generate("abc", params(5))
    assert "".join(piece.text for piece in pieces) == want.text
    assert [token for piece in pieces for token in piece.token_ids] == want.token_ids


@pytest.mark.parametrize("drafter", ["none", *DRAFTERS])
def test_a_stream_holds_back_what_a_stop_string_may_take(make_toy, drafter):
    """Every place where the text can end, over several tokens: what was streamed is the text, and every step gives a piece."""
    llm = make_toy(drafter, toy={"sharpness": 6.0, "seed": 5})
    (whole,) = llm.generate("abcabcabc", params(30, ignore_eos=True))
    assert len(whole.text) == 30
    for start in range(27):
        stop = [whole.text[start : start + 3], "zzz", whole.text[start : start + 2] + "!"]
        pieces = list(llm.stream("abcabcabc", params(30, ignore_eos=True, stop=stop)))
        output = pieces[-1].output
        assert "".join(piece.text for piece in pieces) == output.text == whole.text[: whole.text.find(stop[0])]
        assert len(pieces) == output.stats.num_steps
        assert output.finish_reason == "stop"


def test_stop_token_ids(toy_llm):
    (whole,) = toy_llm.generate("hello", params(10, ignore_eos=True))
    last = whole.token_ids[4]
    (output,) = toy_llm.generate("hello", params(10, ignore_eos=True, stop_token_ids=[last]))
    assert output.token_ids == whole.token_ids[: whole.token_ids.index(last) + 1]
    assert output.finish_reason == "stop"


def test_a_stream_that_is_never_begun_holds_nothing(toy_llm):
    toy_llm.stream("hello")
    assert not toy_llm.engine.has_unfinished


def test_parts_are_built_once(toy_llm):
    assert toy_llm.strategy("blind") is toy_llm.strategy({"method": "blind"}) is toy_llm.strategy(SpeculativeConfig("blind"))
    assert toy_llm.strategy(None) is toy_llm.strategy("prompt_lookup")
    assert toy_llm.strategy("blind") is not toy_llm.strategy({"method": "blind", "num_draft_tokens": 1})


def test_settings_of_the_constructor(make_toy):
    llm = make_toy("blind", num_draft_tokens=3, verifier="rejection")
    assert llm.speculative_config == SpeculativeConfig("blind", 3, "rejection")
    assert type(llm.strategy(None).verifier).__name__ == "RejectionVerifier"
    assert llm.generate("hello", params(5))[0].drafter == "blind"
    assert make_toy(False).generate("hello", params(5))[0].drafter == "none"
    assert make_toy(num_draft_tokens=0).generate("abcabcabc", params(30))[0].stats.num_draft_tokens == 0


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("exact_trees", [True, False])
def test_drafts_change_no_text_on_the_toy_model(make_toy, temperature, exact_trees):
    """Stop strings, stop tokens, penalties and log-probabilities together, in a batch."""
    llm = make_toy(toy={"sharpness": 4.0, "exact_trees": exact_trees})
    prompts = ["hello hello hello", "abcabcabc", "x"]
    for stop in ((), ("ab", " t"), ("e", "zz")):
        asked = params(60, temperature=temperature, seed=3, stop=stop, min_tokens=4, frequency_penalty=0.1, logprobs=2, stop_token_ids=[7])
        plain = [facts(o) for o in llm.generate(prompts, asked, speculative_config=False)]
        for name in DRAFTERS:
            fast = llm.generate(prompts, asked, speculative_config=name)
            assert [facts(o) for o in fast] == plain
        assert {o.finish_reason for o in fast} <= {"stop", "length"}


def test_a_cheating_verifier_changes_the_text(toy_llm, monkeypatch):
    """The comparison above can fail."""
    monkeypatch.setattr("outpace.controller.factory.create_verifier", lambda name: AcceptEverythingVerifier())
    plain, cheat = (toy_llm.generate("hello hello", params(40), speculative_config=name)[0] for name in ("none", "blind"))
    assert facts(plain) != facts(cheat)


def test_an_unseeded_request_tells_its_seed(toy_llm):
    (first,) = toy_llm.generate("hello", params(30, temperature=1.0))
    assert 0 <= first.seed < 2**32
    assert facts(toy_llm.generate("hello", params(30, temperature=1.0, seed=first.seed))[0]) == facts(first)
    assert toy_llm.generate("hello", params(3))[0].seed == 0  # greedy needs none
    assert len({toy_llm.generate("hello", params(3, temperature=1.0))[0].seed for _ in range(5)}) == 5


def test_an_answer_is_clipped_at_the_context(make_toy):
    llm = make_toy(engine=EngineConfig(max_model_len=20))
    (output,) = llm.generate("hello", params(500, ignore_eos=True))
    assert (output.finish_reason, len(output.token_ids)) == ("length", 15)
    (output,) = llm.generate("a" * 19, params(500, min_tokens=400, ignore_eos=True))
    assert len(output.token_ids) == 1
    with pytest.raises(BadInputError, match="the prompt has 20 tokens; with one new token at most 20 fit"):
        llm.generate("a" * 20)
