"""What the routes that create adaptations share: a turn in the threads for it, the transaction, and the wake-up."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Header, Request, Response
from sqlalchemy.orm import Session

from app.adaptations import service
from app.adaptations.dependencies import CreationThreadsDep, QueueingDep
from app.adaptations.schemas import AdaptationInput, AdaptationView
from app.adaptations.service import Requester
from app.adaptations.upload import Form, in_file, naming_lines, read_body
from app.api_keys.dependencies import AdaptingTenantDep
from app.db.dependencies import OpenTransaction
from app.db.models import Adaptation
from app.fairness.fair_pool import FairPool
from app.http.dependencies import SettingsDep
from app.predictions.dependencies import ModelsDep

Result = TypeVar("Result")
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="makes a retry safe: the same key and body return the same adaptation until its task is deleted",
    ),
]
CREATED: dict[int | str, dict[str, Any]] = {
    202: {"headers": {"Location": {"description": "the URL of the adaptation", "schema": {"type": "string"}}}}
}
"""The OpenAPI entry of the response of `created`."""


@dataclass(frozen=True, slots=True)
class Creation:
    """A request that creates an adaptation."""

    requester: Requester
    queueing: OpenTransaction
    threads: FairPool
    body_bytes: int

    async def run(self, create: Callable[[Session, Requester], Result]) -> Result:
        """Call `create` in a transaction, and wake a worker once it is committed.

        It runs in the threads for creations, in which a tenant's turn is measured in bytes of bodies. A session takes a
        connection at its first statement only, so `create` may parse files before.
        """

        def create_and_commit() -> Result:
            with self.queueing() as session:
                return create(session, self.requester)

        return await self.threads.run(self.requester.tenant_id, self.body_bytes, create_and_commit)


def create_from_form(session: Session, requester: Requester, form: Form) -> Adaptation:
    """Create the adaptation that a form asks for; errors and warnings name the lines of its files."""
    upload = read_body(form, requester.settings, AdaptationInput)
    with naming_lines(upload.lines):
        place_of = partial(in_file, lines=upload.lines)
        return service.create(session, requester, upload.body, upload.source, place_of)


def created(adaptation: Adaptation, response: Response) -> AdaptationView:
    """Return the body for a new adaptation, and set the response's `Location`."""
    response.headers["Location"] = f"/v1/adaptations/{adaptation.id}"
    return AdaptationView.of(adaptation)


async def _creation(
    settings: SettingsDep,
    models: ModelsDep,
    queueing: QueueingDep,
    tenant: AdaptingTenantDep,
    threads: CreationThreadsDep,
    request: Request,
    idempotency_key: IdempotencyKey = None,
) -> Creation:
    requester = Requester(tenant, settings, models, idempotency_key)
    return Creation(requester, queueing, threads, request.state.body_bytes)


CreationDep = Annotated[Creation, Depends(_creation)]
