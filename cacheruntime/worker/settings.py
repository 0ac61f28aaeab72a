"""Settings of a worker: flags for what differs a node, HEADRACE_WORKER_* for the tunables.

Owns parsing and its messages; no setting is read anywhere else.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from api.byteplane import BLOCK_SIZE_BYTES
from api.quantities import to_int
from cacheruntime.core.tiers import HIGH, LOW, MEDIA


@dataclass(frozen=True, slots=True)
class TierSetting:
    """One `--tier MEDIUM:DIRECTORY:QUOTA[,high=PART][,low=PART]`; several of one medium are the paths of one level."""

    medium: str
    directory: Path
    quota_bytes: int
    high: float = HIGH
    low: float = LOW


@dataclass(frozen=True, slots=True)
class Address:
    """Host and port to listen on or to call."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Tunables(BaseSettings):
    """Numbers that fit most nodes as they are."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_WORKER_")

    block_size_bytes: int = Field(default=BLOCK_SIZE_BYTES, ge=4096, description="unit of residency; peers must agree")
    origin_streams: int = Field(default=32, ge=1, description="requests to under stores at once; each holds one block")
    origin_bytes_per_second: int = Field(
        default=0,
        ge=0,
        description="from under stores at most, by all workers together, each an equal part; 0 = no limit. A Dataset "
        "may have its own, spec.cache.originRateLimit",
    )
    peer_streams: int = Field(default=32, ge=1, description="blocks asked of peers at once")
    load_streams: int = Field(default=24, ge=1, description="blocks one load has in flight; leaves room for readers")
    preheat_streams: int = Field(default=8, ge=1, description="files brought here at once before their readers come")
    preheat_bytes: int = Field(
        default=256 << 20,
        ge=0,
        description="how far ahead of this node's readers, at most; 0 = never. Never more than half of the room for "
        "readers that found the cache full",
    )
    preheat_rows: bool = Field(
        default=False,
        description="also where nothing is declared: along rows of numbered names that are being opened, and in the "
        "order of last time, hottest directories first",
    )
    whole_weights: bool = Field(
        default=True, description="fetch all of a file that is read like weights (core/weights.py), if it may be kept"
    )
    leave_seconds: float = Field(
        default=0.0,
        ge=0,
        description="after SIGTERM, to hand blocks over to workers that stay, hottest files first; 0 = for workers "
        "that come back, and find their disks again. The pod's grace period must be longer",
    )
    io_threads: int = Field(default=16, ge=2, description="threads for file I/O; they mostly wait")
    send_threads: int = Field(default=16, ge=1, description="large blocks sent to peers at once")
    temporary_percent: float = Field(
        default=10.0, ge=0, le=100, description="of a quota, on top of it, for readers that found the cache full"
    )
    temporary_bytes_min: int = Field(default=64 << 20, ge=0, description="least room for such readers, in bytes")
    report_seconds: float = Field(default=0.5, gt=0, description="interval of block reports, also the sign of life")
    workers_seconds: float = Field(default=1.0, gt=0, description="interval of reading the list of workers")
    dataset_seconds: float = Field(default=2.0, gt=0, description="how long a dataset's record is taken as current")
    peer_connect_seconds: float = Field(default=2.0, gt=0, description="deadline of a connection to a peer")
    peer_read_seconds: float = Field(default=60.0, gt=0, description="deadline of a block a peer may have to fetch")
    origin_read_seconds: float = Field(default=120.0, gt=0, description="deadline of one block from an under store")
    metadata_seconds: float = Field(default=5.0, gt=0, description="deadline of one call to metadata")
    mutation_seconds: float = Field(default=30.0, gt=0, description="how long mutations wait for metadata")
    prune_seconds: float = Field(default=10.0, gt=0, description="interval of dropping what no snapshot has")
    idle_descriptors: int = Field(
        default=16_384,
        ge=1,
        description="files kept open that nobody reads; never more than a quarter of what the process may open",
    )
    scrub_bytes_per_second: int = Field(
        default=8 << 20, ge=0, description="at which cached bytes are read again to find damage; 0 = never"
    )
    scrub_pass_seconds: float = Field(
        default=6 * 3600, gt=0, description="least time from one such pass to the next: a small cache needs no more"
    )
    slow_disk_seconds: float = Field(
        default=10.0, gt=0, description="a medium that takes longer for one block, several times, is left alone a while"
    )
    spare_directory: str = Field(
        default="/dev/shm", description="memory for readers while no tier takes their bytes; empty = none"
    )
    held_percent: float = Field(
        default=20.0,
        ge=0,
        le=100,
        description="of the quotas, on top of them, for files that two workers hold until they are uploaded",
    )
    held_settle_seconds: float = Field(
        default=2.0, ge=0, description="so old such a file is uploaded: temporary files have their names by then"
    )
    held_takeover_seconds: float = Field(
        default=120.0, gt=0, description="so old one the other holder uploads too, whatever the writer's worker does"
    )
    held_uploads: int = Field(default=4, ge=1, description="uploads of such files at once")
    hold_seconds: float = Field(
        default=10.0, gt=0, description="deadline of another worker to hold a file, beside a second for each 20 MiB"
    )
    turn_seconds: float = Field(
        default=600.0, gt=0, description="how long a change of a file waits for its upload that is under way"
    )
    move_bytes_per_second: int = Field(
        default=256 << 20, ge=0, description="at which files are moved between levels at most; 0 = no limit"
    )
    move_seconds: float = Field(default=1.0, gt=0, description="interval of looking for files to move")
    reuse_seconds: float = Field(
        default=10.0, ge=0, description="a file that rested so long counts as used once more when it is opened"
    )
    probe_bytes: int = Field(default=16 << 20, ge=0, description="size of the read that measures each tier at start")


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Everything one worker was told."""

    node: str
    metadata: Address
    listen: Address
    control: Address
    socket: Path
    tiers: tuple[TierSetting, ...]
    credentials_dir: Path
    trust: Path | None
    metrics: Address | None
    keeper: bool
    tunables: Tunables

    def loggable(self) -> dict[str, Any]:
        """Fields for the first log line; nothing here is secret."""
        return {
            "node": self.node,
            "metadata": str(self.metadata),
            "listen": str(self.listen),
            "control": str(self.control),
            "socket": str(self.socket),
            "trust": str(self.trust or "off"),
            "keeper": self.keeper,
            "tiers": [f"{t.medium}:{t.directory}:{t.quota_bytes},high={t.high},low={t.low}" for t in self.tiers],
            **self.tunables.model_dump(),
        }


