"""Errors and headers of all responses, as OpenAI's client sees them."""

from collections.abc import Callable

import openai
import pytest

from app.openai.dialect import PREFIX
from tests.support.service import Serve

KEY = "operator" * 4


def test_the_key_and_its_scopes_are_checked(new_openai: Callable[..., openai.OpenAI]) -> None:
    with pytest.raises(openai.PermissionDeniedError):
        new_openai(scopes=["predict"]).files.list()
    with pytest.raises(openai.PermissionDeniedError):
        new_openai(scopes=["adapt"]).completions.create(model="any", prompt="hello")
    stranger = new_openai().with_options(api_key="sk-unknown")
    with pytest.raises(openai.AuthenticationError) as raised:
        stranger.files.list()
    assert raised.value.code == "invalid_api_key"


@pytest.mark.parametrize(
    "request_unsupported",
    [
        lambda client: client.get("/assistants", cast_to=object),
        lambda client: client.responses.create(model="gpt-4o", input="hello"),
        lambda client: client.moderations.create(input="hello"),
    ],
)
def test_a_path_that_is_not_supported_has_openais_error_shape(
    openai_client: openai.OpenAI, request_unsupported: Callable[[openai.OpenAI], object]
) -> None:
    with pytest.raises(openai.NotFoundError, match="not supported: the service has files") as raised:
        request_unsupported(openai_client)
    assert (raised.value.type, raised.value.code) == ("invalid_request_error", "route_not_found")


def test_the_rate_limit_has_openais_headers(serve: Serve) -> None:
    with serve(api_key=KEY, requests_per_minute=1) as http:
        client = openai.OpenAI(base_url=f"{http.base_url}{PREFIX}", api_key=KEY, max_retries=0)
        headers = client.models.with_raw_response.list().headers
        assert headers["x-ratelimit-limit-requests"] == "1"
        assert headers["x-ratelimit-remaining-requests"] == "0"
        assert headers["x-ratelimit-reset-requests"].endswith("s")
        with pytest.raises(openai.RateLimitError) as raised:
            client.models.list()
        assert (raised.value.type, raised.value.code) == ("rate_limit_error", "rate_limited")
        assert int(raised.value.response.headers["retry-after"]) > 0
        assert "x-should-retry" not in raised.value.response.headers


def test_an_error_of_a_middleware_has_openais_shape(serve: Serve) -> None:
    with serve(max_body_bytes=100) as http:
        client = openai.OpenAI(base_url=f"{http.base_url}{PREFIX}", api_key="any", max_retries=0)
        with pytest.raises(openai.APIStatusError) as raised:
            client.completions.create(model="any", prompt="hello " * 100)
        assert (raised.value.status_code, raised.value.type) == (413, "invalid_request_error")
        assert raised.value.code == "body_too_large"
        assert raised.value.response.headers["openai-processing-ms"].isdecimal()
