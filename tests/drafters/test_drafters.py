"""Drafters: every one keeps the rules, prompt lookup finds what a rescan finds, and specs are read or refused clearly."""

import sys
from collections import Counter
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpace.drafters import DRAFTERS, prompt_lookup
from outpace.drafters.base import Drafter, DrafterContext
from outpace.drafters.none import NoDrafter
from outpace.drafters.spec import catalogue, create_drafter, load_class, parse_spec, ready_drafters, usage
from outpace.errors import BadInputError
from outpace.params import SamplingParams
from outpace.targets.base import Capabilities
from outpace.targets.toy import ToyTarget
from outpace.testing import OracleDrafter, SampledDrafter, check_drafter, generate, make_request, run
from outpace.tree.draft import EMPTY_DRAFT, Draft

FEW = settings(deadline=None, derandomize=True, max_examples=25)
VARIANTS = [
    "blind:tokens=frequent",
    "prompt_lookup:branches=3",
    "prompt_lookup:choose=frequent",
    "prompt_lookup:choose=recent:branches=1",
    "prompt_lookup:min_ngram=2",
    "prompt_lookup:branches=2:choose=frequent:max_ngram=4",
    "suffix:memory=200",
    "suffix:memory=20:scopes=1+recycling:pairs=7:scopes=1",
    "prompt_lookup+blind:tokens=frequent",
    "auto",
    "+".join(name for name in ready_drafters() if name != "auto"),
]
NEEDS_MORE = {name for name in DRAFTERS if name not in ("none", "blind", "prompt_lookup")}


def build(spec: str, **options):
    return lambda context: create_drafter(spec, context, **options)


# ---- conformance


@pytest.mark.parametrize("spec", [*ready_drafters(), *VARIANTS])
def test_every_drafter_keeps_the_rules(spec):
    try:
        create_drafter(spec, DrafterContext(ToyTarget()))
    except BadInputError as error:
        if spec in NEEDS_MORE:
            pytest.skip(f"{spec} does not run on the toy target: {error}")
        raise
    check_drafter(build(spec))


@pytest.mark.parametrize("spec", ["none", "blind", "blind:tokens=frequent", "prompt_lookup", "prompt_lookup:choose=frequent"])
def test_cheap_drafters_run_on_targets_without_trees(spec):
    check_drafter(build(spec), ToyTarget(sharpness=3.0, tree=False))


def test_the_sampled_drafter_keeps_the_rules():
    check_drafter(SampledDrafter)
    check_drafter(lambda context: SampledDrafter(context, width=3))


class Leaky(NoDrafter):
    def __init__(self, context):
        self.notes = {"by request": {}}

    def begin(self, request):
        self.notes["by request"][request.id] = len(request.token_ids)


class Hoarder(NoDrafter):
    def __init__(self, context):
        self.requests = []

    def propose(self, request, budget):
        self.requests.append((1, request))
        return EMPTY_DRAFT


class Greedy(NoDrafter):
    def propose(self, request, budget):
        return Draft.chain([1] * (budget + 1))


class Moody(NoDrafter):
    calls = 0

    def propose(self, request, budget):
        type(self).calls += 1
        return Draft.chain([self.calls % 7])


class Broken(NoDrafter):
    def observe(self, request, verdict, output):
        raise ZeroDivisionError("oh")


class Scribbler(NoDrafter):
    def propose(self, request, budget):
        request.token_ids.append(1)
        return EMPTY_DRAFT


@pytest.mark.parametrize(
    ("drafter", "message"),
    [
        (Leaky, "remembered in notes"),
        (Hoarder, "remembered in requests"),
        (Greedy, "budget"),
        (Moody, "drafted differently"),
        (Broken, "ZeroDivisionError"),
        (Scribbler, "changed the tokens of the request"),
    ],
)
def test_check_drafter_catches(drafter, message):
    with pytest.raises(AssertionError, match=message):
        check_drafter(drafter)


# ---- the oracle


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_oracle_is_accepted_to_every_depth(width, temperature):
    target, params = ToyTarget(), SamplingParams(temperature=temperature, max_tokens=480)
    answers = {(1, 2): generate(target, [[1, 2]], params)[0]}
    engine_depths = Counter()

    class Watched(OracleDrafter):
        def observe(self, request, verdict, output):
            engine_depths[len(verdict.path)] += 1

    drafter = Watched(DrafterContext(target), answers, lie=0.25, width=width)
    (request,) = run(target, [make_request(target, [1, 2], params, drafter, num_draft_tokens=8)])
    assert request.output_token_ids == answers[1, 2]
    deepest = 8 // width
    assert set(range(deepest)) <= set(engine_depths)
    assert max(engine_depths) <= 8


