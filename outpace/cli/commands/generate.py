"""The command `outpace generate`."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from outpace.cli.options import (
    AsJson,
    Config,
    Device,
    Drafter,
    ExactWidth,
    Model,
    NumDraftTokens,
    Precision,
    System,
    Target,
    Threads,
    llm_arguments,
    load,
)
from outpace.cli.sampling_options import SamplingOptions
from outpace.cli.spread import spread
from outpace.cli.tracing import Tracing
from outpace.errors import BadInputError
from outpace.files import decoded

Prompts = Annotated[list[str] | None, typer.Argument(help="The prompt; - or nothing reads a pipe.", show_default=False)]
NumLogprobs = Annotated[int | None, typer.Option(min=0, max=100, help="With --json: log-probabilities of so many tokens per position.")]
PromptLogprobs = Annotated[int | None, typer.Option(min=0, max=100, help="With --json: the same for the prompt's tokens.")]
Inputs = Annotated[list[str] | None, typer.Option("--input", help="Answer files of prompts (JSON lines): files, a folder, a pattern.")]
Output = Annotated[Path | None, typer.Option(help="With --input: folder for the answers; the same command resumes.")]


@spread(Tracing)
@spread(SamplingOptions)
def generate(
    prompt: Prompts = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Read the prompt from a file.")] = None,
    system: System = None,
    model: Model = "default",
    drafter: Drafter = None,
    num_draft_tokens: NumDraftTokens = None,
    *,
    sampling: SamplingOptions,
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="Number of answers, with the seeds --seed, --seed + 1, ...")] = 1,
    logprobs: NumLogprobs = None,
    prompt_logprobs: PromptLogprobs = None,
    raw: Annotated[bool, typer.Option("--raw", help="Complete the prompt as plain text, without the chat format.")] = False,
    show_drafts: Annotated[bool, typer.Option("--show-drafts", help="Color accepted draft tokens.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Draft with auto, and print on stderr why it drafted what it did.")] = False,
    compare: Annotated[bool, typer.Option("--compare", help="Decode plainly too; print both speeds on stderr.")] = False,
    as_json: AsJson = False,
    tracing: Tracing,
    inputs: Inputs = None,
    output: Output = None,
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

    Examples: `outpace generate "Why is the sky blue?" --compare`, `cat report.txt | outpace generate --max-tokens 200 --show-drafts` or
    `outpace generate --input questions.jsonl --output answers`
    """
    from outpace.cli.answer import Look, Question, answer

    tracing.check()
    _refuse(raw and system is not None, "--raw has no system prompt: leave out --system, or --raw")
    drafter = "auto" if explain and drafter is None and config is None else drafter
    model_options = (model, drafter, target, precision, threads, config, num_draft_tokens)
    place = (device, exact_width)
    if inputs:
        from outpace.cli.batch import refuse_with_input, run_batch

        refuse_with_input(file=file is not None, system=system is not None, show_drafts=show_drafts, explain=explain, compare=compare)
        refuse_with_input(n=n > 1, trace=tracing.is_on, logprobs=logprobs is not None, prompt_logprobs=prompt_logprobs is not None)
        arguments = llm_arguments(*model_options, {"max_num_seqs": max_num_seqs}, *place)
        run_batch([*inputs, *(prompt or ())], output, sampling.params(), raw, as_json, arguments, replicas, ray)
        return
    _refuse(output is not None or ray, f"--{'ray' if ray else 'output'} is for --input, which was not given")
    _refuse(not as_json and (logprobs, prompt_logprobs) != (None, None), "--logprobs and --prompt-logprobs need --json")
    params = sampling.params(n=n, logprobs=logprobs, prompt_logprobs=prompt_logprobs)
    question = Question(_read_prompt(_one(prompt), file), system, raw)
    answer(question, partial(load, *model_options, None, *place), params, Look(show_drafts, explain, compare, as_json), tracing)


def _refuse(is_wrong: bool, message: str) -> None:
    if is_wrong:
        raise BadInputError(message)


def _one(prompt: list[str] | None) -> str | None:
    if prompt and len(prompt) > 1:
        raise BadInputError("more than one prompt; put quotes around a prompt of several words")
    return prompt[0] if prompt else None


def _read_prompt(prompt: str | None, file: Path | None) -> str:
    if prompt is not None and file is not None:
        raise BadInputError("give one prompt: as an argument, with --file, or through a pipe")
    if prompt is None and file is None and sys.stdin.isatty():
        raise BadInputError("there is no prompt: give it as an argument, with --file, or through a pipe")
    try:
        if file is not None:
            text = decoded(file.read_bytes())
        else:
            text = decoded(sys.stdin.buffer.read()) if prompt in (None, "-") else prompt or ""
    except UnicodeDecodeError as error:
        raise BadInputError(f"the prompt is not UTF-8 text: {error}") from error
    except OSError as error:
        raise BadInputError(f"cannot read {file or 'stdin'}: {error.strerror}") from error
    if not text.strip():
        raise BadInputError("the prompt is empty")
    return text
