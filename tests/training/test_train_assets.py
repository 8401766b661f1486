"""The helpers that come with outpace, and the script that makes them."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import typer.main

from outpace.cli import app
from outpace.heads.format import KINDS, DraftHeads
from outpace.heads.shipped import ASSETS

ROOT = Path(__file__).parents[2]
FINGERPRINTS = {"smollm2-135m-instruct": "9d3538a0766bcbfa", "qwen2.5-coder-0.5b-instruct": "3a8925319c21705e"}  # of the weights
SHIPPED = sorted(config.parent for config in ASSETS.glob("*/config.json"))


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_assets", ROOT / "dev" / "training" / "train_assets.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_assets"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["train_assets"]


def with_runs(script, work, size):
    """Folders as the runs leave them, with weights of `size` bytes each."""
    for recipe in script.RECIPES:
        folder = work / recipe.run
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(recipe.run)
        (folder / "model.safetensors").write_bytes(bytes(size))
        (folder / "run.json").write_text("{}")


# ---- what is shipped


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_a_shipped_helper_is_of_a_model_of_the_catalog(folder):
    helper = DraftHeads.from_pretrained(folder)
    kind, _, model = folder.name.partition("-")
    assert (helper.kind, helper.base.fingerprint) == (kind, FINGERPRINTS[model])
    assert helper.tensors
    assert helper.training["num_texts"] > 0


def test_helpers_are_shipped_and_small_together(script):
    assert {"recycling", "medusa"} <= {folder.name.partition("-")[0] for folder in SHIPPED}
    sizes = {path: path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()}
    assert sum(sizes.values()) <= 20 << 20
    assert sum(size for path, size in sizes.items() if "smollm2" in path.parent.name) <= 16 << 20 == script.MAX_BYTES


# ---- how it is made


def test_every_kind_has_a_recipe(script):
    assert {recipe.kind for recipe in script.RECIPES if recipe.is_shipped} == set(KINDS)


def test_commands_parse(script, tmp_path):
    """Each is a command with options that it takes, values in range, and WORK as the only place."""
    (tmp_path / "rows").mkdir()
    trainers = typer.main.get_command(app).commands["train"].commands
    for recipe in script.RECIPES:
        word, name, *words = script.command(recipe, tmp_path)
        assert (word, name) == ("train", recipe.kind)
        params = trainers[name].make_context(name, words).params
        assert params["resume"]
        assert params["max_tokens"] == 192
        assert tmp_path in Path(params["data"]).parents
        assert tmp_path in Path(params["out"]).parents


def test_captured_rows_are_made_before_they_are_used(script):
    made = {"answers.jsonl", "later.jsonl", "blanks.jsonl", ""}
    for recipe in script.RECIPES:
        assert recipe.data in made
        assert recipe.goes_on in made
        made.add(recipe.run)
        made.add(f"{recipe.run}/shards")


def test_what_is_whole_is_not_made_again(script, tmp_path, monkeypatch):
    assets = tmp_path / "assets"
    assets.mkdir()
    work = tmp_path / "work"
    with_runs(script, work, 8)
    (work / "eagle" / "config.json").unlink()
    answers = [json.dumps({"id": str(number)}) for number in range(1400)]
    (work / "answers.jsonl").write_text("{}\n")
    (work / "later.jsonl").write_text("\n".join(answers) + "\n")
    called = []

    def run(words):
        called.append(list(words))
        (work / "eagle" / "config.json").write_text("eagle")

    monkeypatch.setattr(script, "run", run)
    monkeypatch.setattr(script, "ASSETS", assets)
    monkeypatch.setattr(sys, "argv", ["train_assets.py", "nowhere", str(work)])
    script.main()
    (eagle,) = (recipe for recipe in script.RECIPES if recipe.run == "eagle")
    assert called == [["-m", "outpace", *script.command(eagle, work)]]
    assert (work / "blanks.jsonl").read_text().splitlines() == answers[::8]
    found = sorted(str(path.relative_to(assets)) for path in assets.rglob("*") if path.is_file())
    names = sorted(f"{kind}-smollm2-135m-instruct/{name}" for kind in KINDS for name in ("config.json", "model.safetensors"))
    assert found == names
    assert (assets / "recycling-smollm2-135m-instruct" / "config.json").read_text() == "rows"


def test_too_large_helpers_are_not_copied(script, tmp_path):
    work, assets = tmp_path / "work", tmp_path / "assets"
    assets.mkdir()
    with_runs(script, work, 4 << 20)
    with pytest.raises(SystemExit, match="more than 16,777,216"):
        script.ship(work, assets)
    assert not list(assets.iterdir())


def test_a_failed_step_stops_with_its_status(script):
    with pytest.raises(SystemExit) as stopped:
        script.run(["-c", "raise SystemExit(3)"])
    assert stopped.value.code == 3
