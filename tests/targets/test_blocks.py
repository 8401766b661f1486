"""The block pool under random use: no block has two owners that wrote it, and what is found is what was stored."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from outpace.targets.base import OutOfSlots
from outpace.targets.openvino.blocks import BlockPool

SIZE, NUM_BLOCKS, MAX_STORED = 2, 8, 3
salts = st.sampled_from(["", "a"])


class Owner:
    """A sequence in the cache, used like the OpenVINO target does it: rows are written in order, full blocks are remembered."""

    def __init__(self, pool: BlockPool, text: list[int], room: int, salt: str = ""):
        shared, self.identities = pool.find(text[:-1], salt)
        self.salt = salt
        self.blocks = pool.take(shared, room - len(shared))
        self.num_shared = len(shared)
        self.text = text[: len(shared) * SIZE]


class PoolMachine(RuleBasedStateMachine):
    """`content` is the truth: of which salt, and from which tokens from the start of the text on, each block's rows were computed."""

    owners = Bundle("owners")

    def __init__(self):
        super().__init__()
        self.pool = BlockPool(NUM_BLOCKS, SIZE, MAX_STORED)
        self.alive: list[Owner] = []
        self.content: dict[int, tuple[str, tuple[int, ...]]] = {}

    @rule(target=owners, text=st.lists(st.integers(0, 1), min_size=1, max_size=9), extra=st.integers(0, 3), salt=salts)
    def allocate(self, text, extra, salt):
        room = -(-len(text) // SIZE) + extra
        before = (dict(self.pool.free), list(self.pool.references), dict(self.pool.by_content), self.pool.num_fresh)
        try:
            owner = Owner(self.pool, text, room, salt)
        except OutOfSlots:
            assert before == (self.pool.free, self.pool.references, self.pool.by_content, self.pool.num_fresh)  # nothing was reserved
            assert list(before[0]) == list(self.pool.free)
            return multiple()
        assert len(owner.blocks) == room
        assert len(set(owner.blocks)) == room
        for i, block in enumerate(owner.blocks[: owner.num_shared]):
            assert self.content[block] == (salt, tuple(text[: (i + 1) * SIZE]))  # only equal starts of the same salt are shared
        others = {block for other in self.alive for block in other.blocks}
        for block in owner.blocks[owner.num_shared :]:
            assert block not in others
            assert not any(found == block for _, found in self.pool.by_content.values())  # reuse forgets the old content
            self.content.pop(block, None)
        self.alive.append(owner)
        return owner

    @rule(owner=owners, tokens=st.lists(st.integers(0, 1), min_size=1, max_size=5))
    def write(self, owner, tokens):
        owner.text += tokens[: len(owner.blocks) * SIZE - len(owner.text)]
        while (len(owner.identities) + 1) * SIZE <= len(owner.text):
            at = len(owner.identities)
            block, before = owner.blocks[at], owner.identities[-1] if owner.identities else owner.salt
            self.content[block] = (owner.salt, tuple(owner.text[: (at + 1) * SIZE]))
            owner.identities.append(self.pool.remember(block, before, owner.text[at * SIZE : (at + 1) * SIZE]))

    @rule(owner=consumes(owners))
    def release(self, owner):
        self.alive.remove(owner)
        self.pool.release(owner.blocks)

    @rule(text=st.lists(st.integers(0, 1), max_size=12), salt=salts)
    def find(self, text, salt):
        blocks, identities = self.pool.find(text, salt)
        assert len(blocks) == len(identities) <= len(text) // SIZE
        for i, block in enumerate(blocks):
            assert self.content[block] == (salt, tuple(text[: (i + 1) * SIZE]))

    @invariant()
    def references_count_the_owners(self):
        for block in range(NUM_BLOCKS):
            owners = sum(block in owner.blocks for owner in self.alive)
            assert self.pool.references[block] == owners
            assert (block in self.pool.free or block >= NUM_BLOCKS - self.pool.num_fresh) == (owners == 0)
        assert self.pool.num_used == len({block for owner in self.alive for block in owner.blocks})

    @invariant()
    def memory_is_what_was_held_at_once_and_a_few_stored_blocks(self):
        self.most = max(getattr(self, "most", 0), self.pool.num_used)
        assert NUM_BLOCKS - self.pool.num_fresh <= self.most + MAX_STORED

    @invariant()
    def equal_identities_mean_equal_text(self):
        known = {}
        for owner in self.alive:
            for i, identity in enumerate(owner.identities):
                start = tuple(owner.text[: (i + 1) * SIZE])
                assert known.setdefault(identity, start) == start

    @invariant()
    def tables_agree(self):
        assert {block: content for content, (_, block) in self.pool.by_content.items()} == self.pool.content_of


PoolMachine.TestCase.settings = settings(deadline=None, derandomize=True, max_examples=50, stateful_step_count=40)
TestPool = PoolMachine.TestCase


def stored(pool: BlockPool, text: list[int], salt: str = "") -> list[int]:
    """Store a text and release it; returns its blocks."""
    owner = Owner(pool, text, len(text) // SIZE, salt)
    for i in range(len(owner.identities), len(text) // SIZE):
        before = owner.identities[-1] if owner.identities else owner.salt
        owner.identities.append(pool.remember(owner.blocks[i], before, text[i * SIZE : (i + 1) * SIZE]))
    pool.release(owner.blocks)
    return owner.blocks


def test_the_least_recently_released_text_is_forgotten_first_and_from_its_end():
    pool = BlockPool(4, SIZE)
    old, new = [1, 1, 2, 2], [3, 3, 4, 4]
    stored(pool, old)
    stored(pool, new)
    assert [len(pool.find(text)[0]) for text in (old, new)] == [2, 2]
    pool.take([], 1)
    assert [len(pool.find(text)[0]) for text in (old, new)] == [1, 2]  # the end of the older text went first
    pool.take([], 1)
    assert [len(pool.find(text)[0]) for text in (old, new)] == [0, 2]


def test_blocks_without_content_are_reused_before_stored_ones():
    pool = BlockPool(4, SIZE)
    stored(pool, [1, 1, 2, 2])
    pool.release(pool.take([], 2))
    pool.take([], 2)
    assert len(pool.find([1, 1, 2, 2])[0]) == 2


def test_sharing_keeps_a_text_alive():
    pool = BlockPool(3, SIZE)
    stored(pool, [1, 1, 2, 2])
    shared, _ = pool.find([1, 1, 2, 2])
    held = pool.take(shared, 0)
    with pytest.raises(OutOfSlots):
        pool.take([], 2)
    assert pool.find([1, 1, 2, 2])[0] == held
    pool = BlockPool(2, SIZE)
    shared = stored(pool, [1, 1, 2, 2])
    with pytest.raises(OutOfSlots):  # shared blocks that are free do not count as room for new ones
        pool.take(shared, 1)


def test_a_block_is_found_only_behind_the_same_start():
    pool = BlockPool(6, SIZE)
    stored(pool, [1, 1, 2, 2])
    assert len(pool.find([9, 9, 2, 2])[0]) == 0
    assert len(pool.find([1, 1, 9, 9])[0]) == 1
    assert len(pool.find([2, 2])[0]) == 0
    assert pool.find([1])[0] == []


def test_salts_share_nothing():
    pool = BlockPool(8, SIZE)
    stored(pool, [1, 1, 2, 2], "one")
    assert [len(pool.find([1, 1, 2, 2], salt)[0]) for salt in ("one", "two", "")] == [2, 0, 0]
    stored(pool, [1, 1, 2, 2], "two")
    assert not set(pool.find([1, 1, 2, 2], "one")[0]) & set(pool.find([1, 1, 2, 2], "two")[0])


def test_blocks_without_memory_are_taken_only_while_few_texts_are_stored():
    pool = BlockPool(100, SIZE, max_stored=4)
    for number in range(30):
        stored(pool, [number, number, 7, 7])
        assert pool.num_blocks - pool.num_fresh <= 6
    assert [len(pool.find([number, number, 7, 7])[0]) for number in (29, 28, 0)] == [2, 2, 0]
    pool.take([], 100)  # the rest is there when it is needed
    assert pool.num_fresh == 0
    with pytest.raises(OutOfSlots):
        pool.take([], 1)