def parse_address(text: str) -> Address:
    """Return HOST:PORT; ArgumentTypeError says what would be right."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no address; write it like 127.0.0.1:7070")
    return Address(host, int(port))


def parse_tier(text: str) -> TierSetting:
    """Return MEDIUM:DIRECTORY:QUOTA[,high=PART][,low=PART]; ArgumentTypeError says what would be right."""
    medium, _, rest = text.partition(":")
    directory, _, room = rest.rpartition(":")
    quota, *marks = room.split(",")
    if medium not in MEDIA or not directory.startswith("/"):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no tier; write it like SSD:/var/cache/headrace:200Gi with {', '.join(MEDIA)} as medium"
        )
    try:
        quota_bytes = to_int(quota)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"quota of tier {text!r}: {error}") from error
    if quota_bytes <= 0:
        raise argparse.ArgumentTypeError(f"quota of tier {text!r} is {quota_bytes}; it must be above 0")
    high, low = _watermarks(text, marks)
    return TierSetting(medium, Path(directory), quota_bytes, high, low)


def _watermarks(text: str, marks: Sequence[str]) -> tuple[float, float]:
    found: dict[str, float] = {}
    for mark in marks:
        name, _, value = mark.partition("=")
        if name not in ("high", "low") or name in found:
            raise argparse.ArgumentTypeError(f"{mark!r} of tier {text!r} is no watermark; write it like high=0.95")
        try:
            found[name] = float(value)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{name} of tier {text!r} is {value!r}; it must be a part of the quota like 0.95"
            ) from None
    high = found.get("high", HIGH)
    low = found.get("low", min(LOW, high))
    if not 0 < low <= high <= 1:
        raise argparse.ArgumentTypeError(
            f"watermarks of tier {text!r} are low {low} and high {high}; they must be 0 < low <= high <= 1"
        )
    return high, low


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cacheruntime worker", description="one cache worker")
    parser.add_argument("--node", required=True, help="name of this node in Kubernetes")
    parser.add_argument("--metadata", required=True, type=parse_address, metavar="HOST:PORT")
    parser.add_argument("--listen", required=True, type=parse_address, metavar="HOST:PORT", help="byte plane")
    parser.add_argument("--control", type=parse_address, default=Address("127.0.0.1", 0), metavar="HOST:PORT")
    parser.add_argument("--socket", required=True, type=Path, metavar="PATH", help="unix socket of local readers")
    parser.add_argument(
        "--tier",
        required=True,
        type=parse_tier,
        action="append",
        metavar="MEDIUM:DIR:QUOTA[,high=H,low=L]",
        help="one folder; several of one medium are one level, all are used",
    )
    parser.add_argument("--credentials-dir", required=True, type=Path, metavar="DIR")
    parser.add_argument(
        "--trust",
        type=Path,
        default=None,
        metavar="DIR",
        help="folder with ca.crt, tls.crt and tls.key of this worker; without it whoever reaches a port is believed",
    )
    parser.add_argument("--metrics", type=parse_address, default=None, metavar="HOST:PORT")
    parser.add_argument(
        "--keeper",
        action="store_true",
        help="stay with everything loaded while a child serves, and follow it at once by another when it dies",
    )
    return parser


def parse(argv: Sequence[str]) -> WorkerSettings:
    """Return the settings of a command line; exits with a message on a wrong one."""
    parser = _parser()
    given = parser.parse_args(argv)
    tiers = tuple(sorted(given.tier, key=lambda tier: MEDIA.index(tier.medium)))
    if len({tier.directory.absolute() for tier in tiers}) != len(tiers):
        parser.error("two --tier options name the same directory; each tier needs its own")
    try:
        tunables = Tunables()
    except ValidationError as error:
        first = error.errors()[0]
        parser.error(f"HEADRACE_WORKER_{'_'.join(map(str, first['loc'])).upper()}={first['input']}: {first['msg']}")
    return WorkerSettings(
        node=given.node,
        metadata=given.metadata,
        listen=given.listen,
        control=given.control,
        socket=given.socket,
        tiers=tiers,
        credentials_dir=given.credentials_dir,
        trust=given.trust,
        metrics=given.metrics,
        keeper=given.keeper,
        tunables=tunables,
    )
