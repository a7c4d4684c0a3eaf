"""The engine on AF_XDP against the kernel's sockets, over an impaired link: both directions of opening, drawn at random."""

import socket

import pytest
from behaviour import End, configs, links, plans, profile, run
from hypothesis import given
from hypothesis import strategies as st
from support import kernel_listener

import pybypass as pb

pytestmark = pytest.mark.root


def kernel_connect(side, address, rcvbuf):
    with side.netns:
        s = socket.socket()
    s.settimeout(15)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
    s.connect(address)
    return s


@profile(12)
@given(
    config=configs(), rx=links(), tx=links(), ours=plans(), theirs=plans(), active=st.booleans(),
    rcvbuf=st.sampled_from((4096, 1 << 20)),
)  # fmt: skip
def test_ours_to_the_kernel(lab, config, rx, tx, ours, theirs, active, rcvbuf):
    uri = f"xdp:{lab.a.ifname}?frames=2048"
    with pb.open(uri, netns=lab.a.netns, impair_rx=rx, impair_tx=tx) as port:
        with pb.Engine(port, ip=lab.a.ip, config=config) as engine:
            if active:
                with kernel_listener(lab.b, 0) as server:
                    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
                    mine = engine.connect((lab.b.ip, server.getsockname()[1]), timeout=15)
                    other = server.accept()[0]
            else:
                with engine.listen(6000) as listener:
                    other = kernel_connect(lab.b, (lab.a.ip, 6000), rcvbuf)
                    mine = listener.accept(15)
            run(End(mine, ours, 1), End(other, theirs, 2))
        info = port.umem.info()
        assert info["owners"]["free"] == info["frames"], info
        assert info["violations"] == 0
