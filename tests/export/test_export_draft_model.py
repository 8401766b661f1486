"""Draft models for other engines, and the command `outpace export`."""

import json
import shlex
import shutil

import pytest
from helper_tools import random_medusa
from safetensors.numpy import save_file
from typer.testing import CliRunner

from outpace.cli import app
from outpace.errors import BadInputError
from outpace.export import exporter
from outpace.export.base import BaseModel
from outpace.heads.format import DraftHeads
from outpace.heads.shipped import ASSETS
from outpace.targets.identity import Base


def test_a_draft_model_is_copied(tiny_models, tmp_path, place):
    draft = shutil.copytree(tiny_models["qwen3"], tmp_path / "draft")
    (draft / "optimizer.bin").write_bytes(b"not part of the model")
    words = shlex.split(exporter("vllm")(draft, tmp_path / "out", place))
    assert words[:4] == ["vllm", "serve", place, "--speculative-config"]
    assert json.loads(words[4]) == {"method": "draft_model", "model": str(tmp_path / "out"), "num_speculative_tokens": 4}
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert "optimizer.bin" not in names
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (draft / "model.safetensors").read_bytes()


def edit(path, **fields) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def rename_token(draft) -> None:
    text = (draft / "tokenizer.json").read_text()
    (draft / "tokenizer.json").write_text(text.replace('"<7>"', '"<seven>"'))


def index_with(draft, **places) -> None:
    (draft / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda draft: edit(draft / "config.json", vocab_size=95), "a vocabulary of 95 tokens, but .* has 96"),
        (lambda draft: rename_token(draft), "other tokens"),
        (lambda draft: (draft / "tokenizer.json").unlink(), r"has no tokenizer\.json"),
        (lambda draft: (draft / "model.safetensors").unlink(), "cannot read the weights"),
        (lambda draft: (draft / "model.safetensors").write_bytes(b"x" * 30), "cannot read the weights"),
        (lambda draft: save_file({}, draft / "model.safetensors"), "lack everything"),
        (lambda draft: index_with(draft, gone="model.safetensors"), "lack gone"),
        (lambda draft: index_with(draft, gone="model-2.safetensors"), "cannot read the weights"),
    ],
)
def test_damaged_draft_models_are_refused(tiny_models, tmp_path, place, damage, message):
    draft = shutil.copytree(tiny_models["qwen3"], tmp_path / "draft")
    damage(draft)
    with pytest.raises(BadInputError, match=message) as caught:
        exporter("vllm")(draft, tmp_path / "out", place)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["draft"]


def test_tgi_takes_no_draft_model(tiny_models, tmp_path, place):
    with pytest.raises(BadInputError, match="no draft model"):
        exporter("tgi")(tiny_models["qwen3"], tmp_path / "out", place)


# ---- the command


def test_the_command_prints_how_to_serve(tmp_path, model, place):
    random_medusa(model.base, 3).save_pretrained(tmp_path / "heads")
    found = CliRunner().invoke(app, ["export", "vllm", str(tmp_path / "heads"), str(tmp_path / "out"), "--model", place])
    assert found.exit_code == 0, found.output
    words = shlex.split(found.stdout)
    assert words[:4] == ["vllm", "serve", place, "--speculative-config"]
    assert json.loads(words[4]) == {"method": "medusa", "model": str(tmp_path / "out"), "num_speculative_tokens": 3}


@pytest.mark.parametrize(
    ("engine", "options", "message"),
    [
        ("sglang", [], "there is no export to 'sglang'; known: tgi, vllm"),
        ("vllm", [], "made for 'gone'; pass its location with --model"),
        ("vllm", ["--model", "nowhere"], "no model 'nowhere'"),
    ],
)
def test_wrong_words_are_one_line_and_exit_code_2(tmp_path, engine, options, message):
    random_medusa(Base("gone", "f" * 16, 8, 20)).save_pretrained(tmp_path / "heads")
    found = CliRunner().invoke(app, ["export", engine, str(tmp_path / "heads"), str(tmp_path / "out"), *options])
    assert found.exit_code == 2
    assert message in found.stderr
    assert len(found.stderr.splitlines()) == 1


@pytest.mark.real
def test_the_default_model_is_written_beside_its_heads(tmp_path):
    (heads,) = ASSETS.glob("medusa-*")
    command = exporter("vllm")(heads, tmp_path / "out", None)
    written = BaseModel.of(shlex.split(command)[2])
    assert written.base.fingerprint == DraftHeads.from_pretrained(heads).base.fingerprint
