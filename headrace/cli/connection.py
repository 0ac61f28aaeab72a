"""How a command reaches the API server, and how its refusals read to a person.

Owns the two options every command has and the translation of kube errors. Does not print (the commands do)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from headrace.errors import HeadraceError, UsageError
from kube.client import KubeClient
from kube.config import load_config
from kube.errors import BadName, ConfigError, Forbidden, Invalid, KubeError, NotFound

T = TypeVar("T")

Namespace = Annotated[str, typer.Option("--namespace", "-n", help="namespace of the objects")]
Kubeconfig = Annotated[
    Path | None, typer.Option("--kubeconfig", help="default: $KUBECONFIG, ~/.kube/config, in-cluster")
]

#: what stands before the words of a schema, or of an admission policy
_PREFIX = re.compile(r"^.*?(?: is invalid: | denied request: )")
#: the server joins what is wrong with several fields by ", " before each next field's path
_NEXT_FIELD = re.compile(r", (?=(?:spec|metadata|status|data|type)[.\[:])")
_UNKNOWN = re.compile(r'unknown field "([^"]+)"')


def run(work: Callable[[KubeClient], Awaitable[T]], kubeconfig: Path | None) -> T:
    """Run `work` with a client; errors become one sentence. Ctrl-C ends quietly with exit code 130."""

    async def connected() -> T:
        async with KubeClient(load_config(kubeconfig), user_agent="headrace") as client:
            return await work(client)

    try:
        return asyncio.run(connected())
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except (ConfigError, BadName) as error:
        raise UsageError(str(error)) from error
    except NotFound as error:
        raise UsageError(error.message) from error
    except Forbidden as error:
        raise HeadraceError(f"the API server does not allow it: {error.message}") from error
    except KubeError as error:
        raise HeadraceError(f"the API server did not do it: {error}") from error


def sentences(error: Invalid) -> list[str]:
    """Return what is wrong, one sentence a field, without the server's wrapping."""
    unknown = _UNKNOWN.findall(error.message)
    if unknown:
        return [f"{field}: there is no such field; check its spelling" for field in unknown]
    text = _PREFIX.sub("", error.message).strip()
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    return [part.strip() for part in _NEXT_FIELD.split(text) if part.strip()]
