"""Which drafters a client may name, what the server shows of them, and that tenants learn nothing about each other."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient
from server_tools import is_empty

from outpace.controller.adaptive import AdaptiveController
from outpace.drafters.spec import catalogue, ready_drafters, usage
from outpace.errors import BadInputError
from outpace.server import ServerSettings, create_app
from outpace.server.policy import OPTIONS, shown

HELLO = [{"role": "user", "content": "abc abc abc"}]


def ask(client: TestClient, speculative=None, **fields):
    more = {} if speculative is None else {"speculative": speculative}
    return client.post("/v1/chat/completions", json={"messages": HELLO, "max_tokens": 60, "temperature": 0, **more, **fields})


def used(client: TestClient, speculative=None, **fields) -> dict:
    response = ask(client, speculative, **fields)
    assert response.status_code == 200, response.text
    return response.json()["speculative"]


def refused(client: TestClient, speculative) -> str:
    response = ask(client, speculative)
    assert response.status_code == 400, response.text
    return response.json()["error"]["message"]


@pytest.fixture
def client(make_toy):
    llm = make_toy("prompt_lookup", toy={"seed": 1})
    llm.strategy("auto")
    with TestClient(create_app(llm)) as client:
        yield client
    assert is_empty(llm)


@pytest.mark.parametrize("speculative", ["auto", "auto:prompt_lookup"])
def test_auto_gives_the_plain_text(client, speculative):
    body = {"messages": [{"role": "user", "content": "abc abc abc"}], "max_tokens": 80, "temperature": 0.8, "seed": 3}
    plain, fast = (client.post("/v1/chat/completions", json={**body, "speculative": s}).json() for s in (False, speculative))
    assert plain["choices"] == fast["choices"]
    assert fast["speculative"]["drafter"] == speculative  # how much it drafts is the machine's affair


def test_what_is_listed_works(client):
    entries = client.get("/v1/outpace/drafters").json()
    assert [entry["name"] for entry in entries] == ready_drafters()
    assert all(entry.keys() == {"name", "usage", "description", "options", "default"} for entry in entries)
    assert all(entry["usage"] == usage(entry["name"]) for entry in entries)
    assert "draft_model" not in {entry["name"] for entry in entries}
    for entry in entries:
        assert used(client, entry["name"])["drafter"] == entry["name"]
        for key, value in entry["options"].items():
            assert used(client, f"{entry['name']}:{key}={value}")["drafter"].startswith(entry["name"])


def test_every_option_has_been_judged():
    """A new option is not available to requests until it is in OPTIONS; this list shows that somebody has reviewed it."""
    closed = {(name, key) for name, _, options in catalogue() for key in options if key not in OPTIONS.get(name, {})}
    in_draft_model = {pair for pair in closed if pair[0] == "draft_model"}  # loads a model: not open at all
    kept = {
        ("medusa", "path"),
        ("eagle", "path"),
        ("blanks", "path"),
        ("suffix", "memory"),
        ("suffix", "scopes"),
        ("suffix", "file"),
        ("recycling", "pairs"),
        ("recycling", "scopes"),
        ("recycling", "table"),
    }
    assert closed - in_draft_model == kept | {("blanks", "blank")}
    assert all(set(keys) <= options.keys() for name, _, options in catalogue() for keys in [OPTIONS.get(name, {})])


@pytest.mark.parametrize(
    "spec",
    [
        "suffix:memory=64",
        "suffix:memory=1000000",
        "suffix:memory=4:file=5",
        "suffix:file=true",
        "suffix:scopes=2",
        "recycling:pairs=1",
        "recycling:scopes=1",
        "recycling:successors=17",
        "prompt_lookup:max_ngram=17",
        "prompt_lookup:choose=best",
        "prompt_lookup:5",
        "prompt_lookup:branches",
        "blanks:blank=5",
        "blanks:count=33",
        "draft_model",
        "draft_model:self",
        "draft_model:self:2",
        "draft_model:/etc",
        "os:system",
        "auto:os:system",
        "auto:suffix:file=5",
        "auto:suffix:memory=4+recycling",
        "auto:auto",
        "auto:suffix+auto",
        "suffix+auto",
        "auto+suffix",
        "auto:suffix+",
        "recycling+recycling:threshold=0.1",
        "auto:recycling+suffix+recycling",
        "suffix+",
        "+",
        " suffix:memory=4",
        "none+suffix+blind+prompt_lookup+lookahead",
    ],
)
def test_what_touches_files_models_or_memory_is_closed(client, spec):
    refused(client, spec)
    refused(client, {"method": spec})


def test_auto_is_open_and_adapts(client):
    llm = client.app.state.server.llm
    plain = ask(client, False).json()["choices"]
    for spec in ("auto", "auto:suffix+prompt_lookup", "auto:recycling:successors=4", "auto:blind:tokens=frequent+suffix"):
        response = ask(client, spec).json()
        assert (response["speculative"]["drafter"], response["choices"]) == (spec, plain)
    controllers = {config.method: built.controller for config, built in llm.strategies.kept.items()}
    assert isinstance(controllers["auto:suffix+prompt_lookup"], AdaptiveController)


def test_auto_waits_for_its_measurement_before_the_first_request(make_toy, monkeypatch):
    llm = make_toy()
    with TestClient(create_app(llm)) as client:  # the toy tells no fingerprint
        assert "not ready" in refused(client, "auto:suffix")
        assert "auto" not in {entry["name"] for entry in client.get("/v1/outpace/drafters").json()}
    llm = make_toy()
    llm.target.fingerprint = "toy"
    costs, measured = make_toy("auto").strategies.costs, []
    monkeypatch.setattr("outpace.controller.factory.cost_of", lambda target, *_: measured.append(target) or costs)
    app = create_app(llm)
    assert measured == [llm.target]
    with TestClient(app) as client:
        assert used(client, "auto")["drafter"] == "auto"
    assert measured == [llm.target]


def test_what_the_operator_named_is_open_in_parts_too(make_toy):
    llm = make_toy("auto:suffix:memory=4096+recycling")
    with TestClient(create_app(llm, ServerSettings(allowed_drafters=("recycling:pairs=100+suffix",)))) as client:
        for spec in ("suffix:memory=4096", "auto:suffix:memory=4096+blind", "recycling:pairs=100", "recycling:pairs=100+suffix"):
            assert used(client, spec)["drafter"] == spec
        refused(client, "suffix:memory=4097")
    with pytest.raises(BadInputError, match="no option"):
        create_app(make_toy(), ServerSettings(allowed_drafters=("suffix:sharpness=5",)))


def test_no_path_is_told(make_toy, tmp_path):
    spec = f"suffix:memory=4096:file={tmp_path / 'answers'}"
    llm = make_toy(spec)
    with TestClient(create_app(llm)) as client:
        assert used(client)["drafter"] == "suffix:memory=4096"
        responses = [
            ask(client, {"sources": True}),
            ask(client, {"trace": True}, stream=True),
            ask(client, "magic"),
            ask(client, "magic:a"),
        ]
        responses += [ask(client, spec), client.get("/v1/outpace/drafters"), client.get("/metrics")]
        for response in responses:
            assert str(tmp_path) not in response.text
    assert (
        shown("suffix:threshold=0.1:file=a/b+draft_model:/models/x:branches=2+m.n:C") == "suffix:threshold=0.1+draft_model:branches=2+m.n:C"
    )
    assert shown("draft_model:../x+draft_model:org/name+x:key=~/y") == "draft_model+draft_model:org/name+x"


@pytest.mark.parametrize("drafter", ["suffix:memory=4096", "recycling", "suffix:memory=4096+recycling"])
def test_tenants_learn_nothing_from_each_other(make_toy, drafter):
    """A tenant's second answer profits from its first; another tenant's first answer is drafted as on a new server."""
    llm = make_toy(drafter, toy={"seed": 1})
    keys = [{"Authorization": f"Bearer {key}"} for key in ("first", "second")]
    with TestClient(create_app(llm, ServerSettings(api_keys=("first", "second")))) as client:

        def told(headers) -> tuple:
            body = {"messages": HELLO, "max_tokens": 60, "temperature": 0, "speculative": {"sources": True}}
            found = client.post("/v1/chat/completions", json=body, headers=headers).json()["speculative"]
            return found["num_steps"], found["num_draft_tokens"], found["num_accepted_tokens"], found["sources"]

        alone = told(keys[0])
        again = told(keys[0])
        other = told(keys[1])
        assert other == alone
        assert again[0] < alone[0] / 2
        assert told(keys[1]) == again
