"""The errors that a user can cause. The command line prints their message as one line."""


class OutpaceError(Exception):
    """Something failed that the message explains (exit code 1)."""

    exit_code = 1


class BadInputError(OutpaceError, ValueError):
    """The caller asked for something impossible or misspelt (exit code 2). `field` is the setting that is wrong, where that is known."""

    exit_code = 2
    field: str | None = None
