"""OpenVINO's threads do not exist in a forked process, where it would wait for them for ever."""

from __future__ import annotations

import os

from outpace.errors import OutpaceError

_users: list[int] = []  # the process that has used OpenVINO, and in a fork that of its parent


def check_process() -> None:
    """To be called before OpenVINO is used. Raises OutpaceError in a fork of a process that has used it."""
    if not _users:
        _users.append(os.getpid())
    if _users[0] != os.getpid():
        raise OutpaceError(
            "OpenVINO does not work in a process forked from one that has used it: start processes with multiprocessing's "
            '"spawn" method, or load the model after the fork only'
        )
