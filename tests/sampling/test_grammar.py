"""What a grammar allows: a path is judged as if it were committed."""

from __future__ import annotations

import re

import numpy as np
import pytest
from grammar_tools import END, FAST, FORMS, VOCAB, allowed, encode, make_fast, processor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outpace.errors import OutpaceError
from outpace.params import StructuredOutput
from outpace.sampling.grammar import GrammarCompiler

FEW = settings(deadline=None, derandomize=True, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


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
