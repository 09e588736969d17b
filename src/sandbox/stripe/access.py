"""Who may call: keys and their permissions."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

from sandbox.stripe.api.route import Route
from sandbox.stripe.errors import StripeError
from sandbox.stripe.settings import StripeSettings


def api_key(headers: Mapping[str, str]) -> str:
    """The key of the Authorization header, bearer or basic; raises StripeError 401 without one."""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and credentials.strip():
        return credentials.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(credentials, validate=True).decode().partition(":")[0]
        except (binascii.Error, UnicodeDecodeError):
            pass
    raise StripeError(
        401,
        "You did not provide an API key. You need to provide your API key in the Authorization "
        "header, using Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY').",
        stored=False,
    )


def authorize(settings: StripeSettings, key: str, route: Route) -> None:
    """Raise StripeError 401 for an unknown key, 403 for one without the route's permission."""
    if key in settings.api_keys:
        return
    masked = f"{key[:8]}{'*' * 8}{key[-4:]}"
    if key not in settings.restricted_keys:
        raise StripeError(401, f"Invalid API Key provided: {masked}", stored=False)
    scopes = settings.restricted_keys[key]
    granted = scopes.get(route.resource, scopes.get("*", "none"))
    if granted == "write" or (granted == "read" and route.method == "GET"):
        return
    raise StripeError(
        403,
        f"The provided key '{masked}' does not have the required permissions for this endpoint on "
        f"account '{settings.account_id}'. Having the '{route.permission}' permission would allow "
        "this request to continue.",
        stored=False,
    )
