"""`outpace verify`: a test on the user's own model that speculation changes no token, with negative controls that must fail it.

Three parts: (1) every drafter against plain decoding on real prompts, greedy and sampled, alone and in batches; (2) the distribution of
every lossless verifier on a toy model whose probabilities are known exactly; (3) a verifier that cheats, which (1) and (2) must detect.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
from outpace.progress import meter
from outpace.testing import AcceptEverythingVerifier, SampledDrafter, distribution_test
from outpace.testing.distribution import FALSE_ALARM
from outpace.testing.effort import num_answers, sizes_at_once
from outpace.testing.near_tie import logprobs_error, parting_of, rounding_of
from outpace.verifiers import VERIFIERS, create_verifier

SEED = 20_26
CHEAT = "cheating verifier"
PLAIN = "plain decoding"
NOT_RUN = "Other prompts, lengths and settings were not run."
Point = tuple[float, int]  # temperature, seed


@dataclass(frozen=True)
class Trials:
    """What is run: each temperature above 0 with `num_seeds` seeds (temperature 0 draws no random number), and each number of prompts at
    once."""

    temperatures: Sequence[float] = (0.0, 0.8)
    num_seeds: int = 1
    at_once: Sequence[int] = (1, 4)
    max_tokens: int = 64

    def seeds(self, temperature: float) -> list[int]:
        """The seeds of a temperature."""
        return [SEED + i for i in range(self.num_seeds if temperature else 1)]

    def sizes(self, num_prompts: int) -> list[int]:
        """The numbers of prompts at once, each once and none above those there are."""
        return sizes_at_once(self.at_once, num_prompts)

    def described(self, num_prompts: int, drafters: Sequence[str]) -> str:
        """What is run, in words."""
        seeds = f", {self.num_seeds} seeds" if self.num_seeds > 1 and max(self.temperatures) > 0 else ""
        settings = f"temperature {_listed(self.temperatures)}{seeds}, {_listed(self.sizes(num_prompts))} at once"
        prompts = "1 prompt" if num_prompts == 1 else f"{num_prompts} prompts"
        return f"{prompts}, at most {self.max_tokens} tokens, {settings}, {', '.join(drafters)}"

    @property
    def points(self) -> list[Point]:
        """Every temperature with every seed of it."""
        return [(temperature, seed) for temperature in self.temperatures for seed in self.seeds(temperature)]


@dataclass(frozen=True)
class Check:
    """One line of the result. `detail` says what was observed."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class NearTie:
    """Where rounding decided between two tokens: `gap` is the least change of the two logits that gives either text."""

    drafter: str
    prompt: str
    temperature: float
    seed: int
    at_once: int
    token: int
    gap: float


def verify(
    llm: LLM, workloads: Sequence[Workload], drafters: Mapping[str, SpeculativeLike], trials: Trials | None = None
) -> dict[str, Any]:
    """Run all checks. Returns {"model", "compared", "passed", "claim", "false_alarms", "num_answers", "near_ties", "checks": [{"name",
    "passed", "detail"}]}.

    "compared" is what the target promises: "bits" or "tokens"; "claim" says in words what was run and found, or how much failed;
    "false_alarms" how likely a correct engine fails. Raises BadInputError for settings of a drafter that are wrong.
    """
    trials = trials or Trials()
    found = _identity(llm, workloads, drafters, trials)
    checks = [*(findings.check() for findings in found), *_distributions()]
    compared = "bits" if llm.target.capabilities.exact_logits else "tokens"
    near_ties = [tie for findings in found if not findings.is_control for tie in findings.near_ties]
    num_answers = sum(findings.num_answers for findings in found if not findings.is_control)
    num_failed = sum(not check.passed for check in checks)
    result = f"{num_failed} of {len(checks)} checks failed" if num_failed else claim(num_answers, len(near_ties), rounding_of(llm))
    return {
        "model": llm.name,
        "compared": compared,
        "passed": not num_failed,
        "claim": f"{trials.described(len(workloads), list(drafters))}: {result}",
        "false_alarms": false_alarms(rounding_of(llm)),
        "num_answers": num_answers,
        "near_ties": [asdict(tie) for tie in near_ties],
        "checks": [asdict(check) for check in checks],
    }


