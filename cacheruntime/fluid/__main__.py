"""`python -m cacheruntime.fluid master|worker|client|mount-ufs|report-summary|load`: what Fluid's pods run."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from cacheruntime.fluid import processes
from cacheruntime.fluid.core import config, plan
from cacheruntime.fluid.errors import FluidError
from cacheruntime.fluid.settings import FluidSettings, Runtime

EPILOG = """\
Fluid sets what it needs (FLUID_*); by hand, in a pod of a runtime:
  python -m cacheruntime.fluid mount-ufs
      {"mounted": ["/minio"]}
  python -m cacheruntime.fluid report-summary
      {"cacheCapacity": "9.09GiB", "cached": "1.50GiB", "cachedPercentage": "12.5", "fileNum": "400", ...}
  FLUID_DATALOAD_DATA_PATH=/minio/train:/minio/test FLUID_DATALOAD_PATH_REPLICAS=2:1 python -m cacheruntime.fluid load
Answers are on standard output, all else on standard error; the exit status is 0 when it was done, 1 when not."""
COMMANDS = {
    "master": "be the metadata service of a Dataset",
    "worker": "be a cache worker, with the tiers of the CacheRuntime",
    "client": "mount the Dataset at FLUID_RUNTIME_MOUNT_PATH",
    "mount-ufs": "tell the metadata service of the Dataset's mounts, and print those that are listed",
    "report-summary": "print what is cached, as Fluid reads it",
    "load": "load what a DataLoad names (FLUID_DATALOAD_*); ends with 1 when any of it could not be",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one entry point; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m cacheruntime.fluid",
        description="Entry points of Fluid's CacheRuntimeClass headrace.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config", metavar="FILE", default=os.environ.get(config.CONFIG_PATH), help=f"default: ${config.CONFIG_PATH}"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text, description=text)
    given = parser.parse_args(arguments)
    try:
        return _run(given.command, _runtime(given.config, given.command))
    except FluidError as error:
        print(f"{given.command}: {error.message}", file=sys.stderr)
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(map(str, first["loc"])).upper()
        print(f"{given.command}: HEADRACE_FLUID_{name}: {first['msg']}", file=sys.stderr)
    return 1


def _runtime(path: str | None, command: str) -> Runtime:
    if not path:
        raise FluidError(f"{config.CONFIG_PATH} is not set; give --config FILE, or run this in a pod that Fluid made")
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise FluidError(f"Fluid's runtime config {path} cannot be read: {error}") from error
    settings = FluidSettings()
    found = config.parse_config(text)
    who = config.dataset_name(found, os.environ)
    address = settings.metadata
    if not address and (command == "master" or os.environ.get(config.COMPONENT) == "master"):
        address = f"127.0.0.1:{settings.metadata_port}"
    return Runtime(found, who, address or plan.metadata_address(found, who, settings.metadata_port), settings)


def _run(command: str, one: Runtime) -> int:
    if command == "master":
        return processes.run_master(one)
    if command == "worker":
        return processes.run_worker(one)
    if command == "client":
        target = os.environ.get(config.MOUNT_PATH) or one.config.target_path
        if not target.startswith("/"):
            raise FluidError(f"{config.MOUNT_PATH} is {target!r}; it must be the absolute path to mount at")
        return processes.run_client(one, Path(target))
    return _call(command, one)


def _call(command: str, one: Runtime) -> int:
    # Only here: gRPC would make up most of the time in which a pod of Fluid's starts.
    import asyncio

    from cacheruntime.fluid import calls

    if command == "mount-ufs":
        print(asyncio.run(calls.mount_ufs(one)))
    elif command == "report-summary":
        print(asyncio.run(calls.report_summary(one)))
    else:
        print(asyncio.run(calls.load(one, config.load_task(os.environ))), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
