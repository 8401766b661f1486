"""Peers: their specs, their processes, their rows in a benchmark, and what happens when one fails."""

import json
import subprocess
import sys
from pathlib import Path

import peer_file
import pytest
from bench_tools import user

from outpace.bench import runner, summary, tables
from outpace.bench.peers import PEERS, environment, side
from outpace.bench.peers.process import PeerProcess
from outpace.bench.peers.side import PeerSide, close_all, parse_peers, start_all
from outpace.bench.summary import Cell
from outpace.bench.workloads import Workload
from outpace.errors import BadInputError, OutpaceError
from outpace.params import SamplingParams

ARGUMENTS = {"model": "m.gguf", "draft_model": None, "way": "lookup", "options": {"size": "2"}, "threads": 2}


@pytest.fixture
def peer(monkeypatch):
    """A table with one peer, which runs in this Python."""
    monkeypatch.setitem(PEERS, "toy", "-")
    find = environment.peer_module
    for module in (environment, side):
        monkeypatch.setattr(module, "peer_module", lambda name: peer_file if name == "toy" else find(name))
    monkeypatch.setattr(side, "python_of", lambda name: Path(sys.executable))
    monkeypatch.setattr(side, "_file_of", lambda model, kind, precision: f"{model}.{kind}")


def test_a_name_means_all_ways_and_plain_comes_first(peer):
    assert [spec.text for spec in parse_peers("toy")] == ["toy:plain", "toy:lookup", "toy:lookup:size=2"]
    assert [spec.text for spec in parse_peers(" toy:lookup:size=3 ,")] == ["toy:plain", "toy:lookup:size=3"]
    found = parse_peers("toy:draft:small:n_max=4,llama.cpp:plain,toy:lookup")
    assert [spec.text for spec in found] == ["toy:plain", "toy:draft:small:n_max=4", "toy:lookup", "llama.cpp:plain"]
    assert (found[1].way, found[1].draft_model, found[1].options) == ("draft", "small", {"n_max": "4"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "unknown peer 'nonsense'; known: "),
        ("toy:nonsense", "unknown peer 'toy:nonsense'; the ways of toy: plain, lookup, draft"),
        ("toy:draft", "expected toy:draft:MODEL"),
        ("toy:lookup:small", "unexpected 'small'"),
        (",", "names no peer"),
    ],
)
def test_wrong_specs_are_refused(peer, text, message):
    with pytest.raises(BadInputError, match=message):
        parse_peers(text)


@pytest.mark.parametrize("name", PEERS)
def test_files_of_peers_can_be_read_without_their_library(name):
    module = environment.peer_module(name)
    assert isinstance(module.PACKAGES, tuple)
    assert module.MODEL in ("gguf", "openvino", "folder")
    assert module.WAYS[0] == "plain"
    assert callable(module.load)
    assert [spec.text for spec in parse_peers(name)] == [f"{name}:{way}" for way in module.WAYS]


def test_a_process_answers_and_tells_of_itself():
    process = PeerProcess(Path(sys.executable), Path(peer_file.__file__), ARGUMENTS)
    try:
        assert process.about["version"] == "peer 1"
        assert process.about["settings"] == {"model": "m.gguf", "way": "lookup", "size": "2", "threads": 2, "draft": None}
        answer = process.answer([1, 2, 3], 2)
        assert answer["token_ids"] == [3, 2]
        assert answer["total_seconds"] >= 0
        with pytest.raises(OutpaceError, match="RuntimeError: an unlucky prompt"):
            process.answer([13], 2)
        assert process.answer([5], 2)["token_ids"] == [5]
        with pytest.raises(OutpaceError, match="ended with exit code 3: last words"):
            process.answer([14], 2)
    finally:
        process.close()
    process.close()


def test_a_process_that_cannot_load_says_why():
    with pytest.raises(OutpaceError, match="ValueError: no such way"):
        PeerProcess(Path(sys.executable), Path(peer_file.__file__), {**ARGUMENTS, "way": "broken"})


class Tokenizer:
    """The tokens of a prompt are its letters' codes from a on."""

    def encode_chat(self, messages):
        return [ord(letter) - ord("a") for letter in messages[0]["content"]]

    def encode(self, text, add_special_tokens=True):
        return [ord(letter) - ord("a") for letter in text]

    def decode(self, token_ids):
        return "".join(chr(ord("a") + token) for token in token_ids)


