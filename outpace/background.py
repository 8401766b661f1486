"""A call that runs beside another one which holds no lock of Python."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Event, Thread
from typing import Generic, TypeVar

T = TypeVar("T")


class Background(Generic[T]):
    """A call in a thread of its own. It waits for `start`, to be called just before work that leaves Python's lock free: a call that keeps
    the lock, such as reading a tokenizer, would hold up whatever comes before that work."""

    def __init__(self, call: Callable[[], T]):
        self._call, self._may_start, self._result = call, Event(), Future[T]()
        Thread(target=self._run, name="outpace-background", daemon=True).start()

    def start(self) -> None:
        """Let the call begin; the first time counts."""
        self._may_start.set()

    def result(self) -> T:
        """Wait for the call and return, or raise, what it did."""
        self.start()
        return self._result.result()

    def _run(self) -> None:
        self._may_start.wait()
        try:
            self._result.set_result(self._call())
        except BaseException as error:
            self._result.set_exception(error)
