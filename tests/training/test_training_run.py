"""`outpace train` as a whole, on a tiny random model: killed in every stage, wrong inputs, and what the heads then do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from cli_tools import call, train

torch = pytest.importorskip("torch")

from training_tools import decoded_length, die_in_answers, die_in_capture, die_in_training, run_killed

from outpace.errors import BadInputError
from outpace.heads.format import DraftHeads
from outpace.llm import LLM
from outpace.training.loop import LoopSettings
from outpace.training.medusa import run as run_medusa
from outpace.training.medusa.module import MedusaSettings
from outpace.training.processes import Processes
from outpace.training.record import read_metrics
from outpace.training.stages import Source
from outpace.training.start import Start

SHAPE = MedusaSettings(num_heads=3, num_draft_vocab=64)
LOOP = LoopSettings(epochs=15, batch_size=64, learning_rate=3e-3, checkpoint_seconds=0.1, record_steps=1)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    """Prompts of one token each: the tokenizer of the tiny model knows words such as <7>."""
    path = tmp_path_factory.mktemp("data") / "prompts.jsonl"
    path.write_text("".join(json.dumps({"id": f"p{i}", "prompt": f"<{i}>"}) + "\n" for i in range(2, 96)))
    return path


def source_of(model: Path, prompts: Path) -> Source:
    return Source(str(model), prompts, generate=True, max_tokens=28, target="hf", precision="f32")


@pytest.fixture(scope="module")
def whole(model, prompts, tmp_path_factory) -> tuple[Path, DraftHeads]:
    """(folder, helper) of a run that nothing interrupted."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    return out, run_medusa.train_medusa(source_of(model, prompts), out, SHAPE, LOOP)


@pytest.mark.timeout(300)
def test_killed_in_every_stage_the_result_is_the_same(model, prompts, whole, tmp_path):
    source, out = source_of(model, prompts), tmp_path / "killed"
    for number, die in enumerate((die_in_answers, die_in_capture, die_in_training)):
        run_killed(die, run_medusa.train_medusa, source, out, SHAPE, LOOP, number > 0)
    assert not (out / "config.json").exists()
    helper = run_medusa.train_medusa(source, out, SHAPE, LOOP, resume=True)
    expected = whole[1]
    assert helper.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        np.testing.assert_array_equal(helper.tensors[name], tensor, err_msg=name)
    assert (helper.tree, helper.training["held_out"]) == (expected.tree, expected.training["held_out"])
    steps, losses = zip(*[(row["step"], row["loss"]) for row in read_metrics(out) if "loss" in row], strict=True)
    assert list(steps) == list(range(1, helper.training["num_steps"] + 1))
    assert list(losses) == [row["loss"] for row in read_metrics(whole[0]) if "loss" in row]


def test_heads_learn_and_the_file_has_them(whole):
    out, helper = whole
    losses = [row["loss"] for row in read_metrics(out) if "loss" in row]
    assert losses[-1] < 0.5 * losses[0]
    loaded = DraftHeads.from_pretrained(out)
    assert (loaded.kind, loaded.base, loaded.tree) == ("medusa", helper.base, helper.tree)
    assert loaded.settings == {"num_heads": 3, "num_layers": 1, "num_draft_vocab": 64, "temperatures": helper.settings["temperatures"]}
    assert loaded.tensors["vocab_ids"].shape == (64,)
    assert {f"heads.{k}.{part}.weight" for k in range(3) for part in ("blocks.0", "projection")} <= loaded.tensors.keys()
    assert loaded.training["held_out"]["num_texts"] >= 1


def acceptance(model: Path, run: Path, heads: Path, shape: str) -> float:
    """Tokens a step over the held-out answers of a run. Answers may go on here: near the end of one the engine drafts less."""
    drafter = f"medusa:{heads}:shape={shape}:threshold={run_medusa.DRAFT_THRESHOLD}"
    llm = LLM(str(model), drafter, target="hf", precision="f32", num_draft_tokens=run_medusa.DRAFT_NODES)
    return decoded_length(llm, run / "answers.jsonl", 28)


@pytest.mark.parametrize("shape", ["fixed", "best"])
def test_decoding_accepts_what_training_said(model, whole, shape):
    """The gap between training and serving, a known trap."""
    out, helper = whole
    found = acceptance(model, out, out, shape)
    assert found == pytest.approx(helper.training["held_out"][f"acceptance_{shape}"], rel=0.01)
    assert found > 1.05


