"""A conversion is kept by content and precision; one that fails or is stopped leaves nothing."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from model_tools import left, model_folder

from outpace.errors import BadInputError, OutpaceError
from outpace.models import find as models
from outpace.models.find import converted
from outpace.models.store import MANIFEST
from outpace.targets.identity import Base

pytestmark = pytest.mark.usefixtures("cache")


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
        ("import sys; print('[y/N]', repr(sys.stdin.read()), '{\"error\": \"nobody said yes\"}'); sys.exit(1)", "nobody said yes"),
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
