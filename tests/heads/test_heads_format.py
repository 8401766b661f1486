"""Trained heads on disk: read as written, or refused in one line; which model they belong to."""

import json
import struct
from contextlib import suppress

import numpy as np
import pytest
import torch
from heads_tools import BASE, tiny
from helper_tools import random_medusa
from hypothesis import given
from hypothesis import strategies as st

from outpace.errors import BadInputError, OutpaceError
from outpace.heads import shipped
from outpace.heads.format import DraftHeads
from outpace.heads.medusa.imports import load_medusa
from outpace.heads.medusa.weights import medusa_weights
from outpace.targets.identity import Base, base_of, fingerprint_of

TREE = [[0], [0, 0], [1], [0, 0, 0], [0, 1]]


# ---- the format


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("reduced", [None, 6])
@pytest.mark.parametrize("layers", [0, 1, 2])
def test_what_is_written_is_read(tmp_path, own, reduced, layers):
    helper = random_medusa(BASE, 3, layers, own, reduced, tree=TREE, training={"steps": 7})
    helper.save_pretrained(tmp_path / "new" / "folder")
    found = DraftHeads.from_pretrained(tmp_path / "new" / "folder")
    assert (found.kind, found.base, found.settings, found.tree, found.training) == ("medusa", BASE, helper.settings, TREE, {"steps": 7})
    assert found.tensors.keys() == helper.tensors.keys()
    for name, tensor in found.tensors.items():
        np.testing.assert_array_equal(tensor, helper.tensors[name])
    files = sorted((tmp_path / "new" / "folder").iterdir())
    assert [path.name for path in files] == ["config.json", "model.safetensors"]
    assert files[0].stat().st_mode == files[1].stat().st_mode  # who may read one may read the other
    weights = medusa_weights(found)
    assert weights.weights.shape == (layers, 3, 8, 8)
    assert (weights.num_heads, weights.hidden_size) == (3, 8)
    assert (weights.lm_heads is not None, weights.vocab_ids is not None) == (own, reduced is not None)


def test_floats_become_float16_and_integers_stay(tmp_path):
    tensors = {"a": np.ones((2, 3), np.float32).T, "ids": np.array([5, 4])}
    DraftHeads("eagle", BASE, {}, tensors).save_pretrained(tmp_path)
    found = DraftHeads.from_pretrained(tmp_path).tensors
    assert (found["a"].dtype, found["a"].shape, found["ids"].dtype) == (np.float16, (3, 2), np.int64)


@pytest.mark.parametrize("value", [1e6, np.nan, np.inf])
def test_what_float16_cannot_hold_leaves_the_old_helper(tmp_path, value):
    random_medusa(BASE).save_pretrained(tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(BadInputError, match="float16"):
        DraftHeads("medusa", BASE, {}, {"a": np.array([value])}).save_pretrained(tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before


def test_an_interrupted_write_leaves_no_mixture(tmp_path, monkeypatch):
    random_medusa(BASE).save_pretrained(tmp_path)
    (tmp_path / "notes").write_text("kept")

    def interrupted(*_):
        raise OSError(28, "No space left on device")

    for name in ("pathlib.Path.write_bytes", "outpace.heads.format._flush", "pathlib.Path.replace"):
        with monkeypatch.context() as patch:
            patch.setattr(name, interrupted)
            with pytest.raises(OutpaceError, match="No space left"):
                random_medusa(BASE, heads=2).save_pretrained(tmp_path)
        names = {path.name for path in tmp_path.iterdir()}
        assert names in ({"config.json", "model.safetensors", "notes"}, {"model.safetensors", "notes"})
        if "config.json" in names:
            assert DraftHeads.from_pretrained(tmp_path).settings["num_heads"] == 3
        else:
            with pytest.raises(BadInputError, match="there are no heads in"):
                DraftHeads.from_pretrained(tmp_path)


def change(folder, **fields) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": 2}, "format 2"),
        ({"kind": "oracle"}, "kind 'oracle'"),
        ({"base": None}, "base must have name"),
        ({"base": {"name": "x", "fingerprint": 3, "hidden_size": 1, "vocab_size": 1}}, "base must have name"),
        ({"settings": []}, "settings and training must be objects"),
        ({"tree": "x"}, "tree must be a list"),
        ({"tree": [[0]] * 300}, "at most 256 paths"),
        ({"tree": [[]]}, "is not a path of a tree"),
        ({"tree": [[0], [0, "1"]]}, "is not a path of a tree"),
        ({"tree": [[0, 0], [0]]}, "before its parent"),
        ({"tree": [[0], [0]]}, "or twice"),
    ],
)
def test_damaged_configs_are_refused(tmp_path, fields, message):
    random_medusa(BASE).save_pretrained(tmp_path)
    change(tmp_path, **fields)
    with pytest.raises(BadInputError, match=message) as caught:
        DraftHeads.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "x" * (1 << 20) + "y", "\0"])
def test_no_config_at_all_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BadInputError, match=r"config\.json"):
        DraftHeads.from_pretrained(tmp_path)


