"""The one guard around drafters and controllers: a failure costs speed, never the answer, and is always visible."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from outpace.engine.metrics import Metrics
from outpace.errors import OutpaceError
from outpace.request import Request
from outpace.tree.draft import EMPTY_DRAFT, Draft

logger = logging.getLogger("outpace")
Result = TypeVar("Result")
ProposeBatch = Callable[[Sequence[Request], Sequence[int]], list[Draft]]


class DrafterGuard:
    """After a failure the request decodes plainly. `on_error` is "continue", or "raise" to see the failure at once, as in tests."""

    def __init__(self, on_error: str, metrics: Metrics):
        self.on_error, self.metrics = on_error, metrics
        self.failed: set[str] = set()  # ids of requests whose drafter failed
        self.logged: set[str] = set()  # names of drafters whose failure has been logged with its trace

    def is_working(self, request: Request) -> bool:
        """Whether the request still has its drafter."""
        return request.id not in self.failed

    def call(self, requests: Sequence[Request], default: Result, function: Callable[..., Result], *arguments: Any) -> Result:
        """The result of `function(*arguments)`; if it raises, `default`, and these requests continue without their drafter."""
        try:
            return function(*arguments)
        except Exception as error:
            self.report(requests, error)
            return default

    def call_batch(self, requests: Sequence[Request], budgets: Sequence[int], propose: ProposeBatch) -> list[Draft]:
        """A draft for each request. If the batch fails, each request is asked alone, so that one bad request harms no other."""
        try:
            drafts = propose(requests, budgets)
            if len(drafts) != len(requests):
                raise OutpaceError(f"propose_batch returned {len(drafts)} drafts for {len(requests)} requests")
            return drafts
        except Exception as error:
            if len(requests) == 1 or self.on_error == "raise":
                self.report(requests, error)
                return [EMPTY_DRAFT]
        return [self.call_batch([request], [budget], propose)[0] for request, budget in zip(requests, budgets, strict=True)]

    def report(self, requests: Sequence[Request], error: Exception) -> None:
        """Count and log a failure, or raise it."""
        if self.on_error == "raise":
            raise error
        for request in requests:
            name = request.strategy.name
            is_new, trace = name not in self.logged, error if name not in self.logged else None
            logger.log(
                logging.WARNING if is_new else logging.DEBUG,
                "drafter %s failed; request %s continues without it: %r",
                name,
                request.id,
                error,
                exc_info=trace,
            )
            self.logged.add(name)
            self.failed.add(request.id)
            self.metrics.num_drafter_errors += 1
            request.stats.drafter_error = f"{type(error).__name__}: {error}"[:500]

    def forget(self, request: Request) -> None:
        """The request has ended."""
        self.failed.discard(request.id)
