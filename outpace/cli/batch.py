"""`outpace generate --input`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from outpace.cli.reporting import needing
from outpace.errors import BadInputError, OutpaceError
from outpace.progress import note

if TYPE_CHECKING:
    from outpace.batch.job import Answerer, Summary
    from outpace.batch.requests import BatchAnswer, BatchRequest
    from outpace.params import SamplingParams


def run_batch(
    inputs: Sequence[str],
    output: Path | None,
    params: SamplingParams,
    is_raw: bool,
    as_json: bool,
    arguments: dict[str, Any],
    num_workers: int | None = None,
    with_ray: bool = False,
) -> None:
    """Answer files of prompts, with an LLM of these arguments, or with several on a Ray cluster. Raises OutpaceError at the end if a line
    has no answer."""
    from outpace.batch.job import Batch, inputs_of
    from outpace.batch.requests import BatchSettings

    if output is None:
        raise BadInputError("--input needs --output, a folder for the answers")
    batch = Batch(inputs_of(inputs), output, BatchSettings(_identity(arguments), params, is_raw))
    answerer = _on_ray(arguments, num_workers) if with_ray else partial(_here, arguments)
    try:
        summary = batch.run(answerer)
    except KeyboardInterrupt:
        note(f"the answers so far are kept in {output}; the same command goes on")
        raise
    _show(summary, output, as_json)


def _identity(arguments: Mapping[str, Any]) -> str:
    """The model and how it computes, without loading it. With the default verifier no answer depends on the drafter."""
    from outpace.config import SpeculativeConfig
    from outpace.models.catalog import DEFAULT_MODEL, default_name

    model = default_name() if arguments["model"] == DEFAULT_MODEL else arguments["model"]
    place = str(Path(model).resolve()) if Path(model).exists() else model
    width = f" exact width {arguments['exact_width']}" if arguments["exact_width"] else ""
    config = SpeculativeConfig.of(arguments["speculative_config"])
    verifier = "" if config.verifier == SpeculativeConfig.verifier else f" {config} {arguments['num_draft_tokens']}"
    return f"{place} {arguments['target']} {arguments['precision']}{width}{verifier}"


def _here(arguments: dict[str, Any], requests: Iterator[BatchRequest]) -> Iterator[BatchAnswer]:
    from outpace.batch.local import answers
    from outpace.llm import LLM

    with LLM(**arguments) as llm:
        yield from answers(llm, requests)


def _on_ray(arguments: dict[str, Any], num_workers: int | None) -> Answerer:
    with needing("scale", "--ray"):
        from outpace.batch.ray_data import answers

    threads = arguments["threads"] or 1
    return lambda requests: answers(arguments, requests, num_workers, threads)


def _show(summary: Summary, output: Path, as_json: bool) -> None:
    num_good = summary.num_lines - summary.num_errors
    if as_json:
        typer.echo(json.dumps(asdict(summary)))
    else:
        speed = f", {summary.num_tokens / summary.seconds:.1f} tokens/s" if summary.num_new else ""
        note(f"{num_good} of {summary.num_lines} lines have an answer in {output}; {summary.num_new} of them are new{speed}")
    for error in summary.errors:
        typer.secho(f"warning: {error}", err=True, fg="yellow")
    if summary.num_errors:
        raise OutpaceError(f"{summary.num_errors} of {summary.num_lines} lines have an error in place of an answer")
