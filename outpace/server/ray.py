"""The server as a Ray Serve application: `serve run outpace.server.ray:build_app model=tiny replicas=2`, or `outpace serve --ray`.

Two deployments. `Replica` holds a model and the whole server. `Gateway` takes the HTTP requests and passes each on to a replica: the one
that keeps the response which it continues, the one that has run the beginning of the same conversation or prompt, or the one with the
fewest requests. A replica that dies takes the streams
that it has begun with it; they end with an error event. All other requests go to another replica.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import ray
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.config import RequestRouterConfig
from ray.serve.exceptions import BackPressureError
from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from outpace.config import EngineConfig, SpeculativeConfig
from outpace.drafters.spec import check_specs
from outpace.errors import BadInputError
from outpace.models.find import source_of
from outpace.progress import note
from outpace.reason import explained
from outpace.server.api_errors import ApiError
from outpace.server.limits import BodyMiddleware
from outpace.server.replicas.affinity import SLACK, affinity_key, by_load, keeper_of
from outpace.server.replicas.merged_metrics import merged
from outpace.server.replicas.relay import messages_of, plain_scope, read_body, refuse, relay
from outpace.server.settings import ServerSettings

HEALTH_SECONDS = 5.0  # between two health checks of a replica
MAX_ONGOING = 1000  # requests of one gateway
METRICS_SECONDS = 5.0


class RayOptions(BaseModel):
    """What `build_app` takes; `serve run` gives it as NAME=VALUE, a config file of Serve as `args`. `threads` is also the number of CPUs
    that Ray reserves for a replica. `engine` has the fields of EngineConfig, `server` those of ServerSettings."""

    model_config = ConfigDict(extra="forbid")

    model: str = "default"
    drafter: str | dict[str, Any] | None = None
    num_draft_tokens: int | None = None
    replicas: int = Field(1, ge=1)
    gateways: int = Field(1, ge=1)
    threads: int = Field(1, ge=1)
    target: str = "auto"
    precision: str = "auto"
    device: str = "auto"
    exact_width: int | None = None
    engine: dict[str, Any] = {}
    server: dict[str, Any] = {}
    shutdown_timeout: float = 600.0

    @property
    def settings(self) -> ServerSettings:
        """Raises BadInputError."""
        given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in self.server.items()}
        return ServerSettings(**given)


class AffinityRouter(ConsistentHashRouter):  # type: ignore[misc]
    """Serve's router by consistent hash, which skips a replica that has many more requests than another one; a request that one replica
    alone can answer waits for it."""

    async def choose_replicas(self, candidate_replicas: list[Any], pending_request: Any = None) -> list[list[Any]]:
        ranks = await super().choose_replicas(candidate_replicas, pending_request)
        keeper = keeper_of(self._routing_key(pending_request) or "")
        if keepers := [replica for replica in candidate_replicas if replica.replica_id.unique_id == keeper]:
            return [keepers]
        replicas = [replica for rank in ranks for replica in rank]
        lengths = [self.replica_queue_len_cache.get(replica.replica_id) or 0 for replica in replicas]
        return [[replica] for replica in by_load(replicas, lengths, SLACK)]


class Replica:
    """A model and its server."""

    def __init__(self, options: Mapping[str, Any]):
        from outpace.llm import LLM
        from outpace.server.api.responses.response_store import ResponseStore
        from outpace.server.app import create_app

        own = RayOptions.model_validate(options)
        place: dict[str, Any] = {"target": own.target, "precision": own.precision, "device": own.device, "exact_width": own.exact_width}
        llm = LLM(own.model, "none", **place, threads=own.threads, engine=own.engine)
        self.name = serve.get_replica_context().replica_id.unique_id
        self.app = create_app(llm, own.settings)
        self.app.state.responses = ResponseStore(replica=self.name)

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Serve's `user_config`, a SpeculativeConfig: how requests draft that come from now on; those that run go on as before."""
        from outpace.server.app import use_drafter

        await asyncio.to_thread(use_drafter, self.app, SpeculativeConfig.of(user_config))

    async def respond(self, scope: Scope, body: bytes) -> AsyncGenerator[Message, None]:
        """The ASGI messages of an answer."""
        async for message in messages_of(self.app, scope, body):
            yield message

    async def whole(self, scope: Scope, body: bytes) -> tuple[str, int, bytes]:
        """(name of the replica, status, body) of a short answer."""
        messages = [message async for message in messages_of(self.app, scope, body)]
        return self.name, messages[0]["status"], b"".join(message.get("body", b"") for message in messages[1:])

    def check_health(self) -> None:
        """Raises ApiError when only a new process helps; Serve then starts one."""
        self.app.state.server.worker.check_health()


