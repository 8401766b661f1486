"""One prompt, answered: what `outpace generate` prints."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TextIO

import typer

from outpace.errors import OutpaceError

if TYPE_CHECKING:
    from outpace.cli.options.tracing import Tracing
    from outpace.llm import LLM
    from outpace.outputs import RequestOutput
    from outpace.params import SamplingParams


@dataclass(frozen=True)
class Question:
    """A prompt, with the system prompt if there is one; `is_raw`: without the chat format."""

    text: str
    system: str | None = None
    is_raw: bool = False

    def token_ids(self, llm: LLM) -> list[int]:
        """As the model reads it."""
        if self.is_raw:
            return llm.tokenizer.encode(self.text)
        first = [] if self.system is None else [{"role": "system", "content": self.system}]
        return llm.tokenizer.encode_chat([*first, {"role": "user", "content": self.text}])


@dataclass(frozen=True)
class Look:
    """How answers are shown: the options of the same names."""

    show_drafts: bool = False
    explain: bool = False
    compare: bool = False
    as_json: bool = False


def answer(question: Question, load: Callable[[], LLM], params: SamplingParams, look: Look, tracing: Tracing) -> None:
    """Load the model and print its answers to one prompt. Raises OutpaceError if one fails."""
    started = time.perf_counter()
    llm = load()
    load_seconds = time.perf_counter() - started
    token_ids = question.token_ids(llm)
    recorder = _recorder(llm) if look.explain else None
    with tracing.of(llm):
        outputs = _answers(llm, token_ids, params, quiet=look.as_json or look.show_drafts)
    failed = next((output for output in outputs if output.error is not None), None)
    plain = _plain(llm, token_ids, params, outputs) if look.compare and failed is None else None
    _show(outputs, plain, load_seconds, look)
    if recorder is not None:
        _explain(llm, recorder, outputs)
    if failed is not None:
        raise OutpaceError(f"the request failed: {failed.error}")
    if not look.as_json:
        _report(outputs, plain)
    if plain is not None and not _are_same(outputs, plain) and llm.speculative_config.verifier == "exact":
        raise OutpaceError("the two texts differ; `outpace verify` says more")


def _answers(llm: LLM, token_ids: list[int], params: SamplingParams, quiet: bool) -> list[RequestOutput]:
    """Generate all answers, in their order. The text of a single one is printed as it arrives, unless `quiet`."""
    outputs = {}
    is_live = not quiet and params.n == 1
    for piece in llm.stream(token_ids, params):
        if is_live:
            typer.echo(piece.text, nl=False)
            sys.stdout.flush()
        if piece.output is not None:
            outputs[piece.index] = piece.output
            if is_live:
                typer.echo()
    found = [output for _, output in sorted(outputs.items())]
    if not quiet and params.n > 1:
        for output in found:
            typer.echo(f"{_heading(output, params.n)}\n{output.text}")
    return found


def _heading(output: RequestOutput, count: int) -> str:
    """What stands above one of several answers."""
    return f"--- {output.index + 1} of {count}, seed {output.seed}"


def _show(outputs: Sequence[RequestOutput], plain: Sequence[RequestOutput] | None, seconds: float, look: Look) -> None:
    """Print what was not printed as it arrived: one JSON document, or the texts with their drafts in colour."""
    if look.as_json:
        documents = [_document(output, seconds) for output in outputs]
        document = documents[0] if len(documents) == 1 else {"answers": documents}
        typer.echo(json.dumps(document | _comparison(outputs, plain), ensure_ascii=False))
    elif look.show_drafts:
        from rich.console import Console

        from outpace.cli.side_by_side import coloured

        console = Console(highlight=False, soft_wrap=True, markup=False)
        for output in outputs:
            if len(outputs) > 1:
                console.print(_heading(output, len(outputs)))
            console.print(coloured(output))


def _document(output: RequestOutput, load_seconds: float) -> dict[str, Any]:
    stats = output.stats
    seconds = {"load": load_seconds, "prefill": stats.prefill_seconds, "decode": stats.decode_seconds}
    asked = {"logprobs": output.logprobs, "prompt_logprobs": output.prompt_logprobs}
    return {
        "text": output.text,
        "token_ids": output.token_ids,
        "prompt_tokens": len(output.prompt_token_ids),
        "completion_tokens": len(output.token_ids),
        "finish_reason": output.finish_reason,
        "drafter": output.drafter,
        "seed": output.seed,
        "seconds": {key: round(value, 4) for key, value in seconds.items()},
        "tokens_per_second": round(output.tokens_per_second, 2),
        "num_steps": stats.num_steps,
        "tokens_per_step": round(output.tokens_per_step, 3),
        "mean_acceptance_length": round(output.mean_acceptance_length, 3),
        "from_draft": output.from_draft,
        **{name: value for name, value in asked.items() if value is not None},
    }


def _recorder(llm: LLM) -> Any:
    from outpace.cli import explain

    return explain.start(llm)


def _explain(llm: LLM, recorder: Any, outputs: Sequence[RequestOutput]) -> None:
    from outpace.cli import explain
    from outpace.progress import stderr

    stderr().print(explain.render(llm, recorder, outputs))


def _plain(llm: LLM, token_ids: list[int], params: SamplingParams, outputs: Sequence[RequestOutput]) -> list[RequestOutput]:
    """Run the same request without a drafter, with the same seeds."""
    found = llm.generate(token_ids, replace(params, seed=outputs[0].seed), speculative_config="none", return_errors=True)
    if error := next((output.error for output in found if output.error is not None), None):
        raise OutpaceError(f"the request failed without a drafter: {error}")
    return found


def _are_same(outputs: Sequence[RequestOutput], plain: Sequence[RequestOutput]) -> bool:
    return [output.token_ids for output in outputs] == [output.token_ids for output in plain]


def _comparison(outputs: Sequence[RequestOutput], plain: Sequence[RequestOutput] | None) -> dict[str, Any]:
    """The `compare` entry of the JSON document; empty if plain decoding did not run."""
    if plain is None:
        return {}
    facts = {"tokens_per_second": round(_rate(plain), 2), "speedup": round(_speedup(outputs, plain), 3)}
    return {"compare": {**facts, "identical": _are_same(outputs, plain), "loops": _loops(plain)}}


def _loops(outputs: Sequence[RequestOutput]) -> bool:
    """Whether an answer runs in circles, so that the speed says little."""
    from outpace.bench.looping import is_looping

    return any(is_looping(output.token_ids) for output in outputs)


def _rate(outputs: Sequence[RequestOutput]) -> float:
    """Tokens per second of decoding, over all answers."""
    seconds = sum(output.stats.decode_seconds for output in outputs)
    return sum(len(output.token_ids) for output in outputs) / seconds if seconds else 0.0


def _speedup(outputs: Sequence[RequestOutput], plain: Sequence[RequestOutput]) -> float:
    return _rate(outputs) / _rate(plain) if _rate(plain) else 0.0


def _report(outputs: Sequence[RequestOutput], plain: Sequence[RequestOutput] | None) -> None:
    """Print the speed on stderr, if stderr is a terminal or the comparison was requested."""
    if plain is None and not _is_terminal(sys.stderr):
        return
    from outpace.bench.looping import LOOPS
    from outpace.progress import note

    for output in outputs:
        note(_figures(output))
        if output.finish_reason == "length":
            note(f"stopped after {len(output.token_ids)} tokens; --max-tokens allows more")
    if plain is not None:
        same = "identical texts" if _are_same(outputs, plain) else "the texts differ"
        note(f"plain: {_rate(plain):.1f} tokens/s; {outputs[0].drafter} is {_speedup(outputs, plain):.2f}x as fast; {same}")
        if _loops(plain):
            note(f"Note: {LOOPS}.")


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty()


def _figures(output: RequestOutput) -> str:
    drafted = f"{output.acceptance_rate:.0%} of draft tokens accepted" if output.stats.num_draft_tokens else "no drafts"
    speed = f"{output.tokens_per_second:.1f} tokens/s, {output.tokens_per_step:.2f} tokens per step"
    return f"{len(output.token_ids)} tokens, {speed}, {drafted}"
