"""Structured output: every answer has the asked form, drafts are cut and completed by the grammar, and the text never depends on them."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, pre_tokenizers
from tokenizers.models import BPE

from outpace.controller.base import FixedController
from outpace.controller.strategy import Strategy
from outpace.drafters.base import DrafterContext
from outpace.errors import BadInputError, OutpaceError
from outpace.llm import LLM
from outpace.models.tokenizer import Tokenizer
from outpace.params import SamplingParams, StructuredOutput
from outpace.sampling import grammar
from outpace.sampling.grammar import MAX_CACHED, GrammarCompiler, GrammarProcessor
from outpace.targets.toy import ToyTarget
from outpace.testing import InexactTarget, SampledDrafter, make_request
from outpace.tree.draft import Draft
from outpace.tree.unconfirmed import Unconfirmed
from outpace.verifiers import create_verifier

FEW = settings(deadline=None, derandomize=True, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
VOCAB = {letter: i for i, letter in enumerate(ALPHABET)} | {"<end>": len(ALPHABET)}
END = len(ALPHABET)
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 120}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
FORMS = {
    "schema": StructuredOutput("json_schema", PERSON),
    "regex": StructuredOutput("regex", r"(ab|c){2,5}-\d{3}(x|y)*z"),
    "choice": StructuredOutput("choice", ["yes", "no", "not at all", 'é "q" \\ \n .*']),
}
DRAFTERS = ["prompt_lookup", "suffix+recycling", "blind", "recycling"]


def make_fast() -> FastTokenizer:
    """A token is a byte; the last one is the end token."""
    fast = FastTokenizer(BPE(vocab=VOCAB, merges=[]))
    fast.add_special_tokens(["<end>"])
    fast.decoder = decoders.ByteLevel()
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return fast


FAST = make_fast()
COMPILER = GrammarCompiler(FAST, len(VOCAB), frozenset({END}))


def encode(text: str) -> list[int]:
    return FAST.encode(text).ids


def processor(form: StructuredOutput, ends: frozenset[int] = frozenset({END})) -> GrammarProcessor:
    return COMPILER.processor(form, ends)


def allowed(found: GrammarProcessor, path=()) -> set[int]:
    """The tokens that apply() leaves possible."""
    row = np.zeros(found.vocab_size, np.float32)
    found.apply(row, path)
    return set(np.flatnonzero(row == 0).tolist())


def words(text: str) -> list[str]:
    return [FAST.decode([token]) for token in encode(text)]


@pytest.fixture(params=[ToyTarget, InexactTarget])
def toy(request, monkeypatch) -> LLM:
    """An LLM whose tokens are bytes, over a target with exact trees and one without."""
    target = request.param(vocab_size=len(VOCAB), max_len=400, sharpness=1.5)
    loaded = "toy", target, Tokenizer(FAST, special={"eos_token": "<end>"}), frozenset({END}), "f32"
    monkeypatch.setattr("outpace.llm.load", lambda *_: loaded)
    return LLM("toy", "suffix+recycling")


# ---- what is allowed


@pytest.mark.parametrize("form", FORMS)
@FEW
@given(data=st.data())
def test_a_path_is_judged_as_if_it_were_committed(form, data):
    """Whatever paths were looked at before, in whatever order, and how many tokens were committed at once."""
    found = processor(FORMS[form])
    committed: list[int] = []
    for _ in range(data.draw(st.integers(1, 4))):
        paths: list[list[int]] = [[]]
        for _ in range(data.draw(st.integers(1, 8))):
            path = data.draw(st.sampled_from(paths))
            tokens = allowed(found, path)
            fresh = processor(FORMS[form])
            for token in [*committed, *path]:
                fresh.commit([token])
            assert tokens == allowed(fresh)
            if tokens - {END}:
                paths.append([*path, data.draw(st.sampled_from(sorted(tokens - {END})))])
        path = data.draw(st.sampled_from(paths))
        found.commit(path)
        committed += path


PIECES = st.recursive(
    st.sampled_from(["a", "b", "é", "0", ".", "[ab]", "[^a]", r"\d", r"\w", r"\.", "[a-c0-3]"]),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"(?:{pair[0]}|{pair[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}"])).map(lambda pair: f"(?:{pair[0]}){pair[1]}"),
    ),
    max_leaves=5,
)


@FEW
@given(regex=PIECES, data=st.data())
def test_regular_expressions_mean_what_they_mean_in_python(regex, data):
    """At every prefix of a matching text: the next byte is allowed, and the end exactly where Python's re says the text matches."""
    text = data.draw(st.from_regex(re.compile(regex, re.ASCII), fullmatch=True).filter(lambda text: len(text) < 60))
    pattern, found, done = re.compile(regex, re.ASCII), processor(StructuredOutput("regex", regex)), b""
    for byte, token in zip([*text.encode(), None], [*encode(text), END], strict=True):
        try:
            matches = pattern.fullmatch(done.decode()) is not None
        except UnicodeDecodeError:
            matches = False
        assert (END in allowed(found)) == matches
        assert token in allowed(found)
        found.commit([token])
        done += b"" if byte is None else bytes([byte])