def test_peers_run_in_turn_with_our_drafters(peer, toy_llm, monkeypatch):
    workloads = [Workload(str(i), "chat", "chat", user(text)) for i, text in enumerate(["abc", "bcd", "a"])]
    monkeypatch.setattr(toy_llm, "tokenizer", Tokenizer())
    monkeypatch.setattr(toy_llm, "chat", chat := Chat())
    sides = [PeerSide(spec) for spec in parse_peers("toy")]
    start_all(sides, "model", "int8", 2, [1, 2])
    try:
        document = json.loads(json.dumps(runner.run(toy_llm, workloads, {"blind": "blind"}, SamplingParams(max_tokens=8), 2, 1, sides)))
    finally:
        close_all(sides)
    assert chat.num_calls == 1 + 2 * 2 * 3
    rows = [row for row in document["peers"] if row["category"] == "all"]
    assert [row["peer"] for row in rows] == ["toy:plain", "toy:lookup", "toy:lookup:size=2"]
    for row in rows:
        assert (row["num_prompts"], row["num_tokens"], row["num_identical"], row["error"]) == (3, 4, 3, None)
        assert (row["decode_seconds"], row["tokens_per_second"]) == (1.5, round(4 / 1.5, 2))
        assert (row["speedup"], row["relative_speed"]) == (1.0, round(4 / 1.5 / 4.0, 3))
    assert document["about_peers"]["toy:lookup:size=2"]["settings"]["size"] == "2"
    assert [row["text"] for row in document["answers"] if row["side"] == "toy:plain"] == ["cba", "dcb", "a"]
    assert tables.tables(document)[1].row_count == 5


class Chat:
    """Stands for LLM.chat: four tokens in a second."""

    def __init__(self):
        self.num_calls = 0

    def __call__(self, messages, params, **_):
        from test_bench import answer

        self.num_calls += 1
        return [answer([1, 2, 3, 4], 4, 0, 0, 1.0)]


def test_a_peer_that_fails_keeps_the_prompts_before_it(peer):
    sides = [PeerSide(spec) for spec in parse_peers("toy:lookup")]
    start_all(sides, "model", "int8", None, [1])
    for prompt in ([1, 2], [13], [4]):
        for repeat in (0, 1):
            sides[0].answer(prompt, 4, repeat)
    assert sides[0].error == "RuntimeError: an unlucky prompt"
    assert [len(turns) for turns in sides[0].answers] == [2]
    assert sides[0].process is None
    close_all(sides)


def test_a_peer_that_is_not_installed_is_a_failed_side(peer, monkeypatch, capsys):
    monkeypatch.setattr(side, "python_of", environment.python_of)
    sides = [PeerSide(spec) for spec in parse_peers("toy:plain")]
    start_all(sides, "model", "int8", 2, [1])
    assert sides[0].error == "not installed; run: python -m outpace.bench.peers toy"
    assert "toy:plain failed: not installed" in capsys.readouterr().err


def cells(*columns: tuple[int, float]) -> list[Cell]:
    return [Cell([1] * count, "", count, seconds, seconds, True) for count, seconds in columns]


def test_rows_count_only_what_a_failed_peer_reached():
    categories = {"all": [0, 1, 2], "edit": [1, 2], "chat": [0]}
    ours, plain, fast = cells((8, 1.0), (8, 1.0), (8, 1.0)), cells((8, 2.0), (8, 4.0), (8, 4.0)), cells((8, 1.0), (8, 2.0))
    rows = {row.category: row for row in summary.summarise_peer("toy:lookup", categories, fast, plain, ours, "it ended")}
    assert (rows["all"].num_prompts, rows["all"].speedup, rows["all"].error) == (2, 2.0, "it ended")
    assert rows["all"].relative_speed == pytest.approx(round(16 / 3 / 8, 3))
    assert (rows["edit"].num_prompts, rows["edit"].tokens_per_second) == (1, 4.0)
    (row,) = summary.summarise_peer("toy:lookup", {"all": [0]}, fast, [], ours, None)
    assert (row.speedup, row.relative_speed) == (0.0, 1.0)  # its plain decoding failed


