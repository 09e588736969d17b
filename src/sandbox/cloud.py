"""A cloud on this machine: ministack, and the real SAM CLI that deploys into it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import boto3
import httpx
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

REGION = "us-east-1"
ACCOUNT = "000000000000"
_START_SECONDS = 30.0
_STOP_SECONDS = 5.0
_INVOKE_SECONDS = 900
_PROJECT = Path(__file__).resolve().parents[2]
_MINISTACK = Path(__file__).resolve().with_name("partner_bus.py")


class LocalCloudError(Exception):
    """The local cloud, or a deployment into it, failed; the message names the log to look at."""


class LocalCloud:
    """A context manager: a cloud with nothing in it, gone with all it started on exit.

    Identity policies are enforced: a function may do what its role allows and nothing else.
    `project` is the folder of template.yaml, and of the environments `.venv-sam` and
    `.venv-ministack` that `make demo` installs.
    """

    def __init__(self, project: Path = _PROJECT) -> None:
        self.project = project
        self.log = project / ".cache" / "local-cloud.log"
        self.url = ""
        self._session = boto3.Session(ACCOUNT, "local", region_name=REGION)
        self._started = ExitStack()

    def __enter__(self) -> Self:
        """Start it; raises LocalCloudError when it does not answer within 30 seconds."""
        program = self._tool("ministack", "python")
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as started:
            scratch = started.enter_context(
                tempfile.TemporaryDirectory(prefix="local-cloud-", ignore_cleanup_errors=True)
            )
            process = subprocess.Popen(  # noqa: S603 - our own program
                [program, "-P", str(_MINISTACK)],
                cwd=scratch,
                env=_server_environment(port, scratch),
                stdin=subprocess.DEVNULL,
                stdout=started.enter_context(self.log.open("wb")),
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches us, who stop it when we are done
            )
            started.callback(_end, process)
            self._wait_until_ready(process)
            self._started = started.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._started.close()

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which any AWS client in a child process talks to this cloud."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": ACCOUNT,
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, service: str) -> Any:
        """A boto3 client of this cloud; it repeats nothing by itself."""
        return self._session.client(
            service,
            endpoint_url=self.url,
            config=Config(
                proxies={},
                read_timeout=_INVOKE_SECONDS,
                retries={"mode": "standard", "total_max_attempts": 1},
            ),
        )

    def deploy(self, stack_name: str, parameters: Mapping[str, str]) -> dict[str, str]:
        """Run `sam build` and `sam deploy` of the project's template; return the stack's outputs.

        Raises LocalCloudError with the end of what SAM said.
        """
        self._sam(["build", "--cached", "--parallel"])
        overrides = [f"{name}={value}" for name, value in parameters.items()]
        self._sam(
            [
                *("deploy", "--stack-name", stack_name, "--resolve-s3", "--no-confirm-changeset"),
                *("--no-fail-on-empty-changeset", "--capabilities", "CAPABILITY_IAM"),
                *(["--parameter-overrides", *overrides] if overrides else []),
            ]
        )
        self._number_concurrency()
        return self.outputs(stack_name)

    def outputs(self, stack_name: str) -> dict[str, str]:
        """The outputs of a deployed stack."""
        (stack,) = self.client("cloudformation").describe_stacks(StackName=stack_name)["Stacks"]
        return {each["OutputKey"]: each["OutputValue"] for each in stack["Outputs"]}

    def invoke(self, function_name: str, payload: object) -> Any:
        """Invoke a function and return its answer, decoded; raises LocalCloudError if it fails."""
        answer = self.client("lambda").invoke(
            FunctionName=function_name, Payload=json.dumps(payload).encode()
        )
        body = json.loads(answer["Payload"].read() or b"null")
        if "FunctionError" in answer:
            raise LocalCloudError(f"{function_name} failed: {json.dumps(body)}")
        return body

    def put_partner_event(self, entry: Mapping[str, Any]) -> bool:
        """Put an event on the bus of its partner event source, as the partner does; whether it was taken."""
        try:
            answer = self.client("events").put_partner_events(Entries=[dict(entry)])
        except (BotoCoreError, ClientError):
            return False
        return not answer["FailedEntryCount"]

    def has_bus(self, source: str) -> bool:
        """Whether a bus is associated with a partner event source."""
        found = self.client("events").list_event_buses(NamePrefix=source)["EventBuses"]
        return any(bus["Name"] == source for bus in found)

    def reachable(self, api_url: str) -> str:
        """The address on this machine of an `execute-api` URL such as the output WebhookUrl; others stay."""
        parts = urlsplit(api_url)
        api_id, _, rest = (parts.hostname or "").partition(".")
        if not rest.startswith("execute-api."):
            return api_url
        return f"{self.url}/_aws/execute-api/{api_id}/$default{parts.path}"

    def function_log(self, function_name: str) -> list[str]:
        """All lines that a function has logged, oldest first."""
        logs = self.client("logs")
        configuration = self.client("lambda").get_function_configuration(FunctionName=function_name)
        group = configuration["LoggingConfig"]["LogGroup"]
        pages = logs.get_paginator("filter_log_events").paginate(logGroupName=group)
        return [event["message"].rstrip("\n") for page in pages for event in page["events"]]

    def _tool(self, environment: str, program: str) -> str:
        path = self.project / f".venv-{environment}" / "bin" / program
        if not path.exists():
            raise LocalCloudError(f"{path} is missing; `make demo` installs it")
        return str(path)

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            with suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/_ministack/ready", timeout=1, trust_env=False).is_success:
                    return
            time.sleep(0.05)
        raise LocalCloudError(f"the local cloud did not start; see {self.log}")

    def _sam(self, arguments: Sequence[str]) -> None:
        program = Path(self._tool("sam", "sam"))
        search = os.pathsep.join([str(program.parent), os.environ.get("PATH", os.defpath)])
        own = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        own.pop("VIRTUAL_ENV", None)
        result = subprocess.run(  # noqa: S603 - our own program
            [str(program), *arguments],
            cwd=self.project,
            env=own | self.environment | {"PATH": search, "SAM_CLI_TELEMETRY": "0"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        with self.log.open("a") as log:
            log.write(f"$ sam {' '.join(arguments)}\n{result.stdout}")
        if result.returncode != 0:
            end = "\n".join(result.stdout.strip().splitlines()[-15:])
            raise LocalCloudError(f"sam {arguments[0]} failed; all it said is in {self.log}\n{end}")

    def _number_concurrency(self) -> None:
        # A template's parameter reaches an event source mapping as text here, which stops its
        # poller; CloudFormation on AWS makes it the number that it stands for.
        functions = self.client("lambda")
        for mapping in functions.list_event_source_mappings()["EventSourceMappings"]:
            if scaling := mapping.get("ScalingConfig"):
                functions.update_event_source_mapping(
                    UUID=mapping["UUID"],
                    ScalingConfig={"MaximumConcurrency": int(scaling["MaximumConcurrency"])},
                )


def _server_environment(port: int, scratch: str) -> dict[str, str]:
    # Functions inherit it, so nothing of the operator's own environment is in it.
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": scratch,
        "TMPDIR": scratch,
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "MINISTACK_HOST": "127.0.0.1",
        "MINISTACK_REGION": REGION,
        "MINISTACK_ACCOUNT_ID": ACCOUNT,
        "LAMBDA_EXECUTOR": "local",
        "AUTH": "true",
        "AWS_ACCESS_KEY_ID": ACCOUNT,
        "AWS_SECRET_ACCESS_KEY": "local",
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
    }


def _end(process: subprocess.Popen[bytes]) -> None:
    _signal_group(process, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
    _signal_group(process, signal.SIGKILL)  # functions that outlived it
    process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