@FEW
@given(regex=PIECES, seed=st.integers(0, 1000))
def test_what_the_mask_allows_matches(regex, seed):
    """A random walk through the masks that ends at an end token is a match."""
    rng, found, tokens = np.random.default_rng(seed), processor(StructuredOutput("regex", regex)), list[int]()
    for _ in range(40):
        choice = int(rng.choice(sorted(allowed(found))))
        found.commit([choice])
        if choice == END:
            assert re.compile(regex, re.ASCII).fullmatch(FAST.decode(tokens)), (regex, FAST.decode(tokens))
            return
        tokens.append(choice)


def test_end_tokens_are_allowed_exactly_where_the_grammar_accepts():
    found = processor(StructuredOutput("regex", "ab?"), frozenset({END, encode("b")[0]}))
    assert END not in allowed(found)
    found.commit(encode("a"))
    assert allowed(found) == {END, encode("b")[0]}
    assert allowed(found, encode("b")) == {END}
    assert found.forced(encode("b")) == END
    assert len(allowed(found, [END])) == len(VOCAB)  # nothing is committed behind the end
    found.commit([*encode("b"), END])
    assert found.forced([]) is None


def test_a_special_stop_token_ends_like_the_models_own():
    fast = make_fast()
    fast.add_special_tokens(["<stop>"])
    stops = frozenset({END, END + 1, END + 2, 10**9})  # the last two are no tokens at all
    found = GrammarCompiler(fast, END + 2, frozenset({END})).processor(StructuredOutput("choice", ["ab"]), stops)
    found.commit(encode("a"))
    assert allowed(found) == set(encode("b"))
    found.commit(encode("b"))
    assert allowed(found) == {END, END + 1}


def test_forbidden_tokens_are_refused_clearly():
    found = processor(FORMS["choice"])
    with pytest.raises(OutpaceError, match="does not allow"):
        found.mask(encode("q"))
    assert allowed(found) == {encode(text)[0] for text in ("yes", "no", "é")}  # and leave no trace
    row = np.full(len(VOCAB), -np.inf, np.float32)
    with pytest.raises(OutpaceError, match="leaves no token"):
        found.apply(row, [])


# ---- the shape of drafts


def shape(form: StructuredOutput, draft: Draft, budget: int = 8, limit: int = 40, unconfirmed=(), committed: str = "") -> Draft:
    request = make_request(ToyTarget(vocab_size=len(VOCAB)), [1])
    request.unconfirmed = Unconfirmed(list(unconfirmed))
    found = processor(form)
    found.commit(encode(committed))
    return found.shape(draft, request, budget, limit)


def tree(draft: Draft) -> set[str]:
    """The paths of the draft as texts."""
    paths = {-1: ""}
    for node, (token, parent) in enumerate(zip(draft.token_ids, draft.parents, strict=True)):
        paths[node] = paths[parent] + FAST.decode([token], skip_special_tokens=False)
    return set(paths.values()) - {""}


