"""Who may use the server: keys, other origins, and applications that mount it."""

from __future__ import annotations

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from http_tools import HELLO, ask, refusal
from server_tools import is_empty

from outpace.errors import BadInputError
from outpace.server import ServerSettings, create_app
from outpace.server.auth import read_keys


def test_keys(toy_llm, tmp_path):
    path = tmp_path / "keys"
    path.write_text("# two tenants\nfirst-key\n\nsecond-key\n", "utf-8")
    scopes = []
    submit = toy_llm.submit_all
    toy_llm.submit_all = lambda *args, **options: scopes.append(options["cache_salt"]) or submit(*args, **options)
    with TestClient(create_app(toy_llm, ServerSettings(api_keys=read_keys(path)))) as client:
        for key in (
            None,
            "",
            "Bearer",
            "Bearer ",
            "Bearer wrong",
            "Bearer first-key2",
            "first-key",
            "Basic first-key",
            "Bearer f\xfc".encode("latin-1"),
        ):
            error = refusal(client.post("/v1/chat/completions", headers={"Authorization": key} if key else {}, content=b"{"), 401)
            assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
        for key in ("first-key", "second-key", "first-key"):
            client.headers["Authorization"] = f"Bearer {key}"
            assert ask(client).status_code == 200
        del client.headers["Authorization"]
        assert [client.get(path).status_code for path in ("/health", "/version", "/", "/static/index.html")] == [200] * 4
        assert [client.get(path).status_code for path in ("/metrics", "/v1/models", "/openapi.json", "/v1/outpace/drafters")] == [401] * 4
    assert scopes[0] == scopes[2] != scopes[1]
    assert not any("key" in scope for scope in scopes)


@pytest.mark.parametrize("text", ["", "# nothing\n", "two words\n", "k\xe9y\n"])
def test_wrong_key_files(tmp_path, text):
    path = tmp_path / "keys"
    path.write_text(text, "utf-8")
    with pytest.raises(BadInputError):
        read_keys(path)
    with pytest.raises(BadInputError, match="cannot read"):
        read_keys(tmp_path / "none")


def test_other_origins_are_refused_unless_named(toy_llm):
    preflight = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    with TestClient(create_app(toy_llm)) as client:
        refusal(client.options("/v1/chat/completions", headers=preflight), 405)
        assert "access-control-allow-origin" not in client.get("/health", headers={"Origin": "https://a.example"}).headers
    settings = ServerSettings(cors_origins=("https://a.example",), api_keys=("k",))
    with TestClient(create_app(toy_llm, settings)) as client:
        assert client.options("/v1/chat/completions", headers=preflight).headers["access-control-allow-origin"] == "https://a.example"
        assert client.options("/v1/chat/completions", headers={**preflight, "Origin": "https://b.example"}).status_code == 400


def test_mounted_in_another_application(toy_llm):
    parent = FastAPI()
    mounted = create_app(toy_llm, ServerSettings(api_keys=("k",)))
    parent.mount("/llm", mounted)
    with TestClient(parent, headers={"Authorization": "Bearer k"}) as client:
        answer = client.post("/llm/v1/chat/completions", json={"messages": HELLO, "max_tokens": 4, "temperature": 0})
        assert answer.json()["usage"]["completion_tokens"] == 4
        assert client.get("/llm/").status_code == client.get("/llm/static/index.html").status_code == 200
        assert client.get("/llm/health", headers={"Authorization": ""}).status_code == 200
        refusal(client.get("/llm/v1/models", headers={"Authorization": ""}), 401)
    mounted.state.server.worker.stop()
    assert is_empty(toy_llm)
