"""The command line: one thin function per command. Results go to stdout, progress and errors to stderr.

Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted. Heavy imports happen inside the commands.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outpace import __version__, cli_serve
from outpace.errors import BadInputError, OutpaceError
from outpace.shell import Commands, read_config, reported

if TYPE_CHECKING:
    from outpace.llm import LLM, RequestOutput


app = typer.Typer(
    name="outpace",
    cls=Commands,
    help="Make a language model answer faster without changing one token of its answer.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Model = Annotated[str, typer.Option(help="default, a hub id, a folder or a .gguf file.")]
Drafter = Annotated[str | None, typer.Option(help="How to guess; `outpace drafters` lists them. Default: prompt_lookup.")]
NumDraftTokens = Annotated[int | None, typer.Option(min=0, help="Guesses a step. Default: the drafter's own.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")]
Temperature = Annotated[float, typer.Option(min=0, help="0 always takes the likeliest token.")]
TopP = Annotated[float, typer.Option(help="Sample from the likeliest tokens that reach this probability together.")]
Seed = Annotated[int | None, typer.Option(min=0, help="The same seed gives the same text, with any drafter.")]
Target = Annotated[str, typer.Option(help="auto, openvino or hf.")]
Precision = Annotated[str, typer.Option(help="auto, int8, bf16 or f32.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: all cores.")]
Config = Annotated[Path | None, typer.Option(help="Speculative settings as JSON, as written by `outpace tune`.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Take so many prompts, spread evenly over the categories.")]


def load(
    model: str, drafter: str | None, target: str, precision: str, threads: int | None, config: Path | None, count: int | None = None
) -> LLM:
    """Build the LLM that a command asked for; `--drafter` wins over `--config`."""
    from outpace.llm import LLM

    speculative: Any = drafter if drafter is not None or config is None else read_config(config)
    return LLM(model, speculative, target=target, precision=precision, threads=threads, num_draft_tokens=count)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Make a language model answer faster without changing one token of its answer."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
@reported
def demo(
    max_tokens: MaxTokens = 200,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    model: Model = "default",
    drafter: Drafter = None,
    target: Target = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    config: Config = None,
) -> None:
    """Summarise a document plainly and speculatively, side by side.

    Example: `outpace demo --max-tokens 100`
    """
    from rich.console import Console

    from outpace import demo as demonstration

    console = Console(stderr=as_json)
    plain, fast = demonstration.run(load(model, drafter, target, precision, threads, config), max_tokens, console)
    if as_json:
        typer.echo(json.dumps(demonstration.summary(plain, fast), ensure_ascii=False))
    else:
        console.print(demonstration.render(plain, fast))
    if plain.token_ids != fast.token_ids:
        raise OutpaceError("the two answers differ; `outpace verify` says more")


@app.command()
@reported
def generate(
    prompt: Annotated[str | None, typer.Argument(help="The prompt; - reads it from stdin.", show_default=False)] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Read the prompt from a file.")] = None,
    model: Model = "default",
    drafter: Drafter = None,
    num_draft_tokens: NumDraftTokens = None,
    max_tokens: MaxTokens = 256,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = None,
    raw: Annotated[bool, typer.Option("--raw", help="Complete the text as it is, without the chat format.")] = False,
    show_drafts: Annotated[bool, typer.Option("--show-drafts", help="Colour the tokens that came from a guess.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    target: Target = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    config: Config = None,
) -> None:
    """Answer one prompt.

    Examples: `outpace generate "Why is the sky blue?"` or `cat report.txt | outpace generate - --max-tokens 200 --show-drafts`
    """
    from outpace.core import SamplingParams

    text = _read_prompt(prompt, file)
    params = SamplingParams(temperature=temperature, top_p=top_p, seed=seed, max_tokens=max_tokens)
    started = time.perf_counter()
    llm = load(model, drafter, target, precision, threads, config, num_draft_tokens)
    load_seconds = time.perf_counter() - started
    token_ids = llm.tokenizer.encode(text) if raw else llm.tokenizer.encode_chat([{"role": "user", "content": text}])
    output = _print_stream(llm, token_ids, params, quiet=as_json or show_drafts)
    if as_json:
        typer.echo(json.dumps(_document(output, load_seconds), ensure_ascii=False))
    elif show_drafts:
        from rich.console import Console

        from outpace.demo import coloured

        Console(highlight=False, soft_wrap=True).print(coloured(output))
    if output.error is not None:
        raise OutpaceError(f"the request failed: {output.error}")


def _read_prompt(prompt: str | None, file: Path | None) -> str:
    if (prompt is None) == (file is None):
        raise BadInputError("give a prompt, or --file, or - for stdin (one of them)")
    try:
        text = sys.stdin.buffer.read().decode("utf-8") if prompt == "-" else prompt
        if file is not None:
            text = file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise BadInputError(f"the prompt is not UTF-8 text: {error}") from error
    except OSError as error:
        raise BadInputError(f"cannot read {file}: {error.strerror}") from error
    if not (text or "").strip():
        raise BadInputError("the prompt is empty")
    return text or ""


def _print_stream(llm: LLM, token_ids: list[int], params: Any, quiet: bool) -> RequestOutput:
    """Generate, printing the text as it comes unless quiet."""
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
        "mean_acceptance_length": round(output.mean_acceptance_length, 3),
        "from_draft": output.from_draft,
    }


@app.command()
@reported
def chat(
    model: Model = "default",
    drafter: Drafter = None,
    max_tokens: MaxTokens = 512,
    temperature: Temperature = 0.0,
    seed: Seed = None,
    target: Target = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    config: Config = None,
) -> None:
    """Talk to the model. Ctrl-C stops an answer, Ctrl-D or /exit leaves, /clear forgets the conversation.

    Example: `outpace chat --drafter prompt_lookup`
    """
    from outpace.chat import converse
    from outpace.core import SamplingParams

    params = SamplingParams(temperature=temperature, seed=seed, max_tokens=max_tokens)
    converse(load(model, drafter, target, precision, threads, config), params)


@app.command()
@reported
def bench(
    prompts: Annotated[Path, typer.Option(help="JSON lines with prompt, messages or turns.")],
    model: Model = "default",
    drafters: Annotated[str | None, typer.Option(help="Comma-separated. Default: all.")] = None,
    max_tokens: MaxTokens = 128,
    limit: Limit = None,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each prompt and drafter; medians count.")] = 1,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the document here; - prints it.")] = None,
    target: Target = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    config: Config = None,
) -> None:
    """Measure drafters against plain decoding, interleaved prompt by prompt.

    Example: `outpace bench --prompts questions.jsonl --limit 48 --drafters none,blind,prompt_lookup --json out.json`
    """
    from rich.console import Console

    from outpace.bench import report, runner
    from outpace.bench.workloads import read_prompts
    from outpace.core import SamplingParams

    workloads = read_prompts(prompts, limit)
    if json_out is not None and str(json_out) != "-" and not json_out.absolute().parent.is_dir():
        raise BadInputError(f"there is no folder {json_out.absolute().parent} to write {json_out.name} to")
    params = SamplingParams(temperature=temperature, seed=seed, max_tokens=max_tokens)
    settings = _drafter_settings(drafters, config)
    document = runner.run(load(model, "none", target, precision, threads, None), workloads, settings, params, repeats)
    if str(json_out) == "-":
        typer.echo(json.dumps(document))
        return
    console = Console(width=None if sys.stdout.isatty() else 120)
    for table in report.tables(document):
        console.print(table)
    if json_out is not None:
        _write_whole(json_out, json.dumps(document, indent=2))


def _drafter_settings(drafters: str | None, config: Path | None) -> dict[str, Any]:
    """name -> speculative settings: the drafters named (all, if none are), and those of --config."""
    from outpace.config import SpeculativeConfig
    from outpace.drafters import DRAFTERS

    names = [name.strip() for name in drafters.split(",") if name.strip()] if drafters else list(DRAFTERS)
    settings: dict[str, Any] = {name: name for name in names}
    if config is not None:
        settings[str(config)] = SpeculativeConfig.of(read_config(config))
    return settings


def _write_whole(path: Path, text: str) -> None:
    """Write a file completely or leave the old one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text + "\n", "utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@app.command()