def test_forbidden_nodes_go_with_their_subtrees():
    form = StructuredOutput("regex", "[ab][cd][ef].*")
    tokens = encode("aqbcdqeaz")
    shaped = shape(form, Draft(tokens, [-1, -1, -1, 0, 0, 2, 3, 1, 8 - 1], confidences=[0.9, *[0.1] * 8], sources=list("123456789")))
    assert tree(shaped) == {"a", "b", "ac", "ad", "ace"}
    assert sorted(shaped.sources) == ["1", "3", "4", "5", "7"]
    assert shaped.confidences[0] == 0.9


def test_forced_tokens_come_first_and_cost_no_budget():
    shaped = shape(FORMS["schema"], Draft.chain(encode('{"name": "Al')), budget=3)
    assert FAST.decode(shaped.token_ids) == '{"name": "Al'
    assert shaped.sources == ["grammar"] * 10 + ["NoDrafter"] * 2
    assert shaped.confidences[:10] == [1.0] * 10
    assert len(shape(FORMS["schema"], Draft(), limit=4)) == 4


def test_forced_tokens_follow_the_leaves_while_the_budget_lasts():
    draft = Draft(encode("AB"), [-1, -1])
    form = StructuredOutput("regex", "(A12|B34)x+")
    assert tree(shape(form, draft, budget=8)) == {"A", "A1", "A12", "A12x", "B", "B3", "B34", "B34x"}
    assert tree(shape(form, draft, budget=3)) == {"A", "A1", "B"}


def test_the_end_is_forced_too_and_nothing_follows_it():
    shaped = shape(FORMS["choice"], Draft.chain([*encode("yes"), END, END, 5]))
    assert (FAST.decode(shaped.token_ids), shaped.token_ids[-1], len(shaped)) == ("yes", END, 4)


def test_pending_tokens_and_committed_ones_lead_the_draft():
    assert (
        FAST.decode(shape(FORMS["choice"], Draft(), unconfirmed=encode("es"), committed="y").token_ids, skip_special_tokens=False)
        == "<end>"
    )
    assert FAST.decode(shape(FORMS["choice"], Draft.chain(encode("ttx")), unconfirmed=encode("o"), committed="n").token_ids) == "t at all"


def test_probes_stay_behind_the_nodes_that_stay():
    form = StructuredOutput("regex", "[ab][cd].*")
    shaped = shape(form, Draft([*encode("aqc"), 7, 8, 9], [-1, -1, 0, 2, 1, -1], num_lookahead=3))
    assert (shaped.num_lookahead, shaped.token_ids[-2:], len(shaped)) == (2, [7, 9], 4)
    assert shaped.parents[-2:] == [1, -1]


def test_plain_decoding_stays_plain(toy):
    answer = toy.generate("ab", SamplingParams(structured=FORMS["schema"], max_tokens=60), speculative_config=False)[0]
    assert answer.stats.num_steps == len(answer.token_ids)
    assert "grammar" not in answer.sources


# ---- whole answers on the toy model


def is_valid(name: str, text: str) -> bool:
    if name == "schema":
        jsonschema.validate(json.loads(text), PERSON)
        return True
    return text in FORMS[name].value if name == "choice" else re.fullmatch(FORMS[name].value, text, re.ASCII) is not None


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("form", FORMS)
def test_every_drafter_gives_the_plain_text(toy, form, temperature):
    num_complete = 0
    for seed in range(4):
        params = SamplingParams(temperature=temperature, seed=seed, max_tokens=90, structured=FORMS[form], logprobs=1)
        plain = toy.generate("[]ab", params, speculative_config=False)[0]
        assert plain.error is None
        for drafter in DRAFTERS:
            answer = toy.generate("[]ab", params, speculative_config=drafter)[0]
            assert (answer.token_ids, answer.text, answer.finish_reason, answer.logprobs) == (
                plain.token_ids,
                plain.text,
                plain.finish_reason,
                plain.logprobs,
            )
            assert "grammar" in answer.sources
        if plain.finish_reason == "stop":
            num_complete += is_valid(form, plain.text)
            assert plain.token_ids[-1] == END
        else:
            assert (plain.finish_reason, len(plain.token_ids)) == ("length", 90)
    assert num_complete


