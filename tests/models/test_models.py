"""Finding a model and making it ready: entries of the cache appear whole or not at all, and everything wrong is told in one line."""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from outpace.errors import BadInputError, OutpaceError
from outpace.models import find as models
from outpace.models.catalog import NAMES
from outpace.models.find import converted, fingerprint, locate
from outpace.models.store import MANIFEST, entry, home, is_whole, listing
from outpace.targets.identity import Base


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache folder of our own."""
    folder = tmp_path / "cache with space"
    monkeypatch.setenv("OUTPACE_HOME", str(folder))
    return folder


def left(folder: Path) -> list[str]:
    """Everything below a folder but locks."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")


def build_ab(folder: Path) -> None:
    (folder / "a").write_text("first")
    (folder / "b").write_bytes(b"\0" * 100)


# ---- entries of the cache


def test_an_entry_is_built_once(cache):
    calls = []

    def build(folder: Path) -> None:
        calls.append(folder)
        assert list(folder.iterdir()) == []
        build_ab(folder)

    for _ in range(2):
        assert entry("kind/name", build) == cache / "kind" / "name"
        assert left(cache) == ["kind/name/a", "kind/name/b", f"kind/name/{MANIFEST}"]
        assert is_whole(cache / "kind" / "name")
    assert len(calls) == 1
    assert calls[0] != cache / "kind" / "name"  # built elsewhere, then renamed


class Stop(BaseException):
    """Not an Exception."""


@pytest.mark.parametrize("error", [RuntimeError("x"), BadInputError("x"), KeyboardInterrupt(), SystemExit(3), Stop()])
def test_a_build_that_fails_leaves_nothing(cache, error):
    def build(folder: Path) -> None:
        build_ab(folder)
        raise error

    for _ in range(2):
        with pytest.raises(type(error)) as caught:
            entry("kind/name", build)
        assert caught.value is error
        assert left(cache) == []
        assert [p.name for p in (cache / "kind").iterdir() if p.suffix != ".lock"] == []
    entry("kind/name", build_ab)  # and nothing is in the way of the next try
    assert is_whole(cache / "kind" / "name")


def damage_nothing(folder: Path) -> None:
    pass


def change_a_byte(folder: Path) -> None:
    (folder / "a").write_text("fIrst")


def cut_a_file(folder: Path) -> None:
    (folder / "b").write_bytes(b"\0" * 99)


def remove_a_file(folder: Path) -> None:
    (folder / "b").unlink()


def remove_the_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def cut_the_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text()[:20])


def empty_the_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("")


def odd_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("[1, 2]")


def other_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text('{"a": {"size": 5}}')


def folder_for_a_file(folder: Path) -> None:
    (folder / "a").unlink()
    (folder / "a").mkdir()


@pytest.mark.parametrize(
    "damage",
    [
        change_a_byte,
        cut_a_file,
        remove_a_file,
        remove_the_manifest,
        cut_the_manifest,
        empty_the_manifest,
        odd_manifest,
        other_manifest,
        folder_for_a_file,
        damage_nothing,
    ],
)
def test_a_damaged_entry_is_built_again(cache, damage):
    folder, calls = entry("kind/name", build_ab), []
    damage(folder)
    assert is_whole(folder) == (damage is damage_nothing)

    def build(to: Path) -> None:
        calls.append(to)
        build_ab(to)

    entry("kind/name", build)
    assert len(calls) == (damage is not damage_nothing)
    assert is_whole(folder)
    assert left(cache) == ["kind/name/a", "kind/name/b", f"kind/name/{MANIFEST}"]
    assert (folder / "a").read_text() == "first"


def test_a_plain_file_in_the_place_of_an_entry_is_one_clear_line(cache):
    (cache / "kind").mkdir(parents=True)
    (cache / "kind" / "name").write_text("mine")
    with pytest.raises(OutpaceError, match="cannot write to") as caught:
        entry("kind/name", build_ab)
    assert "\n" not in str(caught.value)
    assert left(cache) == ["kind/name"]  # not ours, so it stays


def slow_build(folder: Path) -> None:
    """Counts its calls in a file and takes a while."""
    with (home() / "calls").open("a") as file:
        file.write("x")
    time.sleep(0.5)
    build_ab(folder)


def build_in_a_process(_: int) -> bool:
    return is_whole(entry("kind/name", slow_build))


def test_two_processes_build_once(cache):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(build_in_a_process, range(2), chunksize=1) == [True, True]
    assert (cache / "calls").read_text() == "x"


