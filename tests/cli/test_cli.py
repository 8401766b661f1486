"""The command line: a contract that scripts depend on. One clear line and the right exit code for everything that can go wrong."""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

import outpace
from outpace import cli
from outpace.cli import conversation, side_by_side
from outpace.drafters import DRAFTERS
from outpace.drafters.spec import ready_drafters
from outpace.errors import BadInputError, OutpaceError
from outpace.params import SamplingParams
from outpace.testing import AcceptEverythingVerifier, distribution_test

KNOWN = ", ".join([*DRAFTERS, "auto"])
COMMANDS = ["demo", "generate", "chat", "bench", "verify", "tune", "drafters", "models", "serve", "export"]
OUTPACE = [sys.executable, "-m", "outpace"]
HAS_CUDA = Path("/proc/driver/nvidia/version").exists()  # there torch is asked for its devices


def call(*arguments: object, stdin: str | bytes = "") -> Any:
    """Run a command in this process; the result has exit_code, stdout and stderr."""
    return CliRunner().invoke(cli.app, [str(a) for a in arguments], input=stdin)


def hear_interrupts() -> None:
    """A process started in the background inherits that SIGINT is ignored; ours is to hear it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def one_error_line(result: Any, exit_code: int = 2) -> str:
    """The message, when the command ended as it should: nothing on stdout, one line on stderr."""
    assert result.exit_code == exit_code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    """A working folder with good and bad files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00abc")
    (tmp_path / "empty").write_text("")
    (tmp_path / "blank").write_text(" \n\t")
    (tmp_path / "good.jsonl").write_text('{"prompt": "abc abc abc"}\n{"prompt": "hello", "category": "qa"}\n{"turns": ["x", "y"]}\n')
    (tmp_path / "bad.jsonl").write_text('{"prompt": "abc"}\n{bad\n')
    (tmp_path / "text.json").write_text("nope")
    (tmp_path / "unknown.json").write_text('{"methd": "blind"}')
    (tmp_path / "list.json").write_text('["blind"]')
    (tmp_path / "good.json").write_text('{"method": "blind", "num_draft_tokens": 3}')
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.fixture
def no_model(tmp_path, monkeypatch) -> None:
    """An empty cache, and nothing to fill it from: whoever needs a model fails."""
    monkeypatch.setenv("OUTPACE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("outpace.models.catalog._fetch", lambda folder: pytest.fail("the model was fetched"))


# ---- help and start


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_has_an_example_that_is_right(command, flag):
    result = call(command, flag)
    assert result.exit_code == 0
    assert result.stderr == ""
    assert re.search(rf"Examples?: .*outpace {command}", words(result.stdout))
    for option in re.findall(r"--[a-z-]+", words(result.stdout).partition("Example")[2].partition("╭")[0]):
        assert option in result.stdout.partition("╭")[2]


def test_help_lists_every_command():
    result = call("--help")
    assert result.exit_code == 0
    assert re.findall(r"^│ (\w+)  ", result.stdout.partition("Commands")[2], re.MULTILINE) == [*COMMANDS, "train"]
    assert {*COMMANDS} == {command.callback.__name__ for command in cli.app.registered_commands}


def test_without_a_command_help_is_shown():
    result = call()
    assert result.exit_code in (0, 2)
    assert "Commands" in result.output


def test_version():
    assert call("--version").stdout == f"{outpace.__version__}\n"


LOADS = "config target precision threads"
CONTRACT = {
    "demo": f"max-tokens json {LOADS}",
    "generate": f"file model drafter num-draft-tokens max-tokens temperature top-p seed raw show-drafts json {LOADS}",
    "chat": f"model drafter {LOADS}",
    "bench": f"prompts model drafters max-tokens limit temperature seed repeats json {LOADS}",
    "verify": f"model drafters prompts limit json {LOADS}",
    "tune": f"prompts model out {LOADS}",
    "drafters": "",
    "models": "",
    "serve": f"model host port drafter api-key-file max-num-seqs {LOADS}",
    "export": "model",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_options_of_the_contract_are_there(command):
    found = set(re.findall(r"--([a-z-]+)", call(command, "--help").stdout.partition("╭")[2]))
    assert set(CONTRACT[command].split()) <= found


def test_help_imports_nothing_heavy_and_is_quick():
    code = "import sys; from outpace.cli import app\ntry: app(['--help'])\nfinally: print(*sys.modules, file=sys.stderr)"
    seconds = [10.0]
    while min(seconds) >= 1 and len(seconds) < 4:  # the machine may be busy
        before = os.times()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
        after = os.times()
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert "Commands" in done.stdout
    loaded = set(done.stderr.split())
    assert "typer" in loaded
    assert loaded.isdisjoint({"torch", "transformers", "openvino", "numpy", "tokenizers", "huggingface_hub"})
    assert min(seconds) < 1


# ---- bad input: exit code 2 and one line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate"], "give a prompt, or --file, or - for stdin (one of them)"),
        (["generate", ""], "the prompt is empty"),
        (["generate", " \n "], "the prompt is empty"),
        (["generate", "-"], "the prompt is empty"),
        (["generate", "--file", "empty"], "the prompt is empty"),
        (["generate", "--file", "blank"], "the prompt is empty"),
        (["generate", "hi", "--file", "good.jsonl"], "give a prompt, or --file, or - for stdin (one of them)"),
        (["generate", "--file", "missing"], "cannot read missing: No such file or directory"),
        (["generate", "--file", "folder"], "cannot read folder: Is a directory"),
        (["generate", "--file", "binary"], "the prompt is not UTF-8 text"),
        (["generate", "hi", "--drafter", "nonsense"], f"unknown drafter 'nonsense'; known: {KNOWN}, or module:Class"),
        (["generate", "hi", "--drafter", "blind:tokens"], "'tokens' is not of the form key=value"),
        (["generate", "hi", "--model", "nonsense"], "no model 'nonsense'"),
        (["generate", "hi", "--model", "missing.gguf"], "there is no file missing.gguf"),
        (["generate", "hi", "--model", "folder"], "folder has no config.json"),
        (["generate", "hi", "--target", "nonsense"], "unknown target 'nonsense'; known: auto, openvino, hf"),
        (["generate", "hi", "--precision", "nonsense", "--target", "openvino"], "unknown precision 'nonsense'"),
        (["generate", "hi", "--top-p", "0"], "top_p must be a number from"),
        (["generate", "hi", "--top-p", "1.5"], "top_p must be a number from"),
        (["generate", "hi", "--temperature", "1000"], "temperature must be a number from"),
        (["generate", "hi", "--num-draft-tokens", "100"], "num_draft_tokens must be an integer from 0 to 64"),
        (["generate", "hi", "--config", "text.json"], "text.json is not JSON"),
        (["generate", "hi", "--config", "binary"], "binary is not JSON"),
        (["generate", "hi", "--config", "unknown.json"], "unknown speculative setting 'methd'"),
        (["generate", "hi", "--config", "list.json"], "speculative settings must be a drafter name or an object, not list"),
        (["demo", "--config", "unknown.json"], "unknown speculative setting 'methd'"),
        (["demo", "--drafter", "nonsense"], "unknown drafter 'nonsense'"),
        (["chat", "--model", "nonsense"], "no model 'nonsense'"),
        (["chat", "--drafter", "nonsense"], "unknown drafter 'nonsense'"),
        (["bench", "--prompts", "missing.jsonl"], "cannot read missing.jsonl: No such file or directory"),
        (["bench", "--prompts", "bad.jsonl"], "bad.jsonl:2: not JSON"),
        (["bench", "--prompts", "empty"], "empty has no prompts"),
        (["bench", "--prompts", "binary"], "cannot read binary"),
        (["bench", "--prompts", "good.jsonl", "--json", "nowhere/out.json"], "nowhere to write out.json to"),
        (["bench", "--prompts", "good.jsonl", "--model", "nonsense"], "no model 'nonsense'"),
        (["verify", "--prompts", "missing.jsonl"], "cannot read missing.jsonl"),
        (["verify", "--prompts", "bad.jsonl"], "bad.jsonl:2: not JSON"),
        (["verify", "--model", "nonsense"], "no model 'nonsense'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input(files, no_model, arguments, message):
    assert message in one_error_line(call(*arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "hi", "--drafter", "blind:nothing=1"], "drafter 'blind:nothing=1' has no option 'nothing'; it takes tokens, seed"),
        (["generate", "hi", "--drafter", "blind:seed=x"], "seed must be int, not 'x'"),
        (["generate", "hi", "--drafter", "test_llm:Nothing"], "cannot import test_llm:Nothing"),
        (["generate", "a" * 400], "the prompt has 400 tokens; with one new token at most"),
        (["generate", "ABC"], "the prompt is empty"),  # nothing that this vocabulary knows
        (["bench", "--prompts", "good.jsonl", "--drafters", "none,nonsense"], "unknown drafter 'nonsense'"),
        (["verify", "--drafters", "nonsense"], "unknown drafter 'nonsense'"),
    ],
)
def test_bad_input_that_shows_when_the_model_is_there(files, toy_llm, arguments, message):
    assert message in one_error_line(call(*arguments))


WRONG_VALUES = [
    ["generate", "hi", "--max-tokens", "0"],
    ["generate", "hi", "--max-tokens", "-5"],
    ["generate", "hi", "--max-tokens", "many"],
    ["generate", "hi", "--temperature", "-1"],
    ["generate", "hi", "--temperature", "nan"],
    ["generate", "hi", "--seed", "-1"],
    ["generate", "hi", "--threads", "0"],
    ["generate", "hi", "--num-draft-tokens", "-1"],
    ["generate", "hi", "--nonsense"],
    ["bench", "--prompts", "good.jsonl", "--limit", "0"],
    ["bench", "--prompts", "good.jsonl", "--repeats", "0"],
    ["bench"],
    ["verify", "--max-tokens", "0"],
    ["nonsense"],
]


@pytest.mark.parametrize("arguments", WRONG_VALUES, ids=" ".join)
def test_wrong_values_are_one_line(files, no_model, arguments):
    one_error_line(call(*arguments))


@pytest.mark.parametrize("name", ["missing.json", "folder"])
def test_a_config_that_cannot_be_read(files, no_model, name):
    one_error_line(call("generate", "hi", "--config", name))


def test_in_a_process_of_its_own(files):
    done = subprocess.run([*OUTPACE, "generate", "hi", "--drafter", "nonsense"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"error: unknown drafter 'nonsense'; known: {KNOWN}, or module:Class\n"


# ---- failures: exit code 1, and Ctrl-C: 130


@pytest.mark.parametrize(
    ("error", "exit_code", "line"),
    [
        (OutpaceError("pip could not download it"), 1, "error: pip could not download it"),
        (BadInputError("no such thing"), 2, "error: no such thing"),
        (OSError(28, "No space left on device", "/x/y"), 1, "error: No space left on device: /x/y"),
        (OSError("odd"), 1, "error: odd"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_while_loading(toy_llm, monkeypatch, error, exit_code, line):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("outpace.cli.commands.generate.load", fail)
    result = call("generate", "hi")
    assert (result.exit_code, result.stdout, result.stderr) == (exit_code, "", line + "\n")


def test_a_bug_is_not_hidden(toy_llm, monkeypatch):
    monkeypatch.setattr("outpace.cli.commands.generate.load", lambda *_: 1 / 0)
    assert isinstance(call("generate", "hi").exception, ZeroDivisionError)


def test_a_request_that_fails_is_exit_code_1(toy_llm, monkeypatch):
    class Broken(AcceptEverythingVerifier):
        def verify(self, request, draft, logits):
            if request.num_output_tokens > 3:
                raise RuntimeError("the verifier is broken")
            return super().verify(request, draft, logits)

    monkeypatch.setattr("outpace.controller.factory.create_verifier", lambda name: Broken())
    result = call("generate", "hello", "--raw", "--drafter", "none")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "error: the request failed: the verifier is broken"
    assert "Traceback" not in result.stderr


def test_the_file_of_bench_is_written_whole_or_not_at_all(files, toy_llm, monkeypatch):
    (files / "out.json").write_text("old")

    def full(self: Path, text: str, *_: object) -> None:
        self.write_bytes(text[:10].encode())
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        result = call("bench", "--prompts", "good.jsonl", "--drafters", "none", "--max-tokens", "4", "--json", "out.json")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "error: No space left on device"
    assert (files / "out.json").read_text() == "old"
    assert call("bench", "--prompts", "good.jsonl", "--drafters", "none", "--max-tokens", "4", "--json", "out.json").exit_code == 0
    assert json.loads((files / "out.json").read_text())["model"] == "toy"
    assert [p.name for p in files.iterdir() if p.suffix == ".tmp"] == []


# ---- what commands print, on the toy model


def test_generate_prints_the_text_and_nothing_else(toy_llm):
    (want,) = toy_llm.chat([{"role": "user", "content": "hello"}], SamplingParams(max_tokens=20))
    arguments = ["--max-tokens", "20", "--drafter", "blind"]
    for result in (call("generate", "hello", *arguments), call("generate", "-", *arguments, stdin="hello")):
        assert (result.exit_code, result.stdout, result.stderr) == (0, want.text + "\n", "")
    (sampled,) = toy_llm.generate("hello", SamplingParams(max_tokens=20, temperature=0.7, top_p=0.9, seed=4))
    result = call("generate", "hello", "--raw", "--temperature", 0.7, "--top-p", 0.9, "--seed", 4, *arguments)
    assert result.stdout == sampled.text + "\n" != want.text + "\n"


def test_the_prompt_from_a_file(files, toy_llm):
    (files / "prompt.txt").write_text("hello\n", "utf-8")
    document = json.loads(call("generate", "--file", "prompt.txt", "--raw", "--json", "--max-tokens", "2").stdout)
    assert document["prompt_tokens"] == 6  # as it is, its last line end included


@pytest.mark.parametrize(
    ("arguments", "drafter", "drafted"),
    [
        (["--drafter", "blind"], "blind", True),
        (["--config", "good.json"], "blind", True),
        (["--config", "good.json", "--drafter", "none"], "none", False),
        (["--num-draft-tokens", "0"], "prompt_lookup", False),
        ([], "prompt_lookup", True),
    ],
)
def test_how_to_guess(files, toy_llm, arguments, drafter, drafted, monkeypatch):
    seen = []
    original = importlib.import_module("outpace.cli.commands.generate")._document
    monkeypatch.setattr("outpace.cli.commands.generate._document", lambda output, seconds: seen.append(output) or original(output, seconds))
    document = json.loads(call("generate", "abcabcabc", "--raw", "--json", "--max-tokens", "30", *arguments).stdout)
    assert document["drafter"] == drafter
    assert (seen[0].stats.num_draft_tokens > 0) == drafted
    if "good.json" in arguments and drafted:
        assert seen[0].stats.num_draft_tokens <= 3 * seen[0].stats.num_drafts


def test_a_config_is_one_more_drafter_of_bench_and_verify(files, toy_llm, monkeypatch):
    monkeypatch.setattr("outpace.testing.proof._distributions", lambda: [])
    result = call("bench", "--prompts", "good.jsonl", "--drafters", "none", "--config", "good.json", "--max-tokens", "6", "--json", "-")
    assert [row["drafter"] for row in json.loads(result.stdout)["results"] if row["category"] == "all"] == ["none", "good.json"]
    result = call("verify", "--drafters", "none", "--config", "good.json", "--max-tokens", "6", "--limit", "1", "--json")
    assert {"good.json, temperature 0", "good.json, temperature 0.8"} <= checks_of(json.loads(result.stdout)).keys()


def test_bench_with_so_many_guesses(files, make_toy):
    make_toy(toy={"sharpness": 6.0, "seed": 5})
    arguments = ["bench", "--prompts", "good.jsonl", "--drafters", "prompt_lookup", "--max-tokens", "60", "--json", "-"]
    lengths = {}
    for count in ("0", "16"):
        rows = json.loads(call(*arguments, "--num-draft-tokens", count).stdout)["results"]
        (lengths[count],) = [
            row["tokens_per_step"] for row in rows if (row["drafter"], row["category"]) == (f"prompt_lookup, {count} guesses", "all")
        ]
    assert lengths["0"] == 1.0 < lengths["16"]
    refused = call(*arguments, "--num-draft-tokens", "4", "--server", "")
    assert (refused.exit_code, refused.stderr.splitlines()[-1]) == (
        2,
        "error: --num-draft-tokens does not go with --server; --config holds it too",
    )


def test_guessed_tokens_are_coloured(make_toy, monkeypatch):
    llm = make_toy("prompt_lookup", toy={"sharpness": 6.0, "seed": 5})
    (want,) = llm.generate("abcabcabc", SamplingParams(max_tokens=60))
    assert 0 < sum(want.from_draft) < len(want.from_draft)
    arguments = ["generate", "abcabcabc", "--raw", "--max-tokens", "60", "--show-drafts"]
    assert call(*arguments).stdout == want.text + "\n"  # no colours into a pipe
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = call(*arguments).stdout
    assert re.sub(r"\x1b\[[0-9;]*m", "", out) == want.text + "\n"
    coloured = "".join(re.findall(r"\x1b\[[1-9][0-9;]*m([^\x1b]*)\x1b\[0m", out))
    guessed = "".join(piece for piece, flag in zip(want.pieces, want.from_draft, strict=True) if flag)
    assert coloured.replace("\n", "") == guessed.replace("\n", "")


def test_drafters_and_models(tmp_path, monkeypatch):
    monkeypatch.setenv("OUTPACE_HOME", str(tmp_path))
    entries = json.loads(call("drafters", "--json").stdout)
    assert [entry["name"] for entry in entries] == [*DRAFTERS, "auto"]
    assert all(entry["description"] and isinstance(entry["options"], dict) for entry in entries)
    assert entries[1]["options"] == {"tokens": "random", "seed": 0}
    assert {entry["name"]: entry["usage"] for entry in entries}["draft_model"] == "draft_model:PATH"
    text = call("drafters").stdout
    assert "draft_model:PATH" in text
    assert all(entry["name"] in text and words(entry["description"]) in words(text) for entry in entries)
    assert json.loads(call("models", "--json").stdout) == {"home": str(tmp_path), "entries": []}
    (tmp_path / "models" / "small").mkdir(parents=True)
    (tmp_path / "models" / "small" / "manifest.json").write_text("{}")
    assert "models/small" in call("models").stdout
    assert [entry["name"] for entry in json.loads(call("models", "--json").stdout)["entries"]] == ["models/small"]


def test_chat_keeps_the_conversation(toy_llm):
    result = call("chat", "--max-tokens", "6", stdin="hello\n\nagain\n/clear\nhello\n/exit\nnever\n")
    first, second, third, *rest = result.stdout.split("\n")
    assert result.exit_code == 0
    (want,) = toy_llm.chat([{"role": "user", "content": "hello"}], SamplingParams(max_tokens=6))
    assert first == third == want.text
    talk = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": want.text}, {"role": "user", "content": "again"}]
    assert second == toy_llm.chat(talk, SamplingParams(max_tokens=6))[0].text
    assert rest == [""]


def test_chat_goes_on_after_a_line_that_is_too_long(toy_llm):
    result = call("chat", "--max-tokens", "6", stdin="x" * 500 + "\nhello\n")
    assert result.exit_code == 0
    error, answer = result.stdout.splitlines()[:2]
    assert error.startswith("error: the prompt has 500 tokens")
    assert answer == toy_llm.chat([{"role": "user", "content": "hello"}], SamplingParams(max_tokens=6))[0].text


class Saying:
    """An LLM that says a given text letter by letter."""

    speculative_config = SimpleNamespace(method="x")
    tokenizer = SimpleNamespace(encode_chat=lambda messages: [1])

    def __init__(self, text: str, then: Callable[[], None] = lambda: None):
        self.text, self.then = text, then

    def generate(self, *_: object) -> None: ...

    def stream(self, *_: object, **__: object):
        for letter in self.text:
            yield SimpleNamespace(text=letter, output=None)
        self.then()
        yield SimpleNamespace(text="", output=self)


def converse(monkeypatch, capsys, llm: Any, *lines: str) -> str:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    conversation.converse(llm, SamplingParams())
    return capsys.readouterr().out


def test_ctrl_c_ends_an_answer_and_not_the_conversation(monkeypatch, capsys):
    def interrupt() -> None:
        raise KeyboardInterrupt

    assert converse(monkeypatch, capsys, Saying("half", interrupt), "one", "two") == "half [stopped]\nhalf [stopped]\n\n"


@pytest.mark.parametrize("text", ["[/x] [b]bold[/b]", "a" * 300, "http://x.y 'z' 12"])
def test_chat_shows_the_text_as_it_is(monkeypatch, capsys, text):
    assert converse(monkeypatch, capsys, Saying(text), "one").splitlines()[0] == text


class Whole(Saying):
    """Says it in one piece."""

    def stream(self, *_: object, **__: object):
        yield SimpleNamespace(text=self.text, output=None)


@pytest.mark.parametrize("text", ["a :smile: b", "tab\there"])
def test_chat_changes_no_emoji_code_and_no_tab(monkeypatch, capsys, text):
    assert converse(monkeypatch, capsys, Whole(text), "one").splitlines()[0] == text


def test_demo_on_a_terminal_shows_brackets_as_they_are():
    side_by_side.run(Saying("see [/x]"), 5, Console(file=io.StringIO(), force_terminal=True, width=80))


def test_demo(toy_llm):
    result = call("demo", "--max-tokens", "40", "--json")
    assert result.exit_code == 2  # the document is longer than the toy's context
    assert one_error_line(result).startswith("the prompt has")


@pytest.mark.parametrize("as_json", [True, False])
def test_demo_of_a_short_document(toy_llm, monkeypatch, as_json):
    monkeypatch.setattr(side_by_side, "document", lambda: "hello hello hello")
    result = call("demo", "--max-tokens", "30", *(["--json"] if as_json else []))
    assert result.exit_code == 0
    if as_json:
        document = json.loads(result.stdout)
        assert list(document) == ["text", "identical", "speedup", "plain", "speculative"]
        assert document["identical"] is True
        assert document["plain"]["drafter"] == "none"
        assert document["plain"]["tokens"] == document["speculative"]["tokens"] > 0
    else:
        assert "identical" in result.stdout
        assert "NOT" not in result.stdout


def test_a_demonstration_that_differs_fails(toy_llm, monkeypatch):
    monkeypatch.setattr(side_by_side, "document", lambda: "hello hello hello")
    monkeypatch.setattr("outpace.controller.factory.create_verifier", lambda name: AcceptEverythingVerifier())
    result = call("demo", "--max-tokens", "30", "--drafter", "blind")
    assert result.exit_code == 1
    assert "NOT IDENTICAL" in result.stdout
    assert "error: the two answers differ" in result.stderr


def test_the_bundled_document():
    text = side_by_side.document()
    assert 600 <= len(text.split()) <= 900


# ---- the proof


def checks_of(document: dict[str, Any]) -> dict[str, bool]:
    return {check["name"]: check["passed"] for check in document["checks"]}


CONTROLS = ["negative control caught, temperature 0", "negative control caught, temperature 0.8", "negative control caught (toy model)"]


def test_verify_fails_with_exit_code_1(toy_llm, monkeypatch):
    """A verifier that cheats in the place of the exact one."""
    monkeypatch.setattr("outpace.controller.factory.create_verifier", lambda name: AcceptEverythingVerifier())
    monkeypatch.setattr("outpace.testing.proof._distributions", lambda: [])
    result = call("verify", "--limit", "2", "--max-tokens", "16", "--json", "--drafters", "blind")
    document = json.loads(result.stdout)
    assert result.exit_code == 1
    assert document["passed"] is False
    assert checks_of(document) == {"blind, temperature 0": False, "blind, temperature 0.8": False, **dict.fromkeys(CONTROLS[:2], True)}
    assert "first difference at token" in document["checks"][0]["detail"]
    result = call("verify", "--limit", "2", "--max-tokens", "16", "--drafters", "blind")
    assert result.exit_code == 1
    assert "FAIL blind, temperature 0: " in result.stdout
    assert result.stdout.splitlines()[-1] == "NOT PROVED"


@pytest.fixture
def short_proof(monkeypatch) -> None:
    """A quarter of the seeds, enough for what is grossly wrong."""
    monkeypatch.setattr("outpace.testing.proof.distribution_test", partial(distribution_test, num_requests=1000))


def test_a_proof_whose_control_is_not_caught_fails(toy_llm, short_proof, monkeypatch):
    from outpace.verifiers.exact import ExactVerifier

    monkeypatch.setattr("outpace.testing.proof.AcceptEverythingVerifier", ExactVerifier)
    result = call("verify", "--limit", "1", "--max-tokens", "8", "--json", "--drafters", "blind")
    assert result.exit_code == 1
    assert checks_of(json.loads(result.stdout)) == {
        "blind, temperature 0": True,
        "blind, temperature 0.8": True,
        **dict.fromkeys(CONTROLS, False),
        "distribution of exact (toy model)": True,
        "distribution of rejection (toy model)": True,
    }


def test_a_wrong_distribution_fails(toy_llm, short_proof, monkeypatch):
    from outpace.testing import proof as verify

    create = verify.create_verifier
    monkeypatch.setattr(verify, "create_verifier", lambda name: AcceptEverythingVerifier() if name == "rejection" else create(name))
    result = call("verify", "--limit", "1", "--max-tokens", "8", "--json", "--drafters", "blind")
    assert result.exit_code == 1
    assert [name for name, passed in checks_of(json.loads(result.stdout)).items() if not passed] == [
        "distribution of rejection (toy model)"
    ]


# ---- the default model


@pytest.fixture(scope="module")
def fresh() -> SimpleNamespace:
    """`outpace generate Hello --max-tokens 1 --json` in a process of its own."""
    started = time.perf_counter()
    command = [sys.executable, "-X", "importtime", *OUTPACE[1:], "generate", "Hello", "--max-tokens", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    return SimpleNamespace(done=done, seconds=time.perf_counter() - started)


@pytest.fixture
def loaded(llm, monkeypatch):
    """Commands use the default model that is loaded already."""
    for command in ("demo", "generate", "chat", "bench", "verify", "tune"):
        monkeypatch.setattr(f"outpace.cli.commands.{command}.load", lambda *_: llm)
    yield llm
    assert llm.engine.scheduler.running == []


@pytest.mark.real
def test_a_warm_start_imports_no_torch_and_is_quick(llm, fresh):
    """`llm` has made sure that the model is there; the 4 seconds of the goal are measured on an idle machine."""
    assert fresh.done.returncode == 0, fresh.done.stderr[-2000:]
    imported = {
        line.rpartition("|")[2].strip().partition(".")[0] for line in fresh.done.stderr.splitlines() if line.startswith("import time:")
    }
    assert {"openvino", "tokenizers"} <= imported
    assert imported.isdisjoint({"transformers", "nncf", "huggingface_hub"} | (set() if HAS_CUDA else {"torch"}))
    assert fresh.seconds < 20  # other tests run beside this one


@pytest.mark.real
def test_generate_json_has_exactly_the_keys_of_the_contract(llm, fresh):
    document = json.loads(fresh.done.stdout)
    assert fresh.done.stdout.count("\n") == 1
    kinds = {
        "text": str,
        "token_ids": list,
        "prompt_tokens": int,
        "completion_tokens": int,
        "finish_reason": str,
        "drafter": str,
        "seed": int,
        "seconds": dict,
        "tokens_per_second": float,
        "num_steps": int,
        "tokens_per_step": float,
        "mean_acceptance_length": float,
        "from_draft": list,
    }
    assert {key: type(value) for key, value in document.items()} == kinds
    assert list(document) == list(kinds)
    assert {key: type(value) for key, value in document["seconds"].items()} == {"load": float, "prefill": float, "decode": float}
    assert document["text"]
    assert (document["completion_tokens"], document["finish_reason"], document["num_steps"]) == (1, "length", 1)
    assert document["prompt_tokens"] == len(llm.tokenizer.encode_chat([{"role": "user", "content": "Hello"}]))
    assert document["token_ids"] == llm.chat([{"role": "user", "content": "Hello"}], SamplingParams(max_tokens=1))[0].token_ids
    assert document["drafter"] == "prompt_lookup"


@pytest.mark.real
def test_stdin_and_show_drafts(loaded):
    prompt = "Repeat: the cat sat on the mat, the cat sat on the hat."
    (want,) = loaded.chat([{"role": "user", "content": prompt}], SamplingParams(max_tokens=16))
    for arguments in ([], ["--show-drafts"]):
        result = call("generate", "-", "--max-tokens", "16", *arguments, stdin=prompt)
        assert (result.exit_code, result.stdout) == (0, want.text + "\n")
    assert json.loads(call("generate", "-", "--max-tokens", "16", "--json", stdin=prompt).stdout)["from_draft"] == want.from_draft


@pytest.mark.real
def test_demo_is_identical(loaded):
    result = call("demo", "--json", "--max-tokens", "40")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["identical"] is True
    assert document["plain"]["tokens"] == document["speculative"]["tokens"] == 40
    assert document["plain"]["tokens_per_step"] == 1
    assert document["speculative"]["tokens_per_step"] > 1.2
    assert document["speedup"] > 0
    assert len(document["text"].split()) > 10


@pytest.mark.real
def test_bench_is_identical_and_has_the_layout_of_the_contract(loaded, files):
    rows = [
        {"prompt": "Say: a b c a b c"},
        {"category": "math", "turns": ["2+2?"]},
        {"messages": [{"role": "user", "content": "Hi"}], "category": "qa"},
    ]
    (files / "three.jsonl").write_text("\n".join(map(json.dumps, rows)))
    result = call("bench", "--prompts", "three.jsonl", "--max-tokens", "12", "--json", "out.json", "--drafters", "blind,prompt_lookup")
    assert result.exit_code == 0
    assert "speedup" in result.stdout
    document = json.loads((files / "out.json").read_text())
    assert list(document) == ["model", "machine", "settings", "verify_cost", "results", "peers"]
    assert document["model"] == "SmolLM2-135M-Instruct"
    assert document["settings"]["precision"] == loaded.precision
    assert [set(entry) for entry in document["verify_cost"]] == [{"num_tokens", "milliseconds"}] * len(document["verify_cost"])
    keys = ["drafter", "category", "num_prompts", "num_tokens", "decode_seconds", "tokens_per_second"]
    keys += ["tokens_per_step", "mean_acceptance_length", "acceptance_rate", "speedup", "num_identical"]
    assert [list(row) for row in document["results"]] == [keys] * (3 * 4)
    assert {row["category"] for row in document["results"]} == {"all", "prompts", "chat", "qa"}
    assert {row["drafter"] for row in document["results"]} == {"none", "blind", "prompt_lookup"}
    assert all(row["num_identical"] == row["num_prompts"] for row in document["results"])
    assert [row["num_prompts"] for row in document["results"] if row["category"] == "all"] == [3] * 3


@pytest.mark.real
def test_verify_proves_and_catches_its_negative_controls(loaded):
    result = call("verify", "--limit", "1", "--max-tokens", "8", "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert list(document) == ["model", "passed", "checks"]
    assert document["passed"] is True
    checks = checks_of(document)
    assert all(checks.values())
    wanted = [f"{name}, temperature {t}" for name in ready_drafters() if name != "none" for t in ("0", "0.8")]
    assert checks.keys() >= {*wanted, *CONTROLS, "distribution of exact (toy model)", "distribution of rejection (toy model)"}


@pytest.mark.real
def test_a_prompt_longer_than_the_context(loaded, files):
    (files / "long.txt").write_text("hello " * 9000)
    message = one_error_line(call("generate", "--file", "long.txt"))
    assert re.fullmatch(rf"the prompt has 90\d\d tokens; with one new token at most {loaded.engine.max_len} fit", message)


@pytest.mark.real
def test_ctrl_c(llm):
    """The interrupt comes while text is printed."""
    command = [*OUTPACE, "generate", "Write a long story about the sea.", "--max-tokens", "2000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=hear_interrupts) as process:
        first = process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.decode() == "interrupted\n"
    assert len(first + rest) >= 1


@pytest.mark.real
@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
def test_a_reader_that_goes_away(llm):
    """As `outpace generate … | head -c 1` does."""
    command = [*OUTPACE, "generate", "Write a long story about the sea.", "--max-tokens", "2000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.read(1)
        process.stdout.close()
        errors = process.stderr.read()
        process.wait(timeout=60)
    assert errors == b""
    assert process.returncode == 1