def test_forced_tokens_are_accepted(toy):
    """Whole choices come in one step; every token the grammar drafted first is kept."""
    form = StructuredOutput("choice", ["a long text without any choice", "b the other"])
    answer = toy.generate("ab", SamplingParams(structured=form, max_tokens=60))[0]
    assert answer.text in form.value
    assert answer.finish_reason == "stop"
    assert answer.stats.num_steps <= 2
    assert answer.sources.count("grammar") >= len(answer.text) - 1


@pytest.mark.parametrize("verifier", ["rejection", "typical"])
def test_other_verifiers_keep_the_form_with_sampled_trees(toy, verifier):
    context = DrafterContext(toy.target)
    drafter = SampledDrafter(context, width=3)
    strategy = Strategy("sampled", drafter, create_verifier(verifier), FixedController(12))
    for seed in range(4):
        params = SamplingParams(temperature=1.0, seed=seed, max_tokens=80, structured=FORMS["regex"])
        answer = toy.generate("ab", params, speculative_config=strategy)[0]
        assert answer.error is None
        assert answer.finish_reason == "length" or is_valid("regex", answer.text)


def test_max_tokens_and_stop_strings_cut_at_every_offset(toy):
    params = SamplingParams(seed=2, temperature=0.8, max_tokens=90, structured=FORMS["regex"])
    whole = toy.generate("ab", params, speculative_config=False)[0]
    assert whole.finish_reason == "stop"
    for length in range(1, len(whole.token_ids) + 1):
        cut = toy.generate("ab", SamplingParams(seed=2, temperature=0.8, max_tokens=length, structured=FORMS["regex"]))[0]
        assert cut.token_ids == whole.token_ids[:length]
        assert cut.finish_reason == ("stop" if length == len(whole.token_ids) else "length")
    for start in range(len(whole.text)):
        stop = whole.text[start : start + 3]
        cut = toy.generate("ab", SamplingParams(seed=2, temperature=0.8, max_tokens=90, stop=stop, structured=FORMS["regex"]))[0]
        assert (cut.text, cut.finish_reason) == (whole.text[: whole.text.find(stop)], "stop")


def test_a_failure_ends_its_own_request_only(toy):
    """A bias that forbids what the grammar needs, beside an ordinary request."""
    bad = SamplingParams(structured=FORMS["schema"], logit_bias={encode("{")[0]: -np.inf}, max_tokens=20)
    good = SamplingParams(structured=FORMS["choice"], max_tokens=20)
    jobs = [toy.submit("ab", bad), toy.submit("ab", good)]
    while any(job.request.finish_reason is None for job in jobs):
        toy.step()
    failed, fine = [job.output() for job in jobs]
    for job in jobs:
        toy.abort(job)
    assert failed.finish_reason == "error"
    assert "leaves no token" in str(failed.error)
    assert is_valid("choice", fine.text)
    assert toy.generate("ab", SamplingParams(structured=FORMS["schema"], max_tokens=8))[0].text.startswith('{"name":')


# ---- bad input


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("yaml", "", "unknown structured output 'yaml'; known: json_object, json_schema, regex, choice"),
        ("json_object", "x", "takes no value"),
        ("json_schema", "{", "is not JSON"),
        ("json_schema", [1], "a JSON schema is an object, not list"),
        ("json_schema", {"a": {1, 2}}, "is not JSON"),
        ("json_schema", {"const": "x" * 70_000}, "at most 65536 are allowed"),
        ("regex", "", "takes a regular expression"),
        ("regex", 5, "takes a regular expression"),
        ("regex", "a" * 3000, "at most 2048 are allowed"),
        ("choice", [], "a list of non-empty texts"),
        ("choice", ["a", ""], "a list of non-empty texts"),
        ("choice", {"a": 1}, "a list of non-empty texts"),
    ],
)
def test_bad_forms_are_refused_when_they_are_built(kind, value, message):
    with pytest.raises(BadInputError, match=message):
        StructuredOutput(kind, value)


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("json_schema", {"type": "foo"}, "Invalid type: foo"),
        ("json_schema", {"not": {"type": "string"}}, "Unimplemented keys"),
        ("json_schema", {"$ref": "http://example.com/schema"}, "cannot use this json_schema"),
        ("json_schema", {"type": "integer", "minimum": 3, "maximum": 1}, "Unsatisfiable"),
        ("json_schema", '{"a":' * 3000 + "1" + "}" * 3000, "cannot use this json_schema|is not JSON"),
        ("json_schema", {"type": "string", "pattern": "[ab](cd{4}){3000}"}, "stands for 15001 characters with its counts; at most 10000"),
        ("regex", "[a-z]+(", "unclosed group"),
        ("regex", "(?=a)b", "look-around"),
        ("regex", r"(a)\1", "backreferences are not supported"),
        ("regex", "a{100000}", "stands for 100000 characters"),
        ("regex", "((a{100}){100}){100}", "stands for 1000000 characters"),
    ],
)
def test_forms_that_cannot_be_used_are_refused_at_submission(toy, kind, value, message):
    started = time.monotonic()
    with pytest.raises(BadInputError, match=message) as caught:
        toy.generate("ab", SamplingParams(structured=StructuredOutput(kind, value)))
    assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 20
    assert not toy.engine.has_unfinished


