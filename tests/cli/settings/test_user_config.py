"""The user's settings file and the file of --config: what they set, what goes before them, and what is refused."""

from __future__ import annotations

import json

import pytest
from cli_tools import call, one_error_line

from outpace.cli.options.loading import Loading
from outpace.config import SpeculativeConfig


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes the settings file."""
    path = tmp_path / "settings.toml"
    monkeypatch.setenv("OUTPACE_CONFIG", str(path))
    monkeypatch.delenv("OUTPACE_MODEL", raising=False)
    return path.write_text


@pytest.fixture
def asked(toy_llm, monkeypatch) -> list[Loading]:
    """The options of every model that commands load."""
    found: list[Loading] = []
    monkeypatch.setattr(Loading, "llm", lambda loading, *_: found.append(loading) or toy_llm)
    return found


def test_keys_at_the_top_are_for_every_command_and_tables_for_one(write, asked):
    tables = '[generate]\nthreads = 1\nmax-tokens = 3\nstop = "x"\n[chat]\nmax_tokens = 2\n[train.medusa]\nepochs = 4\n'
    write(f'model = "tiny"\nthreads = 2\n{tables}')
    document = json.loads(call("generate", "hello", "--json").stdout)
    assert document["completion_tokens"] == 3
    call("chat", stdin="hello\n")
    call("calibrate")
    assert [(given.model, given.threads) for given in asked] == [("tiny", 1), ("tiny", 2), ("tiny", 2)]


def test_options_go_first(write, asked, monkeypatch):
    write('model = "tiny"\nthreads = 2\n')
    call("generate", "hello", "-m", "coder-0.5b", "--max-tokens", "2")
    call("generate", "hello", "--threads", "1", "--max-tokens", "2")
    monkeypatch.setenv("OUTPACE_MODEL", "coder-1.5b")
    call("generate", "hello", "--max-tokens", "2")
    assert [(given.model, given.threads) for given in asked] == [("coder-0.5b", 2), ("tiny", 1), ("default", 2)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = ", "is not TOML"),
        ('modle = "tiny"', "no command has an option 'modle'"),
        ("[generate]\nepochs = 3", "generate has no option 'epochs'"),
        ("[gnerate]\nmodel = 'tiny'", "there is no command 'gnerate'"),
        ("[train.medsa]\nmodel = 'tiny'", "there is no command 'medsa'"),
        ("max-tokens = 'many'", "settings.toml: max-tokens: "),
        ("[chat]\ntemperature = -1", "settings.toml: temperature: "),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(write, toy_llm, text, message):
    write(text)
    line = one_error_line(call("generate", "hello"))
    assert message in line
    assert "settings.toml" in line


def test_a_model_for_all_is_none_for_export(write, toy_llm):
    write('model = "tiny"')
    settings = json.loads(call("config", "--json").stdout)["settings"]
    assert {entry["command"] for entry in settings} >= {"generate", "chat", "train medusa"}
    assert "export" not in {entry["command"] for entry in settings}


def test_the_command_config_shows_the_file(write, tmp_path, monkeypatch):
    monkeypatch.setenv("OUTPACE_HOME", str(tmp_path / "cache"))
    shown = call("config").stdout
    assert f"settings: {tmp_path / 'settings.toml'} (not there yet" in shown
    write("threads = 2\n[chat]\ntop-k = 5\n")
    shown = call("config").stdout
    assert "  top-k = 5  (chat)\n" in shown
    assert "  threads = 2  (demo, generate, chat, " in shown
    assert f"cache: {tmp_path / 'cache'}\n" in shown
    assert f"environment: OUTPACE_HOME={tmp_path / 'cache'}\n" in shown
    assert json.loads(call("config", "--json").stdout)["environment"].keys() == {"OUTPACE_CONFIG", "OUTPACE_HOME"}


def test_the_example_that_config_shows_is_a_good_file(write, toy_llm):
    example = call("config").stdout.split("\n\n", 1)[1].rpartition("\n\n")[0]
    write("\n".join(line.removeprefix("  ") for line in example.splitlines()))
    settings = json.loads(call("config", "--json").stdout)["settings"]
    assert {entry["option"] for entry in settings} == {"model", "threads", "temperature", "system"}


# ---- the file of --config


def test_a_config_remembers_the_model_the_target_and_the_threads(write, asked, files):
    load = {"model": "coder-1.5b", "target": "openvino", "precision": "int8", "threads": 1}
    (files / "tuned.json").write_text(json.dumps({"version": 1, "method": "suffix", "load": load}))
    write('model = "tiny"\nthreads = 2\n')
    call("generate", "hello", "--config", "tuned.json", "--max-tokens", "2")
    call("generate", "hello", "--config", "tuned.json", "-m", "coder-0.5b", "--threads", "2", "--max-tokens", "2")
    found = [(given.model, given.target, given.precision, given.threads) for given in asked]
    assert found == [("coder-1.5b", "openvino", "int8", 1), ("coder-0.5b", "openvino", "int8", 2)]


@pytest.mark.parametrize("load", ["[]", '{"modle": "tiny"}', "3"])
def test_a_load_that_is_wrong(files, toy_llm, load):
    (files / "tuned.json").write_text(f'{{"method": "suffix", "load": {load}}}')
    message = one_error_line(call("generate", "hello", "--config", "tuned.json"))
    assert '"load" in a settings file is an object with model, target, precision, threads, device, exact_width' in message


def test_python_reads_such_a_file_too():
    assert SpeculativeConfig.of({"method": "suffix", "load": {"model": "tiny"}}) == SpeculativeConfig("suffix")


@pytest.mark.parametrize(
    ("given", "load"),
    [
        ([], {"model": "toy-name"}),
        (["--model", "coder-1.5b", "--threads", "1", "--precision", "int8"], {"model": "coder-1.5b", "precision": "int8", "threads": 1}),
        (["--model", "folder"], {"model": "FOLDER"}),
    ],
)
def test_tune_writes_what_loaded_the_model(files, toy_llm, monkeypatch, given, load):
    monkeypatch.setenv("OUTPACE_MODEL", "toy-name")
    written = []
    monkeypatch.setattr("outpace.tune.session.run", lambda *arguments: written.append(arguments[-1]))
    assert call("tune", "--prompts", "good.jsonl", *given).exit_code == 0
    assert written == [{**load, "model": load["model"].replace("FOLDER", str(files / "folder"))}]
