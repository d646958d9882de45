"""The client of a chaos run: sends adaptations until the API has accepted each one."""

import random
import threading
from typing import Any

import httpx

from tests.chaos.processes import TENANTS, Service
from tests.support.jobs import EXAMPLES

STEPS = 250
# Distinct seeds give distinct vectors, so that a result stored under the wrong task is detected.
DISTINCT = 20
# The share of accepted requests that are sent again, like those of a client that never received the response.
_RESENT = 0.2


def tenant_of(number: int) -> str:
    """Return the tenant of an adaptation."""
    return TENANTS[number % len(TENANTS)]


def hyperparameters(number: int) -> dict[str, Any]:
    """Return the hyperparameters of an adaptation."""
    return {"steps": STEPS, "batch_size": 8, "learning_rate": 0.002, "seed": number % DISTINCT}


def request_body(number: int) -> dict[str, Any]:
    """Return the request that creates an adaptation."""
    return {
        "name": f"chaos {number}",
        "examples": EXAMPLES,
        "hyperparameters": hyperparameters(number),
        "metadata": {"number": str(number)},
    }


class Client:
    """Sends adaptations one by one from a thread; retries each one, with the same idempotency key, until accepted."""

    def __init__(self, service: Service, count: int, seconds: float, seed: int) -> None:
        self._service, self._count, self._pause = service, count, seconds / count
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send_all, name="client", daemon=True)
        self.accepted: dict[int, set[str]] = {}
        self.errors: list[str] = []

    def __enter__(self) -> "Client":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def done(self) -> bool:
        """Whether every adaptation has been accepted."""
        return not self._thread.is_alive()

    def _send_all(self) -> None:
        with httpx.Client(timeout=20, trust_env=False) as http:
            for number in range(self._count):
                while not self._stop.is_set() and number not in self.accepted:
                    self._send(http, number)
                self._stop.wait(self._random.uniform(0, 2 * self._pause))

    def _send(self, http: httpx.Client, number: int) -> None:
        response = self._post(http, number)
        if response is None:
            self._stop.wait(0.1)
        elif response.status_code == 202:
            self.accepted.setdefault(number, set()).add(response.json()["id"])
            if self._random.random() < _RESENT:
                response = self._post(http, number)
                if response is not None and response.status_code == 202:
                    self.accepted[number].add(response.json()["id"])
        elif response.status_code == 503:
            self._stop.wait(0.2)
        else:
            self.errors.append(f"POST answered {response.status_code}: {response.text}")
            self._stop.wait(0.2)

    def _post(self, http: httpx.Client, number: int) -> httpx.Response | None:
        """Send a request to one of the API processes; return None if there is no response."""
        url = f"{self._random.choice(self._service.api_urls)}/v1/adaptations"
        headers = {
            "authorization": f"Bearer {self._service.keys[tenant_of(number)]}",
            "idempotency-key": f"chaos-{number}",
        }
        try:
            return http.post(url, json=request_body(number), headers=headers)
        except httpx.TransportError:
            return None
