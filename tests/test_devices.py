"""What the PCI bus is seen to hold, and DPDK's drivers as their libraries describe themselves, of every version here."""

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pci_tree import FakeBus, link

from pybypass import _netdev, cli, devices, devicesjob, pmdinfo
from pybypass.errors import PybypassError

PCI_IDS = """# comment

1af4  Red Hat, Inc.
\t1000  Virtio network device
8086  Intel Corporation
\t10c9  82576 Gigabit Network Connection
\t\t8086 a03c  Gigabit ET Dual Port Server Adapter
\t10d3  82574L Gigabit Network Connection
C 02  Network controller
\t00  Ethernet controller
"""


@pytest.fixture
def bus(tmp_path):
    place = tmp_path / "usr/share/misc"
    place.mkdir(parents=True)
    (place / "pci.ids").write_text(PCI_IDS)
    return FakeBus(tmp_path)


def pmd(name="net_e1000_igb", ids=((0x8086, 0x10C9, 0xFFFF, 0xFFFF),), **more):
    defaults = {"library": "x.so", "kmods": ("vfio-pci",), "bifurcated": False, "params": "", "virtual": False}
    return pmdinfo.Pmd(name=name, pci_ids=tuple(ids), **{**defaults, **more})


def scan(bus, tmp_path, pmds=()):
    return devices.scan(sysfs=bus.sysfs, root=tmp_path, pmds=pmds, on=bus.on)


def test_what_a_card_is(bus, tmp_path):
    bus.add("0000:03:00.0", group=5, node=1, links=(link("eth5", up=True, default_route=True),))
    bus.add("0000:03:00.1", group=5, driver="vfio-pci")
    bus.add("0000:04:00.0", 0xABCD, driver=None)
    bus.add("0000:05:00.0", 0x1000, vendor=0x1AF4, driver="virtio-pci")
    bus.add("0000:06:00.0", 0x1, vendor=0xFFFE, driver="uio_pci_generic", cls=0x028000)
    bus.add("0000:07:00.0", cls=0x010802, driver="nvme")  # a disk
    virtual = pmd("net_ring", (), virtual=True)
    found = scan(bus, tmp_path, [pmd(), virtual])
    assert found.virtual == (virtual,) and found.dpdk_missing == ""
    one, two, three, four, five = found.devices
    assert (one.address, one.vendor, one.name) == (
        "0000:03:00.0", "Intel Corporation", "82576 Gigabit Network Connection",
    )  # fmt: skip
    assert (one.driver, one.held_by, one.override, one.numa_node, one.iommu_group) == ("igb", "kernel", None, 1, 5)
    assert (one.iommu_members, one.iommu_type) == (("0000:03:00.0", "0000:03:00.1"), "DMA-FQ")
    assert [p.name for p in one.dpdk] == ["net_e1000_igb"]
    assert one.links[0].ifname == "eth5" and one.links[0].default_route
    assert (two.held_by, two.dpdk) == ("user", one.dpdk)
    assert (three.vendor, three.name, three.driver, three.held_by) == ("Intel Corporation", "abcd", None, "nobody")
    assert (three.numa_node, three.iommu_group, three.iommu_members, three.dpdk) == (None, None, (), ())
    assert three.iommu_type is None
    assert (four.name, four.sub_vendor_id, four.sub_device_id) == ("Virtio network device", 0x1AF4, 0x1100)
    assert (five.vendor, five.name, five.held_by) == ("fffe", "0001", "user")
    text = "\n".join(devicesjob.lines(found))
    for words in (
        "driver    igb (kernel)", "eth5 (up, 1000 Mbit/s, default route)", "NUMA node 1", "group 5, with 0000:03:00.1",
        "net_e1000_igb (x.so): bind to vfio-pci", "vfio-pci needs its no-IOMMU mode", "virtual   net_ring",
    ):  # fmt: skip
        assert words in text


def test_without_pci_ids_numbers(bus, tmp_path):
    bus.add("0000:03:00.0")
    (tmp_path / "usr/share/misc/pci.ids").unlink()
    (d,) = scan(bus, tmp_path).devices
    assert (d.vendor, d.name) == ("8086", "10c9")


def test_one_device(bus):
    bus.add("0000:03:00.0", cls=0x010802, driver="nvme")
    assert devices.find("03:00.0", sysfs=bus.sysfs, on={}).driver == "nvme"
    for address, number in (("03:00.9", errno.EINVAL), ("0000:03:01.0", errno.ENODEV), ("", errno.EINVAL)):
        with pytest.raises(PybypassError) as caught:
            devices.find(address, sysfs=bus.sysfs, on={})
        assert (caught.value.code, caught.value.errno) == ("PB096", number)


def test_addresses():
    assert devices.normal("0A:1f.7") == "0000:0a:1f.7"
    assert devices.normal("00010000:0a:1f.7") == "00010000:0a:1f.7"


# ---- default routes ----


