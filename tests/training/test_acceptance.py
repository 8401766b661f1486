"""From ranks to trees and acceptance lengths, and decoding simulated on them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from helper_tools import fitted_medusa

from outpace.drafters.base import DrafterContext
from outpace.drafters.spec import create_drafter
from outpace.params import SamplingParams
from outpace.targets.toy import ToyTarget
from outpace.testing import make_request, run
from outpace.training import acceptance as calibration
from outpace.training.data import capture
from outpace.training.data.shards import Origin, Rows
from outpace.training.data.texts import Text
from outpace.training.replay import replay


def all_trees(paths, num_nodes):
    """Every set of `num_nodes` paths in which each path's parent is there too."""
    for tree in itertools.combinations(paths, num_nodes):
        if all(len(path) == 1 or path[:-1] in tree for path in tree):
            yield tree


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 3))
def test_the_tree_is_the_best_of_all(seed, num_nodes, num_heads):
    num_ranks = 3
    ranks = np.random.default_rng(seed).choice([0, 0, 0, 1, 1, 2, calibration.NUM_RANKS], (40, num_heads))
    paths = [path for depth in range(1, num_heads + 1) for path in itertools.product(range(num_ranks), repeat=depth)]

    def hits(tree):
        return sum(int((ranks[:, : len(path)] == path).all(axis=1).sum()) for path in tree)

    found = [tuple(path) for path in calibration.best_tree(ranks, num_nodes, prior=0.0)]
    best = max((hits(tree) for tree in all_trees(paths, min(num_nodes, len(paths)))), default=0)
    assert all(len(path) == 1 or path[:-1] in found[:i] for i, path in enumerate(found))
    assert hits(found) == best


def test_unknown_ranks_count_for_nothing():
    ranks = np.array([[0, 0], [0, -1], [1, -1], [-1, -1]])
    tree = calibration.best_tree(ranks, 3, prior=0.0)
    assert tree == [[0], [0, 0], [1]]
    assert calibration.accuracies(ranks)[1][0] == 1.0


def test_few_joint_hits_lean_on_the_marginals():
    ranks = np.array([[0, 0]] * 50 + [[1, 0]] * 50 + [[2, 1]])
    assert [2, 0] in calibration.best_tree(ranks, 8)
    assert [2, 0] not in calibration.best_tree(ranks, 8, prior=0.0)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_the_walk_decodes_every_text(seed, is_fixed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 12, 3)
    starts = [0, *np.cumsum(lengths).tolist()]
    ranks = rng.choice([0, 0, 1, calibration.NUM_RANKS], (starts[-1], 3))
    for end in starts[1:]:
        for k in range(3):
            ranks[max(0, end - 1 - k) : end, k] = -1
    tree = [[0], [0, 0], [1]]
    confidences = np.full((starts[-1], 3, calibration.NUM_RANKS), 0.001)
    confidences[:, :, 0], confidences[:, :, 1] = 0.6, 0.3  # three likeliest paths: 0 (.6), 0 0 (.36), 1 (.3)
    longest = calibration.with_tree(ranks, tree) if is_fixed else calibration.with_likeliest(ranks, confidences, 3, 0.02)
    found = calibration.walk(starts, longest)
    num_steps = 0
    for begin, end in itertools.pairwise(starts):
        committed = 1  # the first step has nothing to draft from
        num_steps += 1
        while committed < end - begin:
            row = ranks[begin + committed - 1]
            accepted = 2 if row[0] == 0 and row[1] == 0 else 1 if row[0] in (0, 1) else 0
            committed = min(end - begin, committed + accepted + 1)
            num_steps += 1
    assert (found.num_tokens, found.num_steps) == (int(lengths.sum()), num_steps)


def test_no_drafts_give_one_token_a_step():
    found = calibration.walk([0, 5, 9], lambda row: 0)
    assert (found.num_steps, found.mean_length) == (9, 1.0)


# ---- decoding on paper


@pytest.mark.parametrize("name", ["prompt_lookup", "suffix", "medusa"])
def test_a_replay_takes_the_steps_of_decoding(name, tmp_path):
    target = ToyTarget(sharpness=6.0)
    prompts = [[1, 2, 3], [4, 5], [7, 8, 9, 1, 2], [3], [3, 3, 4]]
    fitted_medusa(target, prompts).save_pretrained(tmp_path / "heads")
    drafter = create_drafter(f"medusa:{tmp_path / 'heads'}" if name == "medusa" else name, DrafterContext(target))
    params = SamplingParams(max_tokens=60)
    requests = run(target, [make_request(target, prompt, params, drafter) for prompt in prompts])
    texts = [Text(str(i), prompt, request.output_token_ids) for i, (prompt, request) in enumerate(zip(prompts, requests, strict=True))]
    size = target.capabilities.vocab_size
    capture.capture(target, texts, Origin("toy", "f00d", "toy", size, size, "all"), tmp_path / "shards")
    found = replay(target, drafter, Rows(tmp_path / "shards"), range(len(texts)), drafter.num_draft_tokens)
    assert found.num_tokens == 60 * len(prompts)
    assert found.num_steps == sum(request.stats.num_steps for request in requests) < 0.9 * found.num_tokens
