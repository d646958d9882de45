"""A thin client of the HTTP API for the command line."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import httpx

from app.cli.options import without_none
from app.cli.output import CliError, program
from app.settings import is_loopback, is_sendable

Json = dict[str, Any]

_JSON = {"content-type": "application/json"}
_OPENAI = "/openai/v1"
_WEBHOOKS = f"{_OPENAI}/webhook_endpoints"
FINISHED_STATES = ("succeeded", "failed", "cancelled")
# Few enough that the response is never too large, however long the labels are.
_INPUTS_PER_REQUEST = 32
_PAGE = 100
TIMEOUT_SECONDS = 60.0


class ServiceError(CliError):
    """The service rejected a request; the message is the service's own."""

    def __init__(self, message: str, *, status: int, code: str | None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class ServiceClient:
    """A connection to one service. Every method raises `CliError` with a message for the user."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        address = _address(url)
        if api_key and not is_sendable(api_key):
            raise CliError("IPT_API_KEY cannot be sent: expected visible ASCII characters without line breaks")
        self.url = str(address).rstrip("/")
        self._http = httpx.Client(
            base_url=self.url,
            headers={"authorization": f"Bearer {api_key}"} if api_key else {},
            # A proxy from the environment cannot reach the loopback interface of this machine.
            trust_env=not is_loopback(address.host),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.close()

    def ready(self) -> bool:
        """Return whether a service answers and accepts work.

        Raises:
            CliError: the service answers but can never become ready.
        """
        try:
            response = self._http.get("/readyz", timeout=5.0)
            document = response.json()
        except (httpx.TransportError, ValueError):
            return False
        if response.is_success:
            return True
        if isinstance(document, dict) and document.get("checks", {}).get("model") == "failed":
            raise _service_error(response.status_code, document, self.url)
        return False

    def create_adaptation(
        self, name: str, examples: Sequence[Json], validation_examples: Sequence[Json] | None = None
    ) -> Json:
        """Queue an adaptation. Without `validation_examples` the service holds back some of the examples."""
        body: Json = {"name": name, "examples": list(examples)}
        if validation_examples is not None:
            body["validation_examples"] = list(validation_examples)
        return self._send("POST", "/v1/adaptations", body)

    def retune(self, task_id: str) -> Json:
        """Queue the tuning of a task's stored examples in the current subspace."""
        return self._send("POST", f"/v1/tasks/{task_id}/retune")

    def loaded_subspace(self) -> str | None:
        """Return the id of the subspace that the service tunes in; None while it loads."""
        loaded = [subspace["id"] for subspace in self._pages("/v1/subspaces") if subspace["loaded"]]
        return loaded[0] if loaded else None

    def upload(
        self,
        path: str,
        name: str,
        data: bytes,
        fields: dict[str, str],
        timeout_seconds: float | None = TIMEOUT_SECONDS,
    ) -> Json:
        """Send a file with other fields as a form."""
        with self._transport_errors():
            response = self._http.post(path, files={"file": (name, data)}, data=fields, timeout=timeout_seconds)
        return self._answer(response)

    def report(self, task_id: str, version: int) -> Json:
        """Return the report of the examples that a version was measured on."""
        return self._send("GET", f"/v1/tasks/{task_id}/versions/{version}/report")

    def is_multilabel(self, task_id: str) -> bool:
        """Return whether the newest version of a task has several labels at once."""
        versions = self._send("GET", f"/v1/tasks/{task_id}")["versions"]
        return bool(versions) and versions[-1]["kind"] == "multilabel"

    def answering_version(self, task_id: str) -> int:
        """Return the number of the version of a task that answers.

        Raises:
            CliError: there is no such task, or no adaptation of it has succeeded.
        """
        version = self._send("GET", f"/v1/tasks/{task_id}")["version"]
        if version is None:
            raise CliError(f"{task_id} has no version yet; `{program()} tasks` shows when it has one")
        return int(version)

    def adaptation(self, adaptation_id: str) -> Json:
        return self._send("GET", f"/v1/adaptations/{adaptation_id}")

    def wait(
        self, adaptation_id: str, on_update: Callable[[Json], None] | None = None, poll_seconds: float = 0.25
    ) -> Json:
        """Poll until the adaptation has finished and return it; `on_update` receives every response."""
        while True:
            adaptation = self.adaptation(adaptation_id)
            if on_update:
                on_update(adaptation)
            if adaptation["state"] in FINISHED_STATES:
                return adaptation
            time.sleep(poll_seconds)

    def tasks(self) -> list[Json]:
        """Return all tasks."""
        return list(self._pages("/v1/tasks"))

    def task_ids(self, name_or_id: str) -> list[str]:
        """Return the id itself, or the ids of all tasks with this name: adapted tasks first, newest first."""
        if name_or_id.startswith("tsk_"):
            return [name_or_id]
        matches = [task for task in self._pages("/v1/tasks") if task["name"] == name_or_id]
        if not matches:
            raise CliError(f"there is no task named {name_or_id!r}; `{program()} tasks` lists all tasks")
        return [task["id"] for task in sorted(matches, key=lambda task: task["version"] is None)]

    def predict(self, task_id: str, inputs: Sequence[str], options: Json | None = None) -> Json:
        """Return the predictions for `inputs` in their order; many inputs are split over several requests."""
        return self._in_parts(f"/v1/tasks/{task_id}/predict", options or {}, inputs)

    def classify(self, examples: Sequence[Json], inputs: Sequence[str]) -> Json:
        """Return the predictions for `inputs` by examples, and warnings about the examples."""
        return self._in_parts("/v1/classify", {"examples": list(examples)}, inputs)

    def suggest(self, task_id: str, inputs: Sequence[str] | None, count: int) -> Json:
        """Return which of the unlabelled `inputs`, or of the texts that the service kept, to label next; no timeout."""
        body = {"inputs": inputs, "count": count}
        return self._send("POST", f"/v1/tasks/{task_id}/suggest", body, timeout_seconds=None)

    def _in_parts(self, path: str, body: Json, inputs: Sequence[str]) -> Json:
        """Send inputs in several requests if they are many, and return the last answer with all predictions."""
        answer: Json = {}
        predictions: list[Json] = []
        for start in range(0, len(inputs), _INPUTS_PER_REQUEST):
            answer = self._send("POST", path, body | {"inputs": list(inputs[start : start + _INPUTS_PER_REQUEST])})
            predictions += answer["predictions"]
        return answer | {"predictions": predictions}

    def vector(self, task_id: str, version: int | None = None) -> Json:
        """Return a task's vector with the ids of its subspace and version."""
        return self._send("GET", f"/v1/tasks/{task_id}/vector", params={"version": version} if version else None)

    def promote(self, task_id: str, version: int) -> Json:
        """Make a version of a task answer, and return the task."""
        return self._send("POST", f"/v1/tasks/{task_id}/promote", {"version": version})

    def change_task(self, task_id: str, changes: Json) -> Json:
        """Change the fields of a task, and return it."""
        return self._send("PATCH", f"/v1/tasks/{task_id}", changes)

    def examples(self, task_id: str, **chosen: str | int | None) -> list[Json]:
        """Return the examples of a task's version."""
        return list(self._pages(f"/v1/tasks/{task_id}/examples", without_none(**chosen)))

    def suspects(self, task_id: str, version: int | None) -> list[Json]:
        """Return the examples of a task's version that another label fits better."""
        page = self._send("GET", f"/v1/tasks/{task_id}/examples/suspects", params=without_none(version=version))
        suspects: list[Json] = page["data"]
        return suspects

    def examples_file(self, task_id: str, file_format: str, **chosen: str | int | None) -> str:
        """Return the examples of a task's version as a file."""
        with self._transport_errors():
            params = {"format": file_format, **without_none(**chosen)}
            response = self._http.get(f"/v1/tasks/{task_id}/examples/file", params=params, timeout=TIMEOUT_SECONDS)
        if not response.is_success:
            raise _service_error(response.status_code, _document(response), self.url)
        return response.text

    def newest_examples_version(self, task_id: str) -> int:
        """Return the newest version of a task, whether it is tuned or not."""
        version: int = self._send("GET", f"/v1/tasks/{task_id}/examples", params={"limit": 1})["version"]
        return version

    def change_examples(self, task_id: str, changes: Json) -> Json:
        """Queue a version of a task with changed examples."""
        return self._send("PATCH", f"/v1/tasks/{task_id}/examples", changes)

    def usage(self, task_id: str) -> list[Json]:
        """Return the hours in which a task answered, newest first."""
        return list(self._pages(f"/v1/tasks/{task_id}/usage"))

    def generate(self, task_id: str, body: Json) -> Json:
        """Return a whole generated text, without a timeout."""
        return self._send("POST", f"/v1/tasks/{task_id}/generate", body, timeout_seconds=None)

    def generate_pieces(self, task_id: str, body: Json) -> Iterator[str]:
        """Yield the pieces of a text as they are generated."""
        with self._transport_errors():
            request = self._http.stream(
                "POST",
                f"/v1/tasks/{task_id}/generate",
                content=json.dumps(body | {"stream": True}),
                headers=_JSON,
                timeout=None,
            )
            with request as response:
                if not response.is_success:
                    response.read()
                    raise _service_error(response.status_code, _document(response), self.url)
                event = ""
                for line in response.iter_lines():
                    name, _, value = line.partition(": ")
                    if name == "event":
                        event = value
                    elif name == "data" and event == "delta":
                        yield json.loads(value)["text"]
                    elif name == "data" and event == "error":
                        raise _service_error(response.status_code, json.loads(value), self.url)
                if event != "done":
                    raise CliError(
                        f"{self.url} closed the connection before the text was complete; see the log of `ipt serve`"
                    )

    def create_webhook(self, url: str, name: str, event_types: Sequence[str] | None) -> Json:
        """Register a webhook for some events, by default for all; only this response has its secret."""
        if event_types is None:
            event_types = self._send("GET", f"{_OPENAI}/webhook_event_types")["data"]
        return self._send("POST", _WEBHOOKS, {"url": url, "name": name, "event_types": list(event_types)})

    def webhooks(self) -> list[Json]:
        """Return all webhooks; a tenant has fewer than a page."""
        listed: list[Json] = self._send("GET", _WEBHOOKS, params={"limit": _PAGE})["data"]
        return listed

    def delete_webhook(self, webhook_id: str) -> Json:
        return self._send("DELETE", f"{_WEBHOOKS}/{webhook_id}")

    def test_webhook(self, webhook_id: str, event_type: str) -> Json:
        """Send a sample event, and return the status of the receiver's answer."""
        return self._send("POST", f"{_WEBHOOKS}/{webhook_id}/test", {"event_type": event_type})

    def rotate_webhook_secret(self, webhook_id: str, *, keep_former: bool) -> Json:
        """Replace the secret of a webhook, and return the new one."""
        body = {"keep_old_secret_active_for_24_hours": keep_former}
        return self._send("POST", f"{_WEBHOOKS}/{webhook_id}/rotate_secret", body)

    def _pages(self, path: str, params: Json | None = None) -> Iterator[Json]:
        after = None
        while True:
            page = self._send("GET", path, params={"limit": _PAGE, **(params or {}), **without_none(after=after)})
            yield from page["data"]
            if page["next"] is None:
                return
            after = page["next"]

    def _send(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        params: Json | None = None,
        timeout_seconds: float | None = TIMEOUT_SECONDS,
    ) -> Json:
        with self._transport_errors():
            # Escaped to ASCII, so that a lone surrogate reaches the service, which reports it.
            content = None if body is None else json.dumps(body)
            response = self._http.request(
                method, path, content=content, params=params, headers=_JSON, timeout=timeout_seconds
            )
        return self._answer(response)

    def _answer(self, response: httpx.Response) -> Json:
        document = _document(response)
        if response.is_success and isinstance(document, dict):
            return document
        raise _service_error(response.status_code, document, self.url)

    @contextmanager
    def _transport_errors(self) -> Iterator[None]:
        """Turn transport errors into one line."""
        try:
            yield
        except httpx.ConnectError as error:
            raise CliError(
                f"no service answers at {self.url}: start one with `{program()} serve`, or name another with --url"
            ) from error
        except httpx.TransportError as error:
            raise CliError(
                f"{self.url} does not answer ({type(error).__name__}); see the log of `ipt serve`"
            ) from error


def _document(response: httpx.Response) -> object:
    """Return the JSON of a response, or None if it is not JSON."""
    try:
        document: object = response.json()
    except ValueError:
        return None
    return document


def _address(url: str) -> httpx.URL:
    try:
        address = httpx.URL(url if "://" in url else f"http://{url}")
        address.host.encode("idna")  # as name resolution does
    except (httpx.InvalidURL, UnicodeError):
        address = httpx.URL()
    port = 80 if address.port is None else address.port
    # httpx escapes characters that a host name cannot contain.
    has_host = bool(address.host) and "%" not in address.host
    if address.scheme not in ("http", "https") or not has_host or not 0 < port < 65536:
        raise CliError(f"{url!r} is not the address of a service: expected something like http://127.0.0.1:8000")
    return address


def _service_error(status: int, document: object, url: str) -> ServiceError:
    detail = document.get("error") if isinstance(document, dict) else None
    if not isinstance(detail, dict):
        return ServiceError(f"{url} answered {status}, but it is not this service", status=status, code=None)
    message = str(detail.get("message"))
    param = detail.get("param")
    if status == 401:
        message += " (set the API key in the environment variable IPT_API_KEY)"
    return ServiceError(
        message if not param or _names(message, str(param)) else f"{param}: {message}",
        status=status,
        code=detail.get("code"),
    )


def _names(message: str, param: str) -> bool:
    """Return whether a message names a parameter; a word such as `file` may also occur in it by chance."""
    return message.startswith(param) or (not param.isidentifier() and param in message)
