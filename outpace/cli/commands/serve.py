"""The command `outpace serve`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from outpace.cli.options.loading import DRAFTER_RULE, Drafting
from outpace.cli.options.rules import excludes, with_rules
from outpace.cli.options.spread import spread
from outpace.cli.options.tracing import TRACE_RULE, Tracing
from outpace.cli.reporting import needing
from outpace.errors import BadInputError

ClientChoice = Annotated[
    str,
    typer.Option(
        help="What requests may choose: all; lossless (no verifier that changes the distribution); allowed (plain decoding and the "
        "drafters of --drafter and --allow-drafter only)."
    ),
]
UnknownFields = Annotated[
    str, typer.Option(help="Fields of requests without a meaning here: refuse, warn (leave out, and log) or ignore (leave out).")
]
ServedModelName = Annotated[
    list[str] | None, typer.Option(help="Name of the model in answers and requests, in place of its own; more are accepted, too.")
]
AllowHost = Annotated[
    list[str] | None, typer.Option(help="Host name that requests may use, besides localhost and addresses; may be repeated.")
]


@with_rules(DRAFTER_RULE, TRACE_RULE, excludes("ray", "trace"))
@spread(Tracing)
@spread(Drafting)
def serve(
    drafting: Drafting,
    host: Annotated[str, typer.Option(help="Address to listen on; 127.0.0.1 accepts connections from this machine only.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free port.")] = 8000,
    allow_drafter: Annotated[list[str] | None, typer.Option(help="Drafter that requests may use although it loads files or code.")] = None,
    client_choice: ClientChoice = "all",
    unknown_fields: UnknownFields = "refuse",
    served_model_name: ServedModelName = None,
    api_key_file: Annotated[Path | None, typer.Option(help="File with one API key per line; every request then needs one.")] = None,
    max_num_seqs: Annotated[int, typer.Option(min=1, help="Maximum number of requests that run at once.")] = 16,
    kv_cache_tokens: Annotated[int | None, typer.Option(min=2, help="Size of the K/V cache in tokens. Default: 2 GB of them.")] = None,
    prefix_cache_tokens: Annotated[int | None, typer.Option(min=0, help="Tokens kept of ended requests. Default: 256 MB of them.")] = None,
    max_queue: Annotated[int, typer.Option(min=0, help="Maximum number of waiting requests per API key; more get status 429.")] = 64,
    request_timeout: Annotated[float, typer.Option(min=0.001, help="Time limit of a request in seconds, including waiting.")] = 600.0,
    shutdown_timeout: Annotated[float, typer.Option(min=0, help="Seconds that running requests may take after SIGTERM.")] = 30.0,
    default_max_tokens: Annotated[int, typer.Option(min=1, help="Maximum tokens of a chat answer if the request sets no limit.")] = 1024,
    max_body_mb: Annotated[float, typer.Option(min=0.001, help="Maximum size of a request body, in megabytes.")] = 4.0,
    cors: Annotated[list[str] | None, typer.Option(help="Origin of web pages that may send requests; * allows any.")] = None,
    allow_host: AllowHost = None,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Log every prompt.")] = False,
    access_log: Annotated[bool, typer.Option("--access-log", help="Log the path and status of every request.")] = False,
    *,
    tracing: Tracing,
    ray: Annotated[bool, typer.Option("--ray", help="Serve with Ray: on the cluster of RAY_ADDRESS, else on this machine.")] = False,
    replicas: Annotated[int, typer.Option(min=1, help="With --ray: number of models, each with --threads threads (default: 1).")] = 1,
) -> None:
    """Serve a model over an OpenAI-compatible API, with a playground for the browser.

    Example: `outpace serve --port 8000`, then `curl http://127.0.0.1:8000/v1/models`
    """
    with needing("server", "the server"):
        from outpace.server.auth import read_keys
        from outpace.server.listen import is_loopback
        from outpace.server.settings import ServerSettings
    settings = ServerSettings(
        api_keys=read_keys(api_key_file) if api_key_file else (),
        allowed_drafters=tuple(allow_drafter or ()),
        client_choice=client_choice,
        unknown_fields=unknown_fields,
        served_model_names=tuple(served_model_name or ()),
        allowed_hosts=tuple(allow_host or ()) if allow_host or (is_loopback(host) and not api_key_file) else None,
        cors_origins=tuple(cors or ()),
        max_queue=max_queue,
        request_timeout=request_timeout,
        default_max_tokens=default_max_tokens,
        max_body_bytes=int(min(max_body_mb, 1e6) * 2**20),  # inf is no limit
        log_prompts=log_prompts,
    )
    _check(host, bool(settings.api_keys), tracing)
    sizes = {"max_num_seqs": max_num_seqs, "kv_cache_tokens": kv_cache_tokens, "prefix_cache_tokens": prefix_cache_tokens}
    _serve((host, port), drafting.arguments(engine=sizes), settings, shutdown_timeout, access_log, replicas if ray else 0, tracing)


def _check(host: str, has_keys: bool, tracing: Tracing) -> None:
    """Raise BadInputError for a trace that cannot be written; warn if strangers can use the server."""
    from outpace.server.listen import is_loopback

    tracing.check()
    if not is_loopback(host) and not has_keys:
        typer.secho(f"warning: anyone who can reach {host} can use this server; set --api-key-file to restrict it", err=True, fg="yellow")


def _serve(
    where: tuple[str, int],
    arguments: dict[str, Any],
    settings: Any,
    patience: float,
    access_log: bool,
    num_replicas: int,
    tracing: Tracing,
) -> None:
    """Serve from this process, or with replicas from a Ray cluster."""
    from outpace.llm import LLM
    from outpace.server.app import create_app
    from outpace.server.listen import bind, run

    if arguments["model"].strip() == "":
        raise BadInputError("--model is empty")
    with bind(*where) as bound:
        if num_replicas:
            address = bound.getsockname()[:2]
            bound.close()  # it is free
            _serve_on_ray(address, arguments, settings, patience, num_replicas)
            return
        llm = LLM(**arguments)
        app = create_app(llm, settings)
        host, port = bound.getsockname()[:2]
        place = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        typer.echo(f"outpace serves {llm.name} at {place} (drafter {llm.speculative_config.method}); Ctrl-C stops it", err=True)
        with tracing.of(llm):
            run(app, bound, patience, access_log)


def _serve_on_ray(where: tuple[str, int], arguments: dict[str, Any], settings: Any, patience: float, num_replicas: int) -> None:
    with needing("scale", "--ray"):
        from outpace.server.ray import RayOptions, run

    threads = arguments["threads"] or 1
    own = {name: arguments[name] for name in ("model", "num_draft_tokens", "target", "precision", "device", "exact_width")}
    engine = {name: value for name, value in arguments["engine"].items() if value is not None}
    options = RayOptions(
        **own,
        drafter=arguments["speculative_config"],
        replicas=num_replicas,
        threads=threads,
        engine=engine,
        server=asdict(settings),
        shutdown_timeout=patience,
    )
    place = f"http://{where[0]}:{where[1]}"
    typer.echo(f"starting {options.model} with Ray, number of replicas: {num_replicas}; soon at {place}; Ctrl-C stops it", err=True)
    run(options, *where)
