"""Specs of the drafter draft_model, and loading its model once."""

from __future__ import annotations

import pytest
from draft_model_tools import context, helper

from outpace import SamplingParams
from outpace.drafters.base import DrafterContext
from outpace.drafters.spec import create_drafter
from outpace.errors import BadInputError
from outpace.targets.toy import ToyTarget


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
    with pytest.raises(BadInputError, match="no draft model can be loaded here"):
        create_drafter("draft_model:self", DrafterContext(ToyTarget()))


def test_a_helper_is_loaded_once(make_toy):
    llm = make_toy("none")
    first = llm.strategy("draft_model:self").drafter.draft_model
    assert first is llm.strategy("draft_model:self:max_depth=3").drafter.draft_model
    assert first is not llm.strategy("draft_model:self:1").drafter.draft_model
    assert first.target is not llm.target
    texts, params = ["a text", "another", "the third one"], SamplingParams(max_tokens=64, ignore_eos=True)
    plain = llm.generate(texts, params, speculative_config="none")
    guessed = llm.generate(texts, params, speculative_config="draft_model:self:min_confidence=0")
    assert [output.token_ids for output in guessed] == [output.token_ids for output in plain]
    assert all(output.tokens_per_step == 8.0 for output in guessed)
