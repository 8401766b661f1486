"""`outpace verify` on the toy model: it fails where a verifier cheats and where its own control is not caught."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import partial

import pytest
from cli_tools import CONTROLS, call, checks_of, one_error_line
from toy_parts import let_round, toy_parts

from outpace.testing import AcceptEverythingVerifier, distribution_test
from outpace.testing.effort import Pace

RIGHT_IN_BATCHES = {"plain decoding, temperature 0, 2 at once": True, "plain decoding, temperature 0.8, 2 at once": True}
WRONG_IN_BATCHES = {"blind, temperature 0, 2 at once": False, "blind, temperature 0.8, 2 at once": False, **RIGHT_IN_BATCHES}


def test_verify_fails_with_exit_code_1(files, toy_llm, monkeypatch):
    """A verifier that cheats in the place of the exact one."""
    monkeypatch.setattr("outpace.controller.factory.create_verifier", lambda name: AcceptEverythingVerifier())
    monkeypatch.setattr("outpace.testing.proof._distributions", lambda: [])
    result = call("verify", "--prompts", "good.jsonl", "--limit", "2", "--max-tokens", "16", "--json", "--drafters", "blind")
    document = json.loads(result.stdout)
    assert result.exit_code == 1
    assert document["passed"] is False
    wrong = {"blind, temperature 0": False, "blind, temperature 0.8": False, **dict.fromkeys(CONTROLS[:2], True)}
    assert checks_of(document) == wrong | WRONG_IN_BATCHES
    assert "first difference at token" in document["checks"][0]["detail"]
    result = call("verify", "--prompts", "good.jsonl", "--limit", "2", "--max-tokens", "16", "--drafters", "blind")
    assert result.exit_code == 1
    assert "FAIL blind, temperature 0: " in result.stdout
    run = "2 prompts, at most 16 tokens, temperature 0 and 0.8, 1 and 2 at once, blind"
    assert result.stdout.splitlines()[-1] == f"FAILED: {run}: 4 of 8 checks failed"


@pytest.fixture
def rounded(files, monkeypatch):
    """The toy model on a target that promises no bits: every forward pass rounds in its own way, and two tokens are always near a tie."""
    monkeypatch.setattr("outpace.testing.proof._distributions", lambda: [])
    monkeypatch.setattr("outpace.testing.effort.pace_of", lambda *_: Pace(0.0, 0.0))  # timing is forward passes, too
    parts = toy_parts(sharpness=3.0)
    monkeypatch.setattr("outpace.llm.load", lambda *_: parts)
    let_round(parts[1], monkeypatch)
    return parts[1]


def test_what_rounding_explains_is_reported_and_passes(rounded):
    result = call("verify", "--prompts", "good.jsonl", "--max-tokens", "40", "--json", "--drafters", "prompt_lookup")
    document = json.loads(result.stdout)
    assert result.exit_code == 0
    assert document["compared"] == "tokens"
    details = {check["name"]: check["detail"] for check in document["checks"]}
    assert " with a near tie; prompt " in details["prompt_lookup, temperature 0"]
    gap = re.search(r"a near tie: a change of two logits by (\S+) gives either text", details["prompt_lookup, temperature 0"])
    assert 0 < float(gap[1]) < 2e-5
    assert "which no change of the logits by 0.001 explains" in details[CONTROLS[0]]
    ties = document["near_ties"]
    assert {tie["drafter"] for tie in ties} <= {"prompt_lookup", "plain decoding"}  # plain decoding in a batch rounds in its own way, too
    assert len(ties) == sum(
        int(found[1]) for found in (re.search(r"(\d+) with a near tie", detail) for detail in details.values()) if found
    )
    assert all(0 < tie["gap"] < 2e-5 and tie["token"] < 40 and tie["seed"] == 2026 for tie in ties)
    result = call("verify", "--prompts", "good.jsonl", "--max-tokens", "40", "--drafters", "prompt_lookup")
    *_, alarms, passed = result.stdout.splitlines()
    assert "a correct engine fails only where rounding changes a logit by more than 0.001" in alarms
    run = "passed: 3 prompts, at most 40 tokens, temperature 0 and 0.8, 1 and 3 at once, prompt_lookup: of 18 answers "
    found = r"(\d+) have the tokens of plain decoding, their log-probabilities within 0.001, and (\d+) parts? from it only at a near tie"
    same, num_ties = re.fullmatch(f"{run}{found}. Other prompts, lengths and settings were not run.", passed).groups()
    assert int(same) + int(num_ties) == 18
    assert sum(line.startswith("near tie: ") for line in result.stdout.splitlines()) == min(10, int(num_ties))


def test_a_target_that_promises_bits_is_held_to_them(rounded):
    rounded.capabilities = replace(rounded.capabilities, exact_logits=True)
    result = call("verify", "--prompts", "good.jsonl", "--limit", "2", "--max-tokens", "4", "--json", "--drafters", "prompt_lookup")
    document = json.loads(result.stdout)
    assert (result.exit_code, document["compared"]) == (1, "bits")
    assert any("same tokens, log-probabilities differ by " in check["detail"] for check in document["checks"])


def test_a_wrong_token_is_no_near_tie(rounded, monkeypatch):
    monkeypatch.setattr("outpace.controller.factory.create_verifier", lambda name: AcceptEverythingVerifier())
    result = call("verify", "--prompts", "good.jsonl", "--limit", "2", "--max-tokens", "16", "--json", "--drafters", "blind")
    assert result.exit_code == 1
    assert checks_of(json.loads(result.stdout)) == {
        "blind, temperature 0": False,
        "blind, temperature 0.8": False,
        **dict.fromkeys(CONTROLS[:2], True),
        **WRONG_IN_BATCHES,
    }


@pytest.fixture
def short_proof(monkeypatch) -> None:
    """A quarter of the seeds, enough for what is grossly wrong."""
    monkeypatch.setattr("outpace.testing.proof.distribution_test", partial(distribution_test, num_requests=1000))


def test_a_proof_whose_control_is_not_caught_fails(files, toy_llm, short_proof, monkeypatch):
    from outpace.verifiers.exact import ExactVerifier

    monkeypatch.setattr("outpace.testing.proof.AcceptEverythingVerifier", ExactVerifier)
    result = call("verify", "--prompts", "good.jsonl", "--limit", "1", "--max-tokens", "8", "--json", "--drafters", "blind")
    assert result.exit_code == 1
    assert checks_of(json.loads(result.stdout)) == {
        "blind, temperature 0": True,
        "blind, temperature 0.8": True,
        **dict.fromkeys(CONTROLS, False),
        "distribution of exact (toy model)": True,
    }


def test_a_wrong_distribution_fails(files, toy_llm, short_proof, monkeypatch):
    from outpace.testing import proof as verify

    create = verify.create_verifier
    monkeypatch.setattr(verify, "create_verifier", lambda name: AcceptEverythingVerifier() if name == "exact" else create(name))
    result = call("verify", "--prompts", "good.jsonl", "--limit", "1", "--max-tokens", "8", "--json", "--drafters", "blind")
    assert result.exit_code == 1
    assert [name for name, passed in checks_of(json.loads(result.stdout)).items() if not passed] == ["distribution of exact (toy model)"]


def test_what_was_run_is_what_is_claimed(files, toy_llm, short_proof):
    options = ["--temperature", "0,0.5,1", "--seeds", "2", "--concurrency", "3,1", "--max-tokens", "8", "--drafters", "blind,suffix"]
    result = call("verify", "--prompts", "good.jsonl", *options, "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 0
    num_points = 1 + 2 * 2  # greedy texts draw no random number
    assert document["num_answers"] == 3 * num_points * (2 * 2 + 1)  # two drafters, alone and in batches, and plain decoding in batches
    assert document["near_ties"] == []
    assert document["claim"] == (
        "3 prompts, at most 8 tokens, temperature 0, 0.5 and 1, 2 seeds, 3 and 1 at once, blind, suffix: all 75 answers have the "
        "tokens of plain decoding and the same log-probabilities of the two likeliest tokens, bit for bit. Other prompts, lengths and "
        "settings were not run."
    )
    assert "none can fail by chance" in document["false_alarms"]
    assert "explains" not in str(document["checks"])  # bits are promised, so there is no rounding to explain a difference
    assert "1e-06" in document["false_alarms"]
    details = {check["name"]: check["detail"] for check in document["checks"]}
    assert details["suffix, temperature 0.5, 3 at once"] == "6 of 6 answers identical to plain decoding"
    assert details["plain decoding, temperature 0, 3 at once"] == "3 of 3 answers identical to plain decoding"
    assert [name for name in details if name.startswith("negative control caught, ")] == [
        f"negative control caught, temperature {t}" for t in ("0", "0.5", "1")
    ]


def test_a_fault_that_only_batches_have_is_found(files, toy_llm, short_proof, monkeypatch):
    """Every answer but the first of a batch gets one wrong token."""
    chat = toy_llm.chat

    def faulty(messages, params, **options):
        outputs = chat(messages, params, **options)
        for output in outputs[1:]:
            output.token_ids[1] = (output.token_ids[1] + 1) % 30
        return outputs

    monkeypatch.setattr(toy_llm, "chat", faulty)
    monkeypatch.setattr("outpace.cli.options.loading.Loading.llm", lambda *_: toy_llm)
    result = call("verify", "--prompts", "good.jsonl", "--max-tokens", "8", "--drafters", "blind", "--json")
    failed = {name for name, passed in checks_of(json.loads(result.stdout)).items() if not passed}
    assert result.exit_code == 1
    assert failed == {f"{name}, temperature {t}, 3 at once" for name in ("blind", "plain decoding") for t in ("0", "0.8")}


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [("--concurrency", "0", "--concurrency takes comma-separated numbers"), ("--temperature", "-1", "must be at least 0")],
)
def test_wrong_trials_are_refused_before_a_model_loads(files, option, value, message):
    assert message in one_error_line(call("verify", option, value, "--prompts", "good.jsonl", "--model", "nonsense"))
