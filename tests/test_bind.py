"""Binding of network cards, on a bus in a directory: what is written, what is refused and why, the record of the undo.

For real, with vfio-pci and an IOMMU: tests/vm/test_bind_vm.py; with uio_pci_generic: tests/vm/test_uio_vm.py.
"""

import errno
import json

import pytest
from pci_tree import FakeBus, link

from pybypass import bind, cli
from pybypass.errors import PybypassError

ONE, TWO = "0000:03:00.0", "0000:03:00.1"


@pytest.fixture
def bus(tmp_path):
    bus = FakeBus(tmp_path)
    bus.load("vfio-pci", "uio_pci_generic")
    return bus


def refused(function, *arguments, **how) -> PybypassError:
    with pytest.raises(PybypassError) as caught:
        function(*arguments, **how)
    assert caught.value.code == "PB096"
    assert caught.value.hint
    return caught.value


def test_there_and_back(bus):
    bus.add(ONE, group=7)
    plan = bind.plan_bind("03:00.0", "vfio-pci", bus=bus)
    assert bus.wrote == [] and bus.driver(ONE) == "igb" and bind.recorded(bus) == {}  # a plan changes nothing
    assert bind.apply(plan, bus=bus) == "vfio-pci"
    at = f"devices/{ONE}"
    assert bus.wrote == [(f"{at}/driver_override", "vfio-pci"), (f"{at}/driver/unbind", ONE), ("drivers_probe", ONE)]
    assert bind.recorded(bus) == {ONE: {"driver": "igb", "override": None, "bound": "vfio-pci"}}
    assert bus.find(ONE).held_by == "user"

    bus.wrote.clear()
    assert bind.apply(bind.plan_unbind(ONE, bus=bus), bus=bus) == "igb"
    assert [text for _, text in bus.wrote] == ["\n", ONE, ONE]
    assert bus.override(ONE) == "(null)" and bind.recorded(bus) == {}


def test_twice_is_once(bus):
    bus.add(ONE, group=7)
    bind.apply(bind.plan_bind(ONE, "vfio-pci", bus=bus), bus=bus)
    bus.wrote.clear()
    again = bind.plan_bind(ONE, "vfio-pci", bus=bus)
    assert again.steps == () and "nothing to do" in "".join(again.lines())
    assert bind.apply(again, bus=bus) == "vfio-pci" and bus.wrote == []
    bind.apply(bind.plan_unbind(ONE, bus=bus), bus=bus)
    bus.wrote.clear()
    assert bind.plan_unbind(ONE, bus=bus).steps == ()
    assert bind.apply(bind.plan_unbind(ONE, bus=bus), bus=bus) == "igb" and bus.wrote == []


def test_from_one_user_driver_to_another_the_undo_is_still_the_kernels(bus):
    bus.add(ONE, group=7)
    bind.apply(bind.plan_bind(ONE, "vfio-pci", bus=bus), bus=bus)
    assert bind.apply(bind.plan_bind(ONE, "uio_pci_generic", bus=bus), bus=bus) == "uio_pci_generic"
    assert bind.recorded(bus)[ONE] == {"driver": "igb", "override": None, "bound": "uio_pci_generic"}
    assert bind.apply(bind.plan_unbind(ONE, bus=bus), bus=bus) == "igb"


def test_an_override_and_a_device_of_nobodys_come_back(bus):
    bus.add(ONE, group=7, driver=None)
    (bus.device(ONE) / "driver_override").write_text("e1000e\n")
    bind.apply(bind.plan_bind(ONE, "vfio-pci", bus=bus), bus=bus)
    assert bind.recorded(bus)[ONE] == {"driver": None, "override": "e1000e", "bound": "vfio-pci"}
    assert bind.apply(bind.plan_unbind(ONE, bus=bus), bus=bus) is None
    assert bus.override(ONE) == "e1000e" and bind.recorded(bus) == {}


def test_without_a_record_the_kernel_chooses(bus):
    bus.add(ONE, group=7)
    bind.apply(bind.plan_bind(ONE, "vfio-pci", bus=bus), bus=bus)
    bus.state.unlink()
    plan = bind.plan_unbind(ONE, bus=bus)
    assert any("no record" in note for note in plan.notes)
    assert bind.apply(plan, bus=bus) == "igb"


def test_an_interface_that_is_up_is_refused(bus):
    bus.add(ONE, group=7, links=(link("eth5", up=True),))
    e = refused(bind.plan_bind, ONE, "vfio-pci", bus=bus)
    assert e.errno == errno.EBUSY and "eth5 is up" in str(e) and "ip link set eth5 down" in e.hint
    plan = bind.plan_bind(ONE, "vfio-pci", force=True, bus=bus)
    assert any("eth5 is up" in note for note in plan.notes)
    assert bind.apply(plan, bus=bus) == "vfio-pci"


