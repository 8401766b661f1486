"""`outpace tune --for vllm`: what is counted, what is chosen, and the command it prints."""

import json
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from outpace import cli
from outpace.controller.base import FixedController
from outpace.controller.strategy import Strategy
from outpace.drafters.base import DrafterContext
from outpace.params import SamplingParams
from outpace.request import Request
from outpace.targets.toy import ToyTarget
from outpace.tune.for_vllm import Advice, Count, Method, _best, command, verdict
from outpace.tune.vllm_drafters import VLLMNgramDrafter, VLLMSuffixDrafter
from outpace.verifiers import create_verifier

NGRAM = Method("ngram", {"method": "ngram"}, lambda: None)
OURS = Method("suffix", {"method": "custom_class"}, lambda: None, {"drafter": "suffix"})
SLOW = Method("draft_model", {"method": "draft_model"}, lambda: None, pass_cost=0.3)


def count(method, num_tokens, num_drafted=300, number=5):
    return Count(method, number, Strategy("", None, create_verifier("exact"), FixedController(number)), num_tokens, 100, num_drafted)


def test_the_gain_pays_for_draft_tokens_and_for_the_draft_models_passes():
    assert count(NGRAM, 220).gain(0.0) == pytest.approx(2.2)
    assert count(NGRAM, 220).gain(0.02) == pytest.approx(2.2 / 1.06)
    assert count(SLOW, 220).gain(0.02) == pytest.approx(2.2 / 1.96)
    assert Count(NGRAM, 3, count(NGRAM, 1).strategy).gain(0.02) == 0.0


def test_vllms_own_method_is_chosen_unless_ours_is_clearly_better():
    assert _best([count(NGRAM, 200), count(OURS, 204)], 0.02).method is NGRAM
    assert _best([count(NGRAM, 200), count(OURS, 210)], 0.02).method is OURS
    assert _best([count(NGRAM, 200), count(SLOW, 350)], 0.02).method is NGRAM


def test_plain_decoding_is_advised_where_nothing_pays():
    counts = [count(NGRAM, 105), count(OURS, 110)]
    assert _best(counts, 0.02) is None
    assert command("org/name", None) == "vllm serve org/name"
    assert verdict(Advice(counts, None, 8, 0.02)).startswith("Plain decoding")


def test_the_command_says_everything():
    words = shlex.split(command("org/name", count(OURS, 200, number=7)))
    assert words[:3] == ["vllm", "serve", "org/name"]
    given_ = dict(zip(words[3::2], map(json.loads, words[4::2]), strict=True))
    assert given_ == {
        "--speculative-config": {"method": "custom_class", "num_speculative_tokens": 7},
        "--additional-config": {"outpace": {"drafter": "suffix"}},
    }


def test_a_model_that_vllm_cannot_read_is_left_open(tmp_path):
    (tmp_path / "m.gguf").touch()
    assert command(str(tmp_path / "m.gguf"), None) == command("tiny", None) == "vllm serve MODEL"
    assert command(str(tmp_path), None) == f"vllm serve {tmp_path}"


@given(text=st.lists(st.integers(0, 3), min_size=1, max_size=30), budget=st.integers(1, 7))
def test_vllms_ngrams_are_found_as_in_vllm(text, budget):
    """The longest n-gram of 2 or 3 tokens that occurred before, where it occurred first; what follows it."""
    drafter = VLLMNgramDrafter(DrafterContext(ToyTarget()))
    found = list(drafter.propose(Request("1", text, SamplingParams(), None, None), budget).token_ids)
    expected = []
    for size in (2, 3):  # the longer one wins
        for start in reversed(range(len(text) - size)):  # the first one wins
            if text[start : start + size] == text[-size:]:
                expected = text[start + size :][:budget]
    if len(text) > 3 and not any(text[i : i + 3] == text[-3:] for i in range(len(text) - 3)):
        pairs = [i for i in range(len(text) - 2) if text[i : i + 2] == text[-2:]]
        expected = text[pairs[0] + 2 :][:budget] if pairs else []
    assert found == expected


@given(text=st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_vllms_suffixes_can_be_tried(text):
    pytest.importorskip("arctic_inference")
    drafter, request = VLLMSuffixDrafter(DrafterContext(ToyTarget())), Request("1", text, SamplingParams(), None, None)
    drafter.begin(request)
    request.token_ids += text
    assert len(drafter.propose(request, 4)) <= 4
    drafter.end(request)


def test_the_command_line(toy_llm, tmp_path):
    prompts = tmp_path / "p.jsonl"
    prompts.write_text("\n".join(json.dumps({"prompt": "abc abc " * n}) for n in (2, 3)))
    arguments = ["tune", "--for", "vllm", "--prompts", str(prompts), "--max-tokens", "12", "--model", "org/name"]
    found = json.loads(CliRunner().invoke(cli.app, [*arguments, "--json"]).stdout)
    names = [row["method"] for row in found["results"] if row["method"] != "vLLM's suffix"]  # needs a package
    assert names == ["ngram"] * 3 + ["suffix"] * 3 + ["suffix+recycling"] * 3
    assert found["num_prompts"] == 2
    assert all(row["drafted_per_step"] <= row["num_speculative_tokens"] for row in found["results"])
    assert found["command"].startswith("vllm serve org/name")
    printed = CliRunner().invoke(cli.app, arguments).stdout
    assert "vllm serve org/name" in printed


@pytest.mark.parametrize(
    ("extra", "word"),
    [
        (["--for", "sglang"], "vllm only"),
        (["--for", "vllm", "--drafters", "suffix"], "--drafters"),
        (["--draft-model", "tiny"], "--draft-model is for --for"),
        (["--token-cost", "0.1"], "--token-cost is for --for"),
    ],
)
def test_wrong_options_are_refused(extra, word, toy_llm):
    result = CliRunner().invoke(cli.app, ["tune", *extra])
    assert result.exit_code == 2
    assert word in result.output
