"""Where a tokenizer comes from."""

import json
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from tokenizer_tools import CHATML, byte_level
from tokenizers import AddedToken
from tokenizers import Tokenizer as FastTokenizer

from outpace.errors import BadInputError
from outpace.models.load import Background
from outpace.models.tokenizer import Tokenizer


def save(folder: Path, **options: object) -> Path:
    byte_level().fast.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(options))
    return folder


def test_from_folder(tmp_path):
    folder = save(tmp_path, eos_token="<|end|>", bos_token={"content": "<|user|>"}, pad_token=None, chat_template="old {{ bos_token }}")
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.encode("the end 😀") == byte_level().encode("the end 😀")
    assert tokenizer.special == {"eos_token": "<|end|>", "bos_token": "<|user|>"}
    assert tokenizer.chat_template == "old {{ bos_token }}"
    (folder / "chat_template.jinja").write_text("new {{ bos_token }}")
    assert Tokenizer.from_folder(folder).chat_template == "new {{ bos_token }}"


def test_truncation_and_padding_in_the_file_are_switched_off(tmp_path):
    fast = FastTokenizer.from_str(byte_level().fast.to_str())
    fast.enable_truncation(2)
    fast.enable_padding(length=50)
    save(tmp_path)
    fast.save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer.from_folder(tmp_path).encode("the quick brown fox") == byte_level().encode("the quick brown fox")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [None, "", "{", '{"a": 1'])
def test_damaged_tokenizer_files(tmp_path, name, content):
    save(tmp_path)
    (tmp_path / name).unlink() if content is None else (tmp_path / name).write_text(content)
    with pytest.raises(BadInputError, match="cannot read the tokenizer in"):
        Tokenizer.from_folder(tmp_path)


def test_from_transformers():
    transformers = pytest.importorskip("transformers")
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=byte_level().fast, chat_template=CHATML, eos_token="<|end|>")
    tokenizer = Tokenizer.from_transformers(theirs)
    assert tokenizer.encode("the end") == theirs.encode("the end")
    assert tokenizer.special == {"eos_token": "<|end|>"}
    assert tokenizer.chat_template == CHATML
    tokenizer.fast.add_special_tokens([AddedToken("<|new|>")])
    assert theirs.convert_tokens_to_ids("<|new|>") is None  # a copy, so that neither changes the other
    with pytest.raises(BadInputError, match="no fast form"):
        Tokenizer.from_transformers(SimpleNamespace(chat_template=None))


def test_of_several_named_templates_the_default_counts():
    transformers = pytest.importorskip("transformers")
    templates = {"default": CHATML, "tool_use": "tools"}
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=byte_level().fast, chat_template=templates)
    assert Tokenizer.from_transformers(theirs).chat_template == CHATML


# ---- read beside other work


def test_a_call_waits_for_its_start():
    begun = threading.Event()
    call = Background(lambda: (begun.set(), threading.current_thread().name))
    assert not begun.wait(0.05)
    call.start()
    assert begun.wait(5)
    assert call.result()[1] != threading.current_thread().name


def test_the_result_starts_the_call_and_comes_once():
    calls = []
    call = Background(lambda: calls.append(1) or len(calls))
    assert (call.result(), call.result()) == (1, 1)
    call.start()
    assert calls == [1]


@pytest.mark.parametrize("error", [ValueError("damaged"), KeyboardInterrupt()])
def test_an_error_comes_back(error):
    def fails():
        raise error

    with pytest.raises(type(error)):
        Background(fails).result()
