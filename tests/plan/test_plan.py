"""Plans: right values by hand, and what must hold for any machine."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from cli_tools import call
from hypothesis import given
from hypothesis import strategies as st

from outpace.controller.cost import CostTable
from outpace.errors import BadInputError
from outpace.params import SamplingParams
from outpace.plan.draft_curve import PRIOR, DraftCurve, nodes_of
from outpace.plan.load_check import compare
from outpace.plan.profile import FORMAT, TOGETHER, Profile, _not_above, measure
from outpace.plan.throughput import Load, pays_up_to, plan, speeds, step_ms
from outpace.request import StepOutput
from outpace.tree.draft import Draft, Verdict

FLAT = CostTable((2.0, 64.0), (10.0, 10.0), (10.0, 10.0), (0.0, 0.0))  # any pass takes 10 ms
LINE = CostTable((2.0, 64.0), (2.0, 64.0), (2.0, 64.0), (0.0, 0.0))  # 1 ms a token
CURVE = DraftCurve((0.0, 1.0), (2.0, 4.0), (1.0, 0.0))  # with drafts of 3 tokens a step gives 2


def profile(costs=FLAT, curve=CURVE, overhead=(0.0, 0.0), draft_ms=0.0, prompt_ms=0.0) -> Profile:
    return Profile("toy", "auto", {}, costs, curve, overhead, draft_ms, prompt_ms, 100.0, 50.0, {})


def test_one_client_by_hand():
    assert speeds(profile(), Load(), 1) == (pytest.approx(100.0), pytest.approx(200.0), 2.0)
    own = profile(overhead=(2.0, 2.0), draft_ms=3.0, prompt_ms=1.0)  # a prompt of 100 ms; 50 steps of 12 ms, or 25 of 15 ms
    plain, speculative, _ = speeds(own, Load(), 1)
    assert (plain, speculative) == (pytest.approx(50e3 / 700), pytest.approx(50e3 / 475))
    cached, _, _ = speeds(own, Load(cached_share=0.5, num_answer_tokens=100), 1)
    assert cached == pytest.approx(100e3 / (1200 + 50))


def test_where_a_token_of_a_pass_costs_as_much_as_a_pass_drafting_never_pays():
    own = profile(LINE)
    for num_clients in (1, 4, 16):
        plain, speculative, tokens_per_step = speeds(own, Load(), num_clients)
        assert (plain, tokens_per_step) == (speculative, 1.0)
    assert pays_up_to(own, Load()) == 0
    assert pays_up_to(profile(), Load(max_num_seqs=9)) == 9


def test_speculation_stops_paying_where_the_passes_become_dear():
    costs = CostTable((2.0, 8.0, 64.0), (10.0, 10.0, 66.0), (10.0, 10.0, 66.0), (0.0, 0.0, 0.0))  # free up to 8 tokens, then 1 ms each
    own = profile(costs, DraftCurve((0.0, 1.0), (2.0, 5.0), (1.0, 0.0)))
    gains = [plan(own, Load(), [n], [1])[0].gain for n in range(1, 17)]
    assert gains[:3] == [pytest.approx(2.0), pytest.approx(20 / 12), pytest.approx(20 / 17)]
    assert gains[3:] == [1.0] * 13  # plain decoding is chosen: 4 x 5 tokens would take 22 ms for 2 tokens each, 4 x 2 take 10 for one
    assert pays_up_to(own, Load()) == 3


def test_requests_beyond_the_batch_wait():
    own = profile()
    at_limit, beyond = (speeds(own, Load(max_num_seqs=4), n) for n in (4, 9))
    assert at_limit == beyond


def test_padding_and_overhead():
    costs = CostTable((2.0, 64.0), (2.0, 64.0), (2.0, 64.0), (0.0, 0.0), idle_row=0.5)
    assert step_ms(profile(costs), 4, 2.0, 1.0, 0.0, False) == pytest.approx(8.0 - 4 * 0.5)
    assert step_ms(profile(costs), 4, 2.0, 0.0, 0.0, False) == pytest.approx(8.0)
    many = profile(FLAT, overhead=(1.0, 1.0 + (TOGETHER - 1) * 0.5), draft_ms=2.0)
    assert step_ms(many, 3, 2.0, 1.0, 0.0, False) == pytest.approx(10.0 + 1.0 + 2 * 0.5)
    assert step_ms(many, 3, 2.0, 1.0, 0.0, True) == pytest.approx(10.0 + 1.0 + 2 * 0.5 + 6.0)


@given(st.integers(1, 40), st.integers(1, 5), st.floats(0.1, 5.0))
def test_machines_and_prices(num_clients, num_replicas, price):
    own = profile(CostTable((2.0, 64.0), (10.0, 30.0), (12.0, 32.0), (0.0, 0.0)), prompt_ms=0.5)
    (point,) = plan(own, Load(), [num_clients], [num_replicas], price)
    assert point.speculative >= point.plain > 0
    assert point.plain_cost == pytest.approx(price * num_replicas / (point.plain * 3600) * 1e6)
    (whole,) = plan(own, Load(), [num_clients * num_replicas], [num_replicas], price)
    (single,) = plan(own, Load(), [num_clients], [1], price)
    assert whole.plain == pytest.approx(num_replicas * single.plain)
    assert whole.plain_cost == pytest.approx(single.plain_cost)


def test_a_machine_without_a_client_gives_nothing():
    own = profile()
    (point,) = plan(own, Load(), [1], [4])
    assert point.plain == speeds(own, Load(), 1)[0]


# ---- the curve


def test_a_curve_by_hand():
    steps = [[(0.9, True), (0.3, False)], [(0.9, True), (0.3, True)], []]
    curve = DraftCurve.of(steps, 0.0, 2.0)
    assert curve.gained == (0.0, pytest.approx(2 / 3), pytest.approx(1.0))
    assert curve.tokens == (2.0, 2.0, pytest.approx((3 + 3 + 2) / 3))
    assert curve.padding == (1.0, pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert DraftCurve.of(steps, 0.5, 2.0).tokens == (2.0, 2.5, pytest.approx(8 / 3 + 0.5))


@given(st.lists(st.lists(st.tuples(st.floats(0.01, 1.0), st.booleans()), max_size=6), max_size=8), st.floats(1.0, 6.0))
def test_more_effort_gains_no_less(steps, tokens_per_step):
    curve = DraftCurve.of(steps, 0.0, tokens_per_step)
    assert (curve.gained[0], curve.tokens[0], curve.padding[0]) == (0.0, 2.0, 1.0)
    assert list(curve.gained) == sorted(curve.gained)
    assert list(curve.tokens) == sorted(curve.tokens)
    if any(is_right for nodes in steps for _, is_right in nodes):
        assert curve.gained[-1] == pytest.approx(tokens_per_step - 1.0)


def test_confidences_are_those_of_the_steps(make_toy):
    llm = make_toy(toy={"sharpness": 6.0, "seed": 5})
    steps = []
    for piece in llm.stream("abcabcabc", SamplingParams(max_tokens=120)):
        steps += [step for step in piece.steps if step.verdict is not None]
    nodes, num_fixed = nodes_of(steps)
    assert len(nodes) == len(steps)
    assert num_fixed == 0.0
    accepted = [len(step.verdict.path) for step in steps]
    assert [sum(is_right for _, is_right in found) for found in nodes] == accepted
    assert sum(accepted) > 10
    for found, step in zip(nodes, steps, strict=True):
        for (confidence, _), parent in zip(found, step.verdict.draft.parents, strict=True):
            assert parent < 0 or confidence <= found[parent][0]  # a path is never surer than its beginning


def test_claims_are_corrected_by_what_was_seen():
    """One of four tokens claimed with 0.5 is right: (1 + 4 x 0.5) / (4 + 4)."""
    request = SimpleNamespace(strategy=SimpleNamespace(name="suffix"))
    draft = Draft([7, 8], [-1, 0], confidences=[0.5, 0.9])
    steps = [StepOutput(request, [1], [""], None, Verdict(draft, path, 1)) for path in ([0], [], [], [])]
    nodes, _ = nodes_of(steps)
    first = (1 + PRIOR * 0.5) / (4 + PRIOR)
    second = first * PRIOR * 0.9 / (1 + PRIOR)  # tried once, behind a right parent, and wrong
    assert nodes[0] == [(pytest.approx(first), True), (pytest.approx(second), False)]
    assert [is_right for found in nodes for _, is_right in found] == [True] + [False] * 7


def test_unconfirmed_tokens_are_no_guesses():
    request = SimpleNamespace(strategy=SimpleNamespace(name="auto"))
    draft = Draft([7, 8], [-1, 0], confidences=[1.0, 0.5], sources=["", "suffix"])
    nodes, num_fixed = nodes_of([StepOutput(request, [1, 2], ["", ""], None, Verdict(draft, [0, 1], 1))])
    assert (len(nodes[0]), num_fixed) == (1, 1.0)


# ---- measured on a toy, and the command


def test_a_measured_profile_comes_back_from_its_file(make_toy, tmp_path):
    llm = make_toy(toy={"sharpness": 6.0, "seed": 5})
    conversations = [[{"role": "user", "content": text}] for text in ("abcabcabc", "xyzxyzxyz")]
    own = measure(llm, conversations, SamplingParams(max_tokens=60), "prompt_lookup")
    assert own.num_answer_tokens <= 60
    assert own.num_prompt_tokens == 9
    assert own.measured["tokens_per_step"] == pytest.approx(1.0 + own.curve.gained[-1])
    assert len(own.curve) > 1
    assert not llm.engine.scheduler.running
    (tmp_path / "plan.json").write_text(json.dumps({"profile": own.save()}))
    assert Profile.load(tmp_path / "plan.json") == own


@pytest.mark.parametrize(("factor", "want"), [(1.0, 10.0), (4.0, 10.0), (0.5, 5.0)], ids=["right", "slow", "fast"])
def test_a_table_of_a_busy_machine_is_corrected(factor, want):
    """A pass takes 10 ms. If the table says more, it is scaled; if it says less, the rest is overhead."""
    table = CostTable((2.0, 64.0), (10.0 * factor, 20.0 * factor), (12.0 * factor, 30.0 * factor), (0.1, 0.1))
    found = _not_above(table, 1.0 / factor, 0.5 / factor)
    assert found.alone[0] == pytest.approx(want)
    assert found.batched[1] == pytest.approx(3 * want)


def run_plan(*arguments):
    return call("plan", *arguments)


@pytest.fixture
def saved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.json").write_text(json.dumps({"profile": profile(prompt_ms=0.5).save()}))
    row = {"num_requests": 10, "num_tokens": 500, "num_prompt_tokens": 1000, "num_cached_prompt_tokens": 0, "num_clients": 1}
    rows = [{**row, "drafter": "none", "tokens_per_second": 100.0}, {**row, "drafter": "auto", "tokens_per_second": 100.0}]
    (tmp_path / "load.json").write_text(json.dumps({"model": "toy", "load": rows}))
    return tmp_path


def test_a_plan_from_a_file(saved):
    result = run_plan("--measured", "plan.json", "--clients", "1,8", "--replicas", "1,2", "--price", "0.5", "--json", "-")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert [(row["num_replicas"], row["num_clients"]) for row in document["plan"]] == [(1, 1), (1, 8), (2, 1), (2, 8)]
    first = document["plan"][0]
    assert first["plain"] == pytest.approx(50e3 / 550)
    assert first["plain_cost"] == pytest.approx(0.5 / (first["plain"] * 3600) * 1e6)
    shown = run_plan("--measured", "plan.json", "--price", "0.5")
    assert "$/M plain" in shown.stdout
    assert "Drafting pays for any number of clients" in shown.stdout


def test_a_plan_beside_a_load_test(saved):
    document = json.loads(run_plan("--measured", "plan.json", "--check", "load.json", "--json", "-").stdout)
    plain, drafted = document["checks"]
    assert (plain["is_good"], drafted["is_good"]) == (True, False)
    assert plain["error"] == pytest.approx(50e3 / 550 / 100 - 1)
    assert drafted["error"] == pytest.approx(50e3 / 300 / 100 - 1)
    assert "measured" in run_plan("--measured", "plan.json", "--check", "load.json").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--clients", "0"], "--clients takes"),
        (["--replicas", "x"], "--replicas takes"),
        (["--measured", "nope.json"], "cannot read nope.json"),
        (["--measured", "load.json"], "load.json was not written by `outpace plan --json`: it has no 'profile'"),
        (["--measured", "list.json"], "list.json was not written by `outpace plan --json`"),
        (["--measured", "wrong.json"], "wrong.json was not written by `outpace plan --json`"),
        (["--measured", "old.json"], "error: old.json is of another version of outpace; measure again"),
        (["--check", "plan.json"], "the file of --check was not written by `outpace bench --server --json`: it has no 'load'"),
        (["--check", "list.json"], "the file of --check was not written by `outpace bench --server --json`"),
        (["--check", "row.json"], "the file of --check was not written by `outpace bench --server --json`: it has no 'num_requests'"),
    ],
)
def test_what_a_plan_cannot_use(saved, arguments, message):
    """Told at once: the model is not loaded for it."""
    wrong = {"list": [1], "wrong": {"profile": {"format": FORMAT, "costs": [1]}}, "old": {"profile": {"format": 0}}, "row": {"load": [{}]}}
    for name, document in wrong.items():
        Path(f"{name}.json").write_text(json.dumps(document))
    result = run_plan(*arguments, "--model", "no/such/model")
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_load_test_of_another_model():
    with pytest.raises(BadInputError, match="the load test ran other"):
        compare(profile(), Load(), {"model": "other", "load": []})
