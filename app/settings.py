"""The configuration: read from `IPT_*` variables and validated once at startup."""

import ipaddress
import math
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.validation_messages import explain

DEFAULT_TENANT = "default"
LogFormat = Literal["text", "json"]
Seconds = Annotated[float, Field(gt=0, le=24 * 60 * 60)]
_SECRET_FIELDS = ("database_url", "redis_url")
_PREFIX = "IPT_"
# Read by the command line, the compose files and the tests.
_OTHER_VARIABLES = {"IPT_URL", "IPT_IMAGE", "IPT_GPU_IMAGE", "IPT_PUBLISH", "IPT_SUBSPACES", "IPT_TEST_REDIS_URL"}


class SettingsError(Exception):
    """Each setting is valid, but the combination is not allowed; the message says what to change."""


class ServedBackbone(NamedTuple):
    """A backbone that a process loads, and the subspace in which it tunes."""

    backbone: str
    revision: str | None
    subspace: str


class Settings(BaseSettings):
    """All settings. The command line, the app factory and the worker each create one instance and pass it on."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_ignore_empty=True, extra="ignore", frozen=True, allow_inf_nan=False
    )

    database_url: str | None = Field(
        default=None, repr=False, description="URL of PostgreSQL; an embedded server is started if it is not set"
    )
    redis_url: str | None = Field(
        default=None, repr=False, description="URL of the Celery broker; workers poll the database if it is not set"
    )
    data_dir: Path = Field(default=Path(".ipt"), description="the folder for all data of the embedded mode")
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    api_key: SecretStr | None = Field(default=None, description="the operator's key, of the tenant 'default'")
    log_format: LogFormat = Field(default="text", description="`text`, or `json`: one object per line")
    metrics_port: int | None = Field(
        default=None, ge=1, le=65535, description="the port on which a worker serves its metrics"
    )
    open_metrics: bool = Field(default=False, description="whether anyone who reaches the port may read the metrics")

    backbone: str = "default"
    backbone_revision: str | None = None
    subspace: str = "default"
    earlier_subspaces: str = Field(
        default="",
        description="folders of subspaces that are used too, separated by commas (those of the package need no entry)",
    )
    backbones: str = Field(
        default="",
        description="several backbones for one process instead of `backbone`, separated by commas, each as "
        "NAME[@REVISION][=SUBSPACE]",
    )
    device: str | None = None

    lease_seconds: Seconds = 60
    heartbeat_seconds: Seconds = 5
    reap_seconds: Seconds = 10
    max_attempts: int = Field(
        default=3,
        ge=1,
        description="errors after which an adaptation fails; with 1, each adaptation is tuned in a batch of its own",
    )
    checkpoint_every_steps: int = Field(default=10, ge=1)
    jobs_per_batch: int = Field(default=8, ge=1)
    poll_seconds: Seconds = 0.5

    max_open_adaptations: int = Field(default=1000, ge=1, description="unfinished adaptations of one tenant")
    max_stored_adaptations: int = Field(
        default=100_000, ge=1, description="adaptations of one tenant that are kept, with their task versions"
    )
    max_stored_bytes: int = Field(default=8 * 1024**3, ge=1, description="bytes of the texts in one tenant's datasets")
    keep_events_days: float | None = Field(
        default=None, gt=0, description="days until the events of a finished adaptation are deleted, except the last"
    )
    keep_failed_days: float | None = Field(
        default=None, gt=0, description="days until a failed or cancelled adaptation is deleted"
    )
    keep_texts_days: float = Field(
        default=30, gt=0, description="days until a text that a tenant keeps for suggestions is deleted"
    )
    keep_versions: int | None = Field(
        default=None, ge=1, description="versions of a task that are kept; older ones are deleted with their datasets"
    )
    max_event_streams: int = Field(default=64, ge=1, description="open event streams of one tenant in each API process")
    max_files: int = Field(default=1000, ge=1, description="files of one tenant below /openai/v1/files")
    max_files_bytes: int = Field(default=256 * 1024 * 1024, ge=1, description="bytes of these files together")
    webhook_private_networks: str = Field(
        default="",
        description="private networks that webhooks may reach, separated by commas, such as 10.0.0.0/8 or 127.0.0.1",
    )
    requests_per_minute: int | None = Field(
        default=None, ge=1, le=1_000_000, description="requests of one API key; unlimited if not set"
    )
    max_requests: int = Field(
        default=1024,
        ge=1,
        description="requests of all tenants in progress; a tenant with more than are still free gets 429",
    )
    max_body_bytes: int = Field(default=16 * 1024 * 1024, ge=1)
    max_bodies_bytes: int = Field(
        default=256 * 1024 * 1024,
        ge=1,
        description="bytes of the bodies of these requests; a tenant with more than are still free gets 429",
    )
    max_body_seconds: Seconds = Field(default=60, description="how long a request's body may take to arrive")
    max_examples: int = Field(default=10_000, ge=2)
    max_text_chars: int = Field(default=10_000, ge=1)
    max_labels: int = Field(default=200, ge=2, le=200)
    label_studio_annotations: int = Field(
        default=16, ge=1, le=256, description="annotations of Label Studio after which a version is tuned on them"
    )
    max_predict_inputs: int = Field(default=256, ge=1)
    max_new_tokens: int = Field(default=1024, ge=1, description="tokens of one generated text")

    predict_wait_ms: float = Field(
        default=3, ge=0, le=60_000, description="how long the first row of a batch waits for further rows"
    )
    predict_batch_rows: int = Field(default=128, ge=1)
    predict_batch_tokens: int = Field(
        default=4096, ge=1, description="tokens in one batch, which bounds the delay for the requests behind it"
    )
    predict_queue_rows: int = Field(
        default=8192,
        ge=1,
        description="texts of all tenants that may wait; a tenant whose texts exceed those still free gets 429",
    )
    predict_cached_tasks: int = Field(
        default=4096, ge=1, description="task heads kept in memory, each of 1 kB and a readout"
    )
    predict_cached_bytes: int = Field(
        default=256 * 1024 * 1024,
        ge=0,
        description="memory for these task heads; the least recently used ones are evicted first",
    )
    max_classify_examples: int = Field(default=1000, ge=2, description="examples of one request to /v1/classify")
    classify_cached_bytes: int = Field(
        default=64 * 1024 * 1024, ge=0, description="memory for what was fitted to the examples of recent requests"
    )
    predict_prompt_bytes: int = Field(
        default=64 * 1024 * 1024, ge=0, description="memory for the soft prompts of the most recently used tasks"
    )

    generate_batch_rows: int = Field(default=32, ge=1, description="rows that are generated at a time; a beam is a row")
    generate_queue_rows: int = Field(
        default=512,
        ge=0,
        description="further rows of all tenants that may wait; a tenant whose rows exceed those still free gets 429",
    )
    generate_prompt_cache_bytes: int = Field(
        default=256 * 1024 * 1024, ge=0, description="memory for the encoded prompts of the most recently used tasks"
    )

    @field_validator("heartbeat_seconds")
    @classmethod
    def _check_heartbeat(cls, seconds: float, settings: ValidationInfo) -> float:
        if seconds > settings.data.get("lease_seconds", math.inf) / 2:
            raise ValueError("must be at most half of IPT_LEASE_SECONDS, or a worker would lose its leases")
        return seconds

    @field_validator("backbones")
    @classmethod
    def _check_backbones(cls, text: str, settings: ValidationInfo) -> str:
        if not text:
            return text
        single = ("backbone", "backbone_revision", "subspace")
        also = [name for name in single if settings.data.get(name) != cls.model_fields[name].default]
        if also:
            raise ValueError(f"replaces {_PREFIX}{also[0].upper()}, which is set too: remove one of them")
        served = [_served_backbone(part) for part in text.split(",")]
        if not all(each.backbone and each.subspace for each in served):
            raise ValueError("must be NAME[@REVISION][=SUBSPACE],…, such as default,smollm2")
        if len(set(served)) < len(served):
            raise ValueError("names a backbone twice")
        return text

    @field_validator("database_url")
    @classmethod
    def _use_psycopg(cls, url: str | None) -> str | None:
        if url is None:
            return None
        scheme, separator, rest = url.partition("://")
        if not separator or scheme not in ("postgres", "postgresql", "postgresql+psycopg"):
            raise ValueError("must start with postgresql:// (PostgreSQL is the only database)")
        if rest.partition("/")[0].count("@") > 1:
            raise ValueError("has more than one @: percent-encode the @ of the user or the password as %40")
        return f"postgresql+psycopg://{rest}"

    @field_validator("redis_url")
    @classmethod
    def _check_redis_scheme(cls, url: str | None) -> str | None:
        if url is not None and url.partition("://")[0] not in ("redis", "rediss", "redis+socket"):
            raise ValueError("must start with redis://, rediss:// or redis+socket://")
        return url

    @field_validator("api_key")
    @classmethod
    def _check_api_key(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and (len(key.get_secret_value()) < 16 or not is_sendable(key.get_secret_value())):
            raise ValueError("must have at least 16 visible ASCII characters and no line break")
        return key

    @field_validator("webhook_private_networks")
    @classmethod
    def _check_networks(cls, networks: str) -> str:
        try:
            _networks(networks)
        except ValueError as error:
            raise ValueError(f"{error}: list networks such as 10.0.0.0/8,fd00::/8") from None
        return networks

    @property
    def allowed_webhook_networks(self) -> list[IPv4Network | IPv6Network]:
        """The networks of `webhook_private_networks`."""
        return _networks(self.webhook_private_networks)

    @property
    def earlier_subspace_folders(self) -> list[Path]:
        """The folders of `earlier_subspaces`."""
        return [Path(folder) for folder in self.earlier_subspaces.split(",") if folder]

    @property
    def served_backbones(self) -> list[ServedBackbone]:
        """The backbones that a process loads, each with its subspace; at least one."""
        if self.backbones:
            return [_served_backbone(part) for part in self.backbones.split(",")]
        return [ServedBackbone(self.backbone, self.backbone_revision, self.subspace)]

    @property
    def embedded(self) -> bool:
        """Whether the service runs its own PostgreSQL in `data_dir`."""
        return self.database_url is None

    @property
    def open_access(self) -> bool:
        """Whether callers need no API key, because only this machine can reach the service."""
        return self.embedded and self.api_key is None and is_loopback(self.host)

    def check_bind(self) -> None:
        """Reject an address that other machines can reach if no API key is set.

        Raises:
            SettingsError: `host` is not loopback and `api_key` is not set.
        """
        if not is_loopback(self.host) and self.api_key is None:
            raise SettingsError(
                f"IPT_HOST={self.host} can be reached from other machines, and no API key is set: "
                "set IPT_API_KEY (16 characters or more), or bind to 127.0.0.1"
            )

    def check_worker_beside(self) -> None:
        """Reject a metrics port that is the port of the API, for a worker that runs beside it.

        Raises:
            SettingsError: `metrics_port` is `port`.
        """
        if self.metrics_port == self.port:
            raise SettingsError(
                f"IPT_METRICS_PORT={self.metrics_port} is the port of the API: set another port for the worker"
            )

    def described(self) -> dict[str, Any]:
        """Return every setting by the name of its variable, with secrets masked."""
        values = self.model_dump(mode="json")
        for name in _SECRET_FIELDS:
            if values[name] is not None:
                values[name] = "**********"
        return {f"{_PREFIX}{name.upper()}": value for name, value in values.items()}


def explain_invalid(error: ValidationError) -> list[str]:
    """Return a message for each setting that is invalid, with the name of its variable."""
    return [
        f"{_PREFIX}{str(each['loc'][0]).upper()}: {explain(each)}"
        for each in error.errors(include_url=False, include_input=False)
    ]


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Return the variables that look like settings but are not, such as misspelt ones."""
    known = {f"{_PREFIX}{name.upper()}" for name in Settings.model_fields} | _OTHER_VARIABLES
    return sorted(name for name in environment if name.startswith(_PREFIX) and name not in known)


def _served_backbone(text: str) -> ServedBackbone:
    """Parse NAME[@REVISION][=SUBSPACE]."""
    backbone, _, subspace = text.strip().partition("=")
    name, at, revision = backbone.rpartition("@")
    return ServedBackbone(name if at else backbone, revision if at else None, subspace if "=" in text else "default")


def is_sendable(key: str) -> bool:
    """Return whether an HTTP header can carry this API key unchanged."""
    return key.isascii() and key.isprintable() and key == key.strip()


def _networks(names: str) -> list[IPv4Network | IPv6Network]:
    return [ipaddress.ip_network(name.strip()) for name in names.split(",") if name.strip()]


def is_loopback(host: str) -> bool:
    """Return whether `host` is a loopback address or `localhost`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
