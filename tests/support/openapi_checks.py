"""Checks that Schemathesis lacks; `test_openapi.py` passes this file to it."""

import schemathesis
from schemathesis import Case, CheckContext, Response

OF_THE_TRANSPORT = {"content-length", "content-type", "date", "server", "transfer-encoding"}
FOR_PROXIES = {"cache-control", "x-accel-buffering"}
EXPECTED = OF_THE_TRANSPORT | FOR_PROXIES


@schemathesis.check
def only_documented_headers(_: CheckContext, response: Response, case: Case) -> None:
    documented = case.operation.responses.find_by_status_code(response.status_code)
    if documented is not None:
        names = set(response.headers) - {name.lower() for name, _ in documented.headers.items()} - EXPECTED
        assert not names, f"headers that are not documented: {', '.join(sorted(names))}"
