"""`outpace train blanks` on a tiny random model: who sees whom, killed and resumed, and what the blanks then do."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cli_tools import train
from training_tools import decoded_length, die_in_training, run_killed

from outpace.drafters.blanks.kinds import TRAINED
from outpace.heads.format import DraftHeads
from outpace.llm import LLM
from outpace.training.data.texts import Text
from outpace.training.loop import LoopSettings
from outpace.training.mask_tokens.frozen import FrozenModel, Places
from outpace.training.mask_tokens.run import train_blanks
from outpace.training.mask_tokens.task import BlanksSettings, BlanksTask
from outpace.training.record import read_metrics
from outpace.training.stages import Source

SHAPE = BlanksSettings(count=3, num_anchors=8)
LOOP = LoopSettings(epochs=6, batch_size=8, learning_rate=3e-2, checkpoint_seconds=0.1, record_steps=1)


@pytest.fixture(scope="module")
def frozen(model) -> FrozenModel:
    """The model in float32, so that sums agree whatever else is in the batch."""
    found = FrozenModel.of(str(model), torch.device("cpu"))
    found.live.float()
    return FrozenModel(found.base, found.live, type(found.head)(found.live.get_output_embeddings().weight), found.embeddings)


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory) -> tuple[Source, Path, DraftHeads]:
    """(source, folder, helper) of a run that nothing interrupted; prompts of one token each."""
    folder = tmp_path_factory.mktemp("runs")
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"id": f"p{i}", "prompt": f"<{i}>"}) + "\n" for i in range(2, 96)))
    source = Source(str(model), prompts, generate=True, max_tokens=28, target="hf", precision="f32")
    return source, folder / "whole", train_blanks(source, folder / "whole", SHAPE, LOOP)


def test_a_blank_sees_the_text_before_it_and_the_blanks_before_it(frozen):
    """Each group alone behind its text, as the drafter runs it."""
    blanks = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    text, anchors = list(range(2, 22)), np.array([0, 4, 5, 17, 19])
    states = frozen.states(Places(text, anchors), blanks)
    for group, anchor in zip(states, anchors, strict=True):
        row = torch.cat([frozen.live.get_input_embeddings()(torch.tensor(text[: anchor + 1])), blanks])[None]
        expected = frozen.live.base_model(inputs_embeds=row).last_hidden_state[0, -3:]
        torch.testing.assert_close(group, expected, atol=1e-4, rtol=1e-3)


def test_a_blank_is_told_the_token_behind_it(frozen):
    """The token right after the place is what the model says itself; blank 0 stands there, and says the one after."""
    text = Text("a", [5, 6], [7, 8, 9, 10])
    task = BlanksTask(frozen, [text], [text], torch.zeros(3, 64), SHAPE, 0)
    places = task._some(text, [0])
    assert places.anchors.tolist() == [1, 2, 3]
    assert task._labels(text, places).tolist() == [[8, 9, 10], [9, 10, -1], [10, -1, -1]]
    ranks, confidences = task.predictions([text])
    assert (ranks.shape, confidences.shape) == ((4, 3), (4, 3, 10))
    assert (ranks >= 0).tolist() == [[True] * 3, [True, True, False], [True, False, False], [False] * 3]
    loss, figures = task.loss(np.array([0]))
    loss.backward()
    assert set(figures) == {"accuracy_1", "accuracy_2", "accuracy_3"}
    assert task.blanks.embeddings.grad.abs().sum(dim=1).gt(0).all()


def test_blanks_learn_and_the_file_has_them(whole):
    _, out, helper = whole
    losses = [row["loss"] for row in read_metrics(out) if "loss" in row]
    assert losses[-1] < 0.9 * losses[0]
    loaded = DraftHeads.from_pretrained(out)
    assert (loaded.kind, loaded.base, loaded.settings) == ("blanks", helper.base, helper.settings)
    assert loaded.tensors["embeddings"].shape == (3, 64)
    assert loaded.training["held_out"]["num_texts"] >= 1


@pytest.mark.timeout(300)
def test_killed_in_training_the_result_is_the_same(whole, tmp_path):
    source, _, expected = whole
    out = tmp_path / "killed"
    run_killed(die_in_training, train_blanks, source, out, SHAPE, LOOP)
    helper = train_blanks(source, out, SHAPE, LOOP, resume=True)
    np.testing.assert_array_equal(helper.tensors["embeddings"], expected.tensors["embeddings"])
    assert (helper.settings, helper.training["held_out"]) == (expected.settings, expected.training["held_out"])


@pytest.mark.parametrize("after", ["root", "end", "every"])
def test_decoding_accepts_what_training_said(model, whole, after):
    """The gap between training and serving. Answers may go on here: near the end of one the engine drafts less."""
    source, out, helper = whole
    llm = LLM(str(model), f"blanks:{out}:after={after}", target="hf", precision="f32", num_draft_tokens=TRAINED.num_draft_tokens)
    length = decoded_length(llm, out / "answers.jsonl", source.max_tokens)
    assert length == pytest.approx(helper.training["held_out"]["acceptance"][after], rel=0.02)
    assert length > 1.05


# ---- the command


outpace = partial(train, "blanks")


def test_answers_of_others_give_no_acceptance_length(model, tmp_path):
    rng = np.random.default_rng(0)
    rows = [{"id": str(i), "prompt_ids": [5], "token_ids": rng.integers(2, 96, 20).tolist()} for i in range(8)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = outpace("--model", model, "--data", tmp_path / "a.jsonl", "--out", tmp_path / "out", "--count", 2)
    assert result.exit_code == 0, result.output
    assert "not the model's own answers" in " ".join(result.stdout.split())
    again = outpace("--model", model, "--data", tmp_path / "a.jsonl", "--out", tmp_path / "out", "--count", 2, "--resume", "--json")
    assert json.loads(again.stdout)["settings"]["count"] == 2


def test_data_that_cannot_be_used_is_one_clear_line(model, tmp_path):
    for data, message in [(tmp_path / "no.jsonl", "there is no file"), (tmp_path, "pass the file with the answers")]:
        result = outpace("--model", model, "--data", data, "--out", tmp_path / "out")
        assert (result.exit_code, message in result.stderr.splitlines()[-1]) == (2, True)
