"""Who may call: keys and their permissions."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

from sandbox.stripe.api.route import Route
from sandbox.stripe.errors import StripeError
from sandbox.stripe.settings import StripeSettings

_ACCOUNT, _CONTEXT = "stripe-account", "stripe-context"
_V2, _OF_ACCOUNT = "/v2/", "/v1/accounts/"


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


def named_account(path: str, headers: Mapping[str, str]) -> str | None:
    """The account that a request is for, if it names one: by a header, or in its path.

    Making API calls for connected accounts; Stripe-Context header. Raises StripeError 400 for several, and
    for the older header in the v2 API, where Stripe documents the newer one alone.
    """
    account, context = headers.get(_ACCOUNT), headers.get(_CONTEXT)
    if account is not None and path.startswith(_V2):
        raise StripeError(400, "The v2 API takes the header Stripe-Context.", stored=False)
    in_path = path.removeprefix(_OF_ACCOUNT) if path.startswith(_OF_ACCOUNT) else None
    named = {id_ for id_ in (account, context, in_path) if id_ is not None}
    if len(named) > 1:
        raise StripeError(
            400, f"The request names several accounts: {', '.join(sorted(named))}.", stored=False
        )
    return next(iter(named), None)


def no_access(key: str, account: str) -> StripeError:
    """403 for an account that does not exist, or does not let this key's account act for it."""
    return StripeError(
        403,
        f"The provided key '{_masked(key)}' does not have access to account '{account}' (or that account "
        "does not exist). Application access may have been revoked.",
        code="account_invalid",
        stored=False,
    )


def _masked(key: str) -> str:
    return f"{key[:8]}{'*' * 8}{key[-4:]}"


def authorize(settings: StripeSettings, key: str, route: Route, account: str) -> None:
    """Raise StripeError 401 for an unknown key, 403 for one without the route's permission on the account.

    `settings`: those of the key's own account.
    """
    if key in settings.api_keys:
        return
    masked = _masked(key)
    if key not in settings.restricted_keys:
        raise StripeError(401, f"Invalid API Key provided: {masked}", stored=False)
    is_own = account == settings.account_id
    scopes = (settings.restricted_keys if is_own else settings.connect_permissions).get(key, {})
    granted = scopes.get(route.resource, scopes.get("*", "none"))
    if granted == "write" or (granted == "read" and route.method == "GET"):
        return
    raise StripeError(
        403,
        f"The provided key '{masked}' does not have the required permissions for this endpoint on "
        f"account '{account}'. Having the '{route.permission}' permission would allow "
        "this request to continue.",
        stored=False,
    )
