"""LLM on a toy model, where only the bookkeeping counts: settings, streams, stops, seeds."""

from __future__ import annotations

import pytest
from api_tools import DRAFTERS, facts, params
from tokenizers import decoders

from outpace.config import EngineConfig, SpeculativeConfig
from outpace.errors import BadInputError
from outpace.llm import LLM
from outpace.testing import AcceptEverythingVerifier


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
        ({"speculative_config": "api_tools:Nothing"}, "cannot import api_tools:Nothing"),
        ({"speculative_config": "no_such_module:Drafter"}, "cannot import no_such_module:Drafter"),
        ({"speculative_config": "api_tools:NoSubclass"}, "not a subclass"),
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
        ({"threads": 0}, "threads must be an integer of at least 1"),
        ({"threads": "2"}, "threads must be an integer of at least 1"),
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
    """What a request got in the steps of another call is delivered too."""
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
    llm = make_toy("blind", num_draft_tokens=3, verifier="typical")
    assert llm.speculative_config == SpeculativeConfig("blind", 3, "typical")
    assert type(llm.strategy(None).verifier).__name__ == "TypicalVerifier"
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


def test_a_completion_keeps_the_space_it_begins_with_and_an_answer_does_not(toy_llm):
    """With a tokenizer that drops the space at the beginning of a text, as those of Llama 2 and Mistral do."""
    fast = toy_llm.tokenizer.fast
    fast.decoder = decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    spaces = {"max_tokens": 2, "logit_bias": {fast.token_to_id(" "): 100}}
    assert toy_llm.generate("ab", spaces)[0].text == "  "
    assert toy_llm.generate(toy_llm.tokenizer.encode("ab"), spaces)[0].pieces == [" ", " "]
    assert "".join(piece.text for piece in toy_llm.stream("ab", spaces)) == "  "
    assert toy_llm.chat([{"role": "user", "content": "ab"}], spaces)[0].text == " "
    conversation = toy_llm.tokenizer.encode_chat([{"role": "user", "content": "ab"}])
    assert "".join(piece.text for piece in toy_llm.stream(conversation, spaces)) == " "
