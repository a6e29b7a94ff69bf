"""A running server's metrics and logs, and the dashboard that shows them."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from secondlook.service.http.keys import new_key
from tests.e2e.conftest import Server
from tests.images_for_tests import make_image

Serve = Callable[..., Server]
DASHBOARD = json.loads(
    (Path(__file__).parents[2] / "docker" / "grafana" / "dashboards" / "secondlook.json").read_text()
)
WORDS = {"and", "or", "unless", "bool", "offset"}
GROUP = r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)"


def expressions() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel.get("targets", []))
    yield from (annotation["expr"] for annotation in DASHBOARD["annotations"]["list"])
    for variable in DASHBOARD["templating"]["list"]:
        # label_values(metric, label) is Grafana's own: the same as an aggregation by that label.
        yield re.sub(r"label_values\((\w+), (\w+)\)", r"count by (\2) (\1)", variable["query"])


def metrics_and_labels(expression: str) -> tuple[set[str], set[str]]:
    """The metrics that an expression reads, and the labels that it selects or groups by."""
    labels = set(re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"', expression))
    bare = re.sub(r'"[^"]*"|\[[^\]]*\]', "", expression)
    for group in re.findall(GROUP, bare):
        labels |= set(re.findall(r"\w+", group))
    bare = re.sub(r"\{[^}]*\}|" + GROUP, "", bare)
    return set(re.findall(r"\b[a-zA-Z_:]\w*\b(?!\s*\()", bare)) - WORDS, labels


def test_what_the_dashboard_names_is_found() -> None:
    assert metrics_and_labels('sum by (le, a) (rate(m_x{b=~"$c",d="sum"}[$__rate_interval])) / on (a) n > 0') == (
        {"m_x", "n"},
        {"le", "a", "b", "d"},
    )
    found = [metrics_and_labels(expression)[0] for expression in expressions()]
    assert len(found) > 25
    assert all(found)


def test_every_metric_and_label_of_the_dashboard_is_exposed(serve: Serve, tiny_bundle: Path) -> None:
    server = serve(bundles=tiny_bundle)
    for content in (make_image("red"), b"no image"):
        httpx.post(f"{server.url}/v1/predict", files={"file": ("a.png", content)}, timeout=30)
    exposed: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(httpx.get(f"{server.url}/metrics").text):
        for sample in family.samples:
            exposed.setdefault(sample.name, set()).update(sample.labels)
    for expression in expressions():
        metrics, labels = metrics_and_labels(expression)
        assert metrics <= exposed.keys(), expression
        # Prometheus adds these two to all that it collects.
        assert labels <= {"instance", "job"}.union(*(exposed[name] for name in metrics)), expression
    # And the other way round: what is counted and never shown is not watched.
    shown = set().union(*(metrics_and_labels(expression)[0] for expression in expressions()))
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exposed if name.startswith("secondlook_")}
    assert families <= {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}


def lines(server: Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log.read_text().splitlines()]


def test_every_line_of_a_servers_life_is_an_object(serve: Serve, tiny_bundle: Path, tmp_path: Path) -> None:
    secret, key = new_key("alice", "admin")
    (tmp_path / "keys").write_text(key.line)
    server = serve(log="json", bundles=tiny_bundle, keys_file=tmp_path / "keys")
    hostile = 'x"}\n{"level":"CRITICAL"}\x1b[31m.png'
    httpx.post(f"{server.url}/v1/predict", files={"file": (hostile, b"no image")}, headers={"X-Request-ID": "ours"})
    httpx.get(f"{server.url}/%0d%0aforged", headers={"X-Request-ID": 'a b"}', "User-Agent": "evil"})
    answered = httpx.get(f"{server.url}/v1/admin/jobs", headers={"Authorization": f"Bearer {secret}"})
    assert server.stop() == 0
    written = lines(server)
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in written)
    assert {line["level"] for line in written} <= {"INFO", "WARNING"}
    first, second, third = (line for line in written if line["logger"] == "secondlook.service.http.access_log")
    assert (first["request_id"], first["status"], first["problem"]) == ("ours", 400, "undecodable-image")
    assert (second["status"], second["route"]) == (404, None)
    assert re.fullmatch("[0-9a-f]{32}", second["request_id"])
    assert (third["key"], third["request_id"]) == ("alice", answered.headers["x-request-id"])
    assert secret not in server.log.read_text()


def test_text_is_one_line_for_each_request(serve: Serve, tiny_bundle: Path) -> None:
    server = serve(bundles=tiny_bundle)
    httpx.get(f"{server.url}/v1/model", headers={"X-Request-ID": "ours"})
    assert server.stop() == 0
    logger = r"secondlook\.service\.http\.access_log"
    line = rf"^\S+Z INFO {logger} answered request_id=ours method=GET route=/v1/model status=200 ms=[\d.]+$"
    assert len(re.findall(line, server.log.read_text(), re.MULTILINE)) == 1


@pytest.mark.parametrize("content", [None, "alice admin nonsense"])
def test_a_wrong_file_of_keys_is_one_sentence_and_exit_2(
    tiny_bundle: Path, tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "keys").write_text(content)
    result = subprocess.run(
        [sys.executable, "-m", "secondlook", "serve", "--bundles", str(tiny_bundle), "--port", "0"],
        env={"SECONDLOOK_KEYS_FILE": str(tmp_path / "keys")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    (sentence,) = re.findall("^Error: (.*)$", result.stderr, re.MULTILINE)
    assert str(tmp_path / "keys") in sentence
    assert "nonsense" not in sentence


def test_the_command_makes_a_key_that_opens(serve: Serve, tiny_bundle: Path, tmp_path: Path) -> None:
    made = {}
    for name, options in (("alice", []), ("robot", ["--predict"])):
        command = [sys.executable, "-m", "secondlook", "key", name, *options]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        with (tmp_path / "keys").open("a") as file:
            file.write(result.stdout)
        made[name] = result.stderr.split()[-1]
    server = serve(bundles=tiny_bundle, keys_file=tmp_path / "keys")

    def status(method: str, path: str, key: str) -> int:
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "image/png"}
        return httpx.request(method, server.url + path, headers=headers, content=make_image("red")).status_code

    assert status("POST", "/v1/predict", made["robot"]) == status("POST", "/v1/predict", made["alice"]) == 200
    assert status("GET", "/v1/admin/jobs", made["alice"]) == 200
    assert status("GET", "/v1/admin/jobs", made["robot"]) == 403
    assert status("POST", "/v1/predict", "slk_other") == 403
