"""The Helm chart: Helm itself checks and renders it, and what it renders is what Kubernetes accepts and the portal can run."""

from __future__ import annotations

import json
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import helm_python as helm
import kubernetes_validate
import pytest
import yaml

from auth_portal import cli
from auth_portal.settings import VERSION, Settings, read_settings
from tests.deploy.test_containers import DOCKERFILE
from tests.programs import ROOT

CHART = ROOT / "deploy" / "helm" / "auth-portal"
LEAST = {"publicUrl": "https://verify.acme.example", "secretName": "auth-portal"}
ALL = {
    **LEAST,
    "image": {"repository": "registry.acme.example/auth-portal", "digest": f"sha256:{'0' * 64}"},
    "imagePullSecrets": [{"name": "registry"}],
    "settings": {"PORTAL_OUTBOUND_PROXY": "http://proxy.example.com:3128", "PORTAL_REQUIRE_MACS": True},
    "web": {
        "autoscaling": {"latency": {"enabled": True, "selector": {"matchLabels": {"job": "auth-portal"}}}},
        "nodeSelector": {"kubernetes.io/arch": "arm64"},
        "tolerations": [{"key": "web", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {}},
    },
    "dispatcher": {"autoscaling": {"queueAge": {"enabled": True}}},
    "service": {"annotations": {"a.example/b": "c"}},
    "ingress": {"annotations": {"cert-manager.io/cluster-issuer": "letsencrypt"}},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True},
}
NOTHING_EXTRA = {
    **LEAST,
    "web": {"autoscaling": {"enabled": False}},
    "dispatcher": {"autoscaling": {"enabled": False}},
    "ingress": {"enabled": False},
    "networkPolicy": {"enabled": False},
}
VALUES = {"least": LEAST, "all": ALL, "nothing extra": NOTHING_EXTRA}
OF_AN_OPERATOR = {"PrometheusRule", "ServiceMonitor"}  # kinds that Kubernetes itself does not know


