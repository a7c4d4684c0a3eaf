"""Errors: each is an OSError with an errno, says what to do in `hint`, and has a stable `code`."""

from __future__ import annotations

import errno
import os

__all__ = [
    "CODES",
    "BrokenConnection",
    "ConnectionAborted",
    "ConnectionRefused",
    "ConnectionReset",
    "NotNow",
    "NotPermitted",
    "PybypassError",
    "TimedOut",
]

CODES: dict[str, tuple[str, str]] = {
    "PB001": ("no memory for the frame pool", "ask for fewer frames"),
    "PB002": ("no reserved huge pages", "reserve some with hugepages/setup.sh, or use pages='best'"),
    "PB003": ("frame pool exhausted", "release bursts and views, or open the port with more frames"),
    "PB010": ("malformed port URI", "write xdp:IFNAME?queue=N, dpdk:DEVICE?key=value or mem:NAME"),
    "PB011": ("back end not available", "run `pybypass doctor`: it names what is missing and the command that adds it"),
    "PB012": ("port is closed", "open it again with pybypass.open()"),
    "PB013": ("port belongs to an engine", "close the engine first, or open another queue"),
    "PB014": ("port is used by another thread", "drive one queue from one thread at a time"),
    "PB015": ("the process was forked", "open ports in the process that uses them"),
    "PB020": ("no such interface", "list the interfaces with `ip link`; name the right network namespace with netns="),
    "PB021": ("interface is down", "bring it up: ip link set IFNAME up"),
    "PB022": ("no such queue", "list the queues with `ethtool -l IFNAME`"),
    "PB023": ("queue is busy", "another socket is bound to it: close that process, or take another queue"),
    "PB024": ("another XDP program is attached", "detach it: ip link set dev IFNAME xdp off"),
    "PB025": ("not permitted", "run as root, or give the interpreter CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF"),
    "PB026": ("locked memory limit too small", "raise it: ulimit -l unlimited, or grant CAP_IPC_LOCK"),
    "PB027": ("MTU does not fit", "use sg=auto, or frame=4096, or lower the MTU: ip link set IFNAME mtu 1500"),
    "PB028": ("mode not supported by this driver or kernel", "let the ladder choose: mode=auto, copy=auto"),
    "PB029": ("kernel without AF_XDP", "needs Linux 5.11 or newer with CONFIG_XDP_SOCKETS"),
    "PB030": ("XDP program missing", "install clang and build again: apt-get install clang libbpf-dev libxdp-dev"),
    "PB031": ("XDP program refused by the kernel", "run `pybypass doctor`; needs CAP_BPF and kernel BTF"),
    "PB032": ("steering rule refused", "remove others: a program has room for 65,536 tuples and 16 port ranges"),
    "PB033": ("device gone", "the interface was removed or set down: open it again when it is back"),
    "PB040": ("engine configuration invalid", "the ranges are in help(pybypass.Engine) and help(pybypass.EngineConfig)"),
    "PB041": ("address is not on the interface", "with a prefix (ADDRESS/N) it is the engine's; or: ip addr add ADDRESS/N dev IF"),
    "PB042": ("local port in use", "choose another port; `ss -ltn` shows who has it"),
    "PB043": ("engine is closed", "make a new Engine"),
    "PB044": ("no such CPU", "choose one of os.sched_getaffinity(0)"),
    "PB045": ("the engine is in use by this very call", "close it when the call has returned, not from inside of it"),
    "PB050": ("connection error", "the errno means what it means for sockets: see tcp(7) and ip(7)"),
    "PB051": ("connection refused", "nothing listens at that address and port"),
    "PB052": ("connection reset by the peer", "its log says why, or a capture: Engine.capture_start()"),
    "PB053": ("timed out", "the peer did not answer in time"),
    "PB054": ("would block", "wait until the connection is ready, or set a timeout"),
    "PB055": ("connection is closed", "open a new one"),
    "PB056": ("no route", "the address is on no local network: pass gw=, or see to the routes of the gateway"),
    "PB057": ("too many connections", "close some, or raise EngineConfig(max_connections=..., max_listeners=...)"),
    "PB058": ("host unreachable", "a router on the way answered so (ICMP): see to its routes, and to the host"),
    "PB060": ("laboratory not possible here", "needs root (CAP_SYS_ADMIN, CAP_NET_ADMIN)"),
    "PB061": ("cannot write the file", "name a file in a directory that you may write to"),
    "PB062": ("software RSS refused", "one key serves an interface: use the rss_key of the port that is open, or close it"),
    "PB063": ("burst too small", "ask for at least Queue.chain_max frames: a packet is never split over two bursts"),
    "PB064": ("not granted by this port", "open it with tx_meta=1; Queue.report says what the driver and kernel have"),
    "PB070": ("the kernel refused a setting", "its words are in the message; `ethtool` and `ip` may say more"),
    "PB071": ("not supported by this driver or kernel", "look at what there is: pybypass.nic.look(IFNAME)"),
    "PB072": ("setting out of range", "the limits are in the message and in pybypass.nic.look(IFNAME)"),
    "PB073": ("messages of the kernel were lost", "read what you follow anew"),
    "PB074": ("no source port leads to that queue", "widen ports=; or see that the table has the queue: pybypass.nic.rss(IF)"),
    "PB075": ("the RSS key is not known", "the driver does not show it: give it with key=, perhaps pybypass.nic.system_rss_key()"),
    "PB080": ("the address was taken from the interface", "add it again: ip addr add ADDRESS/N dev IFNAME; or use another one"),
    "PB083": ("the card strips VLAN tags and nobody tells them", "ethtool -K IFNAME rxvlan off"),
    "PB084": ("the card keeps that VLAN out", "add the VLAN interface: ip link add link IFNAME name IFNAME.ID type vlan id ID"),
    "PB085": ("an answer is not what was asked", "the far end must send back what comes: labpeer's echo, or pingpong_echo()"),
    "PB090": ("the DPDK environment did not start", "its words are in the message, limits in help(pybypass.dpdk.EalOptions)"),
    "PB091": ("the EAL runs with other options", "it starts once in a process: give its options before the first port"),
    "PB092": ("no such DPDK device or driver", "write dpdk:net_NAME0?key=value; `pybypass devices` lists the NICs"),
    "PB093": ("memory does not suit the DPDK port", "open the port with more frames=, or Umem(dpdk=True)"),
    "PB094": ("the DPDK port cannot do that", "its limits are in the message and in Port.report"),
    "PB096": ("the device cannot be bound so", "what is in the way is in the message; `pybypass devices` shows who has it"),
    "PB097": ("not the huge pages that are wanted", "hugepages/setup.sh reserves some; `pybypass hugepages` shows what there is"),
    "PB098": ("the drivers of DPDK cannot be read", "install DPDK: apt-get install libdpdk-dev"),
    "PB095": ("flow rule refused", "the item and the driver's words are in the message; see help(pybypass.flow.Rule)"),
    "PB099": ("unexpected error", "report it, with the traceback: PYBYPASS_DEBUG=1 shows it for commands"),
    "PB100": ("the script is not understood", "the language is in help(pybypass.script); the place is in the message"),
    "PB101": ("the script asks for what is not there", "what there is: help(pybypass.script); the name is in the message"),
    "PB102": ("no script there", "name a file that can be read, or give the script as text=..."),
    "PB104": ("memory cannot be mapped for the device", "DPDK's words are in `detail`; for vfio see `ulimit -l` and dmesg"),
    "PB105": ("the IOMMU keeps the card from memory", "vfio-pci is for machines with an IOMMU: `pybypass bind ADDRESS vfio-pci`"),
    "PB106": ("the memif's socket is taken", "give another socket=, or role=client; who listens is in /proc/net/unix"),
    "PB107": ("the interrupt thread of DPDK does not answer", "a callback keeps it; a port that was being closed stays in DPDK"),
    "PB103": ("the capture cannot be read", "it must be pcap or pcapng with Ethernet, raw IP or Linux cooked packets"),
}


