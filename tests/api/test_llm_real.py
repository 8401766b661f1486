"""LLM with the default model."""

from __future__ import annotations

import numpy as np
import pytest
from api_tools import DRAFTERS, TWO, facts, params

from outpace.config import EngineConfig, SpeculativeConfig
from outpace.errors import BadInputError
from outpace.llm import LLM

TWICE = "Repeat twice: The quick brown fox jumps over the lazy dog. The lazy dog sleeps, and the quick brown fox sleeps too."
CHAT = [{"role": "user", "content": TWICE}]
RAW = ["One, two, three, four, five, six,", "The capital of France is", "def add(a, b):\n    return"]


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
    """Same text, tokens and log-probabilities as plain decoding, in fewer steps where drafts are accepted."""
    asked = params(40, temperature=temperature, seed=11, logprobs=3)
    plain = idle.chat(CHAT, asked, speculative_config="none")[0]
    assert plain.from_draft == [False] * len(plain.token_ids)
    for name in DRAFTERS:
        fast = idle.chat(CHAT, asked, speculative_config=name)[0]
        assert facts(fast) == facts(plain), name
        assert fast.drafter == name
        if name != "prompt_lookup":  # chains; in trees a draft token may be accepted one step later
            assert sum(fast.from_draft) - bool(fast.sources[-1]) == fast.stats.num_accepted_tokens  # the end was cut off
        assert fast.stats.num_accepted_tokens - (len(fast.token_ids) - fast.stats.num_steps) in (0, 1)  # 1: the end was a draft token
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
    assert len(late.token_ids) == 30
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

    good_first, bad, good_last = idle.generate(prompts, params(logits_processors=(hook,)), return_errors=True)
    plain = [idle.generate(p, params())[0] for p in prompts]
    assert [facts(good_first), facts(good_last)] == [facts(plain[0]), facts(plain[2])]
    assert (bad.finish_reason, str(bad.error)) == ("error", "the hook is broken")
    assert 1 <= len(bad.token_ids) <= 6
    assert bad.token_ids == plain[1].token_ids[: len(bad.token_ids)]
    assert len(bad.token_ids) == len(bad.from_draft) == len(bad.pieces)
    assert bad.text == "".join(bad.pieces) == plain[1].text[: len(bad.text)]
    assert [output.error for output in (good_first, good_last)] == [None, None]
    (piece,) = [p for p in idle.stream(prompts[1], params(logits_processors=(hook,)), return_errors=True) if p.output]
    assert (piece.finish_reason, str(piece.output.error)) == ("error", "the hook is broken")


@pytest.mark.real
def test_hooks_see_the_path_of_every_draft_token(idle):
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
        (True, "auto"),
        (False, "none"),
        ("blind:tokens=frequent", "blind:tokens=frequent"),
        ({"method": "blind", "num_draft_tokens": 2}, "blind"),
        ({"num_draft_tokens": 0}, "auto"),
        ({"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4, "prompt_lookup_min": 2}, None),
        (SpeculativeConfig("api_tools:Repeat:window=3"), "api_tools:Repeat:window=3"),
        ({"method": "prompt_lookup", "verifier": "typical"}, "prompt_lookup"),
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
