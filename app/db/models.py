"""The tables. All but `subspaces` and `workers` belong to a tenant, and every query on them names it."""

import uuid
from datetime import datetime
from typing import Any, ClassVar, Literal, get_args

from pgvector.sqlalchemy import VECTOR
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ColumnElement,
    ForeignKey,
    Index,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    func,
    literal,
    literal_column,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, BYTEA, JSONB, TIMESTAMP
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
Kind = Literal["classification", "text2text"]
Scope = Literal["adapt", "predict", "admin"]
FINISHED: frozenset[State] = frozenset(("succeeded", "failed", "cancelled"))

INDEXED_DIM = 250
"""Vectors of this length, the default, have an index by direction; an index takes one length."""
SPREAD_DIMS = 16
"""What `spread_vector` adds to a vector, so that equal ones differ a little there (migration 0005)."""
INDEXED = f"vector_dims(vector) = {INDEXED_DIM} AND vector_norm(vector) > 0 AND start IS NULL"

_NOW = func.now()


def _one_of(column: str, values: object) -> str:
    return f"{column} IN ({', '.join(repr(value) for value in get_args(values))})"


class Base(DeclarativeBase):
    """Constraint names are fixed so that a migration can drop what another one made."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {
        datetime: TIMESTAMP(timezone=True),
        bytes: BYTEA,
        dict[str, Any]: JSONB,
        list[Any]: JSONB,
    }


class Tenant(Base):
    """`served_at` is when a worker last took up an adaptation of this tenant's; it orders their turns.

    `waiting_since` is set for all who have an adaptation queued or running, by a trigger (migration 0006), and cleared
    some time after they have none (`turns.clear_idle_tenants`).
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
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    served_at: Mapped[datetime | None]
    waiting_since: Mapped[datetime | None]


class ApiKey(Base):
    """A key is looked up by its prefix and known by its SHA-256 alone."""

    __tablename__ = "api_keys"
    __table_args__ = (CheckConstraint(f"scopes <@ ARRAY{list(get_args(Scope))}::text[]", name="scopes"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    prefix: Mapped[str] = mapped_column(index=True)
    sha256: Mapped[bytes] = mapped_column(unique=True)
    name: Mapped[str | None]
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class SubspaceRow(Base):
    """A subspace that some process of this service has loaded; the operator's, shared by all tenants."""

    __tablename__ = "subspaces"

    id: Mapped[str] = mapped_column(primary_key=True)
    intrinsic_dim: Mapped[int]
    prompt_length: Mapped[int]
    hidden_size: Mapped[int]
    manifest: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)


class Worker(Base):
    """A process that tunes, as it said last; `subspace_id` is null until it has loaded one."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(primary_key=True)
    subspace_id: Mapped[str | None]
    jobs: Mapped[int]
    started_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    seen_at: Mapped[datetime] = mapped_column(server_default=_NOW)


class Dataset(Base):
    """Examples as they were sent, kept once per tenant and content."""

    __tablename__ = "datasets"
    __table_args__ = (UniqueConstraint("tenant_id", "content_hash"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    content_hash: Mapped[str]
    examples: Mapped[list[Any]]  # [{"input": str, "output": str}, …]
    validation_examples: Mapped[list[Any] | None] = mapped_column(JSONB(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)


class Task(Base):
    """A name and a row of versions; `last_version` is the last number given out, succeeded or not."""

    __tablename__ = "tasks"
    __table_args__ = (Index("ix_tasks_tenant_id_created_at_id", "tenant_id", "created_at", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    name: Mapped[str]
    last_version: Mapped[int] = mapped_column(server_default=text("0"))
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)


class Adaptation(Base):
    """One run that tunes a task; this row is the job.

    `subspace_id` is null when the caller named none: the worker that claims the row writes its own there.
    `queued_at` is its place in its tenant's queue: when it was created, or last went to the end of it to make way.
    Deleting the task deletes its rows, so a worker must expect its compare-and-set to find nothing.
    """

    __tablename__ = "adaptations"
    __table_args__ = (
        CheckConstraint(_one_of("state", State), name="state"),
        CheckConstraint(_one_of("kind", Kind), name="kind"),
        UniqueConstraint("tenant_id", "idempotency_key"),
        UniqueConstraint("task_id", "task_version"),
        Index("ix_adaptations_tenant_id_created_at_id", "tenant_id", "created_at", "id"),
        Index("ix_adaptations_queued", "tenant_id", "queued_at", "id", postgresql_where=text("state = 'queued'")),
        Index("ix_adaptations_leases", "lease_until", postgresql_where=text("state = 'running'")),
        Index(
            "ix_adaptations_finished",
            "tenant_id",
            "state",
            "created_at",
            "id",
            postgresql_where=text("state IN ('succeeded', 'failed', 'cancelled')"),
        ),
        Index("ix_adaptations_dataset_id", "dataset_id"),
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
    # `metadata` itself is an attribute of every SQLAlchemy model.
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=text("'{}'::jsonb"))

    attempt: Mapped[int] = mapped_column(server_default=text("0"))
    cancel_requested: Mapped[bool] = mapped_column(server_default=text("false"))
    lease_token: Mapped[uuid.UUID | None]
    lease_until: Mapped[datetime | None]
    worker_id: Mapped[str | None]
    step: Mapped[int] = mapped_column(server_default=text("0"))
    steps: Mapped[int] = mapped_column(server_default=text("0"))
    checkpoint: Mapped[bytes | None]

    metrics: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    warnings: Mapped[list[Any]] = mapped_column(server_default=text("'[]'::jsonb"))
    error: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))

    idempotency_key: Mapped[str | None]
    body_hash: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    queued_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    @classmethod
    def in_state(cls, state: str) -> ColumnElement[bool]:
        """Compare `state` with a literal: PostgreSQL uses a partial index only for a value that it can see."""
        return cls.state == literal(state, literal_execute=True)


class AdaptationEvent(Base):
    """What happened to an adaptation, numbered from 1 without gaps."""

    __tablename__ = "adaptation_events"

    adaptation_id: Mapped[str] = mapped_column(ForeignKey("adaptations.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    type: Mapped[str]
    data: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)


class TaskVersion(Base):
    """What an adaptation that succeeded leaves behind: all that a prediction needs."""

    __tablename__ = "task_versions"
    __table_args__ = (
        CheckConstraint(_one_of("kind", Kind), name="kind"),
        # Of those at a start, which the next one has, none is compared with anything.
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
    # Where tuning kept the vector that it started at: a number of that vector's (`Subspace.initial_vector_id`).
    start: Mapped[int | None] = mapped_column(BigInteger)
    readout: Mapped[bytes | None]
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)

    adaptation: Mapped[Adaptation] = relationship(lazy="raise", viewonly=True)  # which has the metrics
