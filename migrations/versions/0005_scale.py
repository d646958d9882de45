"""Indexes for many tasks: an HNSW index of vectors, and an index of finished adaptations by state."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# Tasks that tuning did not improve keep their initial vector. In an HNSW graph, thousands of equal vectors link only to
# each other, and searches stop among them. So the index holds each vector normalized to unit length, with sixteen more
# numbers derived from the task's id; they change a similarity by at most 0.0013 (docs/decisions/0012).
_DRAWN = ", ".join(f"hashtextextended($2, {seed}) / 7.2e20" for seed in range(16))


def upgrade() -> None:
    op.execute(
        "CREATE FUNCTION spread_vector(vector, text) RETURNS halfvec LANGUAGE sql IMMUTABLE PARALLEL SAFE "
        f"RETURN (l2_normalize($1) || ARRAY[{_DRAWN}]::real[]::vector)::halfvec"
    )
    # Half precision halves the size. With pgvector's default ef_construction of 64, searches miss more groups of
    # similar vectors.
    op.create_index(
        "ix_task_versions_vector",
        "task_versions",
        [sa.text("(spread_vector(vector, task_id)::halfvec(266)) halfvec_cosine_ops")],
        postgresql_using="hnsw",
        postgresql_with={"m": 16, "ef_construction": 200},
        postgresql_where=sa.text("vector_dims(vector) = 250 AND vector_norm(vector) > 0"),
    )
    op.create_index(
        "ix_adaptations_finished",
        "adaptations",
        ["tenant_id", "state", "created_at", "id"],
        postgresql_where=sa.text("state IN ('succeeded', 'failed', 'cancelled')"),
    )


def downgrade() -> None:
    op.drop_index("ix_adaptations_finished", "adaptations")
    op.drop_index("ix_task_versions_vector", "task_versions")
    op.execute("DROP FUNCTION spread_vector")
