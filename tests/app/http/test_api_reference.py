"""The API reference works without access to the internet."""

import re

import httpx


def test_the_reference_loads_its_assets_from_the_service(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    matches = re.findall(r"(?:src|href)=\"([^\"]+)\"|url: '([^\']+)'", page.text)
    addresses = [attribute or script for attribute, script in matches]
    assert [address.rpartition("/")[2] for address in addresses] == [
        "swagger-ui.css",
        "favicon-32x32.png",
        "swagger-ui-bundle.js",
        "openapi.json",
    ]
    assert "://" not in page.text
    for address in addresses:
        assert client.get(page.url.join(address)).status_code == 200
