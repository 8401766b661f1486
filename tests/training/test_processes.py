"""The shares of several training processes."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from outpace.training.processes import Processes

CPU = torch.device("cpu")


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_the_shares_of_all_are_the_batch(count):
    items = np.arange(5)
    shares = [Processes(rank, count, CPU).share(items) for rank in range(count)]
    counted = np.concatenate([mine for mine, weight in shares if weight])
    assert sorted(counted) == items.tolist()
    assert sum(weight for _, weight in shares) == pytest.approx(1)
    assert all(len(mine) for mine, _ in shares)  # a loss needs something to be a loss of


def test_alone_nothing_is_added_or_awaited():
    module = torch.nn.Linear(2, 1)
    module(torch.ones(1, 2)).sum().backward()
    before = module.weight.grad.clone()
    alone = Processes(0, 1, CPU)
    alone.add_gradients(module)
    alone.wait()
    assert torch.equal(module.weight.grad, before)