def test_what_a_killed_process_left_is_removed_and_its_lock_is_free(cache):
    code = (
        "import sys, time; from outpace.models.store import entry\n"
        "def build(folder): (folder / 'half').write_text('x'); print('begun', flush=True); time.sleep(60)\n"
        "entry('kind/name', build)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert [Path(name).name for name in left(cache)] == ["half"]
    assert listing() == []
    entry("kind/name", build_ab)
    assert left(cache) == ["kind/name/a", "kind/name/b", f"kind/name/{MANIFEST}"]


def hear_interrupts() -> None:
    """A process started in the background inherits that SIGINT is ignored; ours is to hear it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_a_terminated_process_cleans_up(cache):
    """Ctrl-C is a KeyboardInterrupt in the middle of the build."""
    code = (
        "import time; from outpace.models.store import entry\n"
        "def build(folder): (folder / 'half').write_text('x'); print('begun', flush=True); time.sleep(60)\n"
        "entry('kind/name', build)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hear_interrupts
    ) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in process.communicate(timeout=20)[1]
    assert left(cache) == []


DISK_ERRORS = [(errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "the disk is full"), (errno.EROFS, "Read-only"), (errno.EACCES, "denied")]


@pytest.mark.parametrize(("number", "message"), DISK_ERRORS)
@pytest.mark.parametrize("where", ["mkdir", "build", "rename"])
def test_a_full_or_read_only_disk_is_one_clear_line(cache, monkeypatch, number, message, where):
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    if where != "build":
        monkeypatch.setattr(Path, where, fail)
    with pytest.raises(OutpaceError, match=message) as caught:
        entry("kind/name", fail if where == "build" else build_ab)
    assert not isinstance(caught.value, BadInputError)
    assert str(cache / "kind") in str(caught.value)
    assert "OUTPACE_HOME" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert left(cache) == []


def test_a_build_that_waits_too_long_for_another_is_told(monkeypatch, capsys):
    from outpace.models import store

    class Busy:
        def __init__(self, path: Path): ...

        def acquire(self, timeout: float) -> None:
            waits.append(timeout)
            raise store.Timeout("lock")

    waits: list[float] = []
    monkeypatch.setattr(store, "FileLock", Busy)
    with pytest.raises(OutpaceError, match="another process is making"):
        entry("kind/name", build_ab)
    assert "another process is making name; waiting for it" in capsys.readouterr().err
    assert waits[0] <= 1
    assert waits[1] >= 3600


def test_the_cache_folder(cache, monkeypatch):
    assert home() == cache
    monkeypatch.setenv("OUTPACE_HOME", "~/somewhere")
    assert home() == Path.home() / "somewhere"
    for setting in (None, ""):
        monkeypatch.delenv("OUTPACE_HOME") if setting is None else monkeypatch.setenv("OUTPACE_HOME", setting)
        assert home().name == "outpace"
        assert home().is_absolute()


def test_listing(cache):
    assert listing() == []
    entry("models/b", lambda folder: (folder / "x").write_bytes(bytes(250_000)))
    entry("converted/a", build_ab)
    assert [(e["name"], e["megabytes"]) for e in listing()] == [("converted/a", 0.0), ("models/b", 0.3)]


# ---- where a model is


def model_folder(folder: Path, **config: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(bytes(100))
    return folder


def test_locate_a_folder_and_a_file(tmp_path, monkeypatch):
    folder = model_folder(tmp_path / "my model")
    (tmp_path / "small.Q4_0.gguf").write_bytes(b"GGUF")
    assert locate(str(folder)) == models.Source("my model", folder)
    assert locate(str(tmp_path / "small.Q4_0.gguf")) == models.Source("small.Q4_0", tmp_path / "small.Q4_0.gguf")
    monkeypatch.chdir(tmp_path)
    for name in ("./my model", "my model", "my model/"):
        assert locate(name).path == folder
    assert locate("small.Q4_0.gguf").path == tmp_path / "small.Q4_0.gguf"
    monkeypatch.chdir(folder)
    assert locate(".") == models.Source("my model", folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate("~/my model").path == folder


def nothing_but_the_error(name: str, message: str) -> None:
    with pytest.raises(BadInputError) as caught:
        locate(name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.gguf", "there is no file nowhere.gguf"),
        ("a/b/c.gguf", "there is no file a/b/c.gguf"),
        ("empty", "empty has no config.json, so it is not a model folder"),
        (".", "has no config.json"),
        ("nonsense", f"no model 'nonsense': not one of {', '.join(NAMES)}, not a folder or .gguf file, and not a hub id such as org/name"),
        ("Default", "no model 'Default'"),
        ("a/b/c", "no model 'a/b/c'"),
        ("./a/b", "no model './a/b'"),
        ("/nowhere/at/all", "no model '/nowhere/at/all'"),
        ("/nowhere", "no model '/nowhere'"),
        ("file.txt", "no model 'file.txt'"),
        ("https://huggingface.co/org/name", "no model 'https://huggingface.co/org/name'"),
        ("folder.gguf", "there is no file folder.gguf"),
    ],
)
def test_wrong_names(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder.gguf").mkdir()
    (tmp_path / "file.txt").write_text("x")
    nothing_but_the_error(name, message)


@pytest.mark.parametrize("name", ["~nobody-of-this-name/model", "x" * 5000])
def test_names_that_no_path_can_have(name):
    nothing_but_the_error(name, "no model")


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """An empty hub cache, and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_a_hub_id_offline(hub, capsys):
    nothing_but_the_error("org/name", "no model 'org/name' here, and the hub could not give it: ")
    assert "fetching org/name from the hub" in capsys.readouterr().err
    for name in ("org/na me", "-org/name", "org/" + "x" * 200):
        nothing_but_the_error(name, f"no model {name!r}")


def test_hub_offline_by_the_environment(tmp_path):
    """As a user sets it."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    code = "from outpace.models.find import locate; locate('org/name')"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert "BadInputError: no model 'org/name' here, and the hub could not give it" in done.stderr.splitlines()[-1]


def snapshot(hub: Path, *files: str) -> Path:
    """A model in the hub's cache."""
    root = hub / "models--org--name"
    folder = root / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("0" * 40)
    for file in files:
        (folder / file).write_text("{}")
    return folder


def test_a_hub_id_that_is_here(hub):
    folder = snapshot(hub, "config.json", "tokenizer.json", "model.safetensors")
    assert locate("org/name") == models.Source("org/name", folder)


def test_half_a_download_of_the_hub_is_not_a_model(hub):
    snapshot(hub, "config.json")
    nothing_but_the_error("org/name", "the hub could not give it")


# ---- fingerprints


def test_a_fingerprint_follows_the_files(tmp_path):
    folder = model_folder(tmp_path / "m", a=1)
    seen = [fingerprint(folder)]

    def changed() -> None:
        seen.append(fingerprint(folder))
        assert seen[-1] == fingerprint(folder)
        assert len(set(seen)) == len(seen)

    (folder / "model.safetensors").write_bytes(bytes(99) + b"\1")  # same size
    changed()
    (folder / "model.safetensors").write_bytes(bytes(101))
    changed()
    (folder / "config.json").write_text(json.dumps({"a": 2}))
    changed()
    (folder / "tokenizer.json").write_text("{}")
    changed()
    (folder / "chat_template.jinja").write_text("x")
    changed()
    (folder / "model.safetensors").rename(folder / "model-00001.safetensors")
    changed()
    (folder / "README.md").write_text("x")
    assert fingerprint(folder) == seen[-1]
    assert fingerprint(model_folder(tmp_path / "n", a=1)) == seen[0]  # wherever it is


def test_a_large_file_counts_by_size_and_time(tmp_path):
    folder = model_folder(tmp_path / "m")
    large = folder / "model.safetensors"
    large.write_bytes(bytes(2 << 20))
    os.utime(large, ns=(1, 1))
    before = fingerprint(folder)
    assert fingerprint(folder) == before
    os.utime(large, ns=(1, 2))
    assert fingerprint(folder) != before
    assert fingerprint(large) != before
    assert fingerprint(large) == fingerprint(large)


@pytest.mark.parametrize("name", ["merges.txt", "vocab.txt"])
def test_tokenizer_files_of_older_models_count(tmp_path, name):
    folder = model_folder(tmp_path / "m")
    (folder / name).write_text("a b")
    before = fingerprint(folder)
    (folder / name).write_text("b a")
    assert fingerprint(folder) != before


# ---- conversion


@pytest.mark.parametrize("precision", ["nonsense", "", "INT8", "int2", "auto"])
def test_unknown_precision(precision):
    with pytest.raises(BadInputError, match=r"unknown precision .*; known: int8, int4, bf16, f32"):
        converted("default", precision)


class Converter:
    """Stands in for the converter process: writes what `_convert` is asked for, and counts."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def __call__(self, source, out, precision):
        self.calls.append((source.name, precision))
        record = {"fingerprint": "f" * 16, "vocab_size": 5, "hidden_size": 3, "max_len": 9, "eos_token_ids": [1, 2]}
        (out / "config.json").write_text(json.dumps(record))


def test_a_conversion_is_kept_by_content_and_precision(tmp_path, cache, monkeypatch):
    converter = Converter()
    monkeypatch.setattr(models, "_convert", converter)
    folder = model_folder(tmp_path / "my model", a=1)
    found = converted(str(folder), "int8")
    assert (found.name, found.vocab_size, found.hidden_size, found.max_len, found.eos_token_ids) == ("my model", 5, 3, 9, (1, 2))
    assert found.base == Base("my model", "f" * 16, 3, 5)
    assert found.folder.parent == cache / "converted"
    assert found.folder.name.startswith("my-model-")
    assert converted(str(folder), "int8") == found
    assert converted(str(folder), "f32").folder != found.folder
    assert converter.calls == [("my model", "int8"), ("my model", "f32")]
    (folder / "model.safetensors").write_bytes(bytes(101))
    assert converted(str(folder), "int8").folder != found.folder
    assert len(converter.calls) == 3


def test_missing_packages_are_named(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(models, "find_spec", lambda name: None if name in ("torch", "nncf") else object())
    with pytest.raises(OutpaceError, match=r"converting a model needs torch, nncf: pip install 'outpace\[convert\]'"):
        converted(str(model_folder(tmp_path / "m")))
    assert left(cache) == []


class Script:
    """Runs Python code in the place of the converter."""

    def __init__(self, monkeypatch, code: str):
        popen = subprocess.Popen
        monkeypatch.setattr(
            models.subprocess, "Popen", lambda command, **options: popen([sys.executable, "-c", code, *command[3:]], **options)
        )


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("""print('{"stage": "one"}'); print('{"error": "no such layer"}'); raise SystemExit(2)""", "no such layer"),
        ("import sys; print('first', file=sys.stderr); print('the last line', file=sys.stderr); sys.exit(1)", "the last line"),
        ("import os; os.kill(os.getpid(), 9)", "exit code -9"),
        ("print('noise'); raise SystemExit(7)", "exit code 7"),
    ],
)
def test_a_failed_conversion_says_why_and_leaves_nothing(tmp_path, cache, monkeypatch, code, message):
    Script(monkeypatch, code)
    with pytest.raises(BadInputError, match=f"cannot convert m: {message}") as caught:
        converted(str(model_folder(tmp_path / "m")))
    assert "\n" not in str(caught.value)
    assert left(cache) == []


def test_the_log_of_a_conversion_is_not_kept(tmp_path, cache, monkeypatch):
    record = {"fingerprint": "f" * 16, "vocab_size": 5, "hidden_size": 3, "max_len": 9, "eos_token_ids": [1]}
    code = "import sys; print('a warning', file=sys.stderr); source, out, precision = sys.argv[1:]; print(source, precision); "
    Script(monkeypatch, code + f"open(out + '/config.json', 'w').write({json.dumps(json.dumps(record))})")
    assert converted(str(model_folder(tmp_path / "m")), "bf16").vocab_size == 5
    assert [Path(name).name for name in left(cache)] == ["config.json", MANIFEST]


def test_stages_are_shown_on_stderr(tmp_path, monkeypatch, capfd):
    Script(monkeypatch, """print('{"stage": "tracing the model"}', flush=True); raise SystemExit(1)""")
    with pytest.raises(BadInputError):
        converted(str(model_folder(tmp_path / "m")))
    out, err = capfd.readouterr()
    assert out == ""
    assert "converting m to int8 (once): tracing the model" in err


def test_ctrl_c_ends_the_converter_too(tmp_path, cache, monkeypatch):
    """The process is gone when the exception comes out."""
    Script(monkeypatch, """import os, time; print('{"stage": "%d"}' % os.getpid(), flush=True); time.sleep(60)""")
    pids = []

    def show(stage: str) -> None:
        pids.append(int(stage))
        raise KeyboardInterrupt

    class Stages:
        def __init__(self, label: str): ...

        def __enter__(self):
            return show

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(models, "stages", Stages)
    started = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        converted(str(model_folder(tmp_path / "m")))
    assert time.perf_counter() - started < 20
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
    assert left(cache) == []


def test_a_broken_model_folder(tmp_path, cache):
    """The real converter on a folder that is no model."""
    pytest.importorskip("torch")
    folder = model_folder(tmp_path / "broken")
    (folder / "config.json").write_text('{"model_type": "llama", "hidden_size": "not a')
    with pytest.raises(BadInputError, match="cannot convert broken: cannot load") as caught:
        converted(str(folder), "f32")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert left(cache) == []
