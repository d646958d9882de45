"""`python -m app.api_keys TENANT` prints a new API key of that tenant."""

import argparse
import sys

from app.api_keys.service import issue
from app.db.session import make_engine, transaction
from app.settings import DEFAULT_TENANT, Settings


def main() -> None:
    """Print a new API key; the database keeps its hash alone, so it cannot be shown again."""
    parser = argparse.ArgumentParser(prog="python -m app.api_keys", description=main.__doc__)
    parser.add_argument("tenant", nargs="?", default=DEFAULT_TENANT)
    tenant = parser.parse_args().tenant
    url = Settings().database_url
    if url is None:
        parser.error("IPT_DATABASE_URL is not set; the embedded mode takes its one key from IPT_API_KEY")
    engine = make_engine(url)
    with transaction(engine) as session:
        key = issue(session, tenant)
    engine.dispose()
    sys.stdout.write(f"{key}\n")


if __name__ == "__main__":
    main()
