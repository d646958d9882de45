"""Many tasks: similar vectors by an index, and what has ended by its state."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# Tasks for which tuning gained nothing have the very vector that it started at. In a graph of nearest neighbors (HNSW)
# thousands of equal ones know nothing but each other, and searches end among them. So the index has each vector of
# unit length with sixteen more numbers, drawn from the task's id and so small that similarities change by 0.0013 at
# most (docs/decisions/0012).
_DRAWN = ", ".join(f"hashtextextended($2, {seed}) / 7.2e20" for seed in range(16))


def upgrade() -> None:
    op.execute(
        "CREATE FUNCTION spread_vector(vector, text) RETURNS halfvec LANGUAGE sql IMMUTABLE PARALLEL SAFE "
        f"RETURN (l2_normalize($1) || ARRAY[{_DRAWN}]::real[]::vector)::halfvec"
    )
    # Half precision is half the size. pgvector's own ef_construction of 64 leaves more groups of similar vectors that
    # no search reaches.
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
