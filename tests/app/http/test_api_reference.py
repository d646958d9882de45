"""The API reference, where nothing but the service can be reached."""

import re

import httpx


def test_the_reference_loads_everything_from_the_service_itself(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    loaded = re.findall(r"(?:src|href)=\"([^\"]+)\"|url: '([^\']+)'", page.text)
    addresses = [one or other for one, other in loaded]
    assert [address.rpartition("/")[2] for address in addresses] == [
        "swagger-ui.css",
        "favicon-32x32.png",
        "swagger-ui-bundle.js",
        "openapi.json",
    ]
    assert "://" not in page.text
    for address in addresses:
        assert client.get(page.url.join(address)).status_code == 200
