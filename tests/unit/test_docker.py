"""What the Compose file promises of every container, and that what it mounts is there."""

import re
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml

from secondlook.model.stores.milvus_store import MilvusIndex
from secondlook.service.settings import settings_table

ROOT = Path(__file__).parents[2]
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


OURS = {name for name, service in SERVICES.items() if "build" in service}
CLUSTER = {name for name, service in SERVICES.items() if service.get("profiles") == ["cluster"]}


@pytest.mark.parametrize("name", SERVICES)
def test_no_root_no_capabilities_no_writable_root_and_only_this_machine(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    if "build" in service:
        dockerfile = (ROOT / service["build"]["dockerfile"]).read_text()
        assert "\nUSER 10001\n" in dockerfile
        assert "user" not in service
    else:
        assert re.search(r":(v?\d+\.\d+\.\d+|RELEASE\.[\dTZ-]+)$", service["image"])  # not whatever is latest
        if name == "volumes":
            assert service["cap_add"] == ["CHOWN"]
            assert service["network_mode"] == "none"
            assert service["entrypoint"][0] == "chown"
        else:
            assert int(service["user"].partition(":")[0]) > 0
            assert "cap_add" not in service
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:")


def test_what_is_mounted_is_there() -> None:
    mounted = [
        volume for service in SERVICES.values() for volume in service["volumes"] if volume.startswith("./docker")
    ]
    assert len(mounted) == 5
    for volume in mounted:
        source, _, mode = volume.split(":")
        assert (ROOT / source).exists()
        assert mode == "ro"


def test_every_setting_given_is_one() -> None:
    known = set(re.findall(r"`(SECONDLOOK_\w+)`", settings_table()))
    for name in OURS:
        assert set(SERVICES[name].get("environment", {})) <= known


def test_every_image_is_built_from_a_lock_file_that_is_there() -> None:
    for name in OURS:
        dockerfile = (ROOT / SERVICES[name]["build"]["dockerfile"]).read_text()
        default = re.search(r"^(?:ARG LOCK=|COPY locks/)(\w+\.txt)", dockerfile, re.MULTILINE)
        assert default is not None
        lock = SERVICES[name]["build"].get("args", {}).get("LOCK", default.group(1))
        locked = (ROOT / "locks" / lock).read_text()
        assert "\nfaiss" in locked
        assert ("\npymilvus==" in locked) == (name in CLUSTER)


def test_a_cluster_has_one_server_that_changes_anything_and_volumes_of_its_own() -> None:
    assert {"primary", "replica", "balancer", "milvus", "etcd", "minio", "volumes"} == CLUSTER
    primary, replica = SERVICES["primary"], SERVICES["replica"]
    assert "SECONDLOOK_REPLICA" not in primary["environment"]
    assert "deploy" not in primary
    assert replica["environment"]["SECONDLOOK_REPLICA"] == "true"
    assert replica["deploy"]["replicas"] == 2
    assert "cluster:/bundles" in primary["volumes"]
    assert "cluster:/bundles:ro" in replica["volumes"]
    shared = [name for name, service in SERVICES.items() if any(v.startswith("cluster:") for v in service["volumes"])]
    assert set(shared) == {"primary", "replica"}
    assert [name for name in CLUSTER if "ports" in SERVICES[name]] == ["balancer"]


def test_a_cluster_starts_from_the_stores_up_when_each_is_healthy() -> None:
    def before(name: str) -> set[str]:
        needed = SERVICES[name].get("depends_on", {})
        for other, how in needed.items():
            ends = SERVICES[other].get("restart") == "no"
            assert how["condition"] == ("service_completed_successfully" if ends else "service_healthy")
            # The servers' images bring their own.
            assert ends or other in OURS or "healthcheck" in SERVICES[other]
        return set(needed).union(*(before(other) for other in needed))

    assert before("balancer") == CLUSTER - {"balancer"}


def test_no_password_is_in_the_file_and_none_is_asked_for_without_the_cluster() -> None:
    for name in CLUSTER:
        for variable, value in SERVICES[name].get("environment", {}).items():
            if re.search("TOKEN|PASSWORD|SECRET|KEY", variable) and not variable.endswith("FILE"):
                assert re.fullmatch(r"\$\{SECONDLOOK_\w+:-\}", value), variable


@pytest.mark.parametrize(
    ("name", "given", "asked"),
    [
        ("milvus", {"SECONDLOOK_MILVUS_TOKEN": ""}, "SECONDLOOK_MILVUS_TOKEN"),
        ("milvus", {"SECONDLOOK_MILVUS_TOKEN": "root:"}, "SECONDLOOK_MILVUS_TOKEN"),
        ("minio", {"MINIO_ROOT_USER": "me", "MINIO_ROOT_PASSWORD": ""}, "SECONDLOOK_MINIO_PASSWORD"),
        ("minio", {"MINIO_ROOT_USER": "", "MINIO_ROOT_PASSWORD": "long enough"}, "SECONDLOOK_MINIO_USER"),
    ],
)
def test_a_store_without_a_password_says_so_and_does_not_start(name: str, given: dict[str, str], asked: str) -> None:
    ended = started(name, given)
    assert ended.returncode != 0
    assert asked in ended.stderr
    assert ended.stdout == ""


def test_a_store_starts_with_the_password_given() -> None:
    ended = started("milvus", {"SECONDLOOK_MILVUS_TOKEN": "root:a:b c"})
    assert ended.stdout.split("\n")[:2] == ["run standalone", "a:b c"], ended.stderr
    assert "SECONDLOOK_MILVUS_TOKEN" not in ended.stdout
    ended = started("minio", {"MINIO_ROOT_USER": "me", "MINIO_ROOT_PASSWORD": "long enough"})
    assert ended.stdout.startswith("server /minio\n"), ended.stderr


def started(name: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """What the service's entrypoint comes to, where its program only tells what it was given."""
    with TemporaryDirectory() as folder:
        program = Path(folder, name)
        program.write_text('#!/bin/sh\necho "$*"\necho "$COMMON_SECURITY_DEFAULTROOTPASSWORD"\nenv\n')
        program.chmod(0o755)
        command = [part.replace("$$", "$") for part in SERVICES[name]["entrypoint"]]
        path = f"{folder}:/usr/bin:/bin"
        return subprocess.run(command, env=environment | {"PATH": path}, capture_output=True, text=True)


def test_the_stores_in_the_document_are_some() -> None:
    named = re.findall(r"--store milvus:(\S+)", (ROOT / "docs/cluster.md").read_text())
    assert len(named) == 2
    assert {MilvusIndex.of(factory).kind for factory in named} == {"HNSW"}


def test_grafana_asks_the_prometheus_that_asks_the_server() -> None:
    scraped = yaml.safe_load((ROOT / "docker/prometheus/prometheus.yml").read_text())["scrape_configs"][0]
    (found,) = scraped["dns_sd_configs"]
    assert set(found["names"]) == OURS
    published = [port for name in OURS for port in SERVICES[name].get("ports", [])]
    assert len(published) == 2
    assert all(port.endswith(f":{found['port']}") for port in published)
    source = yaml.safe_load((ROOT / "docker/grafana/provisioning/datasources/prometheus.yml").read_text())
    (prometheus,) = source["datasources"]
    assert prometheus["url"] == "http://prometheus:9090"
    assert SERVICES["prometheus"]["ports"] == ["127.0.0.1:9090:9090"]
    provider = yaml.safe_load((ROOT / "docker/grafana/provisioning/dashboards/secondlook.yml").read_text())
    (folder,) = (one["options"]["path"] for one in provider["providers"])
    assert f"./docker/grafana/dashboards:{folder}:ro" in SERVICES["grafana"]["volumes"]


@pytest.mark.parametrize("dockerfile", sorted((ROOT / "docker").glob("*.Dockerfile")), ids=lambda path: path.name)
def test_what_an_image_is_made_of_is_not_ignored(dockerfile: Path) -> None:
    first, *allowed = (ROOT / ".dockerignore").read_text().split()
    assert first == "*"
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile.read_text(), re.MULTILINE):
        for source in sources.split():
            assert f"!{source.partition('/')[0]}" in allowed
    for room in (ROOT / "secondlook").iterdir():
        if room.is_symlink():
            assert f"COPY {room.name} {room.name}\n" in dockerfile.read_text()
