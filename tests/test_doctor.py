"""The doctor: what it finds where things are missing, and that it says how to get them."""

import dataclasses
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from pybypass import cli, doctor, doctornet, doctorsystem, nic, nictypes, peers
from pybypass import lab as laboratory
from pybypass.errors import PybypassError

ALL = {
    "core", "libxdp", "xdp_programs", "kernel", "multi_buffer", "tx_metadata", "btf", "af_xdp", "caps_xdp", "caps_lab",
    "memlock", "netns", "sysfs_netns", "hugepages_2m", "hugepages_1g", "hugepages_nodes", "thp", "cpus", "isolated_cpus",
    "smt", "governor", "clocksource", "kernel_cc", "vfio", "dpdk", "dpdk_drivers", "dpdk_hugepages", "iommu", "dpdk_cards",
    "rich", "main_job",
}  # fmt: skip
NET = {
    "veth_offload", "peer_offload", "txrehash", "xdp_attached", "zero_copy", "zero_copy_frames", "lro", "mtu", "rx_clock",
    "vlan_strip", "coalescing", "irq_affinity", "rings", "drops", "softnet", "xsk_sockets", "named_netns",
}  # fmt: skip
ALL |= NET


def by_id() -> dict[str, doctor.Check]:
    return {check.id: check for check in doctor.diagnose()}


def hide(monkeypatch, **files: str | None):
    """Files of /proc and /sys with other contents: the end of the path, with _ for /, and the text or None."""
    real = doctorsystem._read

    def read(path):
        for end, text in files.items():
            if path.replace("/", "_").endswith(end):
                return text
        return real(path)

    monkeypatch.setattr(doctorsystem, "_read", read)


def test_every_check_is_there_and_well_formed():
    checks = doctor.diagnose()
    assert {check.id for check in checks} == ALL
    assert len(checks) == len(ALL)
    for check in checks:
        assert check.verdict in ("ok", "info", "warn", "fail")
        assert check.value
        assert check.why or check.verdict == "ok", check
        if check.verdict in ("warn", "fail"):
            assert check.fix, check


@pytest.mark.alone("processor time")
def test_it_takes_less_than_a_second_of_a_processor_from_the_start():
    """A cold process, import included; by processor time, which a busy machine does not stretch, the best of three."""
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "pybypass", "doctor", "--json"], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) < 1.0, spent


