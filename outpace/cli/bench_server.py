"""`outpace bench --server`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import typer

from outpace.cli.options.loading import LOADING, Loading, drafter_settings
from outpace.cli.options.rules import excludes, needs
from outpace.cli.reporting import ALONE, needing
from outpace.cli.show import show_document
from outpace.errors import BadInputError

HERE = ALONE["--server"]
MAX_CLIENTS = 1000


def _are_many(value: Any) -> bool:
    """Whether these are several temperatures, or the number of seeds."""
    from outpace.bench.temperatures import parse_temperatures

    return not isinstance(value, str) or len(parse_temperatures(value)) > 1


SERVER_RULES = (
    needs("server", "clients", "seconds", message="--clients and --seconds need --server"),
    excludes("server", "peers"),
    excludes("server", "trace", message="{other} cannot be used with {option}; start the server with `outpace serve --trace` instead"),
    excludes("server", "num_draft_tokens", message="{other} cannot be used with {option}; set it in --config instead"),
    excludes("server", "concurrency", message="{other} cannot be used with {option}; use --clients instead"),
    excludes("server", "temperature", "seeds", message="{option} measures one temperature and one seed", of_others=_are_many),
    excludes(
        *("server", *LOADING, "config"),
        message="{other} applies only to a server started here, not to the one at {value}",
        of_option=lambda place: place != HERE,
    ),
)


def levels_of(text: str, option: str = "--clients") -> list[int]:
    """Parse numbers such as "1,4,16". Raises BadInputError, which names the option."""
    levels = [int(word) if word.strip().isdecimal() else 0 for word in text.split(",")]
    if not all(1 <= level <= MAX_CLIENTS for level in levels):
        raise BadInputError(f"{option} takes comma-separated numbers from 1 to {MAX_CLIENTS}, not {text!r}")
    return list(dict.fromkeys(levels))


def bench_server(
    server: str,
    prompts: str,
    limit: int | None,
    drafters: str | None,
    config: Path | None,
    sampling: Mapping[str, Any],
    loading: Loading,
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
            places = {name: load.Place(_start(stack, loading.arguments(s), max(levels), keys), keys=keys) for name, s in settings.items()}
        else:
            _check_url(server)
            url = server.rstrip("/").removesuffix("/v1")
            places = {name: load.Place(url, name) for name in settings}
        document = load.run(places, workloads, levels, seconds, sampling, repeats)
    document["settings"]["limit"] = limit
    show_document(document, [load_table(document)], *outputs)
    if not document["is_clean"]:
        raise typer.Exit(1)


def _start(stack: ExitStack, arguments: Mapping[str, Any], max_clients: int, keys: tuple[str, ...]) -> str:
    """Start a server in this process, with an LLM of these arguments and the defaults of `outpace serve` except for the queue. Returns its
    address."""
    from outpace.llm import LLM
    from outpace.server import ServerSettings, create_app
    from outpace.server.listen import in_thread

    app = create_app(LLM(**arguments), ServerSettings(api_keys=keys, max_queue=max_clients))
    return stack.enter_context(in_thread(app))


def _check_url(url: str) -> None:
    """Raise BadInputError for an invalid URL."""
    if not url.startswith(("http://", "https://")):
        raise BadInputError(f"--server takes an address such as http://127.0.0.1:8000, not {url!r}")
