"""The command `outpace calibrate`."""

from __future__ import annotations

import json
from dataclasses import asdict

import typer

from outpace.cli.options import AsJson, Device, ExactWidth, Model, Precision, Target, Threads, load


def calibrate(
    model: Model = "default",
    as_json: AsJson = False,
    target: Target = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    device: Device = "auto",
    exact_width: ExactWidth = None,
) -> None:
    """Measure anew what a forward pass costs on this machine: the table that `auto` works with. Run it while the machine is idle.

    Example: `outpace calibrate`
    """
    from rich.console import Console

    from outpace.cli.explain import cost_table

    llm = load(model, "none", target, precision, threads, None, None, None, device, exact_width)
    costs = llm.strategies.calibrate()
    if as_json:
        typer.echo(json.dumps(asdict(costs)))
    else:
        Console(highlight=False).print(cost_table(costs))
