"""All that can be configured, read from `IPT_*` variables and checked once at start."""

import ipaddress
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

DEFAULT_TENANT = "default"
LogFormat = Literal["text", "json"]
Seconds = Annotated[float, Field(gt=0, le=24 * 60 * 60)]
_SECRET_FIELDS = ("database_url", "redis_url")
_PREFIX = "IPT_"
# Of the command line, the compose files and the tests.
_OF_OTHERS = {"IPT_URL", "IPT_IMAGE", "IPT_GPU_IMAGE", "IPT_PUBLISH", "IPT_SUBSPACES", "IPT_TEST_REDIS_URL"}


class SettingsError(Exception):
    """The settings are each valid but must not be used together; the message says what to change."""


class Settings(BaseSettings):
    """One instance is made at the edge (command line, app factory, worker entry) and passed on from there."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_ignore_empty=True, extra="ignore", frozen=True, allow_inf_nan=False
    )

    database_url: str | None = Field(
        default=None, repr=False, description="PostgreSQL; without it an embedded one is started"
    )
    redis_url: str | None = Field(default=None, repr=False, description="Celery broker; without it workers poll")
    data_dir: Path = Field(default=Path(".ipt"), description="the folder that holds all data of the embedded mode")
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    api_key: SecretStr | None = Field(default=None, description="a first key, of the tenant 'default'")
    log_format: LogFormat = Field(default="text", description="`text`, or `json`: one object a line")
    metrics_port: int | None = Field(default=None, ge=1, le=65535, description="where a worker serves its metrics")
    open_metrics: bool = Field(default=False, description="whoever reaches the port may read the metrics")

    backbone: str = "default"
    backbone_revision: str | None = None
    subspace: str = "default"
    device: str | None = None

    lease_seconds: Seconds = 60
    heartbeat_seconds: Seconds = 5
    reap_seconds: Seconds = 10
    max_attempts: int = Field(default=3, ge=1, description="of an adaptation; with 1, each is tuned by itself")
    checkpoint_every_steps: int = Field(default=10, ge=1)
    jobs_per_batch: int = Field(default=8, ge=1)
    poll_seconds: Seconds = 0.5

    max_open_adaptations: int = Field(default=1000, ge=1, description="queued and running ones of one tenant")
    max_event_streams: int = Field(default=64, ge=1, description="of one tenant, in each API process")
    requests_per_minute: int | None = Field(
        default=None, ge=1, le=1_000_000, description="of one API key; any number without it"
    )
    max_body_bytes: int = Field(default=16 * 1024 * 1024, ge=1)
    max_body_seconds: Seconds = Field(default=60, description="how long a request's body may take to arrive")
    max_examples: int = Field(default=10_000, ge=2)
    max_text_chars: int = Field(default=10_000, ge=1)
    max_labels: int = Field(default=200, ge=2, le=200)
    max_predict_inputs: int = Field(default=256, ge=1)
    max_new_tokens: int = Field(default=1024, ge=1, description="of one text that is generated")

    predict_wait_ms: float = Field(
        default=3, ge=0, le=60_000, description="how long the first row of a batch waits for company"
    )
    predict_batch_rows: int = Field(default=128, ge=1)
    predict_batch_tokens: int = Field(
        default=4096, ge=1, description="tokens that one batch reads, which bounds how long others wait for it"
    )
    predict_queue_rows: int = Field(
        default=4096, ge=1, description="rows that may wait before callers are sent away with 429"
    )
    predict_cached_tasks: int = Field(
        default=4096, ge=1, description="task heads kept in memory, 1 kB and a readout each"
    )
    predict_prompt_bytes: int = Field(
        default=64 * 1024 * 1024, ge=0, description="memory for the soft prompts of the tasks asked last"
    )

    generate_batch_rows: int = Field(default=32, ge=1, description="rows that are written at a time; a beam is a row")
    generate_queue_rows: int = Field(
        default=256, ge=0, description="further rows that may wait before callers are sent away with 429"
    )
    generate_prompt_cache_bytes: int = Field(
        default=256 * 1024 * 1024, ge=0, description="memory for the prompts that were read, of the tasks in use"
    )

    @field_validator("heartbeat_seconds")
    @classmethod
    def _renewed_in_time(cls, seconds: float, others: ValidationInfo) -> float:
        if seconds > others.data.get("lease_seconds", math.inf) / 2:
            raise ValueError("must be at most half of IPT_LEASE_SECONDS, or a worker would lose what it works at")
        return seconds

    @field_validator("database_url")
    @classmethod
    def _psycopg_url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        scheme, separator, rest = url.partition("://")
        if not separator or scheme not in ("postgres", "postgresql", "postgresql+psycopg"):
            raise ValueError("must start with postgresql:// (PostgreSQL is the only database)")
        return f"postgresql+psycopg://{rest}"

    @field_validator("redis_url")
    @classmethod
    def _redis_scheme(cls, url: str | None) -> str | None:
        if url is not None and url.partition("://")[0] not in ("redis", "rediss", "redis+socket"):
            raise ValueError("must start with redis://, rediss:// or redis+socket://")
        return url

    @field_validator("api_key")
    @classmethod
    def _long_enough(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and (len(key.get_secret_value()) < 16 or not is_sendable(key.get_secret_value())):
            raise ValueError("must have at least 16 visible ASCII characters, and no line break")
        return key

    @property
    def embedded(self) -> bool:
        """Whether this machine runs its own PostgreSQL under `data_dir`."""
        return self.database_url is None

    @property
    def open_access(self) -> bool:
        """Whether callers need no API key: only one machine's own user can reach the service."""
        return self.embedded and self.api_key is None and is_loopback(self.host)

    def check_bind(self) -> None:
        """Refuse to be reachable from outside without a key.

        Raises:
            SettingsError: `host` is not loopback and `api_key` is not set.
        """
        if not is_loopback(self.host) and self.api_key is None:
            raise SettingsError(
                f"IPT_HOST={self.host} can be reached from other machines, and no API key is set: "
                "set IPT_API_KEY (16 characters or more), or bind to 127.0.0.1"
            )

    def check_worker_beside(self) -> None:
        """Refuse to run a worker beside the API where both would listen on the same port.

        Raises:
            SettingsError: `metrics_port` is `port`.
        """
        if self.metrics_port == self.port:
            raise SettingsError(
                f"IPT_METRICS_PORT={self.metrics_port} is where the API listens: the worker needs another port"
            )

    def described(self) -> dict[str, Any]:
        """Every setting by its variable's name, secrets masked, for a command to print."""
        values = self.model_dump(mode="json")
        for name in _SECRET_FIELDS:
            if values[name] is not None:
                values[name] = "**********"
        return {f"IPT_{name.upper()}": value for name, value in values.items()}


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Variables that look like settings and are none, so that a misspelt one is noticed."""
    known = {f"{_PREFIX}{name.upper()}" for name in Settings.model_fields} | _OF_OTHERS
    return sorted(name for name in environment if name.startswith(_PREFIX) and name not in known)


def is_sendable(key: str) -> bool:
    """Whether a header can carry an API key as it is."""
    return key.isascii() and key.isprintable() and key == key.strip()


def is_loopback(host: str) -> bool:
    """Whether `host` is an address, or the name, of this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
