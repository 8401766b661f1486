"""check_verifier: tests what a verifier declares about itself."""

from __future__ import annotations

import numpy as np

from outpace.drafters.base import DrafterContext
from outpace.params import SamplingParams
from outpace.targets.toy import ToyTarget
from outpace.testing.distribution import distribution_test
from outpace.testing.doubles import OracleDrafter, SampledDrafter
from outpace.testing.harness import Build, generate, make_request, require
from outpace.tree.draft import Draft
from outpace.verifiers.base import Verifier


def check_verifier(verifier: Verifier) -> None:
    """Test that `same_text` gives the plain text, `lossless` the target's distribution. Raises AssertionError."""
    target = ToyTarget(sharpness=1.0)
    context, prompts, name = DrafterContext(target), [[1, 2, 3], [4]], type(verifier).__name__
    for temperature in (0.0, 0.8):
        params = SamplingParams(temperature=temperature, max_tokens=40)
        plain = generate(target, prompts, params)
        answers = {tuple(prompt): tokens for prompt, tokens in zip(prompts, plain, strict=True)}
        for width in (1, 3):
            got = generate(target, prompts, params, OracleDrafter(context, answers, 0.3, width), verifier)
            if verifier.same_text or (verifier.lossless and temperature == 0.0):
                require(got == plain, f"{name}: temperature {temperature}, {width} guesses a node: {got}, but plain decoding gives {plain}")
    _check_path(verifier, target)
    guess: dict[tuple[int, ...], list[int]] = {(1, 2, 0): [3, 1, 2, 0, 1, 3, 2, 0]}
    builds: dict[str, Build] = {
        "a fixed chain": lambda c: OracleDrafter(c, guess, 0.2),
        "a fixed tree": lambda c: OracleDrafter(c, guess, 0.2, 2),
        "a sampled chain": SampledDrafter,
        "a sampled tree": lambda c: SampledDrafter(c, 2),
    }
    for draft, build in builds.items() if verifier.lossless else ():
        result = distribution_test(verifier, build)
        require(result.passed, f"{name} says it is lossless, but with {draft} the distribution is wrong: {result}")


def _check_path(verifier: Verifier, target: ToyTarget) -> None:
    """The verdict's path leads down from the root and has no lookahead token."""
    request = make_request(target, [1, 2, 3])
    first, second, third = (truth := generate(target, [[1, 2, 3]], SamplingParams(max_tokens=3))[0])
    wrong = (first + 1) % target.capabilities.vocab_size
    draft = Draft([wrong, first, wrong, second, third], [-1, -1, 0, 1, 3], num_lookahead=1)
    paths = [[], [wrong], [first], [wrong, wrong], [first, second], truth]
    path = verifier.verify(request, draft, np.array([target.logits_after([1, 2, 3, *tokens]) for tokens in paths])).path
    name = type(verifier).__name__
    require(all(draft.parents[node] == before for before, node in zip([-1, *path], path, strict=False)), f"{name}: {path} is no path")
    require(4 not in path, f"{name}: accepted a probe, which must never be accepted")