# ---- prompt lookup


def rescan(text, budget, max_ngram, min_ngram, choose, branches) -> Draft:
    """Prompt lookup as its description says, from scratch: for n = longest … shortest, what followed the last n tokens before?"""
    chosen: list[tuple[int, int]] = []  # (place, tokens to copy), one for each next token
    for n in range(min(max_ngram, len(text)), min_ngram - 1, -1):
        places = [end for end in range(n, len(text)) if text[end - n : end] == text[-n:]][-prompt_lookup.NUM_PLACES :]
        counts = Counter(text[place] for place in places)
        if choose == "frequent":
            places = sorted(places, key=lambda place: (counts[text[place]], place))
        for place in reversed(places):
            if len(chosen) < branches and text[place] not in [text[other] for other, _ in chosen]:
                chosen.append((place, prompt_lookup.BRANCH_LENGTH if chosen else 2 + 2 * n))
    token_ids, parents = [], []
    for place, length in chosen:
        parent, loop = -1, text[place:]
        for i in range(length):
            if len(token_ids) < budget:  # next tokens differ, so the branches share nothing
                token_ids.append(loop[i % len(loop)])
                parents.append(parent)
                parent = len(token_ids) - 1
    return Draft(token_ids, parents)


@FEW
@given(
    blocks=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=9), min_size=1, max_size=8),
    budget=st.integers(1, 12),
    ngrams=st.sampled_from([(3, 1), (1, 1), (4, 2), (2, 2)]),
    choose=st.sampled_from(["recent", "frequent"]),
    branches=st.integers(1, 4),
    is_tree=st.booleans(),
)
def test_prompt_lookup_equals_a_rescan(blocks, budget, ngrams, choose, branches, is_tree):
    target = ToyTarget(vocab_size=4, tree=is_tree)
    spec = f"prompt_lookup:max_ngram={ngrams[0]}:min_ngram={ngrams[1]}:choose={choose}:branches={branches}"
    drafter = create_drafter(spec, DrafterContext(target))
    request = make_request(target, blocks[0], drafter=drafter)
    drafter.begin(request)
    for block in [[], *blocks[1:]]:
        request.token_ids.extend(block)
        got = drafter.propose(request, budget)
        want = rescan(request.token_ids, budget, *ngrams, choose, branches if is_tree else 1)
        assert (list(got.token_ids), list(got.parents)) == (list(want.token_ids), list(want.parents))


def test_prompt_lookup_copies_what_followed_and_loops_past_the_end():
    target = ToyTarget()
    drafter = create_drafter("prompt_lookup:branches=1", DrafterContext(target))
    for prompt, want in ([1, 2, 9, 1, 2], [9, 1, 2, 9, 1]), ([4, 5, 6, 7, 8, 9, 4, 5], [6, 7, 8, 9, 4]), ([1, 2, 3], []), ([4], []):
        request = make_request(target, prompt, drafter=drafter)
        drafter.begin(request)
        assert list(drafter.propose(request, 5).token_ids) == want


def test_blind_guesses():
    target = ToyTarget(vocab_size=50)
    context = DrafterContext(target)
    request = make_request(target, [1, 2, 2, 3, 3, 3])
    drafter = create_drafter("blind:tokens=frequent", context)
    drafter.begin(request)
    draft = drafter.propose(request, 2)
    assert (list(draft.token_ids), list(draft.parents)) == ([3, 2], [-1, -1])
    tokens = create_drafter("blind", context).propose(request, 5).token_ids
    assert tokens != create_drafter("blind:seed=1", context).propose(request, 5).token_ids
    assert all(0 <= token < 50 for token in tokens)


# ---- specs


def test_specs_are_parsed():
    spec = parse_spec(" prompt_lookup:branches=3:choose=frequent ")
    assert spec.location == DRAFTERS["prompt_lookup"]
    assert spec.options == {"branches": "3", "choose": "frequent"}
    assert parse_spec("my.module:Mine:depth=2").location == "my.module:Mine"
    assert parse_spec("my.module:Mine:depth=2").options == {"depth": "2"}


@pytest.mark.parametrize("name", DRAFTERS)
def test_every_name_has_a_class(name):
    assert issubclass(load_class(parse_spec(name)), Drafter)


def test_the_catalogue_describes_every_name():
    entries = catalogue()
    assert [name for name, _, _ in entries] == [*DRAFTERS, "auto"]
    assert all(len(line) > 10 for _, line, _ in entries)
    assert {name: options for name, _, options in entries}["prompt_lookup"]["max_ngram"] == 3


