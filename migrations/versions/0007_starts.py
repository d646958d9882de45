"""Mark task versions whose vector is an initial vector, and leave them out of the vector index."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_INDEXED = "vector_dims(vector) = 250 AND vector_norm(vector) > 0"


def upgrade() -> None:
    op.drop_index("ix_task_versions_vector", "task_versions")
    op.add_column("task_versions", sa.Column("start", sa.BigInteger))
    # The database does not know a subspace's initial vectors. A vector that a hundred tasks share is treated as one.
    # The numbers are negative, so that they differ from those of real initial vectors.
    op.execute(
        """
        UPDATE task_versions SET start = shared.number
        FROM (
            SELECT subspace_id, vector, -row_number() OVER (PARTITION BY subspace_id ORDER BY count(*) DESC) AS number
            FROM task_versions GROUP BY subspace_id, vector HAVING count(*) >= 100
        ) shared
        WHERE task_versions.subspace_id = shared.subspace_id AND task_versions.vector = shared.vector
            AND shared.number >= -1000
        """
    )
    op.create_index(
        "ix_task_versions_start",
        "task_versions",
        ["tenant_id", "subspace_id", "start", "task_id"],
        postgresql_where=sa.text("start IS NOT NULL"),
    )
    _create_vector_index(100, f"{_INDEXED} AND start IS NULL")


def downgrade() -> None:
    op.drop_index("ix_task_versions_vector", "task_versions")
    op.drop_index("ix_task_versions_start", "task_versions")
    op.drop_column("task_versions", "start")
    _create_vector_index(200, _INDEXED)


def _create_vector_index(ef_construction: int, where: str) -> None:
    op.create_index(
        "ix_task_versions_vector",
        "task_versions",
        [sa.text("(spread_vector(vector, task_id)::halfvec(266)) halfvec_cosine_ops")],
        postgresql_using="hnsw",
        postgresql_with={"m": 16, "ef_construction": ef_construction},
        postgresql_where=sa.text(where),
    )