def interface(ifindex, **more):
    fields = dict.fromkeys(_netdev.Interface.__dataclass_fields__, 0)
    return _netdev.Interface(**{**fields, "ifindex": ifindex, "ifname": f"i{ifindex}", "link_netnsid": None, "kind": "", **more})


@pytest.mark.parametrize(
    ("shape", "needed"),
    [
        ([interface(2), interface(3)], {2}),
        ([interface(2, kind="bond"), interface(3, master=2), interface(4, master=2), interface(5)], {2, 3, 4}),
        ([interface(2, kind="vlan", link=3), interface(3, kind="bond"), interface(4, master=3)], {2, 3, 4}),
        ([interface(2, kind="vlan", link=3, link_netnsid=0), interface(3)], {2}),  # on one of another namespace
        ([interface(2, kind="veth", link=3), interface(3, kind="veth", link=2)], {2}),
    ],
)
def test_what_a_default_route_needs(shape, needed):
    assert devices._routed(shape, frozenset({2})) == needed


def test_default_routes_of_a_namespace(lab):
    """By netlink, in any table, of both families, and over several hops."""
    a, b = lab.a.ifname, lab.b.ifname

    def routes(side, *commands):
        with side.netns:
            for command in commands:
                subprocess.run(["ip", *command.split()], check=True, capture_output=True)
            return _netdev.default_routes()

    index = {}
    for side in (lab.a, lab.b):
        with side.netns:
            index[side.ifname] = _netdev.interface(side.ifname).ifindex
    assert routes(lab.a) == frozenset()
    assert routes(lab.a, "route add unreachable default metric 9", f"route add 10.77.0.0/16 dev {a}") == frozenset()
    assert routes(lab.a, f"route add default dev {a} table 77") == {index[a]}
    with lab.b.netns:
        Path(f"/proc/sys/net/ipv6/conf/{b}/disable_ipv6").write_text("0")
        lo = _netdev.interface("lo").ifindex
    assert routes(lab.b, f"-6 route add default dev {b}") == {index[b]}
    assert routes(lab.b, f"-6 route del default dev {b}") == frozenset()
    assert routes(lab.b, "link set lo up", f"route add default nexthop dev {b} nexthop dev lo") == {index[b], lo}


def test_this_machine():
    """Whatever it has, in agreement with sysfs."""
    found = devices.scan()
    for d in found.devices:
        assert d.class_id >> 16 == 2 and devices.normal(d.address) == d.address
        for x in d.links:
            assert _netdev.interface(x.ifname).mac == x.mac


# ---- DPDK's drivers ----


def test_drivers_of_the_dpdk_here():
    by_name = {p.name: p for p in pmdinfo.drivers()}
    assert {"net_null", "net_ring", "net_tap", "net_af_packet", "net_memif", "net_pcap"} <= {
        p.name for p in by_name.values() if p.virtual
    }
    igb, virtio, mlx5 = by_name["net_e1000_igb"], by_name["net_virtio"], by_name["mlx5_eth"]
    assert igb.supports(0x8086, 0x10C9) and not igb.supports(0x8086, 0x10D3) and not igb.virtual
    assert by_name["net_e1000_em"].supports(0x8086, 0x10D3)
    assert virtio.supports(0x1AF4, 0x1041, 0x1AF4, 0x1100)
    assert by_name["net_vmxnet3"].supports(0x15AD, 0x07B0)
    assert "vfio-pci" in igb.kmods and not igb.bifurcated
    assert mlx5.bifurcated and "mlx5_core" in mlx5.kmods
    assert "iface=" in by_name["net_af_packet"].params
    assert not by_name["net_dpaa"].virtual  # a bus of its own
    assert not any(p.name.startswith("crypto") for p in by_name.values())
    assert any(p.name.startswith("crypto") for p in pmdinfo.drivers(kinds=("crypto",)))


def test_as_dpdks_own_tool_says():
    tool = shutil.which("dpdk-pmdinfo") or shutil.which("dpdk-pmdinfo.py")
    assert tool, "apt-get install dpdk-dev"
    place = pmdinfo.directory()
    library = next(p for p in place.glob("librte_net_ixgbe.so*"))
    # By our interpreter, which has pyelftools.
    done = subprocess.run([sys.executable, tool, str(library)], capture_output=True, text=True, timeout=60, check=True)
    ours = {p.name: p for p in pmdinfo.read(library)}
    said = json.loads(done.stdout)
    assert {entry["name"] for entry in said} == set(ours) and len(ours) > 1
    words = ("vendor", "device", "subsystem_vendor", "subsystem_device")
    for entry in said:
        ids = {tuple(int(one.get(w, "ffff"), 16) for w in words) for one in entry["pci_ids"]}
        assert set(ours[entry["name"]].pci_ids) == ids and len(ids) > 5


