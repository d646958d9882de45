"""Which addresses webhooks may reach: public ones, and the private networks that the operator allows.

A receiver's address is a tenant's choice, and the service can reach machines that the tenant cannot. So each connection
resolves the host name once, checks the addresses, and connects to one that it has checked: a name whose address changes
in between (DNS rebinding) gains nothing.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import httpcore

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolve = Callable[[str, int], Sequence[str]]
"""Returns the addresses of a host name; may block, and raises OSError if there is none."""

UNREACHABLE = "the host name is unknown, or its address is private and the operator has not allowed its network"
_RESOLVER_THREADS = 4
# Routers and gateways translate these to the IPv4 address that they contain.
_NAT64 = IPv6Network("64:ff9b::/96")
_GLOBAL_UNICAST = IPv6Network("2000::/3")


class AddressNotAllowedError(OSError):
    """A host has no address that a webhook may reach."""


def may_reach(address: str, allowed: Iterable[Network]) -> bool:
    """Return whether a webhook may connect to an address."""
    parsed = _innermost(ipaddress.ip_address(address.partition("%")[0]))
    if any(parsed in network for network in allowed):
        return True
    if isinstance(parsed, IPv6Address) and parsed not in _GLOBAL_UNICAST:
        return False
    return parsed.is_global and not parsed.is_multicast


def host_may_be_reached(host: str, allowed: Sequence[Network]) -> bool:
    """Return whether a host of a URL may be allowed: false for an address that is not, true for any other name."""
    if host == "localhost" or host.endswith(".localhost"):
        return may_reach("127.0.0.1", allowed) or may_reach("::1", allowed)
    try:
        return may_reach(host, allowed)
    except ValueError:
        return True


def resolve(host: str, port: int) -> Sequence[str]:
    """Return the addresses of a host name, as the system resolves it."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(sockaddr[0]) for *_, sockaddr in found]


def _innermost(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address stands for, or the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or address


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """Opens connections only to addresses that webhooks may reach."""

    def __init__(self, allowed: Sequence[Network], resolve: Resolve = resolve) -> None:
        self._allowed = allowed
        self._resolve = resolve
        self._backend = httpcore.AnyIOBackend()
        # Threads of its own: a name server that does not answer must not block other work of the process.
        self._threads = ThreadPoolExecutor(_RESOLVER_THREADS, thread_name_prefix="webhook-names")

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature of httpcore
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first allowed address that answers.

        Raises:
            AddressNotAllowedError: the host has no allowed address.
            httpcore.ConnectError, httpcore.ConnectTimeout: no allowed address accepts the connection.
        """
        loop = asyncio.get_running_loop()
        try:
            addresses = await loop.run_in_executor(self._threads, self._resolve, host, port)
        except (OSError, UnicodeError) as error:
            raise AddressNotAllowedError(UNREACHABLE) from error
        allowed = [address for address in addresses if may_reach(address, self._allowed)]
        if not allowed:
            raise AddressNotAllowedError(UNREACHABLE)
        for number, address in enumerate(allowed, start=1):
            try:
                return await self._backend.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if number == len(allowed):
                    raise
        raise AssertionError("unreachable")

    async def sleep(self, seconds: float) -> None:
        await self._backend.sleep(seconds)

    def close(self) -> None:
        """Stop the threads; a lookup in progress ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)