@pytest.mark.parametrize("num_draft_vocab", [None, 64])
def test_heads_with_lm_heads_of_their_own(model, whole, tmp_path, num_draft_vocab):
    source = Source(str(model), whole[0] / "shards", target="hf", precision="f32")
    settings = MedusaSettings(num_heads=2, num_draft_vocab=num_draft_vocab, lm_head="own")
    run_medusa.train_medusa(source, tmp_path, settings, replace(LOOP, epochs=8, checkpoint_seconds=30))
    loaded = DraftHeads.from_pretrained(tmp_path)
    own, other = (loaded.tensors[f"heads.{k}.lm_head.weight"] for k in range(2))
    assert own.shape == (num_draft_vocab or 96, 64)
    assert np.abs(own.astype(float) - other).max() > 0.001  # each has learned something of its own
    assert acceptance(model, whole[0], tmp_path, "best") == pytest.approx(loaded.training["held_out"]["acceptance_best"], rel=0.01)
    losses = [row["loss"] for row in read_metrics(tmp_path) if "loss" in row]
    assert losses[-1] < 0.6 * losses[0]


# ---- the command


outpace = partial(train, "medusa")


def test_help_has_an_example():
    result = call("train", "medusa", "--help")
    assert (result.exit_code, "Example: outpace train medusa --data" in result.stdout) == (0, True)


def test_the_command_takes_an_earlier_runs_rows(model, whole, tmp_path):
    options = ("--epochs", 1, "--num-heads", 2, "--num-draft-vocab", 0, "--json")
    result = outpace("--model", model, "--data", whole[0] / "shards", "--out", tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["settings"]["num_heads"], document["settings"]["num_draft_vocab"]) == (2, None)
    assert "vocab_ids" not in DraftHeads.from_pretrained(tmp_path / "out").tensors


