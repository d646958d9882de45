"""Reject query parameters that the route does not have."""

from fastapi import Request

from app.errors import InvalidError
from app.http.fields import is_field_name


async def only_known_parameters(request: Request) -> None:
    """Reject a query parameter that the route does not have, since a misspelt one would have no effect.

    Raises:
        InvalidError: names the parameter if it has the form of a field name.
    """
    if not request.query_params:
        return
    documented = request.app.openapi()["paths"].get(request.scope["route"].path, {})
    parameters = documented.get(request.method.lower(), {}).get("parameters", ())
    allowed = [parameter["name"] for parameter in parameters if parameter["in"] == "query"]
    for name in request.query_params:
        if name not in allowed:
            param = name if is_field_name(name) else None
            unknown = "unknown query parameter" if param is None else f"unknown query parameter '{param}'"
            expected = f"allowed: {', '.join(allowed)}" if allowed else "none is allowed here"
            raise InvalidError(f"{unknown}; {expected}", code="unknown_parameter", param=param)
