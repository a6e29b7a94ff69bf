"""What the Compose file promises of every container, and that what it mounts is there."""

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


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
    else:
        assert int(service["user"].partition(":")[0]) > 0
        assert service["image"].rpartition(":")[2][:1] in "v0123456789"  # one version, not whatever is latest
    for port in service["ports"]:
        assert port.startswith("127.0.0.1:")


def test_what_is_mounted_is_there() -> None:
    mounted = [
        volume for service in SERVICES.values() for volume in service["volumes"] if volume.startswith("./docker")
    ]
    assert len(mounted) == 3
    for volume in mounted:
        source, _, mode = volume.split(":")
        assert (ROOT / source).exists()
        assert mode == "ro"


def test_grafana_asks_the_prometheus_that_asks_the_server() -> None:
    scraped = yaml.safe_load((ROOT / "docker/prometheus/prometheus.yml").read_text())["scrape_configs"][0]
    (found,) = scraped["dns_sd_configs"]
    assert set(found["names"]) == {name for name, service in SERVICES.items() if "build" in service}
    assert all(SERVICES[name]["ports"][0].endswith(f":{found['port']}") for name in found["names"])
    source = yaml.safe_load((ROOT / "docker/grafana/provisioning/datasources/prometheus.yml").read_text())
    (prometheus,) = source["datasources"]
    assert prometheus["url"] == "http://prometheus:9090"
    assert SERVICES["prometheus"]["ports"] == ["127.0.0.1:9090:9090"]
    provider = yaml.safe_load((ROOT / "docker/grafana/provisioning/dashboards/secondlook.yml").read_text())
    (folder,) = (one["options"]["path"] for one in provider["providers"])
    assert f"./docker/grafana/dashboards:{folder}:ro" in SERVICES["grafana"]["volumes"]
