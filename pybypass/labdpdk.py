"""The main job over DPDK: net_af_xdp on one end of the veth pair, or net_tap, whose other end is the kernel itself.

There is no kernel behind such a port: ARP, neighbour discovery and echo are answered by the engine's slow path.
"""

from __future__ import annotations

import socket
from typing import Any

from . import dpdk, ports
from .labjob import EchoJob, JobOptions, XdpJob
from .tcp import Engine, EngineConfig

__all__ = ["AfXdpJob", "TapJob", "dpdk_job"]


class AfXdpJob(XdpJob):
    """Our engine on DPDK's AF_XDP driver against the kernel's sockets at the other end of the pair. The driver takes all that
    comes to its interface, so the kernel's own rows go over a second pair between the same namespaces."""

    device = "dpdk"
    _SECOND = ("10.79.0.1", "10.79.0.2")
    _joined = False

    def _kernel_address(self) -> str:
        return self._SECOND[1]

    def _join(self) -> None:
        if not self._joined:
            self._pair.join("pka", "pkb", [f"{ip}/24" for ip in self._SECOND])
            self._joined = True

    def _need(self) -> None:
        dpdk.module()

    def _port(self) -> ports.Port:
        self._join()
        return ports.open(f"dpdk:net_af_xdp0?iface={self._pair.a.ifname}&frames=16384", netns=self._pair.a.netns)

    def _engine(self, port: ports.Port, **how: Any) -> Engine:
        return Engine(port, ip=f"{self._addresses()[0]}/24", config=EngineConfig(), **how)


class TapJob(AfXdpJob):
    """Our engine on DPDK's tap driver; the kernel that it talks to is that of the tap interface. The kernel's own rows go over the
    veth pair."""

    _IFNAME = "pbtap"

    def _kernel_address(self) -> str:
        return self._pair.b.ip

    def _addresses(self) -> tuple[str, str]:
        return "10.78.0.1", "10.78.0.2"

    def _port(self) -> ports.Port:
        port = ports.open(f"dpdk:net_tap0?iface={self._IFNAME}&frames=16384", netns=self._pair.b.netns)
        try:
            self._pair.b.netns.run(self._configure)
        except BaseException:
            port.close()
            raise
        return port

    def _configure(self) -> None:
        from pyroute2 import IPRoute

        with IPRoute() as ip:
            index = socket.if_nametoindex(self._IFNAME)
            ip.link("set", index=index, state="up")
            ip.addr("add", index=index, address=self._addresses()[1], prefixlen=24)


def dpdk_job(device: str, options: JobOptions) -> EchoJob:
    """For "dpdk", "dpdk:net_af_xdp" or "dpdk:net_tap"."""
    return TapJob(options) if device.endswith("net_tap") else AfXdpJob(options)
