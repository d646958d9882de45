"""The compose files, Dockerfile and Kubernetes example: valid settings, no built-in secrets, no extra privileges."""

import json
import re
from typing import Any

import pytest
import yaml

from app.settings import Settings
from tests.support.compose import ROOT, compose_file

SECRETS = {"POSTGRES_PASSWORD": "one", "REDIS_PASSWORD": "two", "IPT_API_KEY": "three-three-three"}
GPU = "docker-compose.gpu.yml"
TLS = "docker-compose.tls.yml"
TLS_FILES = {"TLS_CERTIFICATE": "./certificate.pem", "TLS_KEY": "./key.pem"}
# The schema of the compose specification, which `make lint` checks, accepts any string as a duration.
DURATION = re.compile(r"(\d+(us|ms|s|m|h))+")

File = dict[str, Any]


@pytest.fixture(params=[(), (GPU,)], ids=["plain", "gpu"])
def document(request: pytest.FixtureRequest) -> File:
    """docker-compose.yml with only the secrets set, without and with the GPU override."""
    return compose_file(SECRETS, *request.param)


def test_every_duration_is_valid(document: File) -> None:
    for service in document["services"].values():
        durations = [service.get("stop_grace_period", "1s")]
        durations += [service.get("healthcheck", {}).get(key, "1s") for key in ("interval", "timeout", "start_period")]
        assert all(DURATION.fullmatch(duration) for duration in durations)


def test_services_depend_on_defined_services(document: File) -> None:
    services = document["services"]
    assert set(services) == {"postgres", "redis", "migrate", "api", "worker", "proxy"}
    for service in services.values():
        for name, wait in service.get("depends_on", {}).items():
            assert wait["condition"] != "service_healthy" or "healthcheck" in services[name]
        for volume in service.get("volumes", []):
            source, _, target = volume.partition(":")
            assert source in document["volumes"] or (source.startswith("./") and target.endswith(":ro"))
    assert "healthcheck" in services["api"]
    assert "healthcheck" in services["worker"]


def test_containers_can_write_only_tmp_and_gain_no_privileges(document: File) -> None:
    for name in ("migrate", "api", "worker"):
        service = document["services"][name]
        assert (service["read_only"], service["init"], service["tmpfs"]) == (True, True, ["/tmp"])
        assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges:true"])


def test_each_image_is_built_once(document: File) -> None:
    services = document["services"]
    assert [name for name, service in services.items() if "build" in service] == ["migrate"]
    for name in ("api", "worker"):
        assert services[name]["image"] == services["migrate"]["image"]
        assert "migrate" in services[name]["depends_on"]


def test_every_container_is_limited_and_its_log_rotates(document: File) -> None:
    for service in document["services"].values():
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["mem_limit"]
        assert service["pids_limit"]
        assert set(service["logging"]["options"]) == {"max-size", "max-file"}


def test_only_the_proxy_is_published_and_it_reaches_the_api(document: File) -> None:
    services = document["services"]
    assert [name for name, service in services.items() if "ports" in service] == ["proxy"]
    host, port = services["proxy"]["environment"]["IPT_API_ADDRESS"].split(":")
    assert services[host]["environment"]["IPT_PORT"] == port
    files = [volume.split(":")[0] for service in services.values() for volume in service.get("volumes", ())]
    assert all((ROOT / name).is_file() for name in files if name.startswith("./docker/"))


def test_the_tls_override_adds_https_with_the_operators_certificate() -> None:
    proxy = compose_file(SECRETS | TLS_FILES, TLS)["services"]["proxy"]
    assert proxy["ports"] == ["0.0.0.0:443:8443"]
    mounted = {target: source for source, target, _ in (volume.split(":") for volume in proxy["volumes"])}
    configuration = (ROOT / mounted.pop("/etc/nginx/tls/tls.conf")).read_text(encoding="utf-8")
    assert set(re.findall(r"/etc/nginx/tls/\w+\.pem", configuration)) == set(mounted)
    for name in TLS_FILES:
        with pytest.raises(KeyError, match=name):
            compose_file(SECRETS | TLS_FILES | {name: ""}, TLS)


