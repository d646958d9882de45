"""The compose files and the Dockerfile say what they must, with every name in them known and no secret built in."""

import json
import re
from typing import Any

import pytest
import yaml

from app.settings import Settings
from tests.support.compose import ROOT, compose_file

SECRETS = {"POSTGRES_PASSWORD": "one", "REDIS_PASSWORD": "two", "IPT_API_KEY": "three-three-three"}
GPU = "docker-compose.gpu.yml"
# The compose specification's schema, which `make lint` checks the files against, takes any text for a length of time.
DURATION = re.compile(r"(\d+(us|ms|s|m|h))+")

File = dict[str, Any]


@pytest.fixture(params=[(), (GPU,)], ids=["plain", "gpu"])
def document(request: pytest.FixtureRequest) -> File:
    """docker-compose.yml as it comes with the secrets alone set, and with the override for GPUs."""
    return compose_file(SECRETS, *request.param)


def test_every_length_of_time_is_one_that_compose_can_read(document: File) -> None:
    for service in document["services"].values():
        durations = [service.get("stop_grace_period", "1s")]
        durations += [service.get("healthcheck", {}).get(key, "1s") for key in ("interval", "timeout", "start_period")]
        assert all(DURATION.fullmatch(duration) for duration in durations)


def test_services_wait_for_services_that_are_there(document: File) -> None:
    services = document["services"]
    assert set(services) == {"postgres", "redis", "migrate", "api", "worker"}
    for service in services.values():
        for name, wait in service.get("depends_on", {}).items():
            assert wait["condition"] != "service_healthy" or "healthcheck" in services[name]
        for volume in service.get("volumes", []):
            source, _, target = volume.partition(":")
            assert source in document["volumes"] or (source.startswith("./") and target.endswith(":ro"))
    assert "healthcheck" in services["api"]
    assert "healthcheck" in services["worker"]


def test_what_runs_the_service_can_write_nothing_but_tmp_and_gains_no_rights(document: File) -> None:
    for name in ("migrate", "api", "worker"):
        service = document["services"][name]
        assert (service["read_only"], service["init"], service["tmpfs"]) == (True, True, ["/tmp"])
        assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges:true"])


@pytest.mark.parametrize("secret", sorted(SECRETS))
def test_a_secret_has_no_default(secret: str) -> None:
    for without in (SECRETS | {secret: ""}, {name: value for name, value in SECRETS.items() if name != secret}):
        with pytest.raises(KeyError, match=secret):
            compose_file(without)


def test_every_variable_is_in_the_example_of_an_env_file() -> None:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    documented = set(re.findall(r"^(?:# )?([A-Z_]+)=", example, flags=re.MULTILINE))
    used = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text(encoding="utf-8")))
    assert used - {"IPT_IMAGE"} == documented
    assert re.findall(r"^([A-Z_]+)=(.*)$", example, flags=re.MULTILINE) == [(name, "") for name in SECRETS]


def test_every_setting_is_one_that_the_service_knows(document: File) -> None:
    known = {f"IPT_{name.upper()}" for name in Settings.model_fields}
    for name in ("migrate", "api", "worker"):
        environment = document["services"][name]["environment"]
        assert set(environment) <= known
        values = {variable.removeprefix("IPT_").lower(): value for variable, value in environment.items()}
        Settings(**values).check_bind()


def test_every_published_port_is_on_loopback_unless_told_otherwise(document: File) -> None:
    ports = [port for service in document["services"].values() for port in service.get("ports", [])]
    assert ports == ["127.0.0.1:8000:8000"]


def test_the_override_gives_a_gpu_to_every_worker_and_the_cuda_build_to_all() -> None:
    plain, gpu = compose_file(SECRETS), compose_file(SECRETS, GPU)
    services = gpu["services"]
    [device] = services["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert services["worker"]["environment"] == plain["services"]["worker"]["environment"] | {"IPT_DEVICE": "cuda"}
    assert "deploy" not in services["api"]
    for name in ("migrate", "api", "worker"):
        assert services[name]["build"]["args"]["TORCH_INDEX_URL"] == ""
        assert services[name]["image"] != plain["services"][name]["image"]


def test_the_image_runs_the_command_as_nobody_in_particular_and_keeps_the_build_behind() -> None:
    stages = re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    build, final = stages
    assert build.splitlines()[0].endswith(" AS build")
    instructions = [line for line in final.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    assert "USER 10001" in instructions
    assert not any(line.startswith("RUN") for line in instructions[instructions.index("USER 10001") :])
    [entry] = [line for line in instructions if line.startswith("ENTRYPOINT")]
    assert json.loads(entry.removeprefix("ENTRYPOINT ")) == ["ipt"]
    # What a build argument holds can be read from the image by anyone.
    assert set(re.findall(r"^ARG (\w+)", "".join(stages), flags=re.MULTILINE)) <= {
        "TORCH_INDEX_URL",
        "BAKE_MODEL",
        "BAKE_REVISION",
    }


def test_the_kubernetes_probes_and_commands_of_the_document_are_those_that_there_are() -> None:
    document = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    [block] = re.findall(r"^```yaml\n(.*?)^```", document[document.index("## Kubernetes") :], re.DOTALL | re.MULTILINE)
    api, worker = yaml.safe_load_all(block)
    [container] = api["containers"]
    probes = {name: container[name]["httpGet"]["path"] for name in container if name.endswith("Probe")}
    assert probes == {"startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/healthz"}
    [port] = container["ports"]
    assert {container[name]["httpGet"]["port"] for name in probes} == {port["name"]}
    assert container["args"] == ["serve"]
    assert api["terminationGracePeriodSeconds"] > container["lifecycle"]["preStop"]["sleep"]["seconds"] + 10
    assert worker["containers"][0]["args"] == ["worker", "--poll"]