def test_looping_answers_of_any_side_are_a_category_of_their_own():
    workloads = [Workload(str(i), name, name, user("x")) for i, name in enumerate(["edit", "chat", "chat"])]
    loop, sound = Cell([7] * 60, "", 60, 1.0, 1.0, True), Cell(list(range(60)), "", 60, 1.0, 1.0, True)
    looping = summary.looping_prompts({"none": [sound, loop, sound], "toy:plain": [loop]})
    assert looping == {0, 1}
    assert summary.groups(workloads, looping) == {"all": [2], "chat": [2], "looping": [0, 1]}
    assert summary.groups(workloads, set()) == {"all": [0, 1, 2], "edit": [0], "chat": [1, 2]}
    assert [row["is_looping"] for row in summary.answers(workloads, "none", [sound, loop, sound])] == [False, True, False]


def test_installing_reports_what_pip_says(peer, tmp_path, monkeypatch):
    monkeypatch.setenv("OUTPACE_HOME", str(tmp_path))
    monkeypatch.setattr(environment, "_run", lambda *command: pip_fails(command))
    with pytest.raises(OutpaceError, match="no such package"):
        environment.install("toy")
    assert not environment.is_installed("toy")
    assert list(tmp_path.rglob("pip-was-here")) == []
    monkeypatch.setattr(environment, "_run", lambda *command: None)
    python = environment.install("toy")
    assert environment.python_of("toy") == python
    monkeypatch.setattr(peer_file, "PACKAGES", ("other==1",))
    assert not environment.is_installed("toy")  # another version needs another environment


def pip_fails(command):
    if "pip" in command:
        raise OutpaceError("no such package")


def test_a_bare_package_gets_its_requirements_without_those_left_out(peer, tmp_path, monkeypatch):
    """What its requirements name is installed after it; what is optional may fail."""
    monkeypatch.setenv("OUTPACE_HOME", str(tmp_path))
    for name, value in {"BARE": ("big==1",), "LEFT_OUT": ("torch",), "OPTIONAL": ("rare==2",)}.items():
        monkeypatch.setattr(peer_file, name, value, raising=False)
    commands = []

    def run(*command):
        commands.append(command[1:])
        if "rare==2" in command:
            raise OutpaceError("no such package")
        return "first>=1\nsecond[x]" if "-c" in command else ""

    monkeypatch.setattr(environment, "_run", run)
    assert not environment.is_installed("toy")
    python = environment.install("toy")
    assert environment.python_of("toy") == python
    installs = [command[5:] for command in commands if "pip" in command]
    assert installs == [tuple(peer_file.PACKAGES), ("--no-deps", "big==1"), ("first>=1", "second[x]"), ("rare==2",)]
    assert commands[3][2:] == ("torch", "big==1")


def test_the_requirements_of_a_package_are_listed_without_those_left_out():
    done = subprocess.run(
        [sys.executable, "-c", environment.REQUIREMENTS, "pluggy,iniconfig", "pytest==1"], capture_output=True, text=True, check=True
    )
    names = done.stdout.split()
    assert any(name.startswith("packaging") for name in names)
    assert not any(name.startswith(("pluggy", "iniconfig")) for name in names)
    assert not any(name.startswith(("hypothesis", "mock")) for name in names), "those of extras"


def test_a_gguf_file_becomes_a_folder_that_vllm_reads(tmp_path):
    """With plain weights, the ones that transformers reads; left as it is, transformers refuses to save such a model."""
    torch = pytest.importorskip("torch")
    from gguf_tools import write_model
    from transformers import AutoModelForCausalLM

    from outpace.bench.peers import vllm_cpu
    from outpace.models.transformers_io import load_model

    path = write_model(tmp_path / "m.gguf", "qwen2", "Q4_K", is_tied=False)
    folder = Path(vllm_cpu._folder(str(path), tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text("utf-8"))
    assert (config["architectures"], config["dtype"]) == (["Qwen2ForCausalLM"], "bfloat16")
    assert "quantization_config" not in config
    found, expected = (model.state_dict() for model in (AutoModelForCausalLM.from_pretrained(folder), load_model(path, torch.bfloat16)))
    assert found.keys() == expected.keys()
    assert all(found[name].equal(weights) for name, weights in expected.items())
    assert vllm_cpu._folder(str(folder), tmp_path / "other") == str(folder)  # a folder is used as it is
