"""pybypass.nic against what ethtool and ip print, value by value. Shared by tests/test_nic.py and tests/vm."""

import json
import re
import subprocess

from pybypass import nic

COALESCING = {name: name.replace("_", "-") for name in ("rx_usecs", "rx_frames", "tx_usecs", "tx_frames")}
COALESCING |= {f"{a}_irq": f"{b}-irq" for a, b in COALESCING.items()}


def run(*argv: str) -> str:
    """The output of a command; empty when it says that there is no such thing."""
    result = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    return result.stdout if result.returncode == 0 else ""


def ethtool(*argv: str) -> str:
    return run("ethtool", *argv)


def pairs_of(text: str) -> dict[str, str]:
    return {a.strip(): b.strip() for a, _, b in (line.partition(":") for line in text.splitlines()) if b.strip()}


def halves(text: str) -> tuple[dict[str, int], dict[str, int]]:
    """The maxima and the present values of `ethtool -l` and `-g`; n/a is 0."""
    top, _, bottom = text.partition("Current hardware settings")
    return tuple(
        {k: int(v) if v.isdigit() else 0 for k, v in pairs_of(half).items() if re.fullmatch(r"\d+|n/a", v)}
        for half in (top, bottom)
    )


def check_link(ifname: str, found: nic.Nic) -> None:
    (said,) = json.loads(run("ip", "-j", "-d", "link", "show", "dev", ifname))
    link = found.interface
    assert (link.ifindex, link.ifname, link.mac, link.mtu) == (
        said["ifindex"], said["ifname"], said.get("address", ""), said["mtu"],
    )  # fmt: skip
    assert (link.mtu_min, link.mtu_max) == (said.get("min_mtu", 0), said.get("max_mtu", 0))
    assert (link.up, link.carrier) == ("UP" in said["flags"], "LOWER_UP" in said["flags"])
    assert link.operstate == said["operstate"].lower()
    assert link.kind == said.get("linkinfo", {}).get("info_kind", "")
    assert (link.rx_queues, link.tx_queues) == (said["num_rx_queues"], said["num_tx_queues"])
    if "link_index" in said:
        assert link.link == said["link_index"]
    assert link.link_netnsid == said.get("link_netnsid")
    assert (link.parent, link.parent_bus) == (said.get("parentdev", ""), said.get("parentbus", ""))
    xdp = said.get("xdp", {})
    assert link.xdp_prog_id == xdp.get("prog", {}).get("id", 0)
    assert link.xdp_mode == {0: "none", 1: "native", 2: "generic", 3: "offload", 4: "multi"}[xdp.get("mode", 0)]


def check_statistics(ifname: str) -> None:
    """Counters only grow: ours lie between two of theirs."""

    def theirs():
        (said,) = json.loads(run("ip", "-j", "-s", "-s", "link", "show", "dev", ifname))
        names = {"over_errors": "missed_errors"}
        return {
            f"{way}_{names.get(k, k)}": v for way in ("rx", "tx") for k, v in said["stats64"][way].items()
            if k in ("bytes", "packets", "errors", "dropped", "over_errors", "crc_errors")
        }  # fmt: skip

    before, ours, after = theirs(), nic.interface(ifname).statistics, theirs()
    for name in before:
        if name != "rx_missed_errors":  # ip adds two counters up under one name
            assert before[name] <= ours[name] <= after[name], name


def speed_of(ifname: str) -> tuple[int | None, str | None]:
    said = pairs_of(ethtool(ifname))
    speed, duplex = re.match(r"(\d+)Mb/s", said.get("Speed", "")), said.get("Duplex", "").lower()
    return int(speed[1]) if speed else None, duplex if duplex in ("full", "half") else None


def check_speed(ifname: str, found: nic.Nic) -> None:
    said, after = None, speed_of(ifname)
    while said != after:  # a card that was set up just now gets its link while one looks
        said, found, after = after, nic.look(ifname), speed_of(ifname)
    assert (found.speed_mbps, found.duplex) == said


def check_driver(ifname: str, found: nic.Nic) -> None:
    said = pairs_of(ethtool("-i", ifname))
    if not said:
        assert found.driver is None
        return
    driver = found.driver
    assert driver is not None
    assert [driver.name, driver.version, driver.firmware, driver.bus] == [
        said.get(k, "") for k in ("driver", "version", "firmware-version", "bus-info")
    ]


def check_channels(ifname: str, found: nic.Nic) -> None:
    maxima, now = halves(ethtool("-l", ifname))
    if not now:
        assert found.channels is None
        return
    for name in ("rx", "tx", "other", "combined"):
        label = name.upper() if len(name) == 2 else name.capitalize()
        assert getattr(found.channels, name) == now[label]
        assert getattr(found.channels, f"{name}_max") == maxima[label]


