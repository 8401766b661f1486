"""Conformance checks for authors of drafters, targets and verifiers.

`check_drafter(MyDrafter)`, `check_target(MyTarget(...), prompt)` and `check_verifier(MyVerifier())` raise AssertionError with
a sentence that says what is wrong. They take seconds, on the toy model unless a target is given.
"""

from outpace.testing.check_drafter import check_drafter
from outpace.testing.check_target import check_target
from outpace.testing.check_verifier import check_verifier
from outpace.testing.distribution import FALSE_ALARM, DistributionResult, distribution_test, exact_distribution
from outpace.testing.doubles import AcceptEverythingVerifier, InexactTarget, OracleDrafter, SampledDrafter
from outpace.testing.harness import drive, generate, make_request, run

__all__ = [
    "FALSE_ALARM",
    "AcceptEverythingVerifier",
    "DistributionResult",
    "InexactTarget",
    "OracleDrafter",
    "SampledDrafter",
    "check_drafter",
    "check_target",
    "check_verifier",
    "distribution_test",
    "drive",
    "exact_distribution",
    "generate",
    "make_request",
    "run",
]