def rendered(values: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """What the chart makes of values, by kind and the end of its name."""
    with helm.Chart.load(str(CHART)) as chart:
        files = chart.render(values, name="demo", namespace="portal")
    found = [
        item for name, text in files.items() if name.endswith(".yaml") for item in yaml.safe_load_all(text) if item
    ]
    return {
        (item["kind"], item["metadata"]["name"].removeprefix("demo-auth-portal").strip("-")): item for item in found
    }


def pods(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The specification of each kind of pod, by component."""
    made = rendered(values)
    return {name: made[kind, name]["spec"]["template"]["spec"] for kind, name in made if kind in {"Deployment", "Job"}}


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_helm_finds_nothing_to_complain_about(values: dict[str, Any]) -> None:
    linted = helm.lint(str(CHART), values, strict=True)
    assert [found["error"] for found in linted["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize("version", ["1.27", "1.37"])
@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_kubernetes_accepts_what_is_rendered(values: dict[str, Any], version: str) -> None:
    made = rendered(values)
    for (kind, _name), item in made.items():
        if kind not in OF_AN_OPERATOR:
            kubernetes_validate.validate(item, version, strict=True)
    assert len(made) - len(OF_AN_OPERATOR & {kind for kind, _name in made}) >= 6


def test_the_chart_is_of_this_version() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == VERSION
    assert pods(LEAST)["web"]["containers"][0]["image"] == f"auth-portal:{VERSION}"
    assert pods(ALL)["web"]["containers"][0]["image"] == f"registry.acme.example/auth-portal@sha256:{'0' * 64}"


WRONG: dict[str, dict[str, Any]] = {
    "no address": {"secretName": "auth-portal"},
    "no secret": {"publicUrl": "https://verify.acme.example"},
    "no TLS": {**LEAST, "publicUrl": "http://verify.acme.example"},
    "a name that there is not": {**LEAST, "replicas": 2},
    "a setting of the chart": {**LEAST, "settings": {"PORTAL_DRAIN_SECONDS": 300}},
    "a secret as a setting": {**LEAST, "settings": {"PORTAL_SECRET_KEYS": "k" * 40}},
    "an address of metrics": {**LEAST, "settings": {"PORTAL_METRICS_BIND": "0.0.0.0:9000"}},
    "the port of metrics for pages": {**LEAST, "service": {"port": 9101}},
    "no such setting": {**LEAST, "settings": {"DEBUG": "1"}},
}


@pytest.mark.parametrize("values", WRONG.values(), ids=WRONG)
def test_wrong_values_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(helm.HelmValuesError):
        rendered(values)


def test_what_the_chart_sets_itself_cannot_be_set_twice() -> None:
    """Of two entries of env with one name the last counts, and no one would see it."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    refused = set(schema["properties"]["settings"]["propertyNames"]["not"]["enum"])
    ours = {entry["name"].removesuffix("_FILE") for pod in pods(ALL).values() for entry in pod["containers"][0]["env"]}
    assert ours - set(ALL["settings"]) <= refused
    assert {name.removeprefix("PORTAL_").lower() for name in refused} <= Settings.model_fields.keys()


@pytest.mark.parametrize("component", ["web", "dispatcher", "migrations"])
def test_a_pod_runs_a_command_with_valid_settings(component: str, tmp_path: Path) -> None:
    container = pods(ALL)[component]["containers"][0]
    (tmp_path / "database-url").write_text("postgresql://portal:x@database/portal")
    (tmp_path / "secret-keys").write_text("k" * 64)
    (tmp_path / "metrics-token").write_text("token")
    names = [entry["name"] for entry in container["env"]]
    assert sorted(set(names)) == sorted(names)
    given = {
        entry["name"]: entry["value"].replace("/run/secrets/auth-portal", str(tmp_path)) for entry in container["env"]
    }
    settings = read_settings(given)
    assert settings.dispatch == "off"
    assert settings.metrics_token == "token"
    assert settings.require_macs
    assert settings.master_keys() == ("k" * 64,)
    (command,) = container["args"]
    assert command in {"serve", *cli.commands.commands}


@pytest.mark.parametrize("component", ["web", "dispatcher", "migrations"])
def test_a_pod_has_no_rights(component: str) -> None:
    """As the Pod Security Standard "restricted" asks, and a read-only root in addition."""
    pod = pods(LEAST)[component]
    (container,) = pod["containers"]
    user = pod["securityContext"]
    assert user["runAsNonRoot"] is True
    assert f"USER {user['runAsUser']}:{user['runAsGroup']}\n" in DOCKERFILE.read_text()
    assert user["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False  # or a service named "portal" sets PORTAL_PORT, and no pod starts
    secrets = [mount for mount in container["volumeMounts"] if mount["name"] == "secrets"]
    assert [mount["readOnly"] for mount in secrets] == [True]


def test_tables_are_upgraded_before_pods_are_replaced() -> None:
    job = rendered(LEAST)["Job", "migrations"]
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    deployments = [item for (kind, _name), item in rendered(LEAST).items() if kind == "Deployment"]
    assert [item["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] for item in deployments] == [0, 0]


def test_a_web_pod_ends_what_it_has_begun() -> None:
    """It drains, and has 30 s more than that; its probes ask for what the portal answers on every host."""
    pod = pods(LEAST)["web"]
    (container,) = pod["containers"]
    settings = {entry["name"]: entry["value"] for entry in container["env"]}
    assert pod["terminationGracePeriodSeconds"] > int(settings["PORTAL_DRAIN_SECONDS"]) + 30
    ready = container["readinessProbe"]
    assert ready["httpGet"]["path"] == "/readyz"
    assert int(settings["PORTAL_DRAIN_SECONDS"]) > ready["periodSeconds"] * ready["failureThreshold"]
    assert {container[probe]["httpGet"]["path"] for probe in ("livenessProbe", "startupProbe")} == {"/healthz"}


def test_pods_are_added_for_latency_and_a_queue_and_always_for_cpu() -> None:
    def asked(values: dict[str, Any], component: str) -> list[str]:
        metrics = rendered(values)["HorizontalPodAutoscaler", component]["spec"]["metrics"]
        return [
            one["resource"]["name"] if one["type"] == "Resource" else one["external"]["metric"]["name"]
            for one in metrics
        ]

    assert asked(LEAST, "web") == asked(LEAST, "dispatcher") == ["cpu"]
    assert asked(ALL, "web") == ["cpu", "auth_portal_request_seconds_p95"]
    assert asked(ALL, "dispatcher") == ["cpu", "auth_portal_queue_oldest_seconds"]


def test_everything_that_selects_pods_finds_those_of_one_component() -> None:
    made = rendered(ALL)
    labels = {
        name: item["spec"]["template"]["metadata"]["labels"]
        for (kind, name), item in made.items()
        if kind == "Deployment"
    }
    places = {
        "Service": ("selector",),
        "NetworkPolicy": ("podSelector", "matchLabels"),
        "PodDisruptionBudget": ("selector", "matchLabels"),
        "Deployment": ("selector", "matchLabels"),
    }
    chosen = [(kind, name) for kind, name in made if kind in places]
    assert len(chosen) == 7
    for kind, name in chosen:
        wanted = made[kind, name]["spec"]
        for key in places[kind]:
            wanted = wanted[key]
        assert [component for component, found in labels.items() if wanted.items() <= found.items()] == [name or "web"]
    monitored = made["ServiceMonitor", ""]["spec"]["selector"]["matchLabels"]
    assert monitored.items() <= made["Service", ""]["metadata"]["labels"].items()


def allowed(values: dict[str, Any]) -> dict[str, list[str]]:
    """The namespaces that may reach each port of the web pods, by the name of the port."""
    pages, *others = rendered(values)["NetworkPolicy", "web"]["spec"]["ingress"]
    return {
        port["port"]: [peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for peer in rule["from"]]
        for rule in (pages, *others)
        for port in rule["ports"]
    }


def test_prometheus_reaches_the_metrics_and_no_page() -> None:
    """A client of the page port names its own address, so only the trusted proxy may be one."""
    made = rendered(ALL)
    (container,) = made["Deployment", "web"]["spec"]["template"]["spec"]["containers"]
    assert allowed(ALL) == {"http": ["ingress-nginx"], "metrics": ["monitoring"]}
    (endpoint,) = made["ServiceMonitor", ""]["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["authorization"]["credentials"]["key"]) == ("metrics", "metrics-token")
    services = {port["name"]: port["targetPort"] for port in made["Service", ""]["spec"]["ports"]}
    assert services == {"http": "http", "metrics": "metrics"}
    (rule,) = made["Ingress", ""]["spec"]["rules"]
    assert [path["backend"]["service"]["port"] for path in rule["http"]["paths"]] == [{"name": "http"}]
    settings = {entry["name"]: entry["value"] for entry in container["env"]}
    listening = {"http": settings["PORTAL_BIND"], "metrics": settings["PORTAL_METRICS_BIND"]}
    assert {port["name"]: f"0.0.0.0:{port['containerPort']}" for port in container["ports"]} == listening
    probes = [container[probe]["httpGet"]["port"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")]
    assert probes == ["http"] * 3  # what customers use
    others = [
        entry["name"] for name in ("dispatcher", "migrations") for entry in pods(ALL)[name]["containers"][0]["env"]
    ]
    assert "PORTAL_METRICS_BIND" not in others


def test_without_a_monitor_no_port_has_metrics() -> None:
    """Pods then have no token, and without one everyone who reaches the port could read them."""
    (container,) = pods(LEAST)["web"]["containers"]
    assert allowed(LEAST) == {"http": ["ingress-nginx"]}
    assert [port["name"] for port in container["ports"]] == ["http"]
    assert "PORTAL_METRICS_BIND" not in [entry["name"] for entry in container["env"]]
    assert [port["name"] for port in rendered(LEAST)["Service", ""]["spec"]["ports"]] == ["http"]


@pytest.mark.parametrize("component", ["web", "dispatcher"])
def test_no_pod_reaches_a_metadata_service(component: str) -> None:
    def reached(values: dict[str, Any]) -> dict[str, list[str]]:
        _names, everywhere = rendered(values)["NetworkPolicy", component]["spec"]["egress"]
        return {peer["ipBlock"]["cidr"]: peer["ipBlock"]["except"] for peer in everywhere["to"]}

    found = reached(LEAST)
    assert found == {"0.0.0.0/0": ["169.254.169.254/32"], "::/0": ["fd00:ec2::254/128", "fe80::/10"]}
    for everything, refused in found.items():  # Kubernetes refuses what is not a part of the block
        assert all(ip_network(cidr).subnet_of(ip_network(everything)) for cidr in refused)  # type: ignore[arg-type]
    of_ipv6 = {**LEAST, "networkPolicy": {"exceptCidrs": ["2001:db8::/32"]}}
    assert reached(of_ipv6) == {"0.0.0.0/0": [], "::/0": ["2001:db8::/32"]}


def test_the_alerts_are_those_of_the_repository_and_find_the_job() -> None:
    made = rendered(ALL)
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yml").read_text(encoding="utf-8"))
    assert made["PrometheusRule", ""]["spec"] == rules
    label = made["ServiceMonitor", ""]["spec"]["jobLabel"]
    assert f'job="{made["Service", ""]["metadata"]["labels"][label]}"' in json.dumps(rules).replace("\\", "")
