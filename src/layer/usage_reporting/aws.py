"""Clients of AWS, and values as DynamoDB writes them.

They are botocore's own: boto3 makes the same ones, and takes a tenth of a function's start to be imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Clamped, Context, Decimal, Inexact, Overflow, Rounded, Underflow
from functools import cache
from typing import Any

from botocore.config import Config
from botocore.session import Session

Attribute = dict[str, Any]

_NUMBERS = Context(Emin=-128, Emax=126, prec=38, traps=[Clamped, Overflow, Inexact, Rounded, Underflow])
"""What a number can be (DynamoDB, "Supported data types: Number")."""


def client(service: str, config: Config | None = None) -> Any:
    """A client by the environment's credentials, region and endpoint. Raises BotoCoreError."""
    return _session().create_client(service, config=config)


@cache
def _session() -> Session:
    return Session()


def attribute(value: object) -> Attribute:
    """A value as DynamoDB takes it. Raises TypeError, and ArithmeticError for too many digits."""
    match value:
        case None:
            return {"NULL": True}
        case bool():
            return {"BOOL": value}
        case str():
            return {"S": value}
        case int() | Decimal():
            return {"N": _number(value)}
        case list() | tuple():
            return {"L": [attribute(each) for each in value]}
        case Mapping():
            return {"M": {name: attribute(each) for name, each in value.items()}}
    raise TypeError(f"DynamoDB is not given a {type(value).__name__}")


def value_of(stored: Attribute) -> Any:
    """What `attribute` was given; numbers come back as Decimal. Raises TypeError for other types."""
    ((kind, value),) = stored.items()
    match kind:
        case "S" | "BOOL":
            return value
        case "N":
            return _NUMBERS.create_decimal(value)
        case "L":
            return [value_of(each) for each in value]
        case "M":
            return {name: value_of(each) for name, each in value.items()}
        case "NULL":
            return None
    raise TypeError(f"the ledger holds no values of the type {kind}")


def _number(value: Decimal | int) -> str:
    number = _NUMBERS.create_decimal(value)
    if not number.is_finite():
        raise TypeError(f"{number} is no number to DynamoDB")
    return str(number)