def test_auto_stands_in_front():
    with pytest.raises(BadInputError, match="auto:a"):
        create_drafter("suffix+auto", DrafterContext(ToyTarget()))


def test_drafters_that_need_an_argument_are_no_whole_specs(plugin):
    assert usage("prompt_lookup") == "prompt_lookup"
    assert usage("draft_model") == "draft_model:PATH"
    assert "path" not in {name: options for name, _, options in catalogue()}["draft_model"]
    assert {"none", "suffix"} <= set(ready_drafters()) <= DRAFTERS.keys() - {"draft_model"} | {"auto"}

    def init(self, context, path, depth=2):
        self.options = (path, depth)

    plugin.__init__ = init
    drafter = create_drafter("someones_plugin:Mine:a:b:depth=5:c", DrafterContext(ToyTarget()))
    assert drafter.options == ("a:b:c", 5)
    with pytest.raises(BadInputError, match="needs a path: someones_plugin:Mine:PATH"):
        create_drafter("someones_plugin:Mine:depth=5", DrafterContext(ToyTarget()))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("promt_lookup", "unknown drafter 'promt_lookup'; known: none, blind, prompt_lookup"),
        ("", "unknown drafter"),
        ("prompt_lookup+", "unknown drafter ''"),
        ("prompt_lookup+nothing", "unknown drafter 'nothing'"),
        ("prompt_lookup:branches", "not of the form key=value"),
        ("none:branches", "not of the form key=value"),
        ("prompt_lookup:=3", "not of the form key=value"),
        ("prompt_lookup:depth=3", "no option 'depth'; it takes max_ngram"),
        ("prompt_lookup:branches=many", "branches must be int, not 'many'"),
        ("prompt_lookup:branches=0", "at least 1"),
        ("prompt_lookup:min_ngram=4", "min_ngram <= max_ngram"),
        ("prompt_lookup:min_ngram=0", "min_ngram <= max_ngram"),
        ("prompt_lookup:choose=best", "recent or frequent"),
        ("blind:tokens=none", "random or frequent"),
        ("none:x=1", "it takes no options"),
        ("no.such.module:Thing", "cannot import no.such.module:Thing"),
        ("outpace.params:Nothing", "cannot import outpace.params:Nothing"),
        ("outpace.tree.draft:Draft", "not a subclass"),
        ("outpace.drafters.spec:create_drafter", "not a subclass"),
    ],
)
def test_bad_specs_are_refused_in_one_line(spec, message):
    with pytest.raises(BadInputError) as caught:
        create_drafter(spec, DrafterContext(ToyTarget()))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def plugin(monkeypatch):
    """A user's module with one drafter."""

    class Mine(NoDrafter):
        requires = Capabilities(tree=True)

        def __init__(self, context, depth=2, loud=False, rate=0.5, path="here", other=None):
            self.options = (depth, loud, rate, path, other)

    module = ModuleType("someones_plugin")
    module.Mine = Mine
    monkeypatch.setitem(sys.modules, "someones_plugin", module)
    return Mine


def test_module_and_class(plugin):
    drafter = create_drafter("someones_plugin:Mine:depth=5:loud=yes:rate=0.25:path=a/b:other=x", DrafterContext(ToyTarget()))
    assert isinstance(drafter, plugin)
    assert drafter.options == (5, True, 0.25, "a/b", "x")
    with pytest.raises(BadInputError, match="needs a target with 'tree'"):
        create_drafter("someones_plugin:Mine", DrafterContext(ToyTarget(tree=False)))


def test_entry_points(plugin, monkeypatch):
    points = [EntryPoint("mine", "someones_plugin:Mine", "outpace.drafters")]
    monkeypatch.setattr("outpace.drafters.spec.entry_points", lambda group: points if group == "outpace.drafters" else [])
    drafter = create_drafter("mine:depth=7", DrafterContext(ToyTarget()))
    assert isinstance(drafter, plugin)
    assert drafter.options[0] == 7
    with pytest.raises(BadInputError, match=r"known: none, blind, prompt_lookup.*, mine, or module:Class"):
        parse_spec("thine")


def test_a_method_of_a_mixin_that_is_not_inherited_is_noticed():
    class Lost(NoDrafter):
        def successors(self, request, path):
            return ()

    with pytest.raises(AssertionError, match=r"has successors\(\) but does not inherit SuccessorSource"):
        check_drafter(Lost)