@reported
def verify(
    model: Model = "default",
    drafters: Annotated[str | None, typer.Option(help="Comma-separated. Default: all.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="JSON lines; default: a few built-in prompts.")] = None,
    limit: Limit = None,
    max_tokens: MaxTokens = 64,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    target: Target = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    config: Config = None,
) -> None:
    """Prove on this model that speculation changes no token. Exit code 1 if any check fails.

    Example: `outpace verify --prompts questions.jsonl --limit 12`
    """
    from rich.console import Console

    from outpace import verify as proof
    from outpace.bench.workloads import read_prompts, spread

    workloads = read_prompts(prompts, limit) if prompts else proof.built_in_workloads()
    workloads = workloads if prompts or limit is None else spread(workloads, limit)
    settings = {name: value for name, value in _drafter_settings(drafters, config).items() if name != "none"}
    document = proof.verify(load(model, "none", target, precision, threads, None), workloads, settings, max_tokens)
    if as_json:
        typer.echo(json.dumps(document))
    else:
        console = Console(highlight=False, soft_wrap=True)
        for check in document["checks"]:
            mark = "[green]ok  [/]" if check["passed"] else "[bold red]FAIL[/]"
            console.print(f"{mark} {check['name']}: {check['detail']}")
        console.print("proved" if document["passed"] else "[bold red]NOT PROVED[/]")
    if not document["passed"]:
        raise typer.Exit(1)


@app.command()
@reported
def drafters(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False) -> None:
    """List the ways of guessing and their options.

    Example: `outpace drafters`
    """
    from rich.console import Console

    from outpace.drafters import catalogue

    entries = catalogue()
    if as_json:
        typer.echo(json.dumps([{"name": name, "description": text, "options": options} for name, text, options in entries]))
        return
    console = Console(highlight=False, soft_wrap=True)
    for name, text, options in entries:
        console.print(f"[bold]{name}[/]  {text}")
        if options:
            console.print("    " + "  ".join(f"{key}={value}" for key, value in options.items()), style="dim")


@app.command()
@reported
def models(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False) -> None:
    """List the models in the cache, and what else --model takes.

    Example: `outpace models`
    """
    from outpace.models.store import home, listing

    entries = listing()
    if as_json:
        typer.echo(json.dumps({"home": str(home()), "entries": entries}))
        return
    typer.echo(f"cache: {home()}")
    for entry in entries:
        typer.echo(f"  {entry['megabytes']:>8.1f} MB  {entry['name']}")
    typer.echo("--model takes: default (SmolLM2-135M-Instruct), a hub id such as org/name, a model folder, or a .gguf file")


app.command()(reported(cli_serve.serve))


def main() -> None:
    """Entry point of the shell command."""
    app()


if __name__ == "__main__":
    main()
