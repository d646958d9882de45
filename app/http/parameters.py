"""Query parameters: reject the ones that a route does not have."""

from fastapi import Request

from app.errors import InvalidError
from app.validation import is_field_name


async def only_known_parameters(request: Request) -> None:
    """Reject a query parameter that the route does not have: it may be a misspelt one.

    Raises:
        InvalidError: names the parameter, if its name could be one of ours.
    """
    if not request.query_params:
        return
    documented = request.app.openapi()["paths"].get(request.scope["route"].path, {})
    parameters = documented.get(request.method.lower(), {}).get("parameters", ())
    allowed = [parameter["name"] for parameter in parameters if parameter["in"] == "query"]
    for name in request.query_params:
        if name not in allowed:
            there_are = f"there are {', '.join(allowed)}" if allowed else "there are none here"
            param = name if is_field_name(name) else None
            raise InvalidError(f"there is no such parameter; {there_are}", code="unknown_parameter", param=param)
