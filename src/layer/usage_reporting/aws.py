"""Clients of AWS, and values as DynamoDB writes them.

They are botocore's own: boto3 makes the same ones, and takes a tenth of a function's start to be imported.
"""

from __future__ import annotations

import os
from decimal import Clamped, Context, Decimal, Inexact, Overflow, Rounded, Underflow
from functools import cache
from typing import Any

from botocore.config import Config
from botocore.loaders import Loader
from botocore.session import Session

Attribute = dict[str, Any]

_NUMBERS = Context(Emin=-128, Emax=126, prec=38, traps=[Clamped, Overflow, Inexact, Rounded, Underflow])
"""What a number can be (DynamoDB, "Supported data types: Number")."""


def client(service: str, config: Config | None = None) -> Any:
    """A client by the environment's credentials, region and endpoint. Raises BotoCoreError.

    Parameters are ours alone, and the service checks them: to check them here as well takes longer than all
    else that is done for a call.
    """
    ours = Config(parameter_validation=False)
    return _session().create_client(service, config=ours.merge(config) if config else ours)


class _ModelLoader(Loader):
    """Leaves values of DynamoDB as they are on the wire, as `attribute` makes and `value_of` reads them.

    botocore would otherwise look at each of a thousand values for each of ten types.
    """

    def load_service_model(self, service_name: str, type_name: str, api_version: str | None = None) -> Any:
        """What botocore knows of a service."""
        model = super().load_service_model(service_name, type_name, api_version)
        if (service_name, type_name) == ("dynamodb", "service-2"):
            model["shapes"]["AttributeValue"]["document"] = True
        return model


@cache
def _session() -> Session:
    session = Session()
    data_path = session.get_config_variable("data_path")
    paths = data_path.split(os.pathsep) if data_path else []
    session.register_component("data_loader", _ModelLoader(extra_search_paths=paths))
    return session


def attribute(value: object) -> Attribute:
    """A value as DynamoDB takes it. Raises TypeError, and ArithmeticError for too many digits."""
    if isinstance(value, str):
        return {"S": value}
    if isinstance(value, bool):
        return {"BOOL": value}
    if isinstance(value, int | Decimal):
        return {"N": _number(value)}
    if isinstance(value, dict):
        return {"M": {name: attribute(each) for name, each in value.items()}}
    if isinstance(value, list | tuple):
        return {"L": [attribute(each) for each in value]}
    if value is None:
        return {"NULL": True}
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