def _identity(llm: LLM, workloads: Sequence[Workload], drafters: Mapping[str, SpeculativeLike], trials: Trials) -> list[_Findings]:
    """The tokens of every drafter at every point, alone and in batches, against plain decoding alone; plain decoding in batches; and the
    cheating verifier, which must differ."""
    cheat = Strategy(CHEAT, create_drafter("blind", DrafterContext(llm.target)), AcceptEverythingVerifier(), FixedController(3))
    for setting in drafters.values():
        llm.strategy(setting)
    sizes = trials.sizes(len(workloads))
    found: dict[tuple[str, float, int], _Findings] = {}
    plain: dict[tuple[int, Point], RequestOutput] = {}
    total = num_answers(len(trials.points), trials.at_once, len(workloads), len(drafters))
    cases = [(point, size, start) for point in trials.points for size in sizes for start in range(0, len(workloads), size)]
    with meter("comparing answers", total) as show:
        for (temperature, seed), size, start in cases:
            params = SamplingParams(temperature=temperature, seed=seed, max_tokens=trials.max_tokens, logprobs=2)
            group = list(enumerate(workloads))[start : start + size]
            for index, workload in group:
                if (index, (temperature, seed)) not in plain:
                    plain[index, (temperature, seed)] = llm.chat(workload.messages, params, speculative_config="none")[0]
            candidates: dict[str, SpeculativeLike] = {**({PLAIN: "none"} if size > 1 else {}), **drafters}
            candidates |= {CHEAT: cheat} if size == sizes[0] else {}
            for name, candidate in candidates.items():
                findings = found.setdefault((name, temperature, size), _Findings(name, temperature, size, candidate is cheat))
                outputs = llm.chat([workload.messages for _, workload in group], params, speculative_config=candidate)
                for (index, workload), output in zip(group, outputs, strict=True):
                    findings.add(workload.id, llm, params, plain[index, (temperature, seed)], output)
                num_done = len(plain) + sum(each.num_answers for each in found.values())
                show(num_done, f"{num_done} of {total}, {name}")
    return sorted(found.values(), key=lambda findings: (findings.is_control, [*drafters, PLAIN, CHEAT].index(findings.name)))


@dataclass
class _Findings:
    """What differed from plain decoding: `wrong` says where it may not, `near_ties` where rounding explains it."""

    name: str
    temperature: float
    at_once: int
    is_control: bool = False
    num_answers: int = 0
    wrong: list[str] = field(default_factory=list)
    near_ties: list[NearTie] = field(default_factory=list)
    first_tie: str = ""

    def add(self, prompt: str, llm: LLM, params: SamplingParams, plain: RequestOutput, other: RequestOutput) -> None:
        """Compare two answers: their bits on a target that promises bits, else their tokens, and the rest but for rounding."""
        self.num_answers += 1
        parting = parting_of(llm, params, plain, other)
        if parting is None:
            if (error := logprobs_error(plain, other)) > rounding_of(llm):
                self.wrong.append(f"prompt {prompt}: same tokens, log-probabilities differ by {error:.1g}")
        elif parting.is_near_tie:
            self.first_tie = self.first_tie or f"prompt {prompt}: {parting}"
            tie = NearTie(self.name, prompt, self.temperature, params.seed or 0, self.at_once, parting.index, parting.gap)
            self.near_ties.append(tie)
        else:
            self.wrong.append(f"prompt {prompt}: {parting}")

    def check(self) -> Check:
        """The line of the result."""
        if self.is_control:
            return Check(f"negative control caught, temperature {self.temperature:g}", bool(self.wrong), str(self))
        batch = f", {self.at_once} at once" if self.at_once > 1 else ""
        return Check(f"{self.name}, temperature {self.temperature:g}{batch}", not self.wrong, str(self))

    def __str__(self) -> str:
        same = self.num_answers - len(self.wrong) - len(self.near_ties)
        ties = [f"{len(self.near_ties)} with a near tie"] if self.near_ties else []
        parts = [f"{same} of {self.num_answers} answers identical to plain decoding", *ties, *self.wrong[:1], self.first_tie]
        return "; ".join(part for part in parts if part)


def claim(num_answers: int, num_near_ties: int, rounding: float) -> str:
    """What a run without a fault has shown: how the answers were compared, and nothing beyond."""
    if rounding:
        part = "parts" if num_near_ties == 1 else "part"
        ties = f", and {num_near_ties} {part} from it only at a near tie" if num_near_ties else ""
        same = f"of {num_answers} answers {num_answers - num_near_ties} have the tokens of plain decoding"
        return f"{same}, their log-probabilities within {rounding:g}{ties}. {NOT_RUN}"
    same = f"all {num_answers} answers have the tokens of plain decoding and the same log-probabilities of the two likeliest tokens"
    return f"{same}, bit for bit. {NOT_RUN}"


def _listed(values: Iterable[float]) -> str:
    *first, last = [f"{value:g}" for value in values]
    return f"{', '.join(first)} and {last}" if first else last


def false_alarms(rounding: float) -> str:
    """How likely these checks fail on a correct engine, in words."""
    texts = (
        f"a correct engine fails only where rounding changes a logit by more than {rounding:g}"
        if rounding
        else "a correct engine gives the same bits, so that none can fail by chance"
    )
    toy = f"each fails by chance for {FALSE_ALARM:g} of all choices of seeds, which are fixed"
    return f"comparing texts: {texts}; tests on the toy model: {toy}"


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
