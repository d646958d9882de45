"""How many requests a key may send: a bucket of a minute's requests, which fills again at an even pace.

With Redis the buckets are those of all API processes together; without it, or while it is away, each process has its
own. A bucket is one number: when it will be full again. Every request taken puts that off by its share of a minute.
"""

import logging
import math
import threading
import time
from dataclasses import dataclass
from typing import Any, cast

log = logging.getLogger(__name__)

_MINUTE = 60.0
_REDIS_SECONDS = 0.2
"""How long Redis may take to answer."""
_REDIS_REST_SECONDS = 5.0
"""How long Redis is left alone after it did not."""

# Redis' own clock counts, which is the same for all processes. Times are whole microseconds; the answer is how long
# until the bucket is full again, as if this request were taken, and it is taken where that is at most a minute.
_TAKE = """
local now = redis.call('TIME')
now = now[1] * 1000000 + now[2]
local full_in = math.max(tonumber(redis.call('GET', KEYS[1]) or 0) - now, 0) + tonumber(ARGV[1])
if full_in <= 60000000 then
    redis.call('SET', KEYS[1], string.format('%.0f', now + full_in), 'PX', math.ceil(full_in / 1000))
end
return full_in
"""


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a request: `wait_seconds` is 0 when it was let through, else after how long one will be."""

    limit: int
    remaining: int
    wait_seconds: float
    full_in_seconds: float

    def headers(self) -> dict[str, str]:
        """For the answer, in whole numbers."""
        return {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(math.ceil(self.full_in_seconds)),
        }


class RateLimit:
    """The buckets of all keys; threads may share it."""

    def __init__(self, per_minute: int, redis_url: str | None) -> None:
        self._per_minute = per_minute
        self._share = _MINUTE / per_minute
        self._full_at: dict[str, float] = {}
        self._lock = threading.Lock()
        self._redis_take = None if redis_url is None else _redis_script(redis_url)
        self._redis_rests_until = float("-inf")
        self._redis_away = False

    def take(self, key_id: str) -> Taken:
        """Take a request out of a key's bucket, if there is one left. Never raises."""
        full_in = self._take_from_redis(key_id)
        if full_in is None:
            full_in = self._take_here(key_id)
        # Both clocks count in steps that are finer than this.
        wait = full_in - _MINUTE
        if wait > 1e-6:
            return Taken(self._per_minute, 0, wait, full_in - self._share)
        return Taken(self._per_minute, int((_MINUTE - full_in) / self._share + 1e-6), 0.0, full_in)

    def _take_here(self, key_id: str) -> float:
        with self._lock:
            now = time.monotonic()
            full_in = max(self._full_at.get(key_id, now) - now, 0.0) + self._share
            if full_in <= _MINUTE + 1e-6:
                self._full_at[key_id] = now + full_in
            return full_in

    def _take_from_redis(self, key_id: str) -> float | None:
        """None where there is no Redis to ask."""
        if self._redis_take is None or time.monotonic() < self._redis_rests_until:
            return None
        from redis import RedisError

        try:
            microseconds = self._redis_take(keys=[f"ipt:requests:{key_id}"], args=[int(1e6 * self._share)])
        except RedisError as error:
            with self._lock:
                if not self._redis_away:
                    log.warning("requests are counted by each process alone, without Redis: %s", type(error).__name__)
                self._redis_away = True
                self._redis_rests_until = time.monotonic() + _REDIS_REST_SECONDS
            return None
        self._redis_away = False
        return cast(int, microseconds) / 1e6


def _redis_script(url: str) -> Any:
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    # Celery's way to name a socket, in the words of the client.
    url = url.replace("redis+socket://", "unix://", 1).replace("virtual_host=", "db=")
    once = Retry(NoBackoff(), retries=0)
    client = Redis.from_url(url, socket_timeout=_REDIS_SECONDS, socket_connect_timeout=_REDIS_SECONDS, retry=once)
    return client.register_script(_TAKE)
