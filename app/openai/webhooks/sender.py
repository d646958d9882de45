"""Sends one message of a webhook to its receiver."""

import asyncio
import time
from collections.abc import Sequence

import httpcore
import httpx

from app.openai.webhooks.addresses import AddressNotAllowedError, CheckedBackend, Network, Resolve, resolve
from app.openai.webhooks.messages import signed_headers

SEND_SECONDS = 10.0
"""Time until a receiver must have answered, name lookup included."""


class NotDeliveredError(Exception):
    """The receiver did not get the message or did not accept it; the message says why."""


class Sender:
    """Sends messages over connections that are checked, one for each message, and follows no redirect."""

    def __init__(self, allowed: Sequence[Network], resolve: Resolve = resolve) -> None:
        self._backend = CheckedBackend(allowed, resolve)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=httpx.create_ssl_context(trust_env=False),
            network_backend=self._backend,
            max_connections=None,
            max_keepalive_connections=0,
        )

    async def send(self, url: str, event_id: str, body: bytes, signing_secrets: Sequence[str]) -> int:
        """Send a message and return the status of the answer; nothing else of the answer is read.

        Raises:
            NotDeliveredError: the receiver did not answer.
        """
        headers = signed_headers(event_id, body, signing_secrets, int(time.time()))
        headers |= {"content-type": "application/json", "user-agent": "intrinsic-prompt-tuning-webhooks"}
        try:
            async with asyncio.timeout(SEND_SECONDS):
                request = self._pool.stream("POST", url, headers=list(headers.items()), content=body)
                async with request as response:
                    return response.status
        except TimeoutError:
            raise NotDeliveredError(f"the receiver did not answer within {SEND_SECONDS:.0f} seconds") from None
        except AddressNotAllowedError as error:
            raise NotDeliveredError(str(error)) from error
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            raise NotDeliveredError("the connection to the receiver failed, or it does not speak HTTP") from error

    def close(self) -> None:
        """Stop the threads that resolve names."""
        self._backend.close()


def check_accepted(status: int) -> None:
    """Check that a status means that the receiver has the message.

    Raises:
        NotDeliveredError: it does not.
    """
    if 200 <= status < 300:
        return
    advice = "; redirects are not followed: register the final URL" if 300 <= status < 400 else ""
    raise NotDeliveredError(f"the receiver answered with status {status}{advice}")