def test_the_default_route_is_refused_even_with_the_link_down(bus):
    bus.add(ONE, group=7, links=(link("eth5", default_route=True),))
    e = refused(bind.plan_bind, ONE, "vfio-pci", bus=bus)
    assert e.errno == errno.EBUSY and "default route" in str(e)
    assert bus.wrote == []


def test_an_interface_in_another_namespace_may_be_up_there(bus):
    bus.add(ONE, group=7, links=())
    assert bus.find(ONE).held_by == "kernel"
    with pytest.raises(PybypassError, match="network namespace"):
        bind.plan_bind(ONE, "vfio-pci", bus=bus)


def test_a_group_goes_as_a_whole(bus):
    bus.add(ONE, group=7)
    bus.add(TWO, group=7, links=(link("eth6"),))
    bus.add("0000:02:00.0", group=7, driver="pcieport", cls=0x060400)  # a bridge does no DMA
    e = refused(bind.plan_bind, ONE, "vfio-pci", bus=bus)
    assert e.errno == errno.EBUSY and f"{TWO} (igb)" in str(e) and "pcieport" not in str(e)
    bus.write(bus.device(TWO) / "driver/unbind", TWO)
    assert bind.apply(bind.plan_bind(ONE, "vfio-pci", bus=bus), bus=bus) == "vfio-pci"
    assert bind.apply(bind.plan_bind(TWO, "vfio-pci", bus=bus), bus=bus) == "vfio-pci"


def test_without_an_iommu(bus):
    bus.add(ONE)
    e = refused(bind.plan_bind, ONE, "vfio-pci", bus=bus)
    assert e.errno == errno.ENOTSUP and cli.exit_code(e) == cli.EXIT_UNSUPPORTED
    assert "intel_iommu=on" in e.hint and "enable_unsafe_noiommu_mode" in e.hint
    (bus.sysfs / "module/vfio").mkdir(parents=True)
    e = refused(bind.plan_bind, ONE, "vfio-pci", bus=bus)
    assert f"bind {ONE} uio_pci_generic" in e.hint and "enable_unsafe" not in e.hint  # built without the mode
    bus.noiommu(False)
    refused(bind.plan_bind, ONE, "vfio-pci", bus=bus)
    bus.noiommu(True)
    plan = bind.plan_bind(ONE, "vfio-pci", bus=bus)
    assert any("any memory" in note for note in plan.notes)
    # uio needs none, and says what that means.
    plan = bind.plan_bind(ONE, "uio_pci_generic", bus=bus)
    assert any("protects no memory" in note for note in plan.notes) and "PB105" not in str(plan.notes)
    bus.add("0000:09:00.0", group=9)
    plan = bind.plan_bind("0000:09:00.0", "uio_pci_generic", bus=bus)
    assert any("the IOMMU translates" in note and "PB105" in note for note in plan.notes)
    (bus.sysfs / "kernel/iommu_groups/9/type").write_text("identity\n")
    plan = bind.plan_bind("0000:09:00.0", "uio_pci_generic", bus=bus)
    assert "PB105" not in str(plan.notes)


@pytest.mark.parametrize(
    ("address", "driver", "number", "words"),
    [
        ("0000:09:00.0", "vfio-pci", errno.ENODEV, "no device at 0000:09:00.0"),
        ("eth0", "vfio-pci", errno.EINVAL, "no PCI address"),
        (ONE, "../../evil", errno.EINVAL, "no driver's name"),
        (ONE, "igb_uio", errno.ENOENT, "igb_uio is not loaded"),
        (TWO, "vfio-pci", errno.EINVAL, "no network card"),
    ],
)
def test_refused(bus, address, driver, number, words):
    bus.add(ONE, group=7)
    bus.add(TWO, group=8, cls=0x010802, driver="nvme")
    e = refused(bind.plan_bind, address, driver, bus=bus)
    assert (e.errno, bus.wrote) == (number, [])
    assert words in str(e)


def test_a_driver_that_does_not_take_it_leaves_all_as_it_was(bus):
    bus.add(ONE, group=7)
    bus.broken.add("vfio-pci")
    e = refused(bind.apply, bind.plan_bind(ONE, "vfio-pci", bus=bus), bus=bus)
    assert "nobody took it" in str(e)
    assert (bus.driver(ONE), bus.override(ONE), bind.recorded(bus)) == ("igb", "(null)", {})


def test_a_second_bind_that_fails_keeps_the_record_of_the_first(bus):
    bus.add(ONE, group=7)
    bind.apply(bind.plan_bind(ONE, "vfio-pci", bus=bus), bus=bus)
    bus.broken.add("uio_pci_generic")
    refused(bind.apply, bind.plan_bind(ONE, "uio_pci_generic", bus=bus), bus=bus)
    assert bus.driver(ONE) == "vfio-pci"
    assert bind.recorded(bus)[ONE] == {"driver": "igb", "override": None, "bound": "vfio-pci"}


