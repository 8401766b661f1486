"""The command `outpace generate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from outpace.cli.options.loading import DRAFTER_RULE, Drafting
from outpace.cli.options.option_types import AsJson, System
from outpace.cli.options.rules import excludes, needs, with_rules
from outpace.cli.options.sampling import FORMS, SamplingOptions
from outpace.cli.options.spread import spread
from outpace.cli.options.tracing import TRACE_RULE, Tracing
from outpace.errors import BadInputError
from outpace.files import decoded

Prompts = Annotated[list[str] | None, typer.Argument(help="The prompt; - or nothing reads a pipe.", show_default=False)]
NumLogprobs = Annotated[int | None, typer.Option(min=0, max=100, help="With --json: log-probabilities of so many tokens per position.")]
PromptLogprobs = Annotated[int | None, typer.Option(min=0, max=100, help="With --json: the same for the prompt's tokens.")]
Inputs = Annotated[list[str] | None, typer.Option("--input", help="Answer files of prompts (JSON lines): files, a folder, a pattern.")]
Output = Annotated[Path | None, typer.Option(help="With --input: folder for the answers; the same command resumes.")]


RULES = (
    excludes("raw", "system", message="--raw has no system prompt: leave out --system, or --raw"),
    excludes("inputs", "file", "system", "show_drafts", "explain", "compare", "n", "trace", "logprobs", "prompt_logprobs"),
    needs("inputs", "output", "ray", message="{other} is for --input, which was not given"),
    needs("as_json", "logprobs", "prompt_logprobs", message="--logprobs and --prompt-logprobs need --json"),
    excludes(
        *("explain", "drafter"),
        message="--explain explains the choices of auto: add --drafter auto",
        of_others=lambda drafter: "auto" not in drafter,
    ),
)


@with_rules(DRAFTER_RULE, TRACE_RULE, *FORMS, *RULES)
@spread(Tracing)
@spread(SamplingOptions)
@spread(Drafting)
def generate(
    prompt: Prompts = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Read the prompt from a file.")] = None,
    system: System = None,
    *,
    drafting: Drafting,
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
) -> None:
    """Generate the answer to one prompt, or to every line of files.

    Examples: `outpace generate "Why is the sky blue?" --compare`, `cat report.txt | outpace generate --max-tokens 200 --show-drafts` or
    `outpace generate --input questions.jsonl --output answers`
    """
    from outpace.cli.answer import Look, Question, answer

    tracing.check()
    if inputs:
        from outpace.cli.batch import run_batch

        arguments = drafting.arguments(engine={"max_num_seqs": max_num_seqs})
        run_batch([*inputs, *(prompt or ())], output, sampling.params(), raw, as_json, arguments, replicas, ray)
        return
    params = sampling.params(n=n, logprobs=logprobs, prompt_logprobs=prompt_logprobs)
    question = Question(_read_prompt(_one(prompt), file), system, raw)
    answer(question, drafting.llm, params, Look(show_drafts, explain, compare, as_json), tracing)


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
