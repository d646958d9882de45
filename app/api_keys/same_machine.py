"""Access without API keys: only this machine may call, and no web page of another site."""

import re

from fastapi import Request

from app.errors import AuthenticationError, BadRequestError
from app.settings import is_loopback

_HOST = re.compile(r"(\[(?P<address>[0-9a-f:.]*:[0-9a-f:.]*)\]|(?P<name>[a-z0-9.-]+))(:[0-9]{0,5})?")


def check_same_machine(request: Request) -> None:
    """Reject a request that does not come straight from this machine.

    The settings guarantee a loopback address only under `ipt serve`; another server may bind elsewhere. A web page can
    also point its own host name at 127.0.0.1 (DNS rebinding), which the `Host` header reveals.

    Raises:
        AuthenticationError: the peer is another machine.
        BadRequestError: the `Host` or `Origin` header names another host.
    """
    if request.client is not None and not is_loopback(request.client.host):
        raise AuthenticationError(
            "this service accepts requests from its own machine only; set IPT_API_KEY to open it",
            code="api_key_missing",
        )
    if not _names_loopback(request.headers.getlist("host")):
        raise BadRequestError(
            "without API keys this service accepts only localhost or a loopback address as its host",
            code="unknown_host",
            param="host",
        )
    # A page of another site can send a form to this machine without a preflight request (CSRF).
    origin = request.headers.get("origin")
    if origin is not None and not _names_loopback([origin.partition("://")[2]]):
        raise BadRequestError(
            "without API keys this service rejects requests from web pages of other hosts",
            code="foreign_origin",
            param="origin",
        )


def _names_loopback(hosts: list[str]) -> bool:
    """Return whether there is exactly one host, a loopback name or address with an optional port."""
    match = _HOST.fullmatch(hosts[0].lower()) if len(hosts) == 1 else None
    return match is not None and is_loopback(match["address"] or match["name"])