def test_the_size_of_a_regular_expression_counts_its_repeats():
    sizes = {"abc": 3, r"\d{4}-\{{2}": 7, "[]{5}a]{3}": 3, "(ab|c){2,5}x*": 16, "((a{3}b){2,}c){2}": 18, "a{,5}": 5, "{x}": 3}
    assert {regex: grammar._expanded(regex) for regex in sizes} == sizes


def test_settings_that_contradict_a_form_are_refused():
    for options in ({"ignore_eos": True}, {"min_tokens": 3}):
        with pytest.raises(BadInputError, match="excludes ignore_eos and min_tokens"):
            SamplingParams(structured=FORMS["regex"], **options)
    with pytest.raises(BadInputError, match="must be a StructuredOutput, not dict"):
        SamplingParams(structured={"kind": "json_object"})


def test_models_that_cannot_have_structured_output_say_why(make_toy, monkeypatch):
    asked = SamplingParams(structured=FORMS["choice"])
    with pytest.raises(BadInputError, match="cannot use this model's tokenizer"):
        make_toy().generate("ab", asked)
    with pytest.raises(BadInputError, match="needs a model with an end token"):
        GrammarCompiler(FAST, len(VOCAB), frozenset()).processor(FORMS["choice"], frozenset())
    monkeypatch.setitem(__import__("sys").modules, "llguidance", None)
    with pytest.raises(BadInputError, match=r"pip install 'outpace\[grammar\]'"):
        GrammarCompiler(FAST, len(VOCAB), frozenset({END})).processor(FORMS["choice"], frozenset())


def test_compiled_grammars_are_kept_within_bounds(monkeypatch):
    compiler, compiled = GrammarCompiler(FAST, len(VOCAB), frozenset({END})), []
    make = GrammarCompiler._compile
    monkeypatch.setattr(GrammarCompiler, "_compile", lambda self, form: compiled.append(form) or make(self, form))
    for i in range(MAX_CACHED):
        compiler.processor(StructuredOutput("regex", f"a{{{i + 1}}}"), frozenset())
    first = StructuredOutput("regex", "a{1}")
    compiler.processor(first, frozenset())
    compiler.processor(StructuredOutput("regex", "b"), frozenset())  # the one not used for longest goes: a{2}
    compiler.processor(first, frozenset())
    assert len(compiled) == MAX_CACHED + 1
    compiler.processor(StructuredOutput("regex", "a{2}"), frozenset())
    assert len(compiled) == MAX_CACHED + 2
    assert len(compiler._compiled) == MAX_CACHED
    assert StructuredOutput("json_schema", PERSON) == StructuredOutput("json_schema", json.dumps(PERSON))


# ---- the default model

SCHEMAS = [
    PERSON,
    {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome", "Oslo"]}, "sure": {"type": "boolean"}},
        "required": ["city", "sure"],
        "additionalProperties": False,
    },
    {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 99}, "minItems": 2, "maxItems": 4},
    {
        "type": "object",
        "properties": {
            "steps": {
                "type": "array",
                "maxItems": 3,
                "items": {
                    "type": "object",
                    "properties": {"do": {"type": "string", "pattern": "^[a-z ]{3,20}$"}, "cost": {"type": ["number", "null"]}},
                    "required": ["do", "cost"],
                    "additionalProperties": False,
                },
            },
            "date": {"type": "string", "format": "date"},
        },
        "required": ["steps", "date"],
        "additionalProperties": False,
    },
]
QUESTION = [{"role": "user", "content": "Tell me about a trip to the sea, as JSON."}]


