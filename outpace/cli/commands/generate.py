"""The command `outpace generate`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from outpace.cli.options import (
    AsJson,
    Config,
    Device,
    Drafter,
    ExactWidth,
    MaxTokens,
    Model,
    NumDraftTokens,
    Precision,
    Seed,
    Target,
    Temperature,
    Threads,
    TopP,
    llm_arguments,
    load,
)
from outpace.errors import BadInputError, OutpaceError
from outpace.files import decoded

if TYPE_CHECKING:
    from outpace.llm import LLM
    from outpace.outputs import RequestOutput
    from outpace.params import SamplingParams

Inputs = Annotated[
    list[str] | None, typer.Option("--input", help="Answer files of prompts (JSON lines): a file, a folder or a pattern; may be repeated.")
]


def generate(
    prompt: Annotated[list[str] | None, typer.Argument(help="The prompt; - reads it from stdin.", show_default=False)] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Read the prompt from a file.")] = None,
    model: Model = "default",
    drafter: Drafter = None,
    num_draft_tokens: NumDraftTokens = None,
    max_tokens: MaxTokens = 256,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = None,
    raw: Annotated[bool, typer.Option("--raw", help="Complete the prompt as plain text, without the chat format.")] = False,
    show_drafts: Annotated[bool, typer.Option("--show-drafts", help="Color accepted draft tokens.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Print on stderr why auto drafted what it did.")] = False,
    compare: Annotated[bool, typer.Option("--compare", help="Decode plainly too; print both speeds on stderr.")] = False,
    as_json: AsJson = False,
    inputs: Annotated[
        list[str] | None, typer.Option("--input", help="Answer files of prompts (JSON lines): files, a folder, a pattern.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="With --input: folder for the answers; the same command resumes.")] = None,
    max_num_seqs: Annotated[int, typer.Option(min=1, help="With --input: maximum number of requests that run at once.")] = 16,
    ray: Annotated[bool, typer.Option("--ray", help="With --input: answer on a Ray cluster (RAY_ADDRESS), else on this machine.")] = False,
    replicas: Annotated[int | None, typer.Option(min=1, help="With --ray: number of models. Default: as many as fit.")] = None,
    target: Target = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    device: Device = "auto",
    exact_width: ExactWidth = None,
    config: Config = None,
) -> None:
    """Generate the answer to one prompt, or to every line of files.

    Examples: `outpace generate "Why is the sky blue?" --compare`, `cat report.txt | outpace generate - --max-tokens 200 --show-drafts` or
    `outpace generate --input questions.jsonl --output answers`
    """
    from outpace.params import SamplingParams

    params = SamplingParams(temperature=temperature, top_p=top_p, seed=seed, max_tokens=max_tokens)

    model_options = (model, drafter, target, precision, threads, config, num_draft_tokens)
    place = (device, exact_width)
    if inputs:
        from outpace.cli.batch import refuse_with_input, run_batch

        refuse_with_input(file=file is not None, show_drafts=show_drafts, explain=explain, compare=compare)
        arguments = llm_arguments(*model_options, {"max_num_seqs": max_num_seqs}, *place)
        run_batch([*inputs, *(prompt or ())], output, params, raw, as_json, arguments, replicas, ray)
        return
    if output is not None or ray:
        raise BadInputError(f"--{'ray' if ray else 'output'} is for --input, which was not given")
    load_it = partial(load, *model_options, None, *place)
    _answer_one(_read_prompt(_one(prompt), file), load_it, params, raw, show_drafts, explain, compare, as_json)


def _answer_one(
    text: str, load: Callable[[], LLM], params: SamplingParams, raw: bool, show_drafts: bool, explain: bool, compare: bool, as_json: bool
) -> None:
    """Print the answer to one prompt. Raises OutpaceError if it fails."""
    started = time.perf_counter()
    llm = load()
    load_seconds = time.perf_counter() - started
    token_ids = llm.tokenizer.encode(text) if raw else llm.tokenizer.encode_chat([{"role": "user", "content": text}])
    if explain:
        from outpace.cli import explain as reasons
        from outpace.progress import stderr

        controller = reasons.start(llm)
    output = _print_stream(llm, token_ids, params, quiet=as_json or show_drafts)
    plain = _plain(llm, token_ids, params, output) if compare and output.error is None else None
    if as_json:
        typer.echo(json.dumps(_document(output, load_seconds) | _comparison(output, plain), ensure_ascii=False))
    elif show_drafts:
        from rich.console import Console

        from outpace.cli.side_by_side import coloured

        Console(highlight=False, soft_wrap=True).print(coloured(output))
    if explain:
        stderr().print(reasons.render(llm, controller))
    if output.error is not None:
        raise OutpaceError(f"the request failed: {output.error}")
    if not as_json:
        _report(output, plain)
    if plain is not None and plain.token_ids != output.token_ids and llm.speculative_config.verifier == "exact":
        raise OutpaceError("the two texts differ; `outpace verify` says more")


def _one(prompt: list[str] | None) -> str | None:
    if prompt and len(prompt) > 1:
        raise BadInputError("more than one prompt; put quotes around a prompt of several words")
    return prompt[0] if prompt else None


def _read_prompt(prompt: str | None, file: Path | None) -> str:
    if (prompt is None) == (file is None):
        raise BadInputError("give exactly one of: a prompt, --file, or - for stdin")
    try:
        text = decoded(sys.stdin.buffer.read()) if prompt == "-" else prompt
        if file is not None:
            text = decoded(file.read_bytes())
    except UnicodeDecodeError as error:
        raise BadInputError(f"the prompt is not UTF-8 text: {error}") from error
    except OSError as error:
        raise BadInputError(f"cannot read {file or 'stdin'}: {error.strerror}") from error
    if not (text or "").strip():
        raise BadInputError("the prompt is empty")
    return text or ""


def _print_stream(llm: LLM, token_ids: list[int], params: SamplingParams, quiet: bool) -> RequestOutput:
    """Generate, and print the text as it arrives unless `quiet`."""
    for piece in llm.stream(token_ids, params):
        if not quiet:
            typer.echo(piece.text, nl=False)
            sys.stdout.flush()
        if piece.output is not None:
            if not quiet:
                typer.echo()
            return piece.output
    raise AssertionError("the stream ended without an output")


def _document(output: RequestOutput, load_seconds: float) -> dict[str, Any]:
    stats = output.stats
    seconds = {"load": load_seconds, "prefill": stats.prefill_seconds, "decode": stats.decode_seconds}
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
    }


def _plain(llm: LLM, token_ids: list[int], params: SamplingParams, output: RequestOutput) -> RequestOutput:
    """Run the same request without a drafter, with the same seed."""
    (plain,) = llm.generate(token_ids, replace(params, seed=output.seed), speculative_config="none")
    if plain.error is not None:
        raise OutpaceError(f"the request failed without a drafter: {plain.error}")
    return plain


def _comparison(output: RequestOutput, plain: RequestOutput | None) -> dict[str, Any]:
    """The `compare` entry of the JSON document; empty if plain decoding did not run."""
    if plain is None:
        return {}
    facts = {"tokens_per_second": round(plain.tokens_per_second, 2), "speedup": round(_speedup(output, plain), 3)}
    return {"compare": {**facts, "identical": plain.token_ids == output.token_ids}}


def _speedup(output: RequestOutput, plain: RequestOutput) -> float:
    return output.tokens_per_second / plain.tokens_per_second if plain.tokens_per_second else 0.0


def _report(output: RequestOutput, plain: RequestOutput | None) -> None:
    """Print the speed on stderr, if stderr is a terminal or the comparison was requested."""
    if plain is None and not _is_terminal(sys.stderr):
        return
    from outpace.progress import note

    note(_figures(output))
    if plain is not None:
        same = "identical texts" if plain.token_ids == output.token_ids else "the texts differ"
        note(f"plain: {plain.tokens_per_second:.1f} tokens/s; {output.drafter} is {_speedup(output, plain):.2f}x as fast; {same}")


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty()


def _figures(output: RequestOutput) -> str:
    drafted = f"{output.acceptance_rate:.0%} of draft tokens accepted" if output.stats.num_draft_tokens else "no drafts"
    speed = f"{output.tokens_per_second:.1f} tokens/s, {output.tokens_per_step:.2f} tokens per step"
    return f"{len(output.token_ids)} tokens, {speed}, {drafted}"
