"""`outpace bench --server`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import typer

from outpace.cli.options import drafter_settings, show_document
from outpace.cli.reporting import ALONE, needing
from outpace.errors import BadInputError

HERE = ALONE["--server"]
MAX_CLIENTS = 1000
# options that a running server has fixed, with their defaults
SERVERS_OWN = {"model": "default", "target": "auto", "precision": "auto", "threads": None, "device": "auto", "exact_width": None}


def levels_of(text: str, option: str = "--clients") -> list[int]:
    """Parse numbers such as "1,4,16". Raises BadInputError, which names the option."""
    levels = [int(word) if word.strip().isdecimal() else 0 for word in text.split(",")]
    if not all(1 <= level <= MAX_CLIENTS for level in levels):
        raise BadInputError(f"{option} takes comma-separated numbers from 1 to {MAX_CLIENTS}, not {text!r}")
    return list(dict.fromkeys(levels))


def refuse_with_server(peers: bool, num_draft_tokens: bool, concurrency: bool, many: bool, trace: bool) -> None:
    """Raise BadInputError for the first of these options that was given."""
    if peers:
        raise BadInputError("--peers cannot be used with --server")
    if trace:
        raise BadInputError("--trace cannot be used with --server; start the server with `outpace serve --trace` instead")
    if num_draft_tokens:
        raise BadInputError("--num-draft-tokens cannot be used with --server; set it in --config instead")
    if concurrency:
        raise BadInputError("--concurrency cannot be used with --server; use --clients instead")
    if many:
        raise BadInputError("--server measures one temperature and one seed")


def bench_server(
    server: str,
    prompts: str,
    limit: int | None,
    drafters: str | None,
    config: Path | None,
    sampling: Mapping[str, Any],
    llm_options: Mapping[str, Any],
    load_of: tuple[str | None, float | None],
    repeats: int,
    outputs: tuple[Path | None, Path | None],
) -> None:
    """Load a server, print the table, and write the document and its page to `outputs`. `load_of`: --clients and --seconds. Exit code 1
    if an answer was an error, lost or mixed up."""
    with needing("bench", "bench --server"):
        from outpace.bench import server_load as load
        from outpace.bench.builtin import load_prompts
        from outpace.bench.tables import load_table
    levels, seconds = levels_of(load_of[0] or "1,4,16,64"), load_of[1] or 60.0
    workloads = load_prompts(prompts, limit)
    settings = drafter_settings(drafters or "none,auto", config)
    with ExitStack() as stack:
        if server == HERE:
            keys = tuple(f"turn-{turn}" for turn in range(1 + len(levels) * repeats * len(settings)))
            places = {name: load.Place(_start(stack, s, llm_options, max(levels), keys), keys=keys) for name, s in settings.items()}
        else:
            _check_url(server, config, llm_options)
            url = server.rstrip("/").removesuffix("/v1")
            places = {name: load.Place(url, name) for name in settings}
        document = load.run(places, workloads, levels, seconds, sampling, repeats)
    document["settings"]["limit"] = limit
    show_document(document, [load_table(document)], *outputs)
    if not document["is_clean"]:
        raise typer.Exit(1)


def _start(stack: ExitStack, setting: Any, llm_options: Mapping[str, Any], max_clients: int, keys: tuple[str, ...]) -> str:
    """Start a server in this process with the drafter `setting` and the defaults of `outpace serve` except for the queue. Returns its
    address."""
    from outpace.llm import LLM
    from outpace.server import ServerSettings, create_app
    from outpace.server.listen import in_thread

    app = create_app(LLM(speculative_config=setting, **llm_options), ServerSettings(api_keys=keys, max_queue=max_clients))
    return stack.enter_context(in_thread(app))


def _check_url(url: str, config: Path | None, llm_options: Mapping[str, Any]) -> None:
    """Raise BadInputError for an invalid URL, and for options that a running server has fixed."""
    if not url.startswith(("http://", "https://")):
        raise BadInputError(f"--server takes an address such as http://127.0.0.1:8000, not {url!r}")
    given = [name for name, default in SERVERS_OWN.items() if llm_options[name] != default] + ["config"] * (config is not None)
    if given:
        raise BadInputError(f"--{given[0].replace('_', '-')} applies only to a server started here, not to the one at {url}")
