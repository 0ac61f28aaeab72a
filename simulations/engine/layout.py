"""What a world comes to before its first event: who keeps each dataset, and the capacities of all links. Pure."""

from math import ceil

from simulations.engine.model import World
from simulations.engine.network import Links


def workers_of(world: World, at_least: int) -> tuple[tuple[int, ...], ...]:
    """Nodes that keep each dataset: those that have some at the start, else the next ones in turn."""
    if not at_least:
        return ()
    able = [index for index, node in enumerate(world.nodes) if node.mem_bytes + node.ssd_bytes > 0]
    if not able:
        return ((),) * len(world.datasets)
    found, start = [], 0
    for dataset in world.datasets:
        if dataset.resident:
            found.append(tuple(sorted(dataset.resident)))
            continue
        each = max(1.0, min(world.nodes[index].mem_bytes + world.nodes[index].ssd_bytes for index in able))
        count = min(len(able), max(at_least, ceil(dataset.size_bytes / each)))
        found.append(tuple(able[(start + offset) % len(able)] for offset in range(count)))
        start += count
    return tuple(found)


def links_of(world: World) -> Links:
    """NICs, uplinks, origin and disks; what serves a dataset to peers follows its homes (Simulation)."""
    racks = max((node.rack for node in world.nodes), default=0) + 1
    links, speeds = Links(len(world.nodes), racks, len(world.datasets)), world.speeds
    links.capacity[: links.nodes] = speeds.nic
    links.capacity[links.nodes : links.origin] = speeds.uplink
    links.capacity[links.origin] = speeds.origin
    for node in range(links.nodes):
        links.capacity[links.disk(node)] = speeds.ssd
    return links
