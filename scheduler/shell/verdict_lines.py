"""`python -m scheduler verdicts`: clusters as JSON lines in, our verdict on every pod and node out.

Owns reading and writing lines; the shape is that of tests/oracle/README.md, so that the same file can be given to
kube-scheduler's own plugins and to ours. Objects the scheduler does not watch are left out. Raises BadCluster.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from kube.objects import Pod
from scheduler.core.engine import Engine
from scheduler.core.pod_request import ShapeCache, pod_request
from scheduler.core.verdicts import Verdict, judge
from scheduler.errors import BadCluster
from scheduler.plugins.registry import build
from scheduler.settings import Settings, engine_settings
from scheduler.shell.translate import PodTranslator
from scheduler.shell.watches import Kind, kinds

EXAMPLE = """examples:
  kubectl get nodes,namespaces,services,pods,pvc,pv -A -o json > cluster.json
  jq -c '{objects: [.], pods: [.items[] | select(.kind == "Pod" and .spec.nodeName == null)]}' cluster.json \\
    | python -m scheduler verdicts
"""


class _Cluster(msgspec.Struct):
    objects: list[msgspec.Raw] = []
    pods: list[msgspec.Raw] = []


class _Head(msgspec.Struct):
    kind: str = ""
    items: list[msgspec.Raw] = []


def main(arguments: Sequence[str]) -> int:
    """Judge the clusters of a file or of standard input; 0, or 2 with a sentence when a line cannot be read."""
    parser = argparse.ArgumentParser(
        prog="python -m scheduler verdicts",
        description="Prints, for every unbound pod of clusters given as JSON lines, each node's verdict and reasons.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", nargs="?", type=Path, help="JSON lines; default: standard input")
    options = parser.parse_args(arguments)
    try:
        lines = options.file.open("rb") if options.file is not None else sys.stdin.buffer
        with lines:
            for answer in answers(lines):
                sys.stdout.write(answer.decode() + "\n")
    except OSError as error:
        sys.stderr.write(f"scheduler verdicts: {options.file}: {error.strerror}\n")
        return 2
    except BadCluster as error:
        sys.stderr.write(f"scheduler verdicts: {error}\n")
        return 2
    return 0


def answers(lines: Iterable[bytes]) -> Iterator[bytes]:
    """One line of verdicts for each line with a cluster."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield msgspec.json.encode({"results": verdicts(line)})
            except (msgspec.DecodeError, BadCluster) as error:
                raise BadCluster(f"line {number}: {error}") from None


def verdicts(line: bytes) -> list[Verdict]:
    """The verdicts of one line. Raises msgspec.DecodeError, or BadCluster naming the object that cannot be used."""
    cluster = msgspec.json.decode(line, type=_Cluster)
    settings = Settings()
    engine = Engine(build(settings), engine_settings(settings))
    # Of unbound pods only those to be judged count; the others are nobody's concern yet.
    followed = {kind.resource.kind: kind for kind in kinds(PodTranslator((), 0.0))}
    for raw in _flat(cluster.objects):
        _tell(engine, raw, followed)
    shapes = ShapeCache()
    return [judge(engine.state, pod_request(msgspec.json.decode(raw, type=Pod), shapes)) for raw in _flat(cluster.pods)]


def _tell(engine: Engine, raw: msgspec.Raw, followed: Mapping[str, Kind]) -> None:
    """Tell the engine of one object. Raises BadCluster."""
    name = msgspec.json.decode(raw, type=_Head).kind
    kind = followed.get(name)
    if kind is None:
        return
    try:
        item: Any = msgspec.json.decode(raw, type=kind.decode)
        name += f" {item.metadata.namespace}/{item.metadata.name}".replace(" /", " ")
        event = kind.changed(item)
        if event is not None:
            engine.handle([event], 0.0, is_leading=False)
    except (msgspec.DecodeError, ValueError) as error:
        # An API server would not have taken it; these lines come from anywhere.
        raise BadCluster(f"{name}: {error}") from None


def _flat(objects: Sequence[msgspec.Raw]) -> Iterator[msgspec.Raw]:
    for raw in objects:
        head = msgspec.json.decode(raw, type=_Head)
        if head.kind.endswith("List"):
            yield from _flat(head.items)
        else:
            yield raw