def test_redis_is_not_root_and_keeps_no_volume(document: File) -> None:
    redis = document["services"]["redis"]
    assert (redis["user"], redis["read_only"], redis["tmpfs"]) == ("redis", True, ["/data"])
    assert (redis["cap_drop"], redis["security_opt"]) == (["ALL"], ["no-new-privileges:true"])


def test_every_service_that_holds_state_or_jobs_has_time_to_stop(document: File) -> None:
    services = document["services"]
    assert {name for name in services if "stop_grace_period" in services[name]} == {"postgres", "api", "worker"}


@pytest.mark.parametrize("secret", sorted(SECRETS))
def test_a_secret_has_no_default(secret: str) -> None:
    for without in (SECRETS | {secret: ""}, {name: value for name, value in SECRETS.items() if name != secret}):
        with pytest.raises(KeyError, match=secret):
            compose_file(without)


def test_the_example_env_file_lists_every_variable() -> None:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    documented = set(re.findall(r"^(?:# )?([A-Z_]+)=", example, flags=re.MULTILINE))
    files = [(ROOT / name).read_text(encoding="utf-8") for name in ("docker-compose.yml", TLS)]
    used = set(re.findall(r"\$\{(\w+)", "".join(files)))
    assert used - {"IPT_IMAGE"} == documented
    assert re.findall(r"^([A-Z_]+)=(.*)$", example, flags=re.MULTILINE) == [(name, "") for name in SECRETS]


def test_every_setting_is_known_to_the_service(document: File) -> None:
    known = {f"IPT_{name.upper()}" for name in Settings.model_fields}
    for name in ("migrate", "api", "worker"):
        environment = document["services"][name]["environment"]
        assert set(environment) <= known
        values = {variable.removeprefix("IPT_").lower(): value for variable, value in environment.items()}
        Settings(**values).check_bind()


def test_every_published_port_is_on_loopback_by_default(document: File) -> None:
    ports = [port for service in document["services"].values() for port in service.get("ports", [])]
    assert ports == ["127.0.0.1:8000:8080"]


def test_the_gpu_override_gives_workers_a_gpu_and_all_services_the_cuda_build() -> None:
    plain, gpu = compose_file(SECRETS), compose_file(SECRETS, GPU)
    services = gpu["services"]
    [device] = services["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert services["worker"]["environment"] == plain["services"]["worker"]["environment"] | {"IPT_DEVICE": "cuda"}
    assert "resources" not in services["api"]["deploy"]
    assert services["migrate"]["build"]["args"]["TORCH_INDEX_URL"] == ""
    for name in ("migrate", "api", "worker"):
        assert services[name]["image"] == services["migrate"]["image"] != plain["services"][name]["image"]


def stages_of_dockerfile() -> tuple[dict[str, list[str]], list[str]]:
    """Return the instructions of the named stages by name, and those of the final stage."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    *named, final = [
        [line for line in stage.splitlines() if line and not line.startswith("#")]
        for stage in re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]
    ]
    return {stage[0].partition(" AS ")[2]: stage for stage in named}, final


def test_a_change_of_code_replaces_the_last_layer_of_the_image_only() -> None:
    named, final = stages_of_dockerfile()
    assert [line for line in named["dependencies"] if line.startswith("COPY")] == [
        "COPY pyproject.toml constraints.txt ./"
    ]
    assert [line.split()[1] for line in final if line.startswith("COPY")] == [
        "--from=models", "--from=dependencies", "--from=package",
    ]  # fmt: skip


def test_the_image_runs_as_an_unprivileged_user_without_the_build_stages() -> None:
    named, instructions = stages_of_dockerfile()
    assert "USER 10001" in instructions
    assert not any(line.startswith("RUN") for line in instructions[instructions.index("USER 10001") :])
    [entry] = [line for line in instructions if line.startswith("ENTRYPOINT")]
    assert json.loads(entry.removeprefix("ENTRYPOINT ")) == ["ipt"]
    # Build arguments can be read from the image, so none may hold a secret.
    lines = [line for stage in (*named.values(), instructions) for line in stage]
    arguments = {line.split()[1].partition("=")[0] for line in lines if line.startswith("ARG ")}
    assert arguments == {"TORCH_INDEX_URL", "BAKE_MODEL", "BAKE_REVISION"}


def test_the_documented_kubernetes_probes_and_commands_exist() -> None:
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