def test_a_refused_write_is_typed_and_undone(bus, monkeypatch):
    bus.add(ONE, group=7)
    real = bus.write

    def write(path, text):
        if path.name == "unbind" and text == ONE:
            raise PermissionError(errno.EACCES, "Permission denied")
        real(path, text)

    monkeypatch.setattr(bus, "write", write)
    e = refused(bind.apply, bind.plan_bind(ONE, "vfio-pci", bus=bus), bus=bus)
    assert e.errno == errno.EACCES and "root" in e.hint and cli.exit_code(e) == cli.EXIT_PERMISSION
    assert (bus.driver(ONE), bus.override(ONE), bind.recorded(bus)) == ("igb", "(null)", {})


def test_a_plan_that_is_out_of_date_is_not_done(bus):
    bus.add(ONE, group=7)
    plan = bind.plan_bind(ONE, "vfio-pci", bus=bus)
    bus.write(bus.device(ONE) / "driver/unbind", ONE)
    bus.wrote.clear()
    assert refused(bind.apply, plan, bus=bus).errno == errno.EAGAIN
    assert bus.wrote == [] and bind.recorded(bus) == {}


@pytest.mark.parametrize("text", ["", "{", '{"devices": []}', '{"devices": {"x": {}}}', '{"devices": {"03:00.0": {}}}'])
def test_a_record_that_is_damaged(bus, text):
    bus.add(ONE, group=7)
    bus.state.write_text(text)
    e = refused(bind.recorded, bus)
    assert "remove the file" in e.hint or "PCI address" in str(e)
    e = refused(bind.apply, bind.plan_bind(ONE, "vfio-pci", bus=bus, force=True), bus=bus)
    assert bus.wrote == []


def test_the_record_needs_a_place(bus):
    bus.add(ONE, group=7)
    bus.state = bus.state.parent / "nowhere" / "state.json"
    e = refused(bind.apply, bind.plan_bind(ONE, "vfio-pci", bus=bus), bus=bus)
    assert e.errno == errno.ENOENT and bus.wrote == []


# ---- the command ----


@pytest.fixture
def command(bus, monkeypatch, capsys):
    """`pybypass ...` on the bus in the directory: exit code, output."""
    monkeypatch.setattr(bind, "Bus", lambda: bus)

    def run(*words):
        code = cli.main(list(words))
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


def test_the_command_only_says_what_it_would_do(bus, command):
    bus.add(ONE, group=7)
    code, out, _ = command("bind", ONE, "vfio-pci")
    assert code == 0 and bus.wrote == [] and not bus.state.exists()
    assert f"echo vfio-pci > {bus.device(ONE)}/driver_override" in out
    assert "nothing was done: --yes does it" in out


def test_the_command_does_it_and_undoes_all(bus, command):
    for address in (ONE, TWO):
        bus.add(address, group=7 + int(address[-1]), links=(link(f"eth{address[-1]}"),))
        assert command("bind", address, "vfio-pci", "--yes") == (0, f"{address}: igb -> vfio-pci\n", "")
    code, out, _ = command("unbind", "--all", "--json")
    answer = json.loads(out)
    assert code == 0 and answer["schema"] == "pybypass.bind/1"
    assert [(d["address"], d["driver"], d["wanted"], d["done"]) for d in answer["devices"]] == [
        (ONE, "vfio-pci", "igb", False), (TWO, "vfio-pci", "igb", False),
    ]  # fmt: skip
    assert command("unbind", "--all", "--yes")[1] == f"{ONE}: vfio-pci -> igb\n{TWO}: vfio-pci -> igb\n"
    assert bind.recorded(bus) == {}
    assert command("unbind", "--all", "--yes") == (0, "nothing is recorded as bound: nothing to do\n", "")


def test_the_command_refuses_in_one_line(bus, command):
    bus.add(ONE, group=7, links=(link("eth5", up=True),))
    code, out, err = command("bind", ONE, "vfio-pci", "--yes")
    assert (code, out) == (1, "") and err.startswith("pybypass: [PB096]") and err.count("\n") == 1
    code, out, _ = command("bind", ONE, "vfio-pci", "--yes", "--force")
    assert code == 0 and "note: eth5 is up" in out
    with pytest.raises(SystemExit) as caught:
        command("unbind", ONE, "--all")
    assert caught.value.code == 2


@pytest.mark.root
def test_this_machines_own_way_out_is_refused(tmp_path):
    """For real, by sysfs and rtnetlink, but only a plan: the card with the default route, where there is one on PCI."""
    from pybypass import devices

    bus = bind.Bus(state=tmp_path / "state.json")
    routed = [a for a, on in devices.links().items() if any(x.default_route for x in on)]
    for address in routed:
        assert "default route" in str(refused(bind.plan_bind, address, "vfio-pci", bus=bus))
    for d in devices.scan(pmds=[]).devices:
        assert d.driver is None or bind.plan_bind(d.address, d.driver, bus=bus).steps == ()