class Gateway:
    """Passes HTTP requests on to replicas."""

    def __init__(self, replicas: Any, body_limits: Mapping[str, Any], request_timeout: float):
        self.replicas, self.request_timeout = replicas, request_timeout
        self.app = BodyMiddleware(self._answer, **body_limits)

    async def __call__(self, request: Request) -> Response:
        """An answer that is sent while the replica gives it."""
        return _Relayed(self)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await read_body(receive)
        except ApiError as error:
            await refuse(error, send)
            return
        if scope["path"].rstrip("/") == "/metrics":
            await self._metrics(scope, send)
            return
        key = affinity_key(scope["path"], Request(scope).headers, body)
        try:
            await relay(partial(self._open, plain_scope(scope), body, key), send, (RayActorError,), self.request_timeout)
        except BackPressureError:
            await refuse(ApiError(429, "the queue is full", code="queue_full", retry_after=5), send)

    async def _open(self, scope: Scope, body: bytes, key: str) -> AsyncGenerator[Message, None]:
        stream = self.replicas.options(stream=True, session_id=key).respond.remote(scope, body)
        try:
            async for message in stream:
                yield message
        finally:
            stream.cancel()  # does nothing to an answer that is complete

    async def _metrics(self, scope: Scope, send: Send) -> None:
        found = await self.replicas.broadcast("whole", plain_scope(scope), b"").results_async(timeout_s=METRICS_SECONDS)
        refused = [(status, body) for _, status, body in found if status != 200]
        status, body = refused[0] if refused else (200, merged({name: body.decode() for name, _, body in found}))
        await Response(body, status, media_type="application/json" if refused else "text/plain")(scope, _never, send)


class _Relayed(Response):
    """Leaves the whole exchange to the gateway."""

    def __init__(self, gateway: Gateway):
        self.gateway, self.background = gateway, None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.gateway.app(scope, receive, send)


async def _never() -> Message:
    return {"type": "http.disconnect"}


def build_app(args: RayOptions | Mapping[str, Any]) -> Any:
    """The application for Serve, from RayOptions or their names and values. To run one that differs only in its drafter changes it where it
    runs. Raises BadInputError and ValidationError for wrong settings."""
    args = RayOptions.model_validate(args)
    engine, server = EngineConfig.of(args.engine), args.settings
    config = SpeculativeConfig.of(args.drafter)
    if args.num_draft_tokens is not None:
        config = replace(config, num_draft_tokens=args.num_draft_tokens)
    check_specs(config.method)
    replicas = serve.deployment(
        Replica,
        name="Replica",
        num_replicas=args.replicas,
        max_ongoing_requests=engine.max_num_seqs,  # the others wait in the gateway, where the death of a replica does not reach them
        max_queued_requests=server.max_queue,
        ray_actor_options={"num_cpus": args.threads, "num_gpus": int(args.device.startswith("cuda"))},
        user_config=asdict(config),
        health_check_period_s=HEALTH_SECONDS,
        graceful_shutdown_timeout_s=args.shutdown_timeout,
        request_router_config=RequestRouterConfig(request_router_class=f"{__name__}.AffinityRouter"),
    )
    gateway = serve.deployment(
        Gateway,
        name="Gateway",
        num_replicas=args.gateways,
        max_ongoing_requests=MAX_ONGOING,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=args.shutdown_timeout,
    )
    fixed = args.model_dump(
        exclude={"drafter", "num_draft_tokens", "replicas", "gateways", "shutdown_timeout"}
    )  # a change of these starts new replicas
    return gateway.bind(replicas.bind(fixed), server.body_limits, server.request_timeout)


def check_cores(options: RayOptions, num_cores: float, is_local: bool) -> None:
    """Say that the replicas need more cores than Ray has. Raises BadInputError where it will never have more: Ray would wait for ever."""
    needed = options.replicas * options.threads
    if needed <= num_cores:
        return
    text = f"{needed} cores are needed (replicas times threads), and Ray has {num_cores:g}"
    if is_local:
        raise BadInputError(text)
    note(f"{text}: replicas without cores wait for them")


def run(options: RayOptions, host: str, port: int) -> None:
    """Serve until Ctrl-C: on the cluster that RAY_ADDRESS names, else on this machine alone. Raises OutpaceError if Ray or a replica does
    not start, and BadInputError for what this machine cannot run."""
    app, is_local = build_app(options), not os.environ.get("RAY_ADDRESS")
    if is_local:
        source_of(options.model)  # tells a wrong name; a cluster's machines may have models that this one lacks
    with explained("Ray did not start"):
        ray.init(ignore_reinit_error=True, include_dashboard=False, log_to_driver=False)
    try:
        check_cores(options, ray.cluster_resources().get("CPU", 0.0), is_local)
        with explained("the replicas did not start"):
            serve.start(http_options={"host": host, "port": port})
            serve.run(app, blocking=True)
    finally:
        serve.shutdown()
        ray.shutdown()