class PybypassError(OSError):
    """Base of all errors of this package.

    `errno` is the system's number, `code` a stable name such as "PB023", `hint` a sentence that says what to do, `detail`
    whatever more is known (a dict, may be empty).
    """

    code: str = "PB099"
    hint: str = ""
    detail: dict[str, object]

    def __init__(self, number: int, text: str, *, code: str = "PB099", hint: str = "", detail: object = None) -> None:
        super().__init__(number, text)
        self.code = code
        self.hint = hint
        self.detail = detail if isinstance(detail, dict) else {}

    def __str__(self) -> str:
        text = f"[{self.code}] {self.strerror} ({errno.errorcode.get(self.errno or 0, self.errno)})"
        return f"{text}. {self.hint}" if self.hint else text

    @staticmethod
    def make(code: str, number: int, text: str = "", *, hint: str = "", detail: object = None) -> PybypassError:
        """The error for a code, of the class that fits the errno, with the code's own hint unless one is given."""
        what, advice = CODES[code]
        full = f"{what}: {text}" if text else what
        kind = _BY_ERRNO.get(number, PybypassError)
        return kind(number or errno.EIO, full, code=code, hint=hint or advice, detail=detail)


class ConnectionRefused(PybypassError, ConnectionRefusedError):
    """The peer answered the SYN with RST, or an ICMP error said so."""


class ConnectionReset(PybypassError, ConnectionResetError):
    """The peer reset the connection."""


class ConnectionAborted(PybypassError, ConnectionAbortedError):
    """The connection was aborted on this side."""


class BrokenConnection(PybypassError, BrokenPipeError):
    """The sending side was shut down or the connection is over."""


class TimedOut(PybypassError, TimeoutError):
    """The connection, or a call with a timeout, ran out of time."""


class NotNow(PybypassError, BlockingIOError):
    """A call on a connection with timeout 0 that would have had to wait."""


class NotPermitted(PybypassError, PermissionError):
    """A privilege is missing."""


_BY_ERRNO: dict[int, type[PybypassError]] = {
    errno.ECONNREFUSED: ConnectionRefused,
    errno.ECONNRESET: ConnectionReset,
    errno.ECONNABORTED: ConnectionAborted,
    errno.EPIPE: BrokenConnection,
    errno.ETIMEDOUT: TimedOut,
    errno.EAGAIN: NotNow,
    errno.EPERM: NotPermitted,
    errno.EACCES: NotPermitted,
}

_CONNECTION_CODES = {
    errno.EBADMSG: "PB085",
    errno.ECONNREFUSED: "PB051",
    errno.ECONNRESET: "PB052",
    errno.ETIMEDOUT: "PB053",
    errno.EAGAIN: "PB054",
    errno.EPIPE: "PB055",
    errno.EBADF: "PB055",
    errno.ENETUNREACH: "PB056",
    errno.EHOSTUNREACH: "PB058",
    errno.ENOBUFS: "PB057",
    errno.EMFILE: "PB057",
    errno.EADDRINUSE: "PB042",
    errno.EADDRNOTAVAIL: "PB041",
}


def connection_error(number: int, text: str = "") -> PybypassError:
    """The error of a connection for a positive errno."""
    return PybypassError.make(_CONNECTION_CODES.get(number, "PB050"), number, text or os.strerror(number))