@given(st.data())
def test_damaged_weights_are_refused_or_read(tmp_path_factory, data):
    """Any cut fails; any changed byte fails or gives numbers of the right shapes."""
    folder = tmp_path_factory.mktemp("helper")
    helper = random_medusa(BASE, 1)
    helper.save_pretrained(folder)
    content = bytearray((folder / "model.safetensors").read_bytes())
    if data.draw(st.booleans()):
        (folder / "model.safetensors").write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
        with pytest.raises(BadInputError, match="cannot read"):
            DraftHeads.from_pretrained(folder)
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        (folder / "model.safetensors").write_bytes(content)
        with suppress(BadInputError):
            assert medusa_weights(DraftHeads.from_pretrained(folder)).weights.shape == (1, 1, 8, 8)


def test_a_huge_header_is_refused(tmp_path):
    random_medusa(BASE).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    with pytest.raises(BadInputError, match="cannot read"):
        DraftHeads.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Base("other", BASE.fingerprint, 9, 20), "hidden_size 8, but other has 9"),
        (Base("other", BASE.fingerprint, 8, 21), "vocab_size 20, but other has 21"),
        (Base("other", "f" * 16, 8, 20), r"tiny \(0123456789abcdef\), but this model is other with other weights \(ffff"),
    ],
)
def test_helpers_of_other_models_are_refused(tmp_path, other, message):
    random_medusa(BASE).save_pretrained(tmp_path)
    load_medusa(tmp_path, Base("renamed", BASE.fingerprint, 8, 20))  # a name is only a name
    for read in (load_medusa, DraftHeads.from_pretrained):
        with pytest.raises(BadInputError, match=f"do not fit: .*{message}"):
            read(tmp_path, other)
    assert DraftHeads.from_pretrained(str(tmp_path)).base == BASE


def test_shipped_helpers_are_found_by_the_model(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "ASSETS", tmp_path)
    random_medusa(BASE).save_pretrained(tmp_path / "medusa-tiny")
    assert shipped.shipped("medusa", BASE) == tmp_path / "medusa-tiny"
    assert shipped.shipped("eagle", BASE) is None
    assert shipped.shipped("medusa", Base("tiny", "f" * 16, 8, 20)) is None
    assert shipped.shipped("medusa", None) is None


# ---- medusa's tensors


@pytest.mark.parametrize(
    ("settings", "tensors", "message"),
    [
        ({"num_heads": 4}, {}, r"heads\.3\.blocks\.0\.weight must be \[8, 8\], not missing"),
        ({"num_heads": 2}, {}, "do not use: heads.2"),
        ({"num_layers": 2}, {}, r"blocks\.1\.weight"),
        ({"num_heads": 0}, {}, "num_heads must be an integer from 1"),
        ({"num_heads": 10**9}, {}, "num_heads must be an integer from 1"),
        ({"num_layers": "1"}, {}, "num_layers"),
        ({"num_draft_vocab": 5}, {}, "vocab_ids must be 5 token ids .* missing"),
        ({"num_draft_vocab": 3}, {"vocab_ids": np.array([1, 2])}, "vocab_ids must be 3"),
        ({"num_draft_vocab": 2}, {"vocab_ids": np.array([1, 20])}, "different tokens of the vocabulary of 20"),
        ({"num_draft_vocab": 2}, {"vocab_ids": np.array([1, 1])}, "different tokens"),
        ({}, {"vocab_ids": np.array([1, 2])}, "vocab_ids"),
        ({}, {"heads.0.blocks.0.bias": np.zeros(7)}, r"blocks\.0\.bias must be \[8\], not \[7\]"),
        ({}, {"heads.0.lm_head.weight": np.zeros((20, 8))}, r"heads\.1\.lm_head"),
        ({"temperatures": [1, 2]}, {}, "temperatures must be 3 numbers"),
        ({"temperatures": [1, 0, 1]}, {}, "temperatures"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(settings, tensors, message):
    helper = random_medusa(BASE)
    helper.settings.update(settings)
    helper.tensors.update(tensors)
    with pytest.raises(BadInputError, match=message) as caught:
        medusa_weights(helper)
    assert "\n" not in str(caught.value)


def test_only_medusa_is_medusa():
    with pytest.raises(BadInputError, match="kind 'eagle'"):
        medusa_weights(DraftHeads("eagle", BASE, {}, {}))


def test_a_fingerprint_names_the_weights_alone(tmp_path):
    model = tiny()
    base = base_of(model, "tiny")
    assert (base.hidden_size, base.vocab_size, len(base.fingerprint)) == (8, 20, 16)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert base_of(loaded, "other name").fingerprint == base.fingerprint
    assert base_of(tiny(1), "tiny").fingerprint != base.fingerprint
    model.model.norm.weight.data[3] += 0.01
    assert base_of(model, "tiny").fingerprint != base.fingerprint


def test_a_fingerprint_of_parameters_that_are_not_there():
    meta = torch.nn.Linear(3, 4, device="meta")
    assert fingerprint_of(meta.named_parameters()) == fingerprint_of(reversed(list(meta.named_parameters())))
    assert fingerprint_of(meta.named_parameters()) != fingerprint_of(torch.nn.Linear(3, 5, device="meta").named_parameters())
