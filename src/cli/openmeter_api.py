"""The option of commands with an OpenMeter of their own: which version of its API is spoken."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

OpenMeterApi = Annotated[
    Literal["v1", "v3"],
    typer.Option(
        "--openmeter-api",
        envvar="OPENMETER_API",
        help="Version of OpenMeter's API that the functions speak: v3 is Kong's cloud.",
    ),
]
