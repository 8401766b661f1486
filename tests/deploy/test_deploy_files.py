"""The files in deploy/ are well formed, name options that exist, and ask for metrics that are there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from outpace.cli import app

yaml = pytest.importorskip("yaml")
DEPLOY = Path(__file__).parents[2] / "deploy"
MONITORING = DEPLOY / "monitoring"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file())
YAML = [path for path in FILES if path.suffix == ".yaml"]
# of vLLM 0.32, the metrics that the dashboard and the alerts use
VLLM = {
    "num_requests_running",
    "num_requests_waiting",
    "kv_cache_usage_perc",
    "prompt_tokens_total",
    "generation_tokens_total",
    "num_preemptions_total",
    "request_success_total",
    "time_to_first_token_seconds_bucket",
    "inter_token_latency_seconds_bucket",
    "e2e_request_latency_seconds_bucket",
    "request_queue_time_seconds_bucket",
    "spec_decode_num_drafts_total",
    "spec_decode_num_draft_tokens_total",
    "spec_decode_num_accepted_tokens_total",
    "spec_decode_num_accepted_tokens_per_pos_total",
}


def documents(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text("utf-8")))


def serve_options() -> set[str]:
    return {option for parameter in typer.main.get_command(app).commands["serve"].params for option in parameter.opts}


@pytest.fixture
def metrics(make_toy) -> set[str]:
    """The names of a server's metrics, without the prefix, after a request that drafted and one that was refused."""
    testclient = pytest.importorskip("fastapi.testclient")
    from outpace.server import create_app

    with testclient.TestClient(create_app(make_toy(toy={"sharpness": 6.0, "seed": 5}))) as client:
        body = {"messages": [{"role": "user", "content": "abcabcabc"}], "max_tokens": 100, "temperature": 0}
        assert client.post("/v1/chat/completions", json=body).status_code == 200
        assert client.post("/v1/chat/completions", json={}).status_code == 400
        text = client.get("/metrics").text
    return {name.removeprefix("outpace:") for name in re.findall(r"^(outpace:\w+)", text, re.MULTILINE)}


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_yaml_files_parse(path):
    assert all(isinstance(document, dict) for document in documents(path))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_registry_host_is_named(path):
    images = re.findall(r"(?:image: |FROM )(\S+)", path.read_text("utf-8"))
    assert not [image for image in images if "." in image.partition("/")[0] and "/" in image]


def test_compose():
    (compose,) = documents(DEPLOY / "compose.yaml")
    services = compose["services"]
    assert {name: service["profiles"] for name, service in services.items()} == {
        "outpace": ["outpace"],
        "vllm": ["vllm"],
        "prometheus": ["monitoring"],
        "grafana": ["monitoring"],
    }
    used = {word for word in services["outpace"]["command"] if word.startswith("--")}
    assert used <= serve_options()
    config = json.loads(services["vllm"]["command"][services["vllm"]["command"].index("--speculative-config") + 1])
    assert config == {"method": "custom_class", "model": "outpace.vllm.Proposer", "num_speculative_tokens": 8}
    for service in services.values():
        for mount in service.get("volumes", ()):
            source = mount.partition(":")[0]
            assert (DEPLOY / source).is_file() if source.startswith(".") else source in compose["volumes"], mount
        assert set(service.get("secrets", ())) <= compose["secrets"].keys()
        if "build" in service:
            assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    assert all(port.startswith("127.0.0.1:") for service in services.values() for port in service["ports"])


