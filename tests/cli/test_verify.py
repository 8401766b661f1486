"""`outpace verify` on the toy model: it fails where a verifier cheats and where its own control is not caught."""

from __future__ import annotations

import json
from functools import partial

import pytest
from cli_tools import CONTROLS, call, checks_of

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