def library(tmp_path, *strings: str, name="librte_net_fake.so.25"):
    source = "".join(f'const char v{i}[] = "PMD_INFO_STRING= " {json.dumps(s)};\n' for i, s in enumerate(strings))
    target = tmp_path / name
    subprocess.run(
        ["gcc", "-shared", "-x", "c", "-", "-o", str(target)], input=source or "int x;", text=True, check=True,
    )  # fmt: skip
    return target


def test_a_library_of_ones_own(tmp_path):
    one = {"name": "net_a", "kmod": "* igb_uio | vfio-pci", "pci_ids": [[1, 2, 65535, 65535], [1, 3, 4, 5]]}
    two = {"name": "net_b", "params": "x=<int>  y=<int> ", "pci_ids": []}
    path = library(tmp_path, json.dumps(one), json.dumps(two))
    (tmp_path / "librte_net_fake.so").symlink_to(path.name)
    a, b = pmdinfo.drivers(tmp_path)  # once, though the file has two names
    assert (a.name, a.kmods, a.pci_ids) == ("net_a", ("igb_uio", "vfio-pci"), ((1, 2, 65535, 65535), (1, 3, 4, 5)))
    assert a.supports(1, 2, 9, 9) and a.supports(1, 3, 4, 5) and not a.supports(1, 3, 4, 6) and not a.supports(2, 2)
    assert (b.name, b.params, b.virtual) == ("net_b", "x=<int> y=<int>", False)  # no vdev bus is linked
    assert pmdinfo.read(library(tmp_path, name="librte_net_none.so")) == []


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"name": "x", "pci_ids": [[1]]}', '{"name": "x", "pci_ids": 1}'])
def test_a_description_that_makes_no_sense(tmp_path, text):
    path = library(tmp_path, text)
    for call in (lambda: pmdinfo.read(path), lambda: pmdinfo.drivers(tmp_path)):
        with pytest.raises(PybypassError, match="makes no sense") as caught:
            call()
        assert caught.value.code == "PB098"
    good = library(tmp_path, '{"name": "net_good", "pci_ids": []}', name="librte_net_good.so.25")
    assert [p.library for p in pmdinfo.drivers(tmp_path)] == [good.name]  # the others are still there


def test_files_that_are_no_libraries(tmp_path):
    for content in (b"", b"\x7fELF", b"not one", b"\x7fELF\x02\x01\x01" + b"\xff" * 100):
        (tmp_path / "librte_net_bad.so").write_bytes(content)
        with pytest.raises(PybypassError) as caught:
            pmdinfo.drivers(tmp_path)
        assert caught.value.code == "PB098"
    with pytest.raises(PybypassError, match="No such file"):
        pmdinfo.read(tmp_path / "nowhere.so")


def test_cut_libraries_never_raise_anything_else(tmp_path):
    whole = library(tmp_path, '{"name": "net_a", "pci_ids": []}').read_bytes()
    path = tmp_path / "librte_net_cut.so"
    seen = set()
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        try:
            found = pmdinfo.read(path)
        except PybypassError as e:
            seen.add(e.code)
        else:
            assert found in ([], [pmd("net_a", (), library=path.name, kmods=())])
    assert seen == {"PB098"}


def test_where_they_are(tmp_path, monkeypatch):
    with pytest.raises(PybypassError, match="no directory") as caught:
        pmdinfo.directory(tmp_path)
    assert caught.value.code == "PB098" and "apt-get" in caught.value.hint
    for version in ("pmds-9.1", "pmds-23.0", "pmds-25.0"):
        (tmp_path / "usr/lib/x86_64-linux-gnu/dpdk" / version).mkdir(parents=True)
    for abi, name in (("23", "pmds-23.0"), ("24", "pmds-25.0"), (None, "pmds-25.0")):
        monkeypatch.setattr(pmdinfo, "abi", lambda abi=abi: abi)
        assert pmdinfo.directory(tmp_path).name == name


def test_without_dpdk_the_rest_is_still_said(bus, tmp_path, monkeypatch):
    def missing():
        raise PybypassError.make("PB098", errno.ENOENT, "none here")

    monkeypatch.setattr(devices, "drivers", missing)
    bus.add("0000:03:00.0")
    found = devices.scan(sysfs=bus.sysfs, root=tmp_path, on={})
    assert found.devices[0].dpdk == () and "PB098" in found.dpdk_missing
    assert "DPDK's drivers are not known" in "\n".join(devicesjob.lines(found))


def test_the_command(capsys):
    assert cli.main(["devices", "--json"]) == 0
    out = capsys.readouterr().out
    answer = json.loads(out)
    assert out.count("\n") == 1 and answer["schema"] == "pybypass.devices/1"
    assert {p["name"] for p in answer["virtual"]} >= {"net_null", "net_ring"}
    assert all(d["held_by"] in ("kernel", "user", "nobody") for d in answer["devices"])
    assert cli.main(["devices"]) == 0
    assert "virtual   net_" in capsys.readouterr().out


def test_the_eal_is_not_started():
    code = "from pybypass import devices; devices.scan(); import sys; print('pybypass._dpdk' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert result.stdout == "False\n"
