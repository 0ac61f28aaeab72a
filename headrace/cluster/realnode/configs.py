"""The configuration files of a real node and of the cluster's DNS. Pure: what goes in decides what comes out.

Invariant: nothing in them asks for anything outside the machine. The comments say what differs from the defaults and
why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import yaml

CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
#: A full name: a short one would be looked for in a registry.
PAUSE_IMAGE = "docker.io/library/headrace-pause:0.1.0"
KUBELET_PORT = 10250
KUBELET_HEALTH_PORT = 10248
KUBE_PROXY_HEALTH_PORT = 10256
DNS_PORT = 53
#: Where Debian's package and the upstream archive put the plugins.
CNI_FOLDERS = ("/usr/lib/cni", "/opt/cni/bin")


def containerd_toml(*, runc: Path, shim: Path, cni_conf: Path) -> str:
    """containerd's configuration."""
    return f"""version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]

[grpc]
  address = "{CONTAINERD_SOCKET}"

[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{PAUSE_IMAGE}"

[plugins."io.containerd.cri.v1.runtime"]
  # Without CAP_SYS_RESOURCE a lower oom_score_adj is refused; with it this changes nothing.
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    runtime_path = "{shim}"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      BinaryName = "{runc}"
      SystemdCgroup = false
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = {json.dumps(list(CNI_FOLDERS))}
    conf_dir = "{cni_conf}"
"""  # noqa: E501  a list of TOML stands on one line


def cni_conflist(pods: str) -> str:
    """How pods are wired: a cable each, routed. (A bridge would let answers pass by the translation of Services.)"""
    network = {
        "cniVersion": "1.0.0",
        "name": "headrace",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": False,
                "ipam": {
                    "type": "host-local",
                    "dataDir": "/run/cni",
                    "ranges": [[{"subnet": pods}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
        ],
    }
    return json.dumps(network, indent=2) + "\n"


def kubelet_yaml(
    *, address: str, dns: str, cgroup_root: str, resolv_conf: Path, cert: Path, key: Path, client_ca: Path
) -> str:
    """kubelet's configuration."""
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": address,
        "port": KUBELET_PORT,
        "readOnlyPort": 0,
        "healthzBindAddress": address,
        "healthzPort": KUBELET_HEALTH_PORT,
        # Only the API server holds a certificate of this authority: who shows one may ask anything.
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": str(client_ca)},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "tlsCertFile": str(cert),
        "tlsPrivateKeyFile": str(key),
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "cgroupDriver": "cgroupfs",
        # Each node its own: two kubelets would clean up each other's pods.
        "cgroupRoot": cgroup_root,
        "failCgroupV1": False,
        "enforceNodeAllocatable": ["pods"],
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "makeIPTablesUtilChains": False,
        # The machine's disk may be nearly full with things that are not the cluster's.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        # Nobody could pull an image again.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "resolvConf": str(resolv_conf),
        "clusterDNS": [dns],
        "clusterDomain": "cluster.local",
        "syncFrequency": "10s",
        "nodeStatusUpdateFrequency": "4s",
        "registerNode": True,
    }
    return yaml.safe_dump(config, sort_keys=False)


def kube_proxy_yaml(*, kubeconfig: Path, address: str, node: str, all_pods: str) -> str:
    """kube-proxy's configuration."""
    config = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "mode": "nftables",
        "hostnameOverride": node,
        "bindAddress": address,
        "healthzBindAddress": f"{address}:{KUBE_PROXY_HEALTH_PORT}",
        "metricsBindAddress": "127.0.0.1:10249",
        "clusterCIDR": all_pods,
        # These would be settings of the whole machine.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }
    return yaml.safe_dump(config, sort_keys=False)


def corefile(*, address: str, kubeconfig: Path, health_port: int) -> str:
    """The configuration of the cluster's DNS; names outside the cluster are answered with SERVFAIL."""
    return f""".:{DNS_PORT} {{
    bind {address}
    errors
    health {address}:{health_port}
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {kubeconfig}
        pods insecure
    }}
    cache 5
}}
"""


def masked_sysctls() -> Mapping[str, str]:
    """Settings of the whole machine that kubelet wants, and the values it wants them to have.

    The node sees files of its own in their places: it finds what it wants, and the machine keeps what it had."""
    return {"vm/overcommit_memory": "1\n", "kernel/panic": "10\n", "kernel/panic_on_oops": "1\n"}
