"""`outpace verify`: a test on the user's own model that speculation changes no token, with negative controls that must fail it.

Three parts: (1) every drafter against plain decoding on real prompts, greedy and sampled; (2) the distribution of every
lossless verifier on a toy model whose probabilities are known exactly; (3) a verifier that cheats, which (1) and (2) must detect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
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
from outpace.testing.near_tie import logprobs_error, parting_of, rounding_of
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
    """Run all checks. Returns {"model", "compared", "passed", "checks": [{"name", "passed", "detail"}]}; "compared" is what the target
    promises: "bits" or "tokens"."""
    checks = [*_identity(llm, workloads, drafters, max_tokens), *_distributions()]
    compared = "bits" if llm.target.capabilities.exact_logits else "tokens"
    passed = all(check.passed for check in checks)
    return {"model": llm.name, "compared": compared, "passed": passed, "checks": [asdict(check) for check in checks]}


def _identity(llm: LLM, workloads: Sequence[Workload], drafters: Mapping[str, SpeculativeLike], max_tokens: int) -> list[Check]:
    """Token identity for every drafter and temperature, and the cheating verifier, which must differ."""
    cheat = Strategy(CHEAT, create_drafter("blind", DrafterContext(llm.target)), AcceptEverythingVerifier(), FixedController(3))
    candidates: dict[str, SpeculativeLike] = {**drafters, CHEAT: cheat}
    for setting in drafters.values():
        llm.strategy(setting)
    found = {(name, t): _Findings(len(workloads)) for name in candidates for t in TEMPERATURES}
    cases = [(workload, t) for workload in workloads for t in TEMPERATURES]
    for workload, temperature in track(cases, len(cases), "prompts"):
        params = SamplingParams(temperature=temperature, seed=SEED, max_tokens=max_tokens, logprobs=2)
        plain = llm.chat(workload.messages, params, speculative_config="none")[0]
        for name, candidate in candidates.items():
            output = llm.chat(workload.messages, params, speculative_config=candidate)[0]
            found[name, temperature].add(workload.id, llm, params, plain, output)
    checks = []
    for (name, temperature), findings in found.items():
        if name == CHEAT:
            checks.append(Check(f"negative control caught, temperature {temperature:g}", bool(findings.wrong), str(findings)))
        else:
            checks.append(Check(f"{name}, temperature {temperature:g}", not findings.wrong, str(findings)))
    return checks


@dataclass
class _Findings:
    """What differed from plain decoding: `wrong` says where it may not, `near_ties` where rounding explains it."""

    num_prompts: int
    wrong: list[str] = field(default_factory=list)
    near_ties: list[str] = field(default_factory=list)

    def add(self, name: str, llm: LLM, params: SamplingParams, plain: RequestOutput, other: RequestOutput) -> None:
        """Compare two answers: their bits on a target that promises bits, else their tokens, and the rest but for rounding."""
        parting = parting_of(llm, params, plain, other)
        if parting is not None:
            (self.near_ties if parting.is_near_tie else self.wrong).append(f"prompt {name}: {parting}")
        elif (error := logprobs_error(plain, other)) > rounding_of(llm):
            self.wrong.append(f"prompt {name}: same tokens, log-probabilities differ by {error:.1g}")

    def __str__(self) -> str:
        same = self.num_prompts - len(self.wrong) - len(self.near_ties)
        ties = [f"{len(self.near_ties)} with a near tie"] if self.near_ties else []
        parts = [f"{same} of {self.num_prompts} prompts identical to plain decoding", *ties, *self.wrong[:1], *self.near_ties[:1]]
        return "; ".join(parts)


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
