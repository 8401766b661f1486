"""Prometheus metrics under vLLM's names, with the prefix `outpace:`. The engine's own counters are read at each scrape.

Rates are derived by the reader: acceptance rate = accepted / draft tokens, mean acceptance length = 1 + accepted / drafts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from outpace.drafters.base import DraftModel
from outpace.engine.engine import Engine

PREFIX = "outpace:"
SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)


class _EngineCollector:
    """The engine's counters and gauges, read at each scrape."""

    def __init__(self, engine: Engine, draft_models: Mapping[Any, DraftModel]):
        self.engine, self.draft_models = engine, draft_models

    def collect(self) -> Iterator[Any]:
        totals, scheduler = self.engine.metrics, self.engine.scheduler
        for name, text, value in (
            ("spec_decode_num_drafts", "Steps of requests that had a draft.", totals.num_drafts),
            ("spec_decode_num_draft_tokens", "Draft tokens proposed.", totals.num_draft_tokens),
            ("spec_decode_num_accepted_tokens", "Draft tokens accepted.", totals.num_accepted_tokens),
            ("drafter_errors", "Requests that continued without their drafter, because it failed.", totals.num_drafter_errors),
            ("generation_tokens", "Tokens generated.", totals.num_generation_tokens),
            ("num_preemptions", "Times that a running request had to wait again, because the K/V cache was full.", totals.num_preemptions),
        ):
            yield CounterMetricFamily(PREFIX + name, text, value)
        family = CounterMetricFamily(
            PREFIX + "spec_decode_num_accepted_tokens_per_pos", "Draft tokens accepted, by position in the draft.", labels=["position"]
        )
        for position, count in enumerate(list(totals.num_accepted_tokens_per_pos)):
            family.add_metric([str(position)], count)
        yield family
        kv = self.engine.target.kv_use
        draft_bytes = sum(model.target.kv_use.num_bytes for model in list(self.draft_models.values()))
        for name, text, amount in (
            ("num_requests_running", "Requests in the running batch.", len(scheduler.running)),
            ("num_requests_waiting", "Requests waiting for a slot.", len(scheduler.waiting)),
            ("kv_cache_usage_perc", "Share of the K/V cache in use, from 0 to 1.", kv.share),
            ("kv_cache_tokens", "Tokens of the K/V cache that running requests hold.", kv.num_tokens),
            ("kv_cache_max_tokens", "Tokens that the K/V cache can hold; 0 without a limit.", kv.max_tokens),
            ("kv_cache_bytes", "Memory of the K/V cache, stored prefixes included.", kv.num_bytes),
            ("kv_cache_max_bytes", "Most memory that the K/V cache may take; 0 without a limit.", kv.max_bytes),
            ("draft_kv_cache_bytes", "Memory of the K/V caches of draft models.", draft_bytes),
        ):
            yield GaugeMetricFamily(PREFIX + name, text, amount)


class ServerMetrics:
    """All metrics; the server's own are times as clients see them. `draft_models`: those loaded so far."""

    def __init__(self, engine: Engine, draft_models: Mapping[Any, DraftModel] | None = None):
        self.registry = CollectorRegistry()
        self.registry.register(_EngineCollector(engine, {} if draft_models is None else draft_models))
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens.")
        self.requests = self._counter("request_success", "Ended answers, by reason.", ["finished_reason"])
        self.errors = self._counter("http_errors", "Answers with an error status, refused requests among them.", ["status"])
        self.first_token = self._histogram("time_to_first_token_seconds", "From arrival to the first token.", SECONDS)
        self.per_token = self._histogram(
            "time_per_output_token_seconds", "Time of each token after the first, not of each chunk.", TOKEN_SECONDS
        )
        self.queue = self._histogram("request_queue_time_seconds", "From arrival to admission.", SECONDS)
        self.whole = self._histogram("e2e_request_latency_seconds", "From arrival to the last token.", SECONDS)

    def _counter(self, name: str, text: str, labels: tuple[str, ...] | list[str] = ()) -> Counter:
        return Counter(PREFIX + name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(PREFIX + name, text, buckets=buckets, registry=self.registry)

    def add_tokens(self, num_tokens: int, seconds: float) -> None:
        """A step gave `num_tokens` tokens after `seconds`; each of them counts with its share of the time."""
        for _ in range(num_tokens):
            self.per_token.observe(seconds / num_tokens)

    def text(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)
