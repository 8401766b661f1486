"""The reason inside the errors of other libraries, and how a converter process tells it."""

import errno
import os
import sys

import pytest

from outpace.errors import BadInputError, OutpaceError
from outpace.models import channel
from outpace.reason import explained, reason_of

TRACING = "Couldn't get TorchScript module by tracing.\nException:\n{}\nPlease check correctness of provided 'example_input'."
FRONTEND = "Check 'false' failed at src/frontends/common/src/frontend.cpp:57:\nFrontEnd API failed with OpConversionFailure:\n"
CORE = "Exception from src/inference/src/cpp/core.cpp:93:\n"


def raised(error: Exception, *outer: Exception) -> Exception:
    for one in outer:
        one.__cause__ = error
        error = one
    return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            raised(
                BadInputError("its attention uses softcap; use --target hf"),
                RuntimeError(
                    "Couldn't get TorchScript module by tracing.\nException:\nits attention uses softcap\nPlease check correctness"
                ),
            ),
            "its attention uses softcap; use --target hf",
        ),
        (
            raised(KeyError("traced"), RuntimeError(TRACING.format("'traced'"))),
            "KeyError: 'traced'",
        ),
        (
            RuntimeError(FRONTEND + "Check 'x' failed at src/a.cpp:2:\nNo conversion rule found for operations: aten::foo"),
            "No conversion rule found for operations: aten::foo",
        ),
        (
            RuntimeError(
                CORE
                + "Caught exception: Exception from src/plugins/intel_cpu/src/node.cpp:794:\n"
                + "[CPU] Split node with name 'a/Split' Check 'dimension_at_axis % num_splits == 0' failed at src/a.hpp:55:\n"
                + "While validating node 'opset1::Split a/Split (b) -> (i32[..2,1])' with friendly_name 'a/Split':\n"
                + "Dimension of data input shape along 'axis': 3 must be evenly divisible by 'num_splits' attribute value: 2\n\n"
            ),
            "Dimension of data input shape along 'axis': 3 must be evenly divisible by 'num_splits' attribute value: 2",
        ),
        (
            RuntimeError(CORE + "Unable to read the model: a.xml"),
            "Unable to read the model: a.xml",
        ),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), "the disk is full"),
        (RuntimeError("basic_ios::clear: iostream error"), "a file could not be written; the disk may be full"),
        (ValueError(""), "ValueError"),
        (TypeError("forward() got an unexpected keyword\nmore"), "TypeError: forward() got an unexpected keyword"),
        (RuntimeError("x" * 1000), "x" * 300),
        (OutpaceError("ours"), "ours"),
    ],
)
def test_the_reason_inside_an_error(error, reason):
    assert reason_of(error) == reason


# ---- the channel


def told(work, capfd) -> tuple[int, list[str], OutpaceError | None]:
    """(exit code, stages, error) that the parent of a child which does `work` gets."""
    code = channel.run(work)
    stages: list[str] = []
    lines = capfd.readouterr().out.splitlines(keepends=True)
    return code, stages, channel.listen(lines, stages.append)


def test_nothing_but_messages_goes_to_the_parent(capfd):
    def work(tell):
        os.write(1, b"Do you wish to run the code? [y/N] ")
        tell("one")
        sys.stdout.write("{not json\n")
        tell("two")

    code, stages, error = told(work, capfd)
    assert (code, stages, error) == (0, ["one", "two"], None)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (BadInputError("no such layer"), BadInputError, "no such layer"),
        (OutpaceError("no room"), OutpaceError, "no room"),
        (OSError(errno.ENOSPC, "No space left on device"), OutpaceError, "the disk is full"),
        (RuntimeError("basic_ios::clear: iostream error"), OutpaceError, "a file could not be written; the disk may be full"),
        (KeyError("traced"), BadInputError, "KeyError: 'traced'"),
    ],
)
def test_a_failure_keeps_its_reason_and_its_kind(capfd, error, kind, message):
    """What the machine lacks is no bad input."""

    def work(tell):
        raise error

    code, stages, found = told(work, capfd)
    assert (code, stages, type(found), str(found)) == (kind.exit_code, [], kind, message)


@pytest.mark.parametrize("before", ["", "[y/N] ", "a {set} of {", '{"x": 1}{'])
def test_messages_that_stand_behind_other_output(before):
    assert str(channel.listen([before + '{"error": "why {not}"}\n'], print)) == "why {not}"


def test_lines_that_are_no_messages():
    assert channel.listen(["noise\n", "{\n", "[1]\n", '{"error": 5, "stage": null}\n', "\n"], print) is None


@pytest.mark.parametrize("error", [Exception("the node timed out"), RuntimeError("the node timed out\nmore")])
def test_another_librarys_work_that_fails_is_explained(error):
    with pytest.raises(OutpaceError, match=r"^Ray did not start: the node timed out$"), explained("Ray did not start"):
        raise error


@pytest.mark.parametrize("error", [BadInputError("wrong drafter"), KeyboardInterrupt()])
def test_what_needs_no_explanation_stays_as_it_is(error):
    with pytest.raises(type(error)) as caught, explained("Ray did not start"):
        raise error
    assert caught.value is error
