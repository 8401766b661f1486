"""The loss, the schedule, checkpoints and the record of a run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.errors import BadInputError

torch = pytest.importorskip("torch")


from outpace.training import record
from outpace.training.checkpoint import restore, save_checkpoint
from outpace.training.loop import LoopSettings
from outpace.training.loss import FrozenHead


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("is_trained", [False, True])
def test_the_loss_and_its_gradients_are_those_of_torch(has_bias, is_trained, monkeypatch):
    monkeypatch.setattr("outpace.training.loss.PIECE_ROWS", 7)
    torch.manual_seed(0)
    weight, bias = torch.randn(11, 6), torch.randn(11) if has_bias else None
    labels = torch.randint(-1, 11, (40,))
    importance = torch.rand(40)
    states = torch.randn(40, 6, requires_grad=True)
    weight.requires_grad_(is_trained)
    loss, hits = FrozenHead(weight, bias).loss(states, labels, importance)
    (3 * loss).backward()
    found, states.grad = states.grad, None
    found_weight, weight.grad = weight.grad, None
    logits = torch.nn.functional.linear(states, weight, bias)
    plain = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-1, reduction="none")
    (3 * (plain * importance).sum()).backward()
    torch.testing.assert_close(loss, (plain * importance).sum())
    torch.testing.assert_close(found, states.grad)
    assert (found_weight is not None) == is_trained
    if is_trained:
        torch.testing.assert_close(found_weight, weight.grad)
    assert torch.equal(hits, logits.argmax(1) == labels)


# ---- the schedule and checkpoints


@given(st.integers(1, 500), st.floats(0, 0.5))
def test_the_learning_rate_rises_and_falls(num_steps, share):
    loop = LoopSettings(learning_rate=2.0, warmup_share=share)
    rates = [loop.rate(step, num_steps) for step in range(num_steps)]
    top = rates.index(max(rates))
    assert all(0 < rate <= 2.0 for rate in rates)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_only_the_latest_whole_checkpoint_counts(tmp_path):
    module = torch.nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(module.parameters())
    assert restore(tmp_path, module, optimizer) == 0
    for step in (1, 2):
        module(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        save_checkpoint(tmp_path, step, module, optimizer)
    (tmp_path / ".step-00000003.1.tmp").mkdir()
    other = torch.nn.Linear(3, 3)
    again = torch.optim.AdamW(other.parameters())
    assert restore(tmp_path, other, again) == 2
    assert torch.equal(other.weight, module.weight)
    assert again.state_dict()["state"][0]["exp_avg"].equal(optimizer.state_dict()["state"][0]["exp_avg"])
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-00000002"]
    (tmp_path / "step-00000002" / "optimizer.pt").write_bytes(b"junk")
    with pytest.raises(BadInputError, match="cannot be read"):
        restore(tmp_path, other, again)


def test_metrics_of_lost_steps_are_taken_out(tmp_path):
    with record.Record(tmp_path, 0, tensorboard=False) as one:
        for step in (1, 2, 3):
            one.add(step, 0, {"loss": 1.0 / step, "held_out_accuracy_1": 0.5})
    with record.Record(tmp_path, 2, tensorboard=False) as two:
        two.add(3, 0, {"loss": 9.0})
    assert [(row["step"], row["loss"]) for row in record.read_metrics(tmp_path)] == [(1, 1.0), (2, 0.5), (3, 9.0)]
    pytest.importorskip("matplotlib")
    record.draw_curves(tmp_path)
    assert (tmp_path / record.CURVES).read_bytes().startswith(b"\x89PNG")
