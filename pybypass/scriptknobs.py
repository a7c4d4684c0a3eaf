"""Commands in backticks: what they would do to a kernel is done to the host, and nothing is run."""

from __future__ import annotations

import re
import shlex

from ._script import Host, knobs

__all__ = ["Unknown", "run_command"]

_PROC = "/proc/sys/net/ipv4/"
_PREFIX = "net.ipv4."

# What common/defaults.sh of packetdrill's own tests sets.
_DEFAULTS: dict[str, tuple[int, ...]] = {
    "tcp_rmem": (4096, 540000, 15 << 20), "tcp_wmem": (4096, 262144, 4194304), "tcp_timestamps": (1,),
    "tcp_syn_retries": (5,), "tcp_synack_retries": (5,), "tcp_frto": (2,), "tcp_sack": (1,), "tcp_dsack": (1,),
    "tcp_fack": (0,), "tcp_reordering": (3,), "tcp_slow_start_after_idle": (0,), "tcp_early_retrans": (4,),
    "tcp_recovery": (1,), "tcp_tso_win_divisor": (3,), "tcp_ecn": (0,), "tcp_ecn_option": (2,),
    "tcp_pacing_ss_ratio": (200,), "tcp_pacing_ca_ratio": (120,), "tcp_notsent_lowat": (4294967295,),
    "tcp_fastopen": (0x70403,), "tcp_syncookies": (1,),
}  # fmt: skip
# No host of ours has what these ask for or change, and nothing that a script can see depends on them.
_NOTHING = re.compile(r"(ip tcp_metrics flush|ethtool -K|nstat\s*(>|$)|true$|:$|sleep )|/tmp/sysctl_restore_")
# Parameters of kernel modules that have the value which the engine always has.
_MODULES = frozenset({("/sys/module/tcp_cubic/parameters/hystart_detect", "3")})
# Text, not numbers.
_TEXTS = frozenset({"tcp_fastopen_key", "tcp_congestion_control"})


class Unknown(ValueError):
    """A command that is not understood; its text is the message."""


def _set(host: Host, name: str, text: str) -> None:
    known = knobs()
    if name in _TEXTS:
        return
    if name not in known:
        raise Unknown(f"no knob {name}")
    values = text.replace('"', "").split()
    if not values or len(values) > known[name]:
        raise Unknown(f"{name} takes {known[name]} numbers, not {text!r}")
    for field, value in enumerate(values):
        try:
            host.set_knob(name, field, int(value, 0))
        except (ValueError, OverflowError):
            raise Unknown(f"{name} takes numbers, not {value!r}") from None


def _assign(host: Host, word: str) -> None:
    name, equals, value = word.partition("=")
    name = name.removeprefix(_PROC).removeprefix(_PREFIX)
    if not equals or "/" in name or "." in name:
        raise Unknown(f"not NAME=VALUE of net.ipv4: {word}")
    _set(host, name, value)


def _echo(host: Host, words: list[str]) -> None:
    """`echo VALUE > FILE`."""
    *values, arrow, name = words[1:] if len(words) > 3 else ["", "", ""]
    if arrow == ">" and name.startswith(_PROC):
        _set(host, name.removeprefix(_PROC), " ".join(values))
    elif arrow != ">" or (name, *values) not in _MODULES:
        raise Unknown(f"{' '.join(words)!r}: only knobs of {_PROC} can be written")


def _qdisc(host: Host, words: list[str]) -> None:
    """A queue without room lets nothing out."""
    if "limit" in words and words[words.index("limit") + 1 :][:1] == ["0"]:
        host.set_stuck(True)
    else:
        host.set_stuck(False)


def _one(host: Host, text: str) -> None:
    if _NOTHING.match(text) or _NOTHING.search(text.split()[0]):
        return
    try:
        words = shlex.split(text)
    except ValueError as e:
        raise Unknown(f"{text!r}: {e}") from None
    if words[0] == "echo":
        _echo(host, words)
        return
    words = [w for w in words if not re.match(r"[12&]?>", w) and w != "/dev/null"]
    command = words[0].rsplit("/", 1)[-1]
    if command == "defaults.sh":
        for name, values in _DEFAULTS.items():
            for field, value in enumerate(values):
                host.set_knob(name, field, value)
    elif command == "set_sysctls.py":
        for word in words[1:]:
            _assign(host, word)
    elif command == "sysctl":
        for word in words[1:]:
            if not word.startswith("-"):
                _assign(host, word)
    elif command == "tc" and words[1:2] == ["qdisc"]:
        _qdisc(host, words)
    else:
        raise Unknown(f"the command {text.split()[0]!r} is not understood")


def run_command(host: Host, text: str) -> None:
    """Does what the shell commands in `text` ask for: sysctl net.ipv4.*, packetdrill's defaults.sh and set_sysctls.py, tc
    qdisc with limit 0 (nothing leaves) and without. Unknown for any other.
    """
    text = re.sub(r"\\\n", " ", text)
    text = re.sub(r"(^|\s)#[^\n]*", "", text)
    for line in re.split(r"[\n;]|&&", text):
        line = line.strip()
        if line:
            _one(host, line)