@pytest.mark.parametrize("name", ["Dockerfile", "vllm.Dockerfile"])
def test_what_an_image_copies_is_enough_to_install(name, tmp_path):
    """The package's metadata can be made from the copied files alone."""
    pytest.importorskip("hatchling")
    for sources, target in re.findall(r"^COPY (?!--)(.+) /src/(\S*)$", (DEPLOY / name).read_text("utf-8"), re.MULTILINE):
        for source in sources.split():
            place = tmp_path / target if target and not target.endswith("/") else tmp_path / target / Path(source).name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(DEPLOY.parent / source)
    done = subprocess.run([sys.executable, "-m", "hatchling", "metadata", "name"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "outpace"), done.stderr


def containers(path: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(the spec of a pod, a container of it)."""
    for document in documents(path):
        spec = document.get("spec", {})
        pod = spec.get("template", {}).get("spec") or spec.get("predictor")
        for container in pod["containers"] if pod else ():
            yield pod, container


@pytest.mark.parametrize("name", ["kubernetes.yaml", "kserve.yaml"])
def test_pods(name):
    found = list(containers(DEPLOY / name))
    assert found
    for pod, container in found:
        assert {word for word in container["args"] if word.startswith("--")} <= serve_options()
        assert {mount["name"] for mount in container["volumeMounts"]} <= {volume["name"] for volume in pod["volumes"]}
        assert container["readinessProbe"]["httpGet"]["path"] == "/health"
        threads = container["args"][container["args"].index("--threads") + 1]
        assert container["resources"]["limits"]["cpu"] == threads


def test_a_pod_has_the_time_to_finish_its_requests():
    documents_of = {document["kind"]: document for document in documents(DEPLOY / "kubernetes.yaml")}
    pod = documents_of["Deployment"]["spec"]["template"]["spec"]
    args = pod["containers"][0]["args"]
    assert int(args[args.index("--shutdown-timeout") + 1]) < pod["terminationGracePeriodSeconds"]
    labels = documents_of["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert documents_of["Service"]["spec"]["selector"] == labels == documents_of["Deployment"]["spec"]["selector"]["matchLabels"]
    assert documents_of["Service"]["spec"]["ports"][0]["targetPort"] == pod["containers"][0]["ports"][0]["name"]
    claims = {volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume}
    assert claims == {documents_of["PersistentVolumeClaim"]["metadata"]["name"]}


def test_prometheus_reads_the_alerts_from_the_services_of_compose():
    (prometheus,) = documents(MONITORING / "prometheus.yaml")
    (compose,) = documents(DEPLOY / "compose.yaml")
    assert prometheus["rule_files"] == ["alerts.yaml"]
    for job in prometheus["scrape_configs"]:
        for target in job["static_configs"][0]["targets"]:
            host, _, port = target.partition(":")
            assert compose["services"][host]["ports"][0].endswith(f":{port}")


def expressions() -> Iterator[tuple[str, str]]:
    """(where it stands, a query) of all alerts and panels."""
    (rules,) = documents(MONITORING / "alerts.yaml")
    for group in rules["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    for panel in json.loads((MONITORING / "dashboard.json").read_text("utf-8"))["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def names_in(expression: str, engine: str) -> set[str]:
    """The metrics of an engine that a query reads, without the prefix."""
    text = expression.replace("${engine}", engine)
    found = set(re.findall(rf"\b{engine}:(\w+)", text))
    for prefix, names in re.findall(r'__name__=~"([^:"]*):([^"]*)"', text):
        if re.fullmatch(prefix, engine):
            head, options, tail = re.fullmatch(r"(\w*)(?:\(([\w|]+)\))?(\w*)", names).groups()
            found -= {head}
            found |= {f"{head}{option}{tail}" for option in (options or "").split("|")}
    return found


def test_queries_ask_for_metrics_that_the_server_has(metrics):
    """A query that allows several names needs one of them."""
    for where, expression in expressions():
        wanted = names_in(expression, "outpace")
        if wanted:
            assert wanted & metrics if "token_latency" in expression else wanted <= metrics, (where, wanted - metrics)
    assert sum(len(names_in(expression, "outpace")) for _, expression in expressions()) > 20


def test_queries_ask_for_metrics_that_vllm_has():
    for where, expression in expressions():
        wanted = names_in(expression, "vllm")
        if wanted:
            assert wanted & VLLM if "token_latency" in expression else wanted <= VLLM, (where, wanted - VLLM)


def test_names_in_a_query():
    assert names_in('rate(outpace:a_total[5m]) + {__name__=~"(outpace|vllm):b"}', "outpace") == {"a_total", "b"}
    assert names_in('rate(outpace:a_total[5m]) + {__name__=~"(outpace|vllm):b"}', "vllm") == {"b"}
    assert names_in('{__name__=~"${engine}:(c|d)_bucket"}', "vllm") == {"c_bucket", "d_bucket"}


def test_alerts_say_what_to_do():
    (rules,) = documents(MONITORING / "alerts.yaml")
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert rule["annotations"]["summary"]
        assert rule["expr"].count("(") == rule["expr"].count(")")
    for _, expression in expressions():
        assert expression.count("{") == expression.count("}")


def test_the_dashboard_can_be_provisioned():
    dashboard = json.loads((MONITORING / "dashboard.json").read_text("utf-8"))
    assert {"uid", "title", "panels", "schemaVersion", "templating"} <= dashboard.keys()
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]}
    assert len(places) == len(ids)
    known = {variable["name"] for variable in dashboard["templating"]["list"]} | {"__rate_interval"}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard["panels"])))
    assert used <= known
