"""The Kubernetes manifests: valid by the published schemas, and true to the service and to each other."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from secondlook.service.metrics import Metrics
from secondlook.service.settings import settings_table

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docker/kubernetes"
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
NOT_MANIFESTS = {"kustomization.yaml", "prometheus-adapter.yaml"}
VERSIONS = ("1.30", "1.37")  # the oldest meant, and the newest whose schemas are there
SERVER = {"app.kubernetes.io/name": "secondlook"}

Manifest = dict[str, Any]


def manifests(text: str) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(text) if document is not None]


RAW = [
    manifest
    for file in sorted(FOLDER.glob("*.yaml"))
    if file.name not in NOT_MANIFESTS
    for manifest in manifests(file.read_text())
]


def one(kind: str, name: str) -> Manifest:
    (found,) = (it for it in RAW if it["kind"] == kind and it["metadata"]["name"] == name)
    return found


PRIMARY, REPLICA = one("StatefulSet", "primary"), one("Deployment", "replica")
PODS = {"primary": PRIMARY["spec"]["template"], "replica": REPLICA["spec"]["template"]}
both = pytest.mark.parametrize("name", PODS)


def spec(name: str) -> Manifest:
    pod: Manifest = PODS[name]["spec"]
    return pod


def server(name: str) -> Manifest:
    (container,) = spec(name)["containers"]
    assert "initContainers" not in spec(name)
    return dict(container)


def kustomized() -> list[Manifest]:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("there is no kubectl")
    made = subprocess.run([kubectl, "kustomize", str(FOLDER)], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return manifests(made.stdout)


def title(manifest: Manifest) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("manifest", RAW, ids=title)
def test_each_manifest_is_valid(manifest: Manifest, version: str) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)


def test_what_kubectl_makes_of_them_is_valid_and_all_of_it() -> None:
    made = kustomized()
    for manifest in made:
        kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)
        assert manifest["metadata"].get("namespace", "secondlook") == "secondlook"
    assert {title(manifest) for manifest in RAW} == {title(it) for it in made if it["kind"] != "ConfigMap"}


def test_what_kubectl_makes_of_them_keeps_the_servers_as_they_are_here() -> None:
    """Anchors and merges among it, and but for the image and the name of the settings."""
    for name, kind in (("primary", "StatefulSet"), ("replica", "Deployment")):
        (made,) = (it for it in kustomized() if it["kind"] == kind)
        (container,) = made["spec"]["template"]["spec"]["containers"]
        ours = server(name)
        (image,) = KUSTOMIZATION["images"]
        assert container["image"] == f"{image['newName']}:{image['newTag']}"
        assert container["envFrom"][0]["configMapRef"]["name"].startswith("secondlook-settings-")
        changed = {"image", "envFrom"}
        assert {k: v for k, v in container.items() if k not in changed} == {
            k: v for k, v in ours.items() if k not in changed
        }


def test_the_image_is_of_this_version() -> None:
    (image,) = KUSTOMIZATION["images"]
    assert f'version = "{image["newTag"]}"' in (ROOT / "pyproject.toml").read_text()
    assert {server(name)["image"].partition(":")[0] for name in PODS} == {image["name"]}


@both
def test_a_server_has_no_rights_that_it_does_not_need(name: str) -> None:
    pod = spec(name)
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert f"USER {pod['securityContext']['runAsUser']}\n" in (ROOT / "docker/cpu.Dockerfile").read_text()
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert server(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert one("Namespace", "secondlook")["metadata"]["labels"] == {"pod-security.kubernetes.io/enforce": "restricted"}


@both
def test_a_server_is_probed_bounded_and_given_time_to_stop(name: str) -> None:
    container = server(name)
    paths = {probe: container[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "liveness", "readiness")}
    # A server that is not ready must not be killed for it: Milvus may be away.
    assert paths == {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    assert "memory" in container["resources"]["limits"]
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["server"]
    sleep, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert sleep == "sleep"
    needed = int(seconds) + int(compose["stop_grace_period"].removesuffix("s"))
    assert spec(name)["terminationGracePeriodSeconds"] >= needed


@both
def test_a_server_is_told_settings_that_there_are_and_no_secret_is_in_a_file(name: str) -> None:
    known = set(re.findall(r"`(SECONDLOOK_\w+)`", settings_table()))
    lines = (FOLDER / "settings.env").read_text().splitlines()
    shared = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    own = {entry["name"]: entry for entry in server(name)["env"]}
    assert shared.keys() | own.keys() <= known
    assert not shared.keys() & own.keys()
    for variable in shared.keys() | own.keys():
        if re.search("TOKEN|KEY", variable):
            assert own[variable]["valueFrom"]["secretKeyRef"]["name"] == "secondlook"
    assert shared["SECONDLOOK_THREADS"] == server(name)["resources"]["requests"]["cpu"]
    # A Service's name in the environment would be taken for a setting.
    assert spec(name)["enableServiceLinks"] is False
    document = (ROOT / "docs/cluster.md").read_text()
    for entry in own.values():
        if "valueFrom" in entry:
            assert f"--from-literal={entry['valueFrom']['secretKeyRef']['key']}=" in document


def test_one_server_writes_and_the_others_only_read() -> None:
    assert PRIMARY["spec"]["replicas"] == 1
    own = {name: {entry["name"]: entry.get("value") for entry in server(name)["env"]} for name in PODS}
    assert "SECONDLOOK_REPLICA" not in own["primary"]
    assert own["replica"]["SECONDLOOK_REPLICA"] == "true"
    mounts = {name: {it["name"]: it for it in server(name)["volumeMounts"]} for name in PODS}
    assert "readOnly" not in mounts["primary"]["bundles"]
    assert mounts["replica"]["bundles"]["readOnly"] is True
    for name in PODS:
        volumes = {volume["name"]: volume for volume in spec(name)["volumes"]}
        assert volumes.keys() == mounts[name].keys()
        for volume in volumes.values():
            if "persistentVolumeClaim" in volume:
                claim = one("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])
                assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
        assert mounts[name]["bundles"]["mountPath"] == "/bundles"
    assert "SECONDLOOK_BUNDLES=/bundles" in (ROOT / "docker/cpu.Dockerfile").read_text()


@both
def test_selectors_labels_and_ports_agree(name: str) -> None:
    labels = PODS[name]["metadata"]["labels"]
    assert labels == SERVER | {"app.kubernetes.io/component": name}
    controller = PRIMARY if name == "primary" else REPLICA
    service = one("Service", name)
    assert controller["spec"]["selector"]["matchLabels"] == service["spec"]["selector"] == labels
    (port,) = server(name)["ports"]
    assert service["spec"]["ports"] == [{"name": "http", "port": 80, "targetPort": port["name"]}]
    assert f"SECONDLOOK_PORT={port['containerPort']} " in (ROOT / "docker/cpu.Dockerfile").read_text()
    annotations = PODS[name]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(port["containerPort"])
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert server(name)[probe]["httpGet"]["port"] == port["name"]


def test_the_ingress_sends_what_may_change_something_to_the_primary() -> None:
    (rule,) = one("Ingress", "secondlook")["spec"]["rules"]
    backends = {path["path"]: path["backend"]["service"] for path in rule["http"]["paths"]}
    assert {path: backend["name"] for path, backend in backends.items()} == {
        "/v1/admin": "primary",
        "/v1/entries": "primary",
        "/metrics": "primary",
        "/": "replica",
    }
    for backend in backends.values():
        ports = one("Service", backend["name"])["spec"]["ports"]
        assert backend["port"]["name"] in {port["name"] for port in ports}


def test_the_network_policy_opens_the_servers_port_and_that_of_milvus() -> None:
    policy = one("NetworkPolicy", "secondlook")["spec"]
    assert policy["podSelector"]["matchLabels"] == SERVER
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    (incoming,) = policy["ingress"]
    assert incoming["ports"] == [{"port": server("replica")["ports"][0]["name"]}]
    address = re.search(
        r"MILVUS__ADDRESS=http://[a-z-]+\.([a-z-]+)\.svc:(\d+)$", (FOLDER / "settings.env").read_text(), re.MULTILINE
    )
    assert address is not None
    milvus = policy["egress"][0]
    (of_milvus,) = milvus["to"]
    assert of_milvus["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": address.group(1)}
    assert milvus["ports"] == [{"port": int(address.group(2))}]


def test_replicas_are_scaled_by_a_metric_that_the_service_has_and_never_all_evicted() -> None:
    scaler = one("HorizontalPodAutoscaler", "replica")["spec"]
    assert (scaler["scaleTargetRef"]["kind"], scaler["scaleTargetRef"]["name"]) == ("Deployment", "replica")
    assert "replicas" not in REPLICA["spec"]
    assert scaler["minReplicas"] == 3
    waiting, processors = scaler["metrics"]
    metric = waiting["pods"]["metric"]["name"]
    assert metric in {family.name for family in Metrics().registry.collect()}
    assert processors["resource"]["name"] in server("replica")["resources"]["requests"]
    (rule,) = yaml.safe_load((FOLDER / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    assert rule["seriesQuery"].startswith(metric + "{")

    budget = one("PodDisruptionBudget", "replica")["spec"]
    assert budget["selector"] == REPLICA["spec"]["selector"]
    assert 0 < budget["maxUnavailable"] < scaler["minReplicas"]
    for spread in spec("replica")["topologySpreadConstraints"]:
        assert spread["labelSelector"] == REPLICA["spec"]["selector"]
