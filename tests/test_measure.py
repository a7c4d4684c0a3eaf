"""The loops that take round trips: a sample for each, and an answer that is not the request's is no sample."""

import errno
import socket
import threading

import pytest
from support import Pair

import pybypass as pb
from pybypass import _measure

TRIPS, BYTES = 50, 64


def spoil(data):
    return bytes([data[0] ^ 1]) + data[1:]


def answer(end, change, trips=TRIPS):
    """Sends `trips` requests back, each changed."""
    for _ in range(trips):
        data = b""
        while len(data) < BYTES:
            data += end.recv(BYTES - len(data))
        end.sendall(change(data))


def check(trips, far):
    """Honest answers are samples; one that was changed ends it with a typed error."""
    honest = threading.Thread(target=answer, args=(far, bytes))
    honest.start()
    samples = trips()
    honest.join(10)
    assert samples.shape == (TRIPS,)
    assert samples.min() > 0
    liar = threading.Thread(target=answer, args=(far, spoil, 1))
    liar.start()
    with pytest.raises(pb.PybypassError) as caught:
        trips()
    liar.join(10)
    assert (caught.value.code, caught.value.errno) == ("PB085", errno.EBADMSG)


@pytest.mark.parametrize("how", ["blocking", "yield"])
def test_the_kernels_round_trips(how):
    near, far = socket.socketpair()
    with near, far:
        check(lambda: _measure.kernel_pingpong(near.fileno(), TRIPS, BYTES, how), far)


@pytest.mark.parametrize("inline", [False, True])
def test_the_engines_round_trips(inline):
    with Pair(inline=inline) as pair:
        c, s = pair.connect()
        check(lambda: _measure.pingpong(c._core, c._number(), TRIPS, BYTES), s)
        c.close()
        s.close()
