"""Random requests, in random batches, with random drafters, against the same requests alone and without a drafter.

usage: python dev/fuzz_lossless.py [--model default] [--target auto] [--precision auto] [--seed 0] [--comparisons 2000] [--minutes 10]
       python dev/fuzz_lossless.py --family "Mistral, window" --target hf       (a tiny random model, by its name in docs/models.md)

Sampling parameters up to their limits, stop strings, penalties, biases and forms of answers are drawn at random; some requests have a
logits processor that fails at some token. They arrive at random steps, and some give their place in the K/V cache away or are aborted.
Compared are tokens, texts, streams, finish reasons, errors, and log-probabilities: bit for bit where the target promises bits. On other
targets two texts may part at a near tie, which is reported. The last line of stdout is one JSON document; exit code 1 if anything else
differs. A difference names the seed of its round: --seed N --comparisons 1 runs that round again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from outpace.controller.strategy import Strategy
from outpace.drafters.base import DrafterContext
from outpace.drafters.spec import ready_drafters
from outpace.errors import BadInputError
from outpace.llm import LLM
from outpace.outputs import Job, RequestOutput
from outpace.params import SamplingParams, StructuredOutput
from outpace.testing import OracleDrafter
from outpace.testing.near_tie import logprobs_error, parting_of, rounding_of

ROOT = Path(__file__).parents[1]
TEXTS = ("outpace/assets/eddystone.txt", "outpace/assets/weather.py.txt")
COMBINATIONS = (
    "prompt_lookup+recycling",
    "suffix+prompt_lookup",
    "auto:suffix+recycling",
    "prompt_lookup:branches=1",
    "blind:tokens=frequent",
)
ORACLES = {"oracle": 1, "oracle of two": 2, "oracle of three": 3}  # drafters that know the answer -> branches at each token
MAX_BATCH, MAX_TOKENS = 4, 40
MAX_PREEMPTIONS = 3  # of one request
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 9}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
FORMS = (
    StructuredOutput("json_schema", PERSON),
    StructuredOutput("json_object"),
    StructuredOutput("choice", ["alpha", "alphabet", "beta"]),
    StructuredOutput("regex", "(ab|c){2,5}-[0-9]{3}x*z"),
)


class FailsAt:
    """A logits processor that raises as soon as a text has `length` tokens."""

    def __init__(self, length: int):
        self.length = length

    def __call__(self, token_ids: Any, logits: Any) -> Any:
        if len(token_ids) >= self.length:
            raise ArithmeticError(f"no logits for a text of {len(token_ids)} tokens")
        return logits


@dataclass
class Report:
    """What was found. `differences` are those that nothing explains."""

    num_comparisons: int = 0
    num_failing: int = 0  # comparisons of requests that fail
    num_aborted: int = 0  # comparisons of requests that were aborted
    num_preemptions: int = 0
    num_drafted: int = 0  # draft tokens, of which some were accepted
    num_accepted: int = 0
    near_ties: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)


def prompt_of(rng: random.Random, llm: LLM) -> list[int]:
    """A piece of a text, or random tokens; some repeat themselves."""
    vocab_size, room = llm.target.capabilities.vocab_size, llm.engine.max_len - MAX_TOKENS - 1
    length = rng.randint(1, min(rng.choice((8, 70, 150)), room))
    text = (ROOT / rng.choice(TEXTS)).read_text("utf-8")
    start = rng.randrange(len(text))
    tokens = llm.tokenizer.encode(text[start : start + 8 * length])[:length]
    if len(tokens) < length / 2 or rng.random() < 0.3:  # a tiny model knows no words
        tokens = [rng.randrange(vocab_size) for _ in range(length)]
    return (tokens[: max(1, length // 3)] * 3)[:length] if rng.random() < 0.4 else tokens


def params_of(rng: random.Random, llm: LLM, num_prompt_tokens: int) -> SamplingParams:
    """Random sampling parameters; one request in eight fails."""
    vocab_size = llm.target.capabilities.vocab_size

    def at_times(value: Any, otherwise: Any, share: float = 0.3) -> Any:
        return value if rng.random() < share else otherwise

    def some(count: int) -> list[int]:
        return [rng.randrange(vocab_size) for _ in range(count)]

    tokens, max_tokens = some(4), rng.choice((1, rng.randint(1, MAX_TOKENS), rng.randint(1, MAX_TOKENS)))
    form = at_times(rng.choice(FORMS), None, 0.15) if llm.eos_token_ids else None
    return SamplingParams(
        temperature=rng.choice((0.0, 0.0, 0.3, 0.8, 1.3, 1e-5, 0.01, 5.0)),
        top_k=at_times(rng.choice((1, rng.randint(1, 50))), 0),
        top_p=at_times(rng.choice((1e-9, rng.uniform(0.1, 1.0))), 1.0),
        min_p=at_times(rng.choice((1.0, 1e-9, rng.uniform(0.0, 0.2))), 0.0),
        repetition_penalty=at_times(rng.choice((rng.uniform(0.8, 1.5), 0.1, 10.0)), 1.0),
        presence_penalty=at_times(rng.choice((rng.uniform(-1, 1), -2, 2)), 0.0),
        frequency_penalty=at_times(rng.choice((rng.uniform(-1, 1), -2, 2)), 0.0),
        logit_bias=at_times({token: rng.uniform(-5, 5) for token in some(rng.choice((4, 300)))}, None),
        min_tokens=0 if form else at_times(rng.randint(0, max_tokens), 0),
        max_tokens=at_times(10**6, max_tokens, 0.0 if llm.engine.max_len > 1000 else 0.1),  # more than fits
        stop=at_times([llm.tokenizer.decode(tokens[:1]) or "x", "."], []),
        stop_token_ids=at_times(tokens, []),
        bad_words_ids=at_times([tokens[:1], tokens[1:3]], [], 0.1),
        allowed_token_ids=at_times(some(200), None, 0.1),
        ignore_eos=False if form else at_times(True, False),
        include_stop_str_in_output=at_times(True, False),
        seed=rng.randrange(1 << rng.choice((1, 31, 62))),
        n=rng.choice((1, 1, 1, 2, 3)),
        logprobs=rng.choice((None, 0, 3)),
        prompt_logprobs=at_times(rng.choice((0, 2)), None, 0.15),
        logits_processors=at_times((FailsAt(num_prompt_tokens + rng.randint(0, 30)),), (), 0.125),
        structured=form,
    )


def compare(report: Report, llm: LLM, name: str, params: SamplingParams, plain: RequestOutput, other: RequestOutput) -> None:
    """Add what differs between two answers to the report."""
    report.num_comparisons += 1
    report.num_failing += plain.error is not None
    report.num_drafted += other.stats.num_draft_tokens
    report.num_accepted += other.stats.num_accepted_tokens
    parting = parting_of(llm, replace(params, logits_processors=()), plain, other)
    if parting is not None:
        (report.near_ties if parting.is_near_tie else report.differences).append(f"{name}: {parting}")
        return
    facts = [(one.text, one.finish_reason, repr(one.error), one.pieces, len(one.prompt_logprobs or ())) for one in (plain, other)]
    if facts[0] != facts[1]:
        report.differences.append(f"{name}: same tokens, but {facts[0]!r:.300} became {facts[1]!r:.300}")
    elif (error := logprobs_error(plain, other)) > rounding_of(llm):
        report.differences.append(f"{name}: same tokens, log-probabilities differ by {error:.1g}")


def knowing(llm: LLM, config: dict[str, Any], arrivals: list[Arrival]) -> Strategy:
    """The strategy of `config`, with a drafter that knows the plain answers and lies at three tokens in ten."""
    answers = {tuple(arrival.prompt): arrival.plain[0].token_ids for arrival in arrivals}
    drafter = OracleDrafter(DrafterContext(llm.target), answers, lie=0.3, width=ORACLES[config["method"]])
    return replace(llm.strategy({**config, "method": "blind"}), name=config["method"], drafter=drafter)


@dataclass
class Arrival:
    """One prompt of a round, its answers as they come, and the answers of plain decoding."""

    step: int
    prompt: list[int]
    params: SamplingParams
    plain: list[RequestOutput]
    jobs: list[Job] = field(default_factory=list)
    streamed: dict[int, str] = field(default_factory=dict)  # index of the answer -> its text so far

    @property
    def is_done(self) -> bool:
        return bool(self.jobs) and all(job.is_done for job in self.jobs)


def serve(rng: random.Random, llm: LLM, arrivals: list[Arrival], how: Any, report: Report) -> None:
    """Run the requests of a round together; some give way, and some are aborted."""
    abort_share, preempt_share = rng.choice((0.0, 0.0, 0.05)), rng.choice((0.0, 0.1, 0.3))
    for step in itertools.count():
        for arrival in arrivals:
            if arrival.step == step:
                arrival.jobs = llm.submit_all(arrival.prompt, arrival.params, speculative_config=how)
        for job in llm.step():
            arrival = next(arrival for arrival in arrivals if job in arrival.jobs)
            arrival.streamed[job.index] = arrival.streamed.get(job.index, "") + llm.take(job).text
        if all(arrival.is_done for arrival in arrivals):
            return
        running = list(llm.engine.scheduler.running)
        if running and rng.random() < preempt_share:
            request = rng.choice(running)
            if request.stats.num_preemptions < MAX_PREEMPTIONS:
                llm.engine.preempt(request)
                report.num_preemptions += 1
        jobs = [job for arrival in arrivals for job in arrival.jobs]
        if jobs and rng.random() < abort_share:
            llm.abort(rng.choice(jobs))


def judge(report: Report, llm: LLM, name: str, arrival: Arrival) -> None:
    """Compare all answers to one prompt; an aborted one is the beginning of its text."""
    for job, plain in zip(arrival.jobs, arrival.plain, strict=True):
        other = job.output()
        own = replace(arrival.params, n=1, seed=job.seed)
        if other.finish_reason == "abort":
            num_tokens = len(other.token_ids)
            report.num_aborted += 1
            plain = replace(plain, token_ids=plain.token_ids[:num_tokens])
            parting = parting_of(llm, replace(own, logits_processors=()), plain, other)
            if parting is not None:
                (report.near_ties if parting.is_near_tie else report.differences).append(f"{name}, aborted: {parting}")
            continue
        compare(report, llm, name, own, plain, other)
        if arrival.streamed.get(job.index, "") != other.text:
            report.differences.append(f"{name}: streamed {arrival.streamed.get(job.index)!r:.200}, but the text is {other.text!r:.200}")


def play_round(llm: LLM, seed: int, report: Report) -> None:
    """One batch of random requests: each alone without a drafter, then all together with one."""
    rng = random.Random(seed)
    arrivals: list[Arrival] = []
    for _ in range(rng.randint(1, MAX_BATCH)):
        prompt = prompt_of(rng, llm)
        params = params_of(rng, llm, len(prompt))
        try:
            plain = llm.generate(prompt, params, speculative_config="none", return_errors=True)
        except BadInputError:  # the model's tokens cannot write this form
            params = replace(params, structured=None)
            plain = llm.generate(prompt, params, speculative_config="none", return_errors=True)
        arrivals.append(Arrival(rng.choice((0, rng.randrange(20))), prompt, params, plain))
    spec = rng.choice([*ready_drafters(llm.target.base), *COMBINATIONS, *ORACLES])
    config = {"method": spec, "num_draft_tokens": rng.choice((None, rng.randint(1, 16)))}
    how = knowing(llm, config, arrivals) if spec in ORACLES else config
    try:
        serve(rng, llm, arrivals, how, report)
        for i, arrival in enumerate(arrivals):
            judge(report, llm, f"seed {seed}, request {i} of {len(arrivals)}, {config}", arrival)
    finally:
        for arrival in arrivals:
            for job in reversed(arrival.jobs):
                llm.abort(job)


def fuzz(llm: LLM, seed: int, num_comparisons: int, seconds: float) -> Report:
    """Play rounds with the seeds `seed`, `seed` + 1, … until there are so many comparisons or the time is over."""
    report, started = Report(), time.monotonic()
    for number in itertools.count(seed):
        play_round(llm, number, report)
        if report.num_comparisons >= num_comparisons or time.monotonic() - started > seconds:
            return report
    raise AssertionError


@contextmanager
def folder_of(family: str) -> Iterator[str]:
    """A folder with a tiny random model of a family of tiny_families.py; what is converted of it goes with it."""
    sys.path.insert(0, str(ROOT / "dev"))
    from tiny_families import build, save

    with tempfile.TemporaryDirectory(prefix="outpace-fuzz-") as folder:
        os.environ["OUTPACE_HOME"] = folder
        yield str(save(build(family), Path(folder) / family))


def main(arguments: list[str] | None = None) -> int:
    """Run the rounds that the options ask for; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "target", "precision"):
        parser.add_argument(f"--{name}", default="default" if name == "model" else "auto")
    parser.add_argument("--family", help="a tiny random model of this family in the place of --model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--comparisons", type=int, default=2000)
    parser.add_argument("--minutes", type=float, default=10.0)
    options = parser.parse_args(arguments)
    logging.getLogger("outpace").setLevel(logging.ERROR)  # requests that fail are told one by one
    with folder_of(options.family) if options.family else nullcontext(options.model) as model:
        threads = 1 if options.family else None  # more only make a tiny model slower
        llm = LLM(model, "none", target=options.target, precision=options.precision, threads=threads)
        report = fuzz(llm, options.seed, options.comparisons, 60 * options.minutes)
    for line in [*report.near_ties, *report.differences]:
        sys.stdout.write(line + "\n")
    promise = "bits" if llm.target.capabilities.exact_logits else "tokens"
    sys.stdout.write(json.dumps({"model": llm.name, "compared": promise, "seed": options.seed, **asdict(report)}) + "\n")
    return 1 if report.differences else 0


if __name__ == "__main__":
    sys.exit(main())
