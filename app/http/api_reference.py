"""The OpenAPI document, and the API reference at `/docs`, whose scripts are served locally: no internet is needed."""

from functools import cache

from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles

OPENAPI_PATH = "/openapi.json"


def install(app: FastAPI) -> None:
    """Serve the document, the page and its assets. The URLs are relative, so a proxy may add a path prefix."""

    @cache
    def document() -> bytes:
        return bytes(JSONResponse(app.openapi()).body)

    async def openapi(_: Request) -> Response:
        # FastAPI's own route writes the document anew for each request: ten milliseconds of the event loop, for callers
        # without a key.
        return Response(document(), media_type="application/json")

    app.add_route(OPENAPI_PATH, openapi, include_in_schema=False)
    # The package only bundles the released files of Swagger UI.
    app.mount("/docs/assets", StaticFiles(packages=[("fastapi_swagger", "resources")]))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            title=app.title,
            openapi_url=OPENAPI_PATH.removeprefix("/"),
            swagger_js_url="docs/assets/swagger-ui-bundle.js",
            swagger_css_url="docs/assets/swagger-ui.css",
            swagger_favicon_url="docs/assets/favicon-32x32.png",
        )