def test_answers_of_others_give_no_acceptance_length(model, tmp_path):
    rng = np.random.default_rng(0)
    rows = [{"id": str(i), "prompt_ids": [5], "token_ids": rng.integers(2, 96, 20).tolist()} for i in range(8)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = outpace("--model", model, "--data", tmp_path / "a.jsonl", "--out", tmp_path / "out", "--epochs", 1)
    assert result.exit_code == 0, result.output
    assert "not the model's own answers" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("name", "text", "options", "message"),
    [
        ("empty.jsonl", "", (), "too little to train on: 0 texts"),
        ("empty.txt", "\n", (), "empty.txt is empty"),
        ("prompts.jsonl", '{"prompt": "<5>"}\n', (), "there is no answer; use --generate to let the model write it"),
        ("none.jsonl", "\n", ("--generate",), "none.jsonl has no prompts"),
        ("broken.jsonl", '{"prompt": "<5>"\n', ("--generate",), "broken.jsonl:1: not JSON"),
    ],
)
def test_wrong_data_is_one_clear_line(model, tmp_path, name, text, options, message):
    (tmp_path / name).write_text(text)
    result = outpace("--model", model, "--data", tmp_path / name, "--out", tmp_path / "out", *options)
    assert result.exit_code == 2
    assert message in result.stderr.splitlines()[-1]
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_rows_of_another_model_are_refused(whole, tiny_models, tmp_path):
    other = tiny_models["qwen3"]
    result = outpace("--model", other, "--data", whole[0] / "shards", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "with fingerprint" in result.stderr.splitlines()[-1]


def test_a_folder_that_cannot_be_used_is_one_clear_line(model, whole, prompts, tmp_path):
    (tmp_path / "file").write_text("x")
    for out, options, message in [
        (tmp_path / "file", (), "cannot write to"),
        (tmp_path / "file" / "below", (), "cannot write to"),
        (whole[0], (), "already contains a run; resume it with --resume"),
        (whole[0], ("--resume",), "--resume needs the same settings"),
    ]:
        result = outpace("--model", model, "--data", prompts, "--out", out, *options)
        assert result.exit_code == 2
        assert message in result.stderr.splitlines()[-1]


def test_data_that_is_not_there_is_one_clear_line(model, tmp_path):
    result = outpace("--model", model, "--data", tmp_path / "no.jsonl", "--out", tmp_path / "out")
    assert (result.exit_code, "there is no file" in result.stderr) == (2, True)
    assert not (tmp_path / "out" / "run.json").exists()  # so that the same folder may be given again


# ---- going on from an earlier helper


def test_training_goes_on_from_earlier_heads(model, whole, tmp_path):
    """With a learning rate of nothing the earlier heads come out; with one, the first step has learned what they had."""
    shards = whole[0] / "shards"
    still = run_medusa.train_medusa(
        Source(str(model), shards), tmp_path / "still", SHAPE, replace(LOOP, epochs=1, learning_rate=0.0, start_from=str(whole[0]))
    )
    assert all(
        np.array_equal(tensor.astype(np.float16), whole[1].tensors[name].astype(np.float16)) for name, tensor in still.tensors.items()
    )
    assert still.training["earlier"] == whole[1].training
    run_medusa.train_medusa(Source(str(model), shards), tmp_path / "later", SHAPE, replace(LOOP, epochs=1, start_from=str(whole[0])))
    first, later = (read_metrics(folder)[0]["loss"] for folder in (whole[0], tmp_path / "later"))
    assert later < 0.95 * first


def test_the_vocabulary_is_that_of_the_earlier_heads(model, whole, tmp_path):
    settings = replace(SHAPE, num_draft_vocab=32)
    later = run_medusa.train_medusa(
        Source(str(model), whole[0] / "shards"), tmp_path / "later", settings, replace(LOOP, epochs=1, start_from=str(whole[0]))
    )
    assert np.array_equal(later.tensors["vocab_ids"], whole[1].tensors["vocab_ids"])
    assert later.settings["num_draft_vocab"] == 64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--start-from", "nowhere"], "there are no heads in nowhere"),
        (["--start-from", "shipped"], "come with outpace; train without --start-from first"),
        (["--start-from", "{whole}", "--num-heads", "2"], "of another shape"),
        (["--start-from", "{whole}", "--num-layers", "2"], "of another shape"),
    ],
)
def test_an_earlier_helper_that_does_not_fit_is_one_clear_line(model, whole, tmp_path, options, message):
    words = [word.format(whole=whole[0]) for word in options]
    if "--num-heads" not in words:
        words += ["--num-heads", "3"]
    done = outpace("--model", model, "--data", whole[0] / "shards", "--out", tmp_path / "out", "--num-draft-vocab", 64, *words)
    assert done.exit_code == 2, done.output
    assert message in " ".join(done.output.split())
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


def test_a_helper_of_another_kind_is_no_start(whole):
    with pytest.raises(BadInputError, match="are of kind medusa, not eagle"):
        Start.of(str(whole[0]), "eagle", whole[1].base)


# ---- several processes


def in_two_processes(*words: object) -> subprocess.CompletedProcess[str]:
    """The command as torchrun begins it twice."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "outpace"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *launcher, *map(str, words)], capture_output=True, text=True, env=environment, check=False)


@pytest.mark.timeout(300)
def test_two_processes_train_as_one_does(model, whole, tmp_path):
    shards, out = whole[0] / "shards", tmp_path / "two"
    words = ["--num-heads", 3, "--num-draft-vocab", 64, "--epochs", 15, "--batch-size", 64, "--learning-rate", 3e-3, "--target", "hf"]
    done = in_two_processes("train", "medusa", "--model", model, "--data", shards, "--out", out, *words)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("Expected mean acceptance length") == 1  # the second process ended quietly
    mine, other = (DraftHeads.from_pretrained(folder).training["held_out"]["acceptance_best"] for folder in (out, whole[0]))
    assert mine == pytest.approx(other, rel=0.05)
    steps = [row["step"] for row in read_metrics(out)]
    assert steps == sorted(steps)
    assert steps[-1] == read_metrics(whole[0])[-1]["step"]


def test_several_processes_capture_nothing(model, prompts, tmp_path, monkeypatch):
    monkeypatch.setattr("outpace.training.stages.processes", lambda: Processes(0, 2, torch.device("cpu")))
    done = outpace("--model", model, "--data", prompts, "--generate", "--out", tmp_path / "out")
    assert done.exit_code != 0
    assert "by one process" in done.stderr