def check_rings(ifname: str, found: nic.Nic) -> None:
    maxima, now = halves(ethtool("-g", ifname))
    if not now:
        assert found.rings is None
        return
    for name in ("rx", "tx"):
        assert getattr(found.rings, name) == now[name.upper()]
        assert getattr(found.rings, f"{name}_max") == maxima[name.upper()]


def check_coalescing(ifname: str, found: nic.Nic) -> None:
    text = ethtool("-c", ifname)
    said = pairs_of(text)
    if not text:
        assert found.coalescing is None
        return
    for name, label in COALESCING.items():
        ours = getattr(found.coalescing, name)
        assert said[label] == ("n/a" if ours is None else str(ours)), name
    adaptive = re.search(r"Adaptive RX: (\S+)\s+TX: (\S+)", text)
    words = {True: "on", False: "off", None: "n/a"}
    assert adaptive.groups() == (words[found.coalescing.adaptive_rx], words[found.coalescing.adaptive_tx])


def check_features(ifname: str, found: nic.Nic) -> None:
    (said,) = json.loads(ethtool("--json", "-k", ifname))
    same = {name: value for name, value in said.items() if name in found.features}
    assert len(same) > 40
    for name, value in same.items():
        ours = found.features[name]
        if value["fixed"] is not None:
            assert (ours.active, ours.fixed) == (value["active"], value["fixed"]), name
            assert ours.wanted == value["requested"], name
    legacy = {
        "rx": "rx-checksumming", "tx": "tx-checksumming", "sg": "scatter-gather", "tso": "tcp-segmentation-offload",
        "gso": "generic-segmentation-offload", "gro": "generic-receive-offload", "lro": "large-receive-offload",
        "rxvlan": "rx-vlan-offload", "txvlan": "tx-vlan-offload", "ntuple": "ntuple-filters",
        "rxhash": "receive-hashing",
    }  # fmt: skip
    for group, name in legacy.items():
        active = any(found.features[m].active for m in nic.GROUPS[group] if m in found.features)
        assert active == said[name]["active"], group


def check_timestamping(ifname: str, found: nic.Nic) -> None:
    text = ethtool("-T", ifname)
    ours = found.timestamping
    if ours is None:
        assert not text
        return
    sections = re.split(r"^(?=\S)", text, flags=re.MULTILINE)
    listed = {s.split(":")[0]: {line.split()[0] for line in s.splitlines()[1:] if line.strip()} for s in sections if s}
    assert ours.capabilities == listed["Capabilities"]
    assert ours.tx_types == listed["Hardware Transmit Timestamp Modes"]
    assert ours.rx_filters == listed["Hardware Receive Filter Modes"]
    clock = re.search(r"(?:PTP Hardware Clock|Hardware timestamp provider index): (\S+)", text)
    assert str(ours.phc) == (clock[1] if clock and clock[1] != "none" else "None")


def check_rss(ifname: str, found: nic.Nic) -> None:
    text = ethtool("-x", ifname)
    ours = found.rss
    table = [int(q) for _, row in re.findall(r"^\s*(\d+):((?:\s+\d+)+)$", text, re.MULTILINE) for q in row.split()]
    if ours is None:
        assert not table
        return
    assert list(ours.table) == table
    key = re.search(r"RSS hash key:\n([0-9a-f:]+)$", text, re.MULTILINE)
    assert ours.key.hex(":") == (key[1] if key else "")
    on = re.findall(r"^\s+(toeplitz|xor|crc32): on$", text, re.MULTILINE)
    if text:
        assert ours.function == (on[0] if on else "")
    words = {"IP SA": "src", "IP DA": "dst", "L4 bytes 0 & 1": "sport", "L4 bytes 2 & 3": "dport"}
    for flow in ("tcp4", "udp4", "tcp6", "udp6"):
        lines = ethtool("-n", ifname, "rx-flow-hash", flow)
        fields = {name for word, name in words.items() if word in lines}
        assert set(ours.fields.get(flow, ())) == fields, flow


CHECKS = (
    check_link, check_speed, check_driver, check_channels, check_rings, check_coalescing, check_features,
    check_timestamping, check_rss,
)  # fmt: skip


def compare(ifname: str) -> nic.Nic:
    """Everything of an interface of the calling thread's namespace."""
    found = nic.look(ifname)
    for check in CHECKS:
        check(ifname, found)
    check_statistics(ifname)
    return found
