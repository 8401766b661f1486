"""Low-rank weights that act on a helper's vectors: the rows of vectors change as they should, on every target, and no other row notices."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tiny_models import prompt
from training_tools import decoded_length

from outpace.errors import BadInputError
from outpace.heads.format import DraftHeads
from outpace.heads.mask_tokens import blank_vectors
from outpace.llm import LLM
from outpace.targets.hf.low_rank import mlps
from outpace.targets.hf.target import HFTarget
from outpace.targets.identity import Base
from outpace.targets.low_rank import LowRank
from outpace.targets.toy import ToyTarget
from outpace.tree.segment import Segment

PARENTS = [-1, 0, 1, 2, 1, 4, 2]  # rows 4 and 5 are the vectors: a chain behind row 1
SIZE, LAYERS = 64, 2


def weights(rank: int = 4, scale: float = 0.3, seed: int = 0) -> LowRank:
    rng = np.random.default_rng(seed)
    return LowRank.of(rng.normal(0, scale, (LAYERS, SIZE, rank)), rng.normal(0, scale, (LAYERS, rank, SIZE)), SIZE)


def rows_of(target, slot, tokens, vectors):
    """The logits of a small tree with two rows of vectors behind what the slot holds."""
    return target.forward([Segment(slot, [*tokens[9:13], *vectors, tokens[13]], PARENTS)]).logits.copy()


def filled(target, tokens):
    """A slot with the first 9 tokens."""
    slot = target.allocate(64)
    target.forward([Segment(slot, tokens[:9], wants_output=False)])
    target.accept(slot, tokens[:9], range(9))
    return slot


@pytest.fixture(scope="module")
def found(tiny):
    """(of each target: the logits before and after low-rank weights came, of vectors with and without them, and the weights)."""
    _, target, model = tiny
    vectors, tokens, low_rank = np.random.default_rng(1).normal(0, 0.3, (2, SIZE)).astype(np.float32), prompt(20), weights()
    out = {}
    for kind, each in (("openvino", target), ("hf", HFTarget(model))):
        without = each.add_vectors(vectors)
        slot = filled(each, tokens)
        before = rows_of(each, slot, tokens, [without, without + 1])
        first = each.add_vectors(vectors, low_rank)  # while a sequence is there: its K/V stays
        after = rows_of(each, slot, tokens, [without, without + 1])
        gated = rows_of(each, slot, tokens, [first, first + 1])
        each.free(slot)
        out[kind] = (each, before, after, gated, first)
    return tiny, vectors, tokens, low_rank, out


@pytest.mark.parametrize("kind", ["openvino", "hf"])
def test_rows_of_others_keep_every_bit(found, kind):
    _, before, after, gated, _ = found[-1][kind]
    np.testing.assert_array_equal(after, before)  # vectors without such weights too
    unseen = [0, 1, 2, 3, 6]
    np.testing.assert_array_equal(gated[unseen], before[unseen])


@pytest.mark.parametrize("kind", ["openvino", "hf"])
def test_rows_of_the_vectors_are_what_the_weights_make_of_them(found, kind):
    """Against a plain run of the model whose MLPs add the product in the last two rows."""
    (_, _, model), vectors, tokens, low_rank, out = found
    _, before, _, gated, _ = out[kind]

    def hook(down, up):
        def add(_, inputs, output):
            more = output.clone()
            more[:, -2:] += inputs[0][:, -2:] @ torch.from_numpy(down) @ torch.from_numpy(up)
            return more

        return add

    text = [*tokens[:9], tokens[9], tokens[10]]
    plain = type(model)(model.config)
    plain.load_state_dict(model.state_dict())
    for module, down, up in zip(mlps(plain, LAYERS), low_rank.down, low_rank.up, strict=True):
        module.register_forward_hook(hook(down, up))
    embedded = torch.cat([plain.get_input_embeddings()(torch.tensor(text)), torch.from_numpy(vectors)])[None]
    with torch.inference_mode():
        expected = plain.eval()(inputs_embeds=embedded).logits[0, -2:].numpy()
    np.testing.assert_allclose(gated[[4, 5]], expected, atol=2e-3 * np.abs(expected).max())
    assert np.abs(gated[[4, 5]] - before[[4, 5]]).max() > 0.05 * np.abs(before).max()


@pytest.mark.parametrize("kind", ["openvino", "hf"])
def test_a_target_has_room_for_one(found, kind):
    _, vectors, _, low_rank, out = found
    target, _, _, _, first = out[kind]
    assert target.add_vectors(vectors, low_rank) == first  # the same again
    with pytest.raises(BadInputError, match="room for one"):
        target.add_vectors(vectors, weights(seed=5))


def test_a_model_with_other_layers_is_refused(tiny):
    low_rank = weights()
    short = LowRank(low_rank.down[:1], low_rank.up[:1])
    with pytest.raises(BadInputError, match="`mlp` in each of 1 layers"):
        HFTarget(tiny[2]).add_vectors(np.ones((1, SIZE)), short)
    with pytest.raises(BadInputError, match="no layers"):
        ToyTarget().add_vectors(np.ones((1, 12)), short)


@pytest.mark.parametrize(
    ("down", "up"),
    [((2, 63, 4), (2, 4, 64)), ((2, 64, 4), (2, 5, 64)), ((2, 64, 0), (2, 0, 64)), ((64, 4), (4, 64)), ((2, 64, 65), (2, 65, 64))],
)
def test_shapes_that_do_not_fit_are_refused(down, up):
    with pytest.raises(BadInputError, match="down and up must be"):
        LowRank.of(np.zeros(down, np.float32), np.zeros(up, np.float32), SIZE)


def test_a_file_has_both_or_none():
    base, low_rank = Base("tiny", "f", SIZE, 96), weights()
    whole = DraftHeads(
        "blanks", base, {"count": 2}, {"embeddings": np.ones((2, SIZE), np.float16), "down": low_rank.down, "up": low_rank.up}
    )
    found = blank_vectors(whole).low_rank
    assert found is not None
    assert found.num_layers == LAYERS
    with pytest.raises(BadInputError, match="blanks need the tensor"):
        blank_vectors(replace(whole, tensors={"embeddings": whole.tensors["embeddings"], "up": low_rank.up}))


# ---- trained


@pytest.fixture(scope="module")
def trained(tiny_models, tiny_home, tmp_path_factory):
    """(source, folder, heads) of a run with a rank."""
    from outpace.training.loop import LoopSettings
    from outpace.training.mask_tokens.run import train_blanks
    from outpace.training.mask_tokens.task import BlanksSettings
    from outpace.training.stages import Source

    folder = tmp_path_factory.mktemp("trained")
    prompts, out = folder / "prompts.jsonl", folder / "run"
    prompts.write_text("".join(json.dumps({"id": f"p{i}", "prompt": f"<{i}>"}) + "\n" for i in range(2, 96)))
    source = Source(str(tiny_models["llama"]), prompts, generate=True, max_tokens=28, target="openvino", precision="f32")
    settings, loop = BlanksSettings(count=3, num_anchors=8, rank=4), LoopSettings(epochs=5, batch_size=8, learning_rate=3e-2)
    return source, out, train_blanks(source, out, settings, loop)


def test_the_file_of_a_run_with_a_rank_has_its_weights(trained):
    tensors = trained[2].tensors
    assert {name: tensor.shape for name, tensor in tensors.items()} == {"embeddings": (3, 64), "down": (2, 64, 4), "up": (2, 4, 64)}
    assert np.abs(tensors["up"]).max() > 0.01


@pytest.mark.parametrize("target", ["hf", "openvino"])
def test_trained_with_a_rank_they_decode_as_training_said(trained, target):
    """On both targets, from answers that one of them wrote."""
    source, out, heads = trained
    llm = LLM(source.model, f"blanks:{out}", target=target, precision="f32")
    length = decoded_length(llm, out / "answers.jsonl", source.max_tokens)
    assert length == pytest.approx(heads.training["held_out"]["acceptance"]["root"], rel=0.05)
