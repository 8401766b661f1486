"""`outpace verify` on the toy model: it fails where a verifier cheats and where its own control is not caught."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import partial

import pytest
from cli_tools import CONTROLS, call, checks_of
from toy_parts import let_round, toy_parts

from outpace.testing import AcceptEverythingVerifier, distribution_test


def test_verify_fails_with_exit_code_1(files, toy_llm, monkeypatch):
    """A verifier that cheats in the place of the exact one."""
    monkeypatch.setattr("outpace.controller.factory.create_verifier", lambda name: AcceptEverythingVerifier())
    monkeypatch.setattr("outpace.testing.proof._distributions", lambda: [])
    result = call("verify", "--prompts", "good.jsonl", "--limit", "2", "--max-tokens", "16", "--json", "--drafters", "blind")
    document = json.loads(result.stdout)
    assert result.exit_code == 1
    assert document["passed"] is False
    assert checks_of(document) == {"blind, temperature 0": False, "blind, temperature 0.8": False, **dict.fromkeys(CONTROLS[:2], True)}
    assert "first difference at token" in document["checks"][0]["detail"]
    result = call("verify", "--prompts", "good.jsonl", "--limit", "2", "--max-tokens", "16", "--drafters", "blind")
    assert result.exit_code == 1
    assert "FAIL blind, temperature 0: " in result.stdout
    assert result.stdout.splitlines()[-1] == "FAILED: 2 of 4 checks"


@pytest.fixture
def rounded(files, monkeypatch):
    """The toy model on a target that promises no bits: every forward pass rounds in its own way, and two tokens are always near a tie."""
    monkeypatch.setattr("outpace.testing.proof._distributions", lambda: [])
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
    result = call("verify", "--prompts", "good.jsonl", "--max-tokens", "40", "--drafters", "prompt_lookup")
    assert result.stdout.splitlines()[-1] == "passed: 3 prompts, 12 runs, no difference found that rounding does not explain"


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
