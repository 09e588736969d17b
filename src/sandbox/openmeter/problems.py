"""What OpenMeter answers when it does not do what it was asked (RFC 7807 problem documents)."""

from __future__ import annotations

from http import HTTPStatus
from typing import NoReturn


class Problem(Exception):  # noqa: N818 - the name of the document that it becomes
    """An answer of `application/problem+json`.

    `instance` is set for errors from behind the request validation, as OpenMeter does.
    """

    def __init__(self, status: int, detail: str = "", *, instance: bool = True) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.instance = instance

    def document(self, request_id: str) -> dict[str, object]:
        """The JSON body; the detail of a 500 stays with the server."""
        document: dict[str, object] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
        }
        if self.detail and self.status != HTTPStatus.INTERNAL_SERVER_ERROR:
            document["detail"] = self.detail
        if self.instance:
            document["instance"] = f"urn:request:{request_id}"
        return document


def invalid(reason: str) -> NoReturn:
    """Raise the 400 of OpenMeter's own checks."""
    raise Problem(400, f"validation error: {reason}")


def invalid_body(pointer: str, reason: str) -> NoReturn:
    """Raise the 400 of the check of a body against OpenMeter's OpenAPI document."""
    raise Problem(400, f'request body has an error: Error at "{pointer}": {reason}', instance=False)


def invalid_parameter(name: str, place: str, reason: str) -> NoReturn:
    """Raise the 400 of the check of a path or query parameter against the OpenAPI document."""
    raise Problem(400, f'parameter "{name}" in {place} has an error: {reason}', instance=False)


def not_found(what: str) -> Problem:
    """The 404 for `what`, such as `meter not found: tokens`."""
    return Problem(404, f"not found error: {what}")
