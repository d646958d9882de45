"""Rate limit per API key: a token bucket (GCRA) that holds one minute's requests and refills at an even rate.

With Redis, all API processes share the buckets; without Redis, or while it does not answer, each process has its own.
A bucket is one number: the time at which it is full again. Each accepted request moves that time into the future by
the request's share of a minute.
"""

import logging
import math
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

log = logging.getLogger(__name__)

_MINUTE = 60.0
_REDIS_TIMEOUT_SECONDS = 0.2
REDIS_RETRY_SECONDS = 5.0
"""Pause between the probes of a Redis that has failed; no request uses it until a probe has been answered."""

# The script uses the clock of Redis, which is the same for all processes. Times are whole microseconds. It returns the
# time until the bucket is full, including this request, and accepts the request if that is at most a minute.
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
class Decision:
    """The decision on one request: `wait_seconds` is 0 if it is accepted, else the time until the next one is."""

    limit: int
    remaining: int
    wait_seconds: float
    full_in_seconds: float

    def headers(self) -> dict[str, str]:
        """Return the rate limit headers of the response, in whole numbers."""
        return {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(math.ceil(self.full_in_seconds)),
        }


class RateLimit:
    """The buckets of all API keys; safe to use from several threads."""

    def __init__(self, per_minute: int, redis_url: str | None) -> None:
        self._per_minute = per_minute
        self._share = _MINUTE / per_minute
        self._full_at: dict[str, float] = {}
        self._lock = threading.Lock()
        self._redis = None if redis_url is None else _redis_client(redis_url)
        self._redis_take = None if self._redis is None else self._redis.register_script(_TAKE)
        self._redis_is_down = False

    def take(self, key_id: str) -> Decision:
        """Take one request from the bucket of a key, if it holds one. Never raises."""
        full_in = self._take_from_redis(key_id)
        if full_in is None:
            full_in = self._take_locally(key_id)
        wait = full_in - _MINUTE
        if wait > 1e-6:  # a tolerance for rounding
            return Decision(self._per_minute, 0, wait, full_in - self._share)
        return Decision(self._per_minute, int((_MINUTE - full_in) / self._share + 1e-6), 0.0, full_in)

    def _take_locally(self, key_id: str) -> float:
        with self._lock:
            now = time.monotonic()
            full_in = max(self._full_at.get(key_id, now) - now, 0.0) + self._share
            if full_in <= _MINUTE + 1e-6:
                self._full_at[key_id] = now + full_in
            return full_in

    def _take_from_redis(self, key_id: str) -> float | None:
        """Return the time until the bucket is full, or None if Redis is not configured or does not answer."""
        if self._redis_take is None or self._redis_is_down:
            return None
        from redis import RedisError

        try:
            microseconds = self._redis_take(keys=[f"ipt:requests:{key_id}"], args=[int(1e6 * self._share)])
        except RedisError as error:
            with self._lock:
                if not self._redis_is_down:
                    self._redis_is_down = True
                    log.warning("Redis is down, each process counts its own requests: %s", type(error).__name__)
                    probe = threading.Thread(target=self._probe, args=[self._redis], name="probe-redis", daemon=True)
                    probe.start()
            return None
        return cast(int, microseconds) / 1e6

    def _probe(self, redis: Any) -> None:
        from redis import RedisError

        while self._redis_is_down:
            time.sleep(REDIS_RETRY_SECONDS)
            with suppress(RedisError):
                redis.ping()
                self._redis_is_down = False
                log.info("Redis is back")


def _redis_client(url: str) -> Any:
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    # Celery and the Redis client write the URL of a Unix socket differently.
    url = url.replace("redis+socket://", "unix://", 1).replace("virtual_host=", "db=")
    no_retry = Retry(NoBackoff(), retries=0)
    return Redis.from_url(
        url, socket_timeout=_REDIS_TIMEOUT_SECONDS, socket_connect_timeout=_REDIS_TIMEOUT_SECONDS, retry=no_retry
    )
