"""What the page on serving shows to run is what the command takes and the server answers."""

from __future__ import annotations

import ast
import re
import shlex
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from loci.commands.main import main
from loci.serving.options import ServeOptions
from loci.serving.server import SECONDS_TO_LEAVE
from served import robots, serving
from tiny_policy import MEMORIES, tiny_policy

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def manifest() -> dict[str, dict[str, Any]]:
    """Its objects by their kind."""
    yaml = pytest.importorskip("yaml")
    (text,) = blocks("yaml")
    objects = list(yaml.safe_load_all(text))
    found = {one["kind"]: one for one in objects}
    assert len(found) == len(objects) == 4
    return found


@pytest.fixture
def parsed(monkeypatch):
    """What the command would serve, and how."""
    served: list[tuple[str, ServeOptions]] = []
    monkeypatch.setattr("loci.commands.serve.serve", lambda *given: served.append(given))

    def parse(arguments: list[str], key: str | None = None) -> tuple[str, ServeOptions]:
        if key is None:
            monkeypatch.delenv("LOCI_API_KEY", raising=False)
        else:
            monkeypatch.setenv("LOCI_API_KEY", key)
        main(arguments)
        return served.pop()

    return parse


def test_commands_on_the_page_are_commands(parsed) -> None:
    lines = [
        shlex.split(line, comments=True)
        for line in re.findall(r"^    (loci serve .*)$", PAGE, re.MULTILINE)
    ]
    lines += [
        [part.value if isinstance(part, ast.Constant) else "8000" for part in node.elts]
        for block in blocks("python") for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.List) and node.elts and ast.unparse(node.elts[0]) == "'loci'"
    ]
    assert len(lines) >= 4
    for line in lines:
        parsed(line[1:], key="a-key")


def test_a_wrong_option_in_a_command_is_found(parsed) -> None:
    with pytest.raises(SystemExit):
        parsed(["serve", "put-back-block-hybrid", "--keep-losst=3"])


def pod(manifest: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of the deployment: the template of its pods, and its container."""
    template = manifest["Deployment"]["spec"]["template"]
    (container,) = template["spec"]["containers"]
    return template, container


def test_options_volumes_and_secrets_of_the_manifest_fit(manifest, parsed) -> None:
    template, container = pod(manifest)
    (key,) = container["env"]
    chosen = key["valueFrom"]["secretKeyRef"]
    assert (key["name"], chosen["name"]) == ("LOCI_API_KEY", manifest["Secret"]["metadata"]["name"])
    secret = manifest["Secret"]["stringData"][chosen["key"]]
    command = [*container["command"], *container["args"]]
    assert command[0] == "loci"
    checkpoint, options = parsed(command[1:], key=secret)
    assert checkpoint == "put-back-block-hybrid"
    assert (options.host, options.api_key, options.device) == ("0.0.0.0", secret, "cuda")
    mounts = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
    volumes = {one["name"]: one for one in template["spec"]["volumes"]}
    assert set(mounts.values()) == set(volumes)
    claim = volumes[mounts[str(options.saved)]]["persistentVolumeClaim"]["claimName"]
    storage = manifest["PersistentVolumeClaim"]
    assert claim == storage["metadata"]["name"]
    assert storage["spec"]["accessModes"] == ["ReadWriteMany"]
    replicas = manifest["Deployment"]["spec"]["replicas"]
    assert options.keep_lost >= 2 * replicas * options.max_sessions
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_labels_and_ports_of_the_manifest_lead_to_the_server(manifest, parsed) -> None:
    template, container = pod(manifest)
    labels = template["metadata"]["labels"]
    assert manifest["Service"]["spec"]["selector"] == labels
    assert manifest["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    _, options = parsed([*container["command"], *container["args"]][1:], key="a-key")
    (port,), (service,) = container["ports"], manifest["Service"]["spec"]["ports"]
    assert port["containerPort"] == options.port == service["port"]
    assert service["targetPort"] == port["name"]
    assert template["metadata"]["annotations"]["prometheus.io/port"] == str(options.port)
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] == port["name"]
    # Before the end of the grace, the server has answered, saved and let slow clients go; a closing
    # handshake may take 10 seconds.
    grace = template["spec"]["terminationGracePeriodSeconds"]
    before = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert grace >= before + SECONDS_TO_LEAVE + 10 + 30


def test_the_server_answers_what_the_manifest_asks(manifest) -> None:
    template, container = pod(manifest)
    probes = {container[probe]["httpGet"]["path"]
              for probe in ("startupProbe", "readinessProbe", "livenessProbe")}
    metrics = template["metadata"]["annotations"]["prometheus.io/path"]
    with serving(robots(tiny_policy(MEMORIES["hybrid"])), api_key="a-key") as server:
        def status(path: str, **headers: str) -> int:
            # A kubelet calls a pod by its address, not by a name of the machine.
            request = urllib.request.Request(
                f"http://127.0.0.1:{server.port}{path}", headers={"Host": "10.0.0.7", **headers}
            )
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return answer.status
            except urllib.error.HTTPError as error:
                return error.code

        assert {status(path) for path in probes} == {200}
        assert status(metrics) == 401
        assert status(metrics, Authorization="Api-Key a-key") == 200