def test_pyroute2_is_not_imported():
    code = (
        "import sys; from pybypass import doctor; doctor.diagnose(); print([m for m in sys.modules if 'pyroute2' in m])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == "[]"


def test_json(capsys):
    assert cli.main(["doctor", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["schema"] == "pybypass.doctor/1"
    assert {c["id"] for c in answer["checks"]} == ALL
    assert all(set(c) == {"id", "verdict", "value", "why", "fix"} for c in answer["checks"])


def test_text_is_aligned(capsys):
    assert cli.main(["doctor"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith("pybypass ")
    assert {line[6:22].strip() for line in lines if not line.startswith(" ")} == ALL
    assert all(line[22:24] == "  " or line.startswith(" ") for line in lines)


@pytest.mark.root
def test_as_root_with_everything_built_the_main_job_runs_on_xdp():
    found = by_id()
    assert found["main_job"].value == "xdp", found


WITHOUT_PRIVILEGE = """
import ctypes, struct, sys
# capset(2) of nothing. Not another user: that one might not be allowed to read the interpreter's files.
header, data = struct.pack("Ii", 0x20080522, 0), bytes(24)
assert ctypes.CDLL(None).capset(header, data) == 0
from pybypass import cli
sys.exit(cli.main(["doctor", "--json"]))
"""


def test_without_privilege_it_runs_on_mem_and_says_why():
    argv = [sys.executable, "-c", WITHOUT_PRIVILEGE]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    found = {c["id"]: c for c in json.loads(result.stdout)["checks"]}
    for name in ("af_xdp", "caps_xdp", "caps_lab", "netns", "main_job"):
        assert found[name]["verdict"] == "warn"
        assert "root" in found[name]["fix"]
    assert found["core"]["verdict"] == "ok"
    assert found["main_job"]["value"] == "mem only"
    assert "caps_xdp" in found["main_job"]["why"]


@pytest.mark.parametrize(
    ("release", "verdict"),
    [("5.10.0-28-amd64", "warn"), ("5.11.0", "info"), ("6.1.0-18-amd64", "info"), ("6.3.1", "ok"), ("odd", "warn")],
)
def test_kernel(monkeypatch, release, verdict):
    monkeypatch.setattr(doctorsystem.platform, "release", lambda: release)
    check = doctorsystem.check_kernel()
    assert (check.verdict, check.value) == (verdict, release)


@pytest.mark.parametrize(
    ("error", "verdict", "fix"),
    [
        (ModuleNotFoundError("no"), "warn", "libxdp-dev"),
        (ImportError("libxdp.so.1: cannot open shared object file"), "fail", "libxdp1"),
    ],
)
def test_libxdp(monkeypatch, error, verdict, fix):
    def fails(name):
        raise error

    monkeypatch.setattr(doctorsystem.importlib, "import_module", fails)
    check = doctorsystem.check_xsk()
    assert check.verdict == verdict
    assert fix in check.fix


def test_programs_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(doctorsystem, "__file__", str(tmp_path / "doctor.py"))
    check = doctorsystem.check_programs()
    assert (check.verdict, check.value) == ("warn", "none")
    assert "pb_xdp_generic, pb_xdp_meta" in check.why
    assert "clang" in check.fix


def test_core_broken(monkeypatch, capsys):
    from pybypass import ports

    def fails(uri):
        raise PybypassError.make("PB001", 12)

    monkeypatch.setattr(ports, "open", fails)
    assert cli.main(["doctor", "--json"]) == 1
    found = {c["id"]: c for c in json.loads(capsys.readouterr().out)["checks"]}
    assert found["core"]["verdict"] == found["main_job"]["verdict"] == "fail"


def test_capabilities(monkeypatch):
    hide(monkeypatch, self_status="Name:\tx\nCapEff:\t0000000000002000\n")  # CAP_NET_RAW
    assert doctorsystem.held_capabilities() == {"CAP_NET_RAW"}
    check = doctorsystem.check_caps_xdp()
    assert check.value == "no CAP_NET_ADMIN, CAP_BPF"
    assert f"setcap cap_net_raw,cap_net_admin,cap_bpf+ep {os.path.realpath(sys.executable)}" in check.fix


@pytest.mark.parametrize(
    ("soft", "lock", "verdict"),
    [(8 << 20, False, "warn"), (16 << 20, False, "ok"), (resource.RLIM_INFINITY, False, "ok"), (8 << 20, True, "ok")],
)
def test_memlock(monkeypatch, soft, lock, verdict):
    monkeypatch.setattr(doctorsystem.resource, "getrlimit", lambda what: (soft, soft))
    monkeypatch.setattr(doctorsystem, "held_capabilities", lambda: frozenset({"CAP_IPC_LOCK"} if lock else ()))
    check = doctorsystem.check_memlock()
    assert check.verdict == verdict
    assert ("ulimit -l" in check.fix) == (verdict == "warn")


@pytest.mark.parametrize(
    ("name", "files", "verdict", "value"),
    [
        ("check_huge_2m", {"nr_hugepages": "0"}, "info", "none reserved"),
        ("check_huge_2m", {"nr_hugepages": "8", "free_hugepages": "3"}, "ok", "3 of 8 free"),
        ("check_huge_1g", {"nr_hugepages": None}, "info", "not supported"),
        ("check_thp", {"transparent_hugepage_enabled": "always madvise [never]"}, "info", "never"),
        ("check_thp", {"transparent_hugepage_enabled": "[always] madvise never"}, "ok", "always"),
        ("check_governor", {"scaling_governor": "powersave"}, "info", "powersave"),
        ("check_governor", {"scaling_governor": "performance"}, "ok", "performance"),
        ("check_clock", {"current_clocksource": "hpet", "available_clocksource": "tsc hpet"}, "warn", "hpet"),
        ("check_clock", {"current_clocksource": "kvm-clock"}, "ok", "kvm-clock"),
    ],
)
def test_what_the_system_says(monkeypatch, name, files, verdict, value):
    hide(monkeypatch, **files)
    check = getattr(doctorsystem, name)()
    assert (check.verdict, check.value) == (verdict, value)


@pytest.mark.parametrize(
    ("check", "release", "verdict"),
    [("check_multi_buffer", "6.5.0", "info"), ("check_multi_buffer", "6.6.1", "ok"),
     ("check_tx_metadata", "6.7.9", "info"), ("check_tx_metadata", "6.18.1", "ok")],
)  # fmt: skip
def test_what_the_kernels_version_gives(monkeypatch, check, release, verdict):
    monkeypatch.setattr(doctorsystem.platform, "release", lambda: release)
    found = getattr(doctorsystem, check)()
    assert found.verdict == verdict
    assert (release in found.why) == (verdict == "info")


def test_congestion_controls_to_compare_with(monkeypatch):
    hide(monkeypatch, available_congestion_control="reno cubic")
    check = doctorsystem.check_kernel_cc()
    assert (check.verdict, check.fix) == ("info", "modprobe tcp_bbr (as root)")
    hide(monkeypatch, available_congestion_control="reno cubic bbr")
    assert doctorsystem.check_kernel_cc().verdict == "ok"


def test_smt(monkeypatch):
    for value, verdict in (("0", "ok"), (None, "ok"), ("1", "info")):
        hide(monkeypatch, smt_active=value)
        assert doctorsystem.check_smt().verdict == verdict


def test_huge_pages_by_node(monkeypatch):
    class Nodes:
        def __init__(self, path):
            pass

        def glob(self, pattern):
            return [Path("/x/node0"), Path("/x/node1")]

    monkeypatch.setattr(doctorsystem, "Path", Nodes)
    pages = {"node0": ("8", "3"), "node1": ("0", "0")}
    monkeypatch.setattr(
        doctorsystem, "_read", lambda path: next(v for k, v in pages.items() if k in path)["free" in path]
    )
    check = doctorsystem.check_huge_nodes()
    assert (check.verdict, check.value) == ("warn", "node0 3 of 8 free, node1 0 of 0 free")
    assert "node1/hugepages/hugepages-2048kB/nr_hugepages" in check.fix and "node0" not in check.fix


@pytest.mark.root
def test_sysfs_of_another_namespace(lab):
    assert doctorsystem.check_sysfs().verdict == "ok"
    check = lab.a.netns.run(doctorsystem.check_sysfs)
    assert (check.verdict, check.value) == ("info", "another namespace's")


# ---- interfaces: the condition is made in a namespace ----


def net(side, name: str):
    """One check of the interfaces of a side."""
    return side.netns.run(lambda: getattr(doctornet, f"check_{name}")(doctornet.seen()))


@pytest.mark.root
def test_a_fresh_lab_is_in_order(lab):
    checks = {c.id: c for c in lab.a.netns.run(doctor.diagnose, lab.a.ifname)}
    assert set(checks) == NET | {"interface"}
    assert not [c for c in checks.values() if c.verdict in ("warn", "fail")]
    assert checks["interface"].value.startswith("veth, up, 1 of 1 queues, MTU 1500")
    assert checks["zero_copy"].value == f"copy: {lab.a.ifname}"
    assert checks["rx_clock"].value == "none in XDP"  # veth says that it has a time, and gives 0
    assert (checks["peer_offload"].verdict, checks["peer_offload"].value) == ("ok", "off")


@pytest.mark.root
def test_veth_with_offloads(lab):
    assert net(lab.a, "veth").verdict == "ok"
    nic.set_features(lab.a.ifname, {"gro": True}, netns=lab.a.netns)
    check = net(lab.a, "veth")
    assert (check.verdict, check.value) == ("info", f"on: {lab.a.ifname}")
    assert check.fix == f"ethtool -K {lab.a.ifname} tx off tso off gso off gro off"


@pytest.mark.root
@pytest.mark.parametrize("offload", ["tx", "gso", "tso"])
def test_the_peers_offloads_are_found_in_its_namespace(lab, offload):
    nic.set_features(lab.b.ifname, {"tx": True, offload: True}, netns=lab.b.netns)
    check = net(lab.a, "peer")
    assert check.verdict == "warn"
    assert check.value.startswith(f"{lab.b.ifname} of {lab.a.ifname}: tx")
    assert offload in check.value.split()
    assert f"ethtool -K {lab.b.ifname} tx off" in check.fix


@pytest.mark.root
def test_a_peer_that_cannot_be_reached(lab, monkeypatch):
    monkeypatch.setattr(peers, "_namespaces", lambda: iter(()))
    check = net(lab.a, "peer")
    assert (check.verdict, check.value) == ("info", f"not seen: {lab.a.ifname}")
    assert "nsenter" in check.fix


@pytest.mark.root
def test_a_peer_in_the_same_namespace(lab):
    def run():
        subprocess.run(["ip", "link", "add", "pbc", "type", "veth", "peer", "name", "pbd"], check=True)
        found = peers.find(nic.interface("pbc"))
        assert found.interface.ifname == "pbd"

    lab.a.netns.run(run)


@pytest.mark.root
def test_txrehash(lab):
    assert net(lab.a, "txrehash").verdict == "ok"
    lab.a.netns.run(laboratory._sysctl, "core/txrehash", "1")
    check = net(lab.a, "txrehash")
    assert (check.verdict, check.value) == ("info", "1")
    assert check.fix.startswith("sysctl -w net.core.txrehash=0")


@pytest.mark.root
@pytest.mark.parametrize(("mode", "flag"), [("generic", "xdpgeneric"), ("native", "xdpdrv")])
def test_a_program_of_somebody_else(lab, mode, flag):
    import pybypass as pb

    assert net(lab.a, "attached").verdict == "ok"
    with pb.open(f"xdp:{lab.a.ifname}?frames=256&ring=64&mode={mode}", netns=lab.a.netns) as port:
        check = net(lab.a, "attached")
        assert check.verdict == "warn"
        assert check.value == f"{lab.a.ifname}: program {port.program.info()['prog_id']}, {mode}"
        assert check.fix == f"ip link set dev {lab.a.ifname} {flag} off"


@pytest.mark.root
def test_mtu():
    with laboratory.veth(mtu=9000) as lab:
        check = net(lab.a, "mtu")
        assert (check.verdict, check.value) == ("info", f"{lab.a.ifname} 9000")
        assert "frame=4096" in check.fix
    with laboratory.veth(mtu=1774) as lab:
        assert net(lab.a, "mtu").verdict == "ok"


@pytest.mark.root
def test_an_interface_that_is_down_or_has_no_carrier(lab):
    a = {c.id: c for c in lab.a.netns.run(doctor.diagnose, f"xdp:{lab.a.ifname}?queue=0")}
    assert a["interface"].verdict == "ok"
    lab.b.netns.run(subprocess.run, ["ip", "link", "set", lab.b.ifname, "down"])
    (check, *_) = lab.a.netns.run(doctor.diagnose, lab.a.ifname)
    assert check.verdict == "warn" and "no carrier" in check.why
    (check, *_) = lab.b.netns.run(doctor.diagnose, lab.b.ifname)
    assert (check.verdict, check.fix) == ("warn", f"ip link set {lab.b.ifname} up")


def test_dev_is_an_interface_or_a_uri_of_one(capsys):
    assert cli.main(["doctor", "--dev", "lo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["checks"][0]["id"] == "interface"
    assert cli.main(["doctor", "--dev", "mem:a"]) == 2
    assert "PB010" in capsys.readouterr().err
    assert cli.main(["doctor", "--dev", "nosuch0"]) == 1
    assert "PB020" in capsys.readouterr().err


# ---- interfaces: cards that are not here ----


def card(name="igb", **changes):
    link = dataclasses.replace(nic.interface("lo"), ifname="eth9", ifindex=999, mtu=1500, **changes.pop("link", {}))
    features = {"rx-lro": nictypes.Feature(active=False, wanted=False, fixed=True)}
    driver = nictypes.Driver(
        name=name, version="1", firmware="", bus="0000:01:00.0", numa_node=changes.pop("node", None)
    )
    given = {
        "interface": link, "driver": driver, "speed_mbps": 1000, "duplex": "full", "rss": None,
        "channels": nictypes.Channels(combined=2, combined_max=8), "rings": nictypes.Rings(rx=4096, tx=4096, rx_max=4096),
        "coalescing": None, "features": features, "timestamping": None, "queues": [], "irqs": [],
        "xdp": nic.Xdp(features=frozenset({"basic", "redirect", "xsk-zerocopy"}), zc_max_segs=1,
                       rx_metadata=frozenset(), xsk=frozenset()),
    }  # fmt: skip
    return nictypes.Nic(**{**given, **changes})


def feature(name):
    return {name: nictypes.Feature(active=True, wanted=True, fixed=False)}


@pytest.mark.parametrize(
    ("check", "changes", "value", "fix"),
    [
        ("zero_copy_frames", {}, "eth9", "open xdp:eth9?frame=4096"),
        ("hardware_gro", {"features": feature("rx-lro")}, "on: eth9", "ethtool -K eth9 lro off rx-gro-hw off"),
        ("hardware_gro", {"features": feature("rx-gro-hw")}, "on: eth9", "ethtool -K eth9 lro off rx-gro-hw off"),
        ("vlan", {"features": feature("rx-vlan-hw-parse")}, "eth9", "ethtool -K eth9 rxvlan off"),
        ("coalescing", {"coalescing": nictypes.Coalescing(rx_usecs=3)}, "eth9 3 us", "ethtool -C eth9 rx-usecs 0"),
        ("coalescing", {"coalescing": nictypes.Coalescing(rx_usecs=0, adaptive_rx=True)}, "eth9 0 us adaptive",
         "ethtool -C eth9 adaptive-rx off rx-usecs 0"),
        ("rings", {"rings": nictypes.Rings(rx=256, rx_max=4096)}, "eth9 256 of 4096", "ethtool -G eth9 rx 4096"),
        ("drops", {"link": {"statistics": {"rx_missed_errors": 7, "rx_dropped": 0}}}, "eth9 rx_missed_errors 7",
         "ethtool -S eth9 says where; ethtool -G, -L spread the load"),
        ("zero_copy", {"xdp": None}, "generic: eth9", "take a card whose driver has it (netdev's xdp-features), or a newer kernel"),
    ],
)  # fmt: skip
def test_what_a_card_says(check, changes, value, fix):
    found = getattr(doctornet, f"check_{check}")([card(**changes)])
    assert (found.verdict, found.value, found.fix) == ("info", value, fix)
    assert getattr(doctornet, f"check_{check}")([card("mlx5_core")]).verdict == "ok"


def test_a_clock_that_xdp_does_not_get():
    stamps = nictypes.Timestamping(
        capabilities=frozenset({"hardware-receive"}), tx_types=frozenset(), rx_filters=frozenset({"all"}), phc=0
    )
    check = doctornet.check_clock([card(timestamping=stamps)])
    assert check.verdict == "info" and check.why.startswith("eth9 can stamp, but")
    able = nic.Xdp(features=frozenset(), zc_max_segs=0, rx_metadata=frozenset({"timestamp"}), xsk=frozenset())
    assert doctornet.check_clock([card(xdp=able)]).verdict == "ok"


def test_interrupts_on_another_node(monkeypatch):
    monkeypatch.setattr(doctornet, "_read", lambda path: "4-7" if "node1/cpulist" in path else None)
    far = nic.Irq(number=31, action="eth9-TxRx-0", affinity="0-7", effective="2")
    near = nic.Irq(number=32, action="eth9-TxRx-1", affinity="0-7", effective="5")
    check = doctornet.check_irqs([card(node=1, irqs=[far, near])])
    assert (check.verdict, check.value) == ("warn", "eth9 irq 31")
    assert check.fix == "echo 4-7 | tee /proc/irq/31/smp_affinity_list (as root)"
    assert doctornet.check_irqs([card(node=1, irqs=[near])]).verdict == "ok"
    assert doctornet.check_irqs([card(node=None, irqs=[far])]).verdict == "ok"


def test_sockets_that_lost_frames(monkeypatch):
    lost = nic.XskSocket(inode=1, ifindex=999, queue=2, zerocopy=True, statistics={"rx_ring_full": 5, "rx_dropped": 0})
    for sockets, verdict, value in (
        ([lost], "info", "eth9 queue 2: rx_ring_full 5"), ([], "ok", "none"), (None, "info", "not said"),
        ([dataclasses.replace(lost, statistics={"rx_ring_full": 0})], "ok", "1 bound, nothing lost"),
        ([dataclasses.replace(lost, ifindex=5)], "ok", "none"),
    ):  # fmt: skip
        monkeypatch.setattr(nic, "xsk_sockets", lambda sockets=sockets: sockets)
        check = doctornet.check_xsk([card()])
        assert (check.verdict, check.value) == (verdict, value)


def test_softnet(monkeypatch):
    rows = "00000010 00000000 00000002 0\n00000010 0000000a 00000001 0\n"
    monkeypatch.setattr(doctornet, "_read", lambda path: rows)
    check = doctornet.check_softnet([])
    assert (check.verdict, check.value) == ("info", "dropped 10, squeezed 3")
    monkeypatch.setattr(doctornet, "_read", lambda path: None)
    assert doctornet.check_softnet([]).verdict == "ok"


def test_named_namespaces(monkeypatch):
    monkeypatch.setattr(doctornet.os, "listdir", lambda path: ["old"])
    check = doctornet.check_named_netns([])
    assert (check.verdict, check.value) == ("info", "old") and "ip netns del old" in check.fix


def test_a_check_that_fails_is_a_finding(monkeypatch):
    def check_broken(nics):
        raise OSError("odd")

    monkeypatch.setattr(doctornet, "CHECKS", (check_broken,))
    (check,) = doctornet.check_all([])
    assert (check.id, check.verdict, check.value) == ("broken", "info", "not seen") and "odd" in check.why
