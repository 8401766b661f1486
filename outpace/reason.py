"""The reason inside another library's error, in one line."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from outpace.errors import OutpaceError

LONGEST = 300  # characters of a reason
SPEAKING = (RuntimeError, ValueError, ImportError, OSError, OutpaceError)  # errors whose text is a sentence; of others the type is named
NOISE = re.compile(  # lines around the reason in messages of OpenVINO, torch and transformers
    r"$|(\[CPU\] .* )?Check '.*' failed at |(Caught exception: )?Exception(:| from )|.*FrontEnd API failed with \w+:?$|While validating "
    r"|Couldn't get TorchScript module |Traceback |File \"|Please check correctness |.*For details look at the above report"
)
CLEARER = (  # what a library says, and the same in our words
    (re.compile(r"Unrecognized configuration class <class '[\w.]*?(\w+?)Config'> .*"), r"\1 is no causal language model"),
    (re.compile(r".*contains custom code which must be executed.*"), "it needs Python code from its folder, which outpace never runs"),
    (re.compile(r"Unable to read the model: .* Please check that model format.*"), "it is damaged, or no model of OpenVINO"),
    (re.compile(r"ir: (Could not open)"), r"\1"),
    (re.compile(r".*iostream error.*"), "a file could not be written; the disk may be full"),
    (
        re.compile(r"Unable to load vocabulary from file.*|Couldn't instantiate the backend tokenizer.*"),
        "there is no tokenizer.json, nor anything that one could be made of here",
    ),
)


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Wrap another library's work: its exceptions raise OutpaceError, "WHAT: REASON"."""
    try:
        yield
    except OutpaceError:
        raise
    except Exception as error:
        raise OutpaceError(f"{what}: {reason_of(error)}") from error


def reason_of(error: BaseException) -> str:
    """The reason of a failure in one line: of the error that the others were raised from, without the frame that libraries put around
    it."""
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    root = next((found for found in chain if isinstance(found, OutpaceError)), chain[-1])
    if isinstance(root, OSError) and root.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full"
    lines = [line.strip() for line in str(root).splitlines()]
    text = next((line for line in lines if not NOISE.match(line)), "")
    for pattern, ours in CLEARER:
        text = pattern.sub(ours, text)
    is_speaking = isinstance(root, SPEAKING) or type(root) is Exception
    kind = "" if is_speaking and text else type(root).__name__
    return ": ".join(part for part in (kind, text) if part)[:LONGEST]
