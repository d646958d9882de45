"""The transaction that endpoints depend on."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from app.db.session import transaction

OpenTransaction = Callable[[], AbstractContextManager[Session]]


async def _transaction(request: Request) -> OpenTransaction:
    engine: Engine = request.app.state.engine
    tenant_id: str = request.state.caller.tenant_id  # set when the request was admitted
    return partial(transaction, engine, [tenant_id])


TransactionDep = Annotated[OpenTransaction, Depends(_transaction)]
"""Opens a transaction that sees only the caller's tenant.

An endpoint opens it, does its work and closes it, all in its own thread. A dependency that yields a session would close
it in another thread-pool task. That task would queue behind requests which wait for the very rows and connections that
the session still holds.
"""
