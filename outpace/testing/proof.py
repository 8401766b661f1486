"""`outpace verify`: a test on the user's own model that speculation changes no token, with negative controls that must fail it.

Three parts: (1) every drafter against plain decoding on real prompts, greedy and sampled; (2) the distribution of every
lossless verifier on a toy model whose probabilities are known exactly; (3) a verifier that cheats, which (1) and (2) must detect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from outpace.bench.workloads import Workload
from outpace.controller.base import FixedController
from outpace.controller.strategy import Strategy
from outpace.drafters.base import DrafterContext
from outpace.drafters.spec import create_drafter
from outpace.llm import LLM, SpeculativeLike
from outpace.outputs import RequestOutput
from outpace.params import SamplingParams
from outpace.progress import track
from outpace.testing import AcceptEverythingVerifier, SampledDrafter, distribution_test
from outpace.verifiers import VERIFIERS, create_verifier

SEED = 20_26
TEMPERATURES = (0.0, 0.8)
CHEAT = "cheating verifier"


@dataclass(frozen=True)
class Check:
    """One line of the result. `detail` says what was observed."""

    name: str
    passed: bool
    detail: str


def verify(llm: LLM, workloads: Sequence[Workload], drafters: Mapping[str, SpeculativeLike], max_tokens: int = 64) -> dict[str, Any]:
    """Run all checks. Returns {"model", "passed", "checks": [{"name", "passed", "detail"}]}."""
    checks = [*_identity(llm, workloads, drafters, max_tokens), *_distributions()]
    return {"model": llm.name, "passed": all(check.passed for check in checks), "checks": [asdict(check) for check in checks]}


def _identity(llm: LLM, workloads: Sequence[Workload], drafters: Mapping[str, SpeculativeLike], max_tokens: int) -> list[Check]:
    """Token identity for every drafter and temperature, and the cheating verifier, which must differ."""
    cheat = Strategy(CHEAT, create_drafter("blind", DrafterContext(llm.target)), AcceptEverythingVerifier(), FixedController(3))
    candidates: dict[str, SpeculativeLike] = {**drafters, CHEAT: cheat}
    for setting in drafters.values():
        llm.strategy(setting)
    differences: dict[tuple[str, float], list[str]] = {(name, t): [] for name in candidates for t in TEMPERATURES}
    cases = [(workload, t) for workload in workloads for t in TEMPERATURES]
    for workload, temperature in track(cases, len(cases), "prompts"):
        params = SamplingParams(temperature=temperature, seed=SEED, max_tokens=max_tokens, logprobs=2)
        plain = llm.chat(workload.messages, params, speculative_config="none")[0]
        for name, candidate in candidates.items():
            output = llm.chat(workload.messages, params, speculative_config=candidate)[0]
            if output.token_ids != plain.token_ids or output.logprobs != plain.logprobs:
                differences[name, temperature].append(f"prompt {workload.id}: {first_difference(plain, output)}")
    checks = []
    for (name, temperature), found in differences.items():
        same = len(workloads) - len(found)
        detail = f"{same} of {len(workloads)} prompts identical to plain decoding" + (f"; {found[0]}" if found else "")
        if name == CHEAT:
            checks.append(Check(f"negative control caught, temperature {temperature:g}", bool(found), detail))
        else:
            checks.append(Check(f"{name}, temperature {temperature:g}", not found, detail))
    return checks


def first_difference(plain: RequestOutput, other: RequestOutput) -> str:
    """The first difference of two answers, and the gap of the two best logits there: a tiny gap is a numerical tie, a large one a bug."""
    pairs = zip(plain.token_ids, other.token_ids, strict=False)
    index = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(plain.token_ids), len(other.token_ids)))
    if index >= len(plain.token_ids) or plain.logprobs is None:
        return f"same tokens, other log-probabilities, {len(plain.token_ids)} and {len(other.token_ids)} tokens"
    best = sorted(plain.logprobs[index].values(), reverse=True)
    return f"first difference at token {index}, where the two best logits are {best[0] - best[1]:.4g} apart"


def _distributions() -> list[Check]:
    """Every lossless verifier on the toy model, with draft tokens drawn from a wrong distribution; then the cheating verifier."""
    checks = []
    for name in VERIFIERS:
        verifier = create_verifier(name)
        if verifier.lossless:
            result = distribution_test(verifier, SampledDrafter)
            checks.append(Check(f"distribution of {name} (toy model)", result.passed, str(result)))
    result = distribution_test(AcceptEverythingVerifier(), SampledDrafter)
    checks.append(Check("negative control caught (toy model)", not result.passed, str(result)))
    return checks
