"""The option of commands with an OpenMeter of their own: which version of its API is spoken."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Literal

import typer


class OpenMeterVersion(Enum):
    """A version of OpenMeter's API."""

    V1: Literal["v1"] = "v1"
    V3: Literal["v3"] = "v3"


OpenMeterApi = Annotated[
    OpenMeterVersion,
    typer.Option(
        "--openmeter-api",
        envvar="OPENMETER_API",
        help="Version of OpenMeter's API that the functions speak: v3 is Kong's cloud.",
    ),
]
