"""The messages of webhooks: their body, and their signature as Standard Webhooks defines it."""

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable
from datetime import datetime

_PREFIX = "whsec_"
_KEY_BYTES = 32


def new_secret() -> str:
    """Return a random signing secret."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()


def body_of(event_id: str, event_type: str, object_id: str, created_at: datetime) -> bytes:
    """Return the body of a message, with OpenAI's field names."""
    event = {
        "id": event_id,
        "object": "event",
        "type": event_type,
        "created_at": int(created_at.timestamp()),
        "data": {"id": object_id},
    }
    return json.dumps(event).encode()


def signed_headers(event_id: str, body: bytes, signing_secrets: Iterable[str], timestamp: int) -> dict[str, str]:
    """Return the headers by which a receiver recognizes and verifies a message; one signature for each secret."""
    content = f"{event_id}.{timestamp}.".encode() + body
    signatures = []
    for secret in signing_secrets:
        key = base64.b64decode(secret.removeprefix(_PREFIX))
        signatures.append("v1," + base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode())
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signatures),
    }
