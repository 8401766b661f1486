"""An engine over toy targets: requests that are started, and stepped to the end with the invariants checked."""

from __future__ import annotations

from outpace.drafters.base import DrafterContext
from outpace.engine.engine import Engine
from outpace.params import SamplingParams
from outpace.testing import OracleDrafter, generate, make_request

PROMPTS = [[1, 2, 3, 1, 2], [4], [5, 6, 5, 6, 5, 6, 7, 8, 5, 6]]


PARAMS = SamplingParams(temperature=0.7, max_tokens=20)


def oracle(target, params=PARAMS, cls=OracleDrafter, lie=0.3, width=1):
    answers = {tuple(p): generate(target, [p], params, seed=i)[0] for i, p in enumerate(PROMPTS)}
    return cls(DrafterContext(target), answers, lie, width)


def start(target, drafters, config=None, params=PARAMS, **options) -> tuple[Engine, list]:
    """An engine with one request for each prompt; `drafters` is one for all or a list."""
    engine = Engine(target, config)
    drafters = drafters if isinstance(drafters, list) else [drafters] * len(PROMPTS)
    requests = [make_request(target, p, params, d, seed=i, **options) for i, (p, d) in enumerate(zip(PROMPTS, drafters, strict=True))]
    for request in requests:
        engine.add(request)
    return engine, requests


def finish(engine) -> list:
    """Step to the end, checking the invariants after every step."""
    outputs = []
    while engine.has_unfinished:
        outputs += engine.step()
        for request in engine.scheduler.running:
            slot = request.slot
            assert slot.token_ids == request.token_ids[: slot.num_cached]
            assert slot.num_cached <= len(request.token_ids) - 1
            if request.num_output_tokens:
                assert slot.num_cached == len(request.token_ids) - 1
            assert len(engine.target.cache[slot.index]) == slot.num_cached  # no rejected row lives on
        assert len(engine.target.cache) == len(engine.scheduler.running)
    assert engine.target.cache == {}
    assert engine.guard.failed == set()
    return outputs
