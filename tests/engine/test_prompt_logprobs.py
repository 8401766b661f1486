"""Log-probabilities of prompts: those of the target, however the prompt is cut and whatever runs beside it."""

from __future__ import annotations

import numpy as np
import pytest

from outpace.drafters.base import PromptObserver
from outpace.drafters.none import NoDrafter
from outpace.sampling.sampler import logprobs_of

TEXTS = ["abc abd. xyz, and so on", "a", "ab", "hello " * 12]


def wanted(llm, text: str) -> list[float]:
    tokens = llm.tokenizer.encode(text)
    return [logprobs_of(llm.target.logits_after(tokens[:at]), tokens[at], 0)[tokens[at]] for at in range(1, len(tokens))]


@pytest.mark.parametrize("chunk", [1, 3, 512])
@pytest.mark.parametrize("drafter", ["none", "recycling", "suffix+prompt_lookup"])
def test_chunks_neighbours_and_drafters_change_nothing(make_toy, chunk, drafter):
    llm = make_toy(drafter, engine={"max_num_batched_tokens": chunk, "min_prefill_chunk": chunk})
    params = [{"max_tokens": 5, "prompt_logprobs": 2 if number % 2 == 0 else None} for number in range(4)]
    plain = make_toy(drafter).generate(TEXTS, {"max_tokens": 5})
    for _ in range(2):  # the second time parts of the prompts are stored
        for text, output, alone, asked in zip(TEXTS, llm.generate(TEXTS, params), plain, params, strict=True):
            assert output.token_ids == alone.token_ids
            if asked["prompt_logprobs"] is None:
                assert output.prompt_logprobs is None
                continue
            tokens = output.prompt_token_ids[1:]
            found = [row[token] for token, row in zip(tokens, output.prompt_logprobs, strict=True)]
            np.testing.assert_allclose(found, wanted(llm, text), rtol=1e-5)
            assert all(len(row) in (2, 3) for row in output.prompt_logprobs)


SEEN: list[tuple[int, np.ndarray]] = []


class Watching(NoDrafter, PromptObserver):
    """Keeps the hidden states of prompts."""

    def observe_prompt(self, request, start, hidden) -> None:
        SEEN.append((start, np.array(hidden)))


def test_a_drafter_that_reads_the_prompt_sees_the_same(make_toy):
    found = []
    for asked in (None, 0):
        SEEN.clear()
        llm = make_toy(f"{__name__}:Watching", engine={"max_num_batched_tokens": 4, "min_prefill_chunk": 4})
        llm.generate(TEXTS[:1], {"max_tokens": 2, "prompt_logprobs": asked})
        found.append([(start, hidden.tolist()) for start, hidden in SEEN])
    assert found[0] == found[1]
    assert len(found[0]) > 3