@pytest.mark.real
@pytest.mark.parametrize("schema", SCHEMAS, ids=["person", "city", "numbers", "steps"])
def test_real_answers_fit_their_schema_with_any_drafter(llm, schema):
    """At temperature 0.8: all that ended are valid, and identical to plain decoding."""
    num_saved = 0
    for seed in range(3):
        params = SamplingParams(temperature=0.8, seed=seed, max_tokens=160, structured=StructuredOutput("json_schema", schema), logprobs=0)
        plain = llm.chat(QUESTION, params, speculative_config="none")[0]
        fast = llm.chat(QUESTION, params, speculative_config="suffix+recycling")[0]
        assert (fast.token_ids, fast.text, fast.finish_reason, fast.logprobs) == (
            plain.token_ids,
            plain.text,
            plain.finish_reason,
            plain.logprobs,
        )
        assert plain.finish_reason == "stop", plain.text
        jsonschema.validate(json.loads(plain.text), schema, format_checker=jsonschema.FormatChecker())
        num_saved += plain.stats.num_steps - fast.stats.num_steps
    assert num_saved > 0


@pytest.mark.real
def test_real_objects_are_json(llm):
    params = SamplingParams(max_tokens=120, structured=StructuredOutput("json_object"), temperature=0.8)
    outputs = [llm.chat(QUESTION, SamplingParams(**{**vars(params), "seed": seed}))[0] for seed in range(6)]
    complete = [json.loads(output.text) for output in outputs if output.finish_reason == "stop"]
    assert complete
    assert all(isinstance(answer, dict) for answer in complete)
    assert all(output.text.startswith("{") for output in outputs)


@pytest.mark.real
def test_applying_the_grammar_is_cheap(llm):
    """A row of 49,152 logits with a new mask, in the median over an answer; a pass of the model takes some 10 ms."""
    text = '{"name": "Anna Lind", "age": 41}'
    row, tokens = np.zeros(llm.target.capabilities.vocab_size, np.float32), llm.tokenizer.encode(text)
    medians = []
    for _ in range(5):  # the best of a few walks, each with masks of its own: the machine may be busy
        found = llm.grammars.processor(FORMS["schema"], llm.eos_token_ids)
        times = []
        for at in range(len(tokens)):
            started = time.thread_time()
            found.apply(row.copy(), tokens[:at])
            times.append(time.thread_time() - started)
        medians.append(sorted(times)[len(times) // 2])
    assert min(medians) < 3e-4
    assert grammar.SOURCE == "grammar"


@pytest.mark.real
def test_real_tokens_on_a_path_are_judged_as_if_committed(llm):
    """Tokens of several characters: forced tokens are forced on every way to the same place, wherever the cursor has been before."""
    form = StructuredOutput("json_schema", SCHEMAS[3])
    for seed in range(6):
        rng, walked = np.random.default_rng(seed), list[int]()
        found, fresh = (llm.grammars.processor(form, llm.eos_token_ids) for _ in range(2))
        while len(walked) < 25 and (tokens := sorted(allowed(found, walked) - llm.eos_token_ids)):
            assert (found.forced(walked) is not None) == (len(tokens) == 1)
            allowed(found, [*walked, int(rng.choice(tokens))])  # looked at, and left again
            walked.append(int(rng.choice(tokens)))
        for at, token in enumerate(walked):
            assert allowed(fresh) == allowed(found, walked[:at])
            fresh.commit([token])


@pytest.mark.real
def test_the_documents_run():
    """The Python of docs/structured-output.md and docs/drafters/prediction.md."""
    docs = Path(__file__).parents[2] / "docs"
    for page in (docs / "structured-output.md", docs / "drafters" / "prediction.md"):
        (source,) = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
        exec(compile(source, page.name, "exec"), {})
