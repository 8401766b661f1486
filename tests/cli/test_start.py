"""Help, version and start of the command line: examples that are right, and no heavy imports."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from cli_tools import call, words

import outpace
from outpace import cli

GROUPS = ["models", "train"]
COMMANDS = [
    "demo",
    "generate",
    "chat",
    "bench",
    "report",
    "verify",
    "tune",
    "plan",
    "drafters",
    "pull",
    "calibrate",
    "serve",
    "export",
    "config",
]


@pytest.mark.parametrize("command", [*COMMANDS, "models"])
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
    assert re.findall(r"^│ (\w+)  ", result.stdout.partition("Commands")[2], re.MULTILINE) == [*COMMANDS, *GROUPS]
    assert {*COMMANDS} == {command.callback.__name__ for command in cli.app.registered_commands}


def test_without_a_command_help_is_shown():
    result = call()
    assert result.exit_code in (0, 2)
    assert "Commands" in result.output


def test_version():
    assert call("--version").stdout == call("-V").stdout == f"{outpace.__version__}\n"


LOADS = "config target precision threads"
CONTRACT = {
    "demo": f"max-tokens json {LOADS}",
    "generate": f"file model drafter num-draft-tokens max-tokens temperature top-p seed raw show-drafts compare json {LOADS}",
    "chat": f"model drafter {LOADS}",
    "bench": f"prompts model drafters max-tokens limit temperature seed repeats json report trace {LOADS}",
    "report": "out",
    "verify": f"model drafters prompts limit temperature seeds concurrency json {LOADS}",
    "tune": f"prompts model out {LOADS}",
    "drafters": "",
    "pull": "json",
    "calibrate": f"model json {LOADS.replace('config', '')}",
    "serve": f"model host port drafter api-key-file max-num-seqs {LOADS}",
    "export": "model",
    "config": "json",
    "plan": "json",
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


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("outpace gen", ["generate"]),
        ("outpace generate --mod", ["--model"]),
        ("outpace generate --model c", ["coder-0.5b", "coder-1.5b"]),
        ("outpace chat --drafter su", ["suffix"]),
        ("outpace serve --precision ", ["auto", "int8", "int4", "bf16", "f32"]),
    ],
)
def test_the_shell_completes(words, offered):
    """As the script that `outpace --install-completion` writes asks for it."""
    asked = {"_OUTPACE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    code = "import sys; sys.argv = ['outpace']; from outpace.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout.split(), done.stderr) == (offered, "")


def test_every_shell_has_a_script(tmp_path):
    """`--show-completion` prints it for the shell it runs in."""
    for shell in ("bash", "zsh", "fish"):
        environment = {**os.environ, "_OUTPACE_COMPLETE": f"source_{shell}"}
        code = "import sys; sys.argv = ['outpace']; from outpace.cli import main; main()"
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True)
        assert "_OUTPACE_COMPLETE=complete_" in done.stdout


def test_a_command_uses_no_network_of_openvino():
    """Importing OpenVINO tells its makers, unless the package that does so is not there."""
    code = "import sys\nfrom outpace.cli import main\nsys.argv = ['outpace', '-V']\ntry: main()\nexcept SystemExit: pass\nimport openvino\n"
    code += "print(openvino.__version__ and sys.modules['openvino_telemetry'], 'urllib.request' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == [outpace.__version__, "None False"]
