"""The lock that lets threads share an engine, which one thread may drive at a time."""

from __future__ import annotations

import os
import threading

from outpace.errors import OutpaceError


class Turn:
    """A lock that is fair to a waiting thread when another one takes turn after turn, and that belongs to one process.

    Entering raises OutpaceError in a forked process and in a thread that is inside already.
    """

    def __init__(self) -> None:
        self._entrance, self._lock = threading.Lock(), threading.Lock()
        self._process, self._thread = os.getpid(), threading.local()

    @property
    def is_foreign(self) -> bool:
        """Whether this process is a fork of the one that made the lock."""
        return os.getpid() != self._process

    @property
    def is_mine(self) -> bool:
        """Whether the calling thread holds the lock, or is about to."""
        return getattr(self._thread, "is_inside", False)

    def check_process(self) -> None:
        """Raises OutpaceError in a forked process."""
        if self.is_foreign:
            raise OutpaceError("this LLM belongs to another process: create the LLM in the process that uses it")

    def __enter__(self) -> None:
        self.check_process()
        if self.is_mine:
            raise OutpaceError("a logits processor or a drafter called the LLM that is running it")
        self._thread.is_inside = True
        try:
            with self._entrance:  # a waiting thread holds the entrance, so that the last owner queues behind it
                self._lock.acquire()
        except BaseException:  # Ctrl-C while waiting
            self._thread.is_inside = False
            raise

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        self._thread.is_inside = False
