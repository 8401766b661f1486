"""A drafter that has begun a request."""

from hypothesis import settings

from outpace.drafters.base import DrafterContext
from outpace.drafters.spec import create_drafter
from outpace.targets.toy import ToyTarget
from outpace.testing import make_request

FEW = settings(deadline=None, derandomize=True, max_examples=60)
VOCAB_SIZE = 120


def begun(spec, prompt, scope="", drafter=None):
    """(drafter, request) with the request begun."""
    target = ToyTarget(vocab_size=VOCAB_SIZE)
    drafter = drafter or create_drafter(spec, DrafterContext(target))
    request = make_request(target, prompt, drafter=drafter)
    request.cache_salt = scope
    drafter.begin(request)
    return drafter, request
