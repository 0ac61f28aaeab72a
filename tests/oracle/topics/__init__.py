"""What clusters are made up of: topic → the function that adds it to a draft.

Owns the list. A new topic is one function in a module here and one line below."""

from collections.abc import Callable

from tests.oracle.draft import Draft
from tests.oracle.topics import in_tree, neighbours, node_rules, room, unbound, volumes

Topic = Callable[[Draft], None]

TOPICS: dict[str, Topic] = {
    "extended resources": room.extended_resources,
    "init containers": room.init_containers,
    "pod-level resources": room.pod_level_resources,
    "overhead": room.overhead,
    "resize": room.resize,
    "host ports": room.host_ports,
    "taints": node_rules.taints,
    "unschedulable": node_rules.unschedulable,
    "node selector": node_rules.node_selector,
    "node affinity": node_rules.node_affinity,
    "node names": node_rules.node_names,
    "declared features": node_rules.declared_features,
    "bound claims": volumes.bound_claims,
    "shared volumes": volumes.shared_volumes,
    "attach limits": volumes.attach_limits,
    "in-tree volumes": in_tree.in_tree_volumes,
    "waiting claims": unbound.waiting_claims,
    "pod affinity": neighbours.pod_affinity,
    "pod anti-affinity": neighbours.pod_anti_affinity,
    "spread": neighbours.spread,
}
