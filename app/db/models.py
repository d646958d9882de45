"""The tables, without those of files and batches.

All but `subspaces`, `workers` and `schema_floor` belong to tenants, by which every query filters.
"""

import uuid
from datetime import datetime
from typing import Any, Literal, get_args

from pgvector.sqlalchemy import VECTOR
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ColumnElement,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    String,
    Text,
    UniqueConstraint,
    literal,
    literal_column,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.db.base import NOW, Base, one_of

State = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
Kind = Literal["classification", "multilabel", "text2text"]
Scope = Literal["adapt", "predict", "admin"]
Promotion = Literal["always", "if_better", "manual"]
FINISHED: frozenset[State] = frozenset(("succeeded", "failed", "cancelled"))

INDEXED_DIM = 250
"""The vector length that has a similarity index; an index takes one length, and this is the default."""
SPREAD_DIMS = 16
"""Dimensions that `spread_vector` appends, in which equal vectors differ slightly (migration 0005)."""
INDEXED = f"vector_dims(vector) = {INDEXED_DIM} AND vector_norm(vector) > 0 AND start IS NULL"


class Tenant(Base):
    """A tenant.

    `served_at` is the time at which a worker last claimed an adaptation of this tenant; it orders the round robin.
    `waiting_since` is set by a trigger (migration 0006) while the tenant has an adaptation queued or running, and
    cleared some time after the last one has finished (`turns.clear_idle_tenants`).
    """

    __tablename__ = "tenants"
    __table_args__ = (
        Index(
            "ix_tenants_waiting",
            text("served_at NULLS FIRST"),
            "waiting_since",
            postgresql_where=text("waiting_since IS NOT NULL"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    served_at: Mapped[datetime | None]
    waiting_since: Mapped[datetime | None]
    keep_texts: Mapped[bool] = mapped_column(server_default=text("false"))  # see KeptTextRow


class ApiKey(Base):
    """An API key. Only its SHA-256 is stored; its prefix is indexed for the lookup."""

    __tablename__ = "api_keys"
    __table_args__ = (CheckConstraint(f"scopes <@ ARRAY{list(get_args(Scope))}::text[]", name="scopes"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    prefix: Mapped[str] = mapped_column(index=True)
    sha256: Mapped[bytes] = mapped_column(unique=True)
    name: Mapped[str | None]
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class SubspaceRow(Base):
    """A subspace that a process of this service has loaded. It belongs to the operator; all tenants share it."""

    __tablename__ = "subspaces"

    id: Mapped[str] = mapped_column(primary_key=True)
    intrinsic_dim: Mapped[int]
    prompt_length: Mapped[int]
    hidden_size: Mapped[int]
    manifest: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class Worker(Base):
    """A worker process, as it last reported; `subspace_id` is null until it has loaded its subspace.

    It tunes in `further_subspace_ids` too, for adaptations that name one of these.
    """

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(primary_key=True)
    subspace_id: Mapped[str | None]
    further_subspace_ids: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    jobs: Mapped[int]
    started_at: Mapped[datetime] = mapped_column(server_default=NOW)
    seen_at: Mapped[datetime] = mapped_column(server_default=NOW)


class Dataset(Base):
    """Examples as they were sent, stored once per tenant and content."""

    __tablename__ = "datasets"
    __table_args__ = (UniqueConstraint("tenant_id", "content_hash"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    content_hash: Mapped[str]
    examples: Mapped[list[Any]]  # [{"input": str, "output": str}, …]
    validation_examples: Mapped[list[Any] | None] = mapped_column(JSONB(none_as_null=True))
    size: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))  # bytes of the texts
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class Task(Base):
    """A task: a name and its versions. `last_version` is the last number assigned, even if its adaptation failed.

    `promotion`, `promoted_version` and `newest_at_promotion` decide which version answers (`app.db.answering`).
    """

    __tablename__ = "tasks"
    __table_args__ = (
        CheckConstraint(one_of("promotion", Promotion), name="promotion"),
        Index("ix_tasks_tenant_id_created_at_id", "tenant_id", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    name: Mapped[str]
    last_version: Mapped[int] = mapped_column(server_default=text("0"))
    promotion: Mapped[Promotion] = mapped_column(String, server_default=text("'always'"))
    promoted_version: Mapped[int | None]
    newest_at_promotion: Mapped[int | None]
    canary_version: Mapped[int | None]
    canary_share: Mapped[float | None]
    min_score: Mapped[float | None]
    min_in_scope: Mapped[float | None]
    # Of Label Studio, by id, until a version is tuned on them: {"17": {"input": str, "labels": [str, …]}, …}
    annotations: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True), deferred=True)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class Adaptation(Base):
    """One run that tunes a task; this row is the job.

    `subspace_id` is null if the caller named none: the worker that claims the row sets its own.
    `queued_at` is the position in its tenant's queue: when the row was created, or last moved to the end by preemption.
    Deleting the task deletes its rows, so a worker must expect its compare-and-set to match no row.
    """

    __tablename__ = "adaptations"
    __table_args__ = (
        CheckConstraint(one_of("state", State), name="state"),
        CheckConstraint(one_of("kind", Kind), name="kind"),
        UniqueConstraint("tenant_id", "idempotency_key"),
        UniqueConstraint("task_id", "task_version"),
        Index("ix_adaptations_tenant_id_created_at_id", "tenant_id", "created_at", "id"),
        Index("ix_adaptations_queued", "tenant_id", "queued_at", "id", postgresql_where=text("state = 'queued'")),
        Index("ix_adaptations_paused", "tenant_id", postgresql_where=text("state = 'paused'")),
        # Not `lease_until`: renewing a lease must change no indexed column.
        Index("ix_adaptations_running", "tenant_id", postgresql_where=text("state = 'running'")),
        Index(
            "ix_adaptations_finished",
            "tenant_id",
            "state",
            "created_at",
            "id",
            postgresql_where=text("state IN ('succeeded', 'failed', 'cancelled')"),
        ),
        Index("ix_adaptations_dataset_id", "dataset_id"),
        Index("ix_adaptations_finished_at", "finished_at", "id", postgresql_where=text("finished_at IS NOT NULL")),
        Index("ix_adaptations_unsuccessful", "finished_at", postgresql_where=text("state IN ('failed', 'cancelled')")),
        Index(
            "ix_adaptations_fine_tuning",
            "tenant_id",
            "created_at",
            "id",
            postgresql_where=text("fine_tuning IS NOT NULL"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    task_id: Mapped[str] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"))
    task_version: Mapped[int]
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    subspace_id: Mapped[str | None] = mapped_column(ForeignKey("subspaces.id"))
    kind: Mapped[Kind] = mapped_column(String)
    state: Mapped[State] = mapped_column(String, server_default=text("'queued'"))
    hyperparameters: Mapped[dict[str, Any]]
    # Every SQLAlchemy model has an attribute `metadata` already.
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=text("'{}'::jsonb"))

    attempt: Mapped[int] = mapped_column(server_default=text("0"))
    cancel_requested: Mapped[bool] = mapped_column(server_default=text("false"))
    pause_requested: Mapped[bool] = mapped_column(server_default=text("false"))
    lease_token: Mapped[uuid.UUID | None]
    lease_until: Mapped[datetime | None]
    worker_id: Mapped[str | None]
    step: Mapped[int] = mapped_column(server_default=text("0"))
    steps: Mapped[int] = mapped_column(server_default=text("0"))
    checkpoint: Mapped[bytes | None]

    metrics: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    warnings: Mapped[list[Any]] = mapped_column(server_default=text("'[]'::jsonb"))
    error: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    source: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))

    # Tuning starts at the vector of this version, if it exists and is in the same subspace.
    start_version: Mapped[int | None]
    # How the examples differ from those of an earlier version; null for a dataset that was sent whole.
    change: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))

    # What a fine-tuning job of OpenAI's API was created with; null for every other adaptation.
    fine_tuning: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))

    idempotency_key: Mapped[str | None]
    body_hash: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    queued_at: Mapped[datetime] = mapped_column(server_default=NOW)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    @classmethod
    def in_state(cls, state: str) -> ColumnElement[bool]:
        """Compare `state` with a literal: PostgreSQL uses a partial index only for a value that it can see."""
        return cls.state == literal(state, literal_execute=True)


class AdaptationEvent(Base):
    """An event of an adaptation; `seq` counts from 1 without gaps."""

    __tablename__ = "adaptation_events"

    adaptation_id: Mapped[str] = mapped_column(ForeignKey("adaptations.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    type: Mapped[str]
    data: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class TaskVersion(Base):
    """The result of an adaptation that succeeded: everything that a prediction needs."""

    __tablename__ = "task_versions"
    __table_args__ = (
        CheckConstraint(one_of("kind", Kind), name="kind"),
        Index("ix_task_versions_subspace_id", "subspace_id"),
        # Only vectors that moved from their initial vector are compared with each other; the next index has the others.
        Index("ix_task_versions_moved", "tenant_id", "subspace_id", postgresql_where=text("start IS NULL")),
        Index(
            "ix_task_versions_start",
            "tenant_id",
            "subspace_id",
            "start",
            "task_id",
            postgresql_where=text("start IS NOT NULL"),
        ),
        Index(
            "ix_task_versions_vector",
            literal_column(f"(spread_vector(vector, task_id)::halfvec({INDEXED_DIM + SPREAD_DIMS}))").label("spread"),
            postgresql_using="hnsw",
            postgresql_ops={"spread": "halfvec_cosine_ops"},
            postgresql_with={"m": 16, "ef_construction": 100},
            postgresql_where=text(INDEXED),
        ),
    )

    task_id: Mapped[str] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    adaptation_id: Mapped[str] = mapped_column(ForeignKey("adaptations.id", ondelete="CASCADE"), unique=True)
    subspace_id: Mapped[str] = mapped_column(ForeignKey("subspaces.id"))
    kind: Mapped[Kind] = mapped_column(String)
    labels: Mapped[list[Any]]
    vector: Mapped[list[float]] = mapped_column(VECTOR())  # [D]; D differs by subspace; takes a numpy array too
    # If tuning kept its initial vector, that vector's id (`Subspace.initial_vector_id`); otherwise null.
    start: Mapped[int | None] = mapped_column(BigInteger)
    readout: Mapped[bytes | None]
    scope: Mapped[bytes | None]  # null if the version cannot tell which texts belong to no label
    # Of a text-to-text task: slope and offset of `ipt.readout.calibration.Calibration`; null: not calibrated.
    calibration: Mapped[list[Any] | None] = mapped_column(JSONB(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)

    adaptation: Mapped[Adaptation] = relationship(lazy="raise", viewonly=True)  # has the metrics


class HeldOutRow(Base):
    """What a version was measured on, for reports; `logits` are the bytes of `ipt.tuning.held_out.HeldOutLogits`, or
    of `HeldOutTexts` for a text-to-text task.

    Apart from `TaskVersion`, which predictions read. Versions of earlier releases have no such row.
    """

    __tablename__ = "held_out_logits"
    __table_args__ = (
        ForeignKeyConstraint(
            ["task_id", "version"],
            ["task_versions.task_id", "task_versions.version"],
            name="fk_held_out_logits_task_id_version",
            ondelete="CASCADE",
        ),
    )

    task_id: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    logits: Mapped[bytes]


class TaskUsage(Base):
    """How many predictions of an hour had a label, and the sum of its scores; the label of a text is empty."""

    __tablename__ = "task_usage"
    __table_args__ = (Index("ix_task_usage_hour", "hour"),)

    task_id: Mapped[str] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True)
    hour: Mapped[datetime] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    label: Mapped[str] = mapped_column(primary_key=True)
    count: Mapped[int] = mapped_column(BigInteger)
    score_sum: Mapped[float]


class KeptTextRow(Base):
    """A text that a task of a tenant with `keep_texts` was asked; `digest` is its SHA-256."""

    __tablename__ = "kept_texts"
    __table_args__ = (Index("ix_kept_texts_kept_at", "kept_at"),)

    task_id: Mapped[str] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True)
    digest: Mapped[bytes] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(Text)
    kept_at: Mapped[datetime] = mapped_column(server_default=NOW)


class SchemaFloor(Base):
    """One row: the oldest revision whose release can work with this schema (`app.db.migrate`)."""

    __tablename__ = "schema_floor"

    oldest: Mapped[str] = mapped_column(primary_key=True)
