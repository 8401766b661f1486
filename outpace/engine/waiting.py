"""Requests that wait for admission: memory scopes (tenants) take turns, and none waits for ever because it is large."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator

from outpace.request import Request

MAX_PASSED = 16  # admissions of others that a request without room lets pass; then it is the next, whoever else waits


class WaitingRequests:
    """A queue for each memory scope, in the order of arrival.

    A request that did not fit may be passed by others that do, MAX_PASSED times. A preempted request is not passed at all: its reader has
    seen the beginning of the answer.
    """

    def __init__(self) -> None:
        self._queues: dict[str, deque[Request]] = {}
        self._numbers: dict[Request, int] = {}  # place in the order of arrival
        self._passed: dict[Request, int] = {}  # requests that did not fit -> requests admitted since then
        self._first = self._last = 0

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[Request]:
        return (request for queue in self._queues.values() for request in queue)

    def append(self, request: Request) -> None:
        """A new request."""
        self._last += 1
        self._numbers[request] = self._last
        self._queues.setdefault(request.cache_salt, deque()).append(request)

    def put_back(self, request: Request) -> None:
        """A preempted request: before all others, and not to be passed."""
        self._first -= 1
        self._numbers[request] = self._first
        self._passed[request] = MAX_PASSED
        self._queues.setdefault(request.cache_salt, deque()).appendleft(request)

    def remove(self, request: Request) -> None:
        """A request that does not wait any longer; does nothing if it never did."""
        if self._numbers.pop(request, None) is None:
            return
        self._passed.pop(request, None)
        queue = self._queues[request.cache_salt]
        queue.remove(request)
        if not queue:
            del self._queues[request.cache_salt]

    def in_turn(self, num_running: Counter[str]) -> Iterator[Request]:
        """All requests in the order in which they may be admitted: first those that may not be passed, then that of the scope with the
        fewest running requests. The caller keeps `num_running` up to date. Nothing may be added or removed meanwhile."""
        yield from sorted(filter(self._is_urgent, self._passed), key=self._numbers.__getitem__)
        rest = {salt: (request for request in queue if not self._is_urgent(request)) for salt, queue in self._queues.items()}
        heads = {salt: request for salt, queue in rest.items() if (request := next(queue, None))}
        while heads:
            salt = min(heads, key=lambda salt: (num_running[salt], self._numbers[heads[salt]]))
            yield heads.pop(salt)
            if request := next(rest[salt], None):
                heads[salt] = request

    def did_not_fit(self, request: Request) -> bool:
        """There is no room for this request. Whether others may be admitted before it."""
        self._passed.setdefault(request, 0)
        return not self._is_urgent(request)

    def count_admission(self) -> None:
        """Another request has been admitted past those that did not fit."""
        for request in self._passed:
            self._passed[request] += 1

    def _is_urgent(self, request: Request) -> bool:
        return self._passed.get(request, 0) >= MAX_PASSED
