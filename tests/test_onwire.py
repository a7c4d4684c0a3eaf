"""Neighbours that only we keep, changed by others between two steps of due()."""

import pytest

from pybypass.onwire import OnWire

A, B, C = (bytes([10, 0, 0, n]) for n in (1, 2, 3))
MAC, OTHER = b"\2\0\0\0\0\1", b"\2\0\0\0\0\2"


def silent(*addresses) -> tuple[OnWire, float]:
    """These were asked three times; the time when they are to be forgotten."""
    wire, now = OnWire(), 100.0
    for address in addresses:
        wire.heard(address, MAC, now)
    for _ in range(3):
        now = wire.next_due()
        assert list(wire.due(now)) == [(address, MAC) for address in addresses]
    return wire, wire.next_due()


def test_who_stays_silent_is_forgotten():
    wire, now = silent(A, B)
    assert list(wire.due(now)) == [(A, None), (B, None)]
    assert len(wire) == 0
    assert wire.next_due() is None


def test_doubt_asks_at_once_and_once():
    wire = OnWire()
    assert not wire.doubt(A, 0.0)
    wire.heard(A, MAC, 0.0)
    assert wire.doubt(A, 5.0)
    assert list(wire.due(5.0)) == [(A, MAC)]
    assert not wire.doubt(A, 5.5), "it is being asked"
    assert list(wire.due(5.5)) == []
    wire.heard(A, OTHER, 5.6)
    assert wire.next_due() == 35.6
    assert wire.doubt(A, 10.0)
    assert [wire.due(t).__next__() for t in (10.0, 11.0, 12.0, 13.0)] == [(A, OTHER)] * 3 + [(A, None)]


def test_forgotten_by_another_thread_meanwhile():
    wire, now = silent(A, B, C)
    due = wire.due(now)
    assert next(due) == (A, None)
    wire.forget(B)
    assert list(due) == [(C, None)]
    assert len(wire) == 0


@pytest.mark.parametrize("asked", [0, 3])
def test_heard_of_in_another_thread_meanwhile(asked):
    """It has just said where it is: it is neither asked nor forgotten."""
    wire, now = OnWire(), 130.0
    for address in (A, B):
        wire.heard(address, MAC, 100.0)
    if asked:
        wire, now = silent(A, B)
    due = wire.due(now)
    assert next(due) == ((A, None) if asked else (A, MAC))
    wire.heard(B, OTHER, now)
    assert list(due) == []
    assert list(wire.due(now + 29.9)) == [] if asked else [(A, MAC)]
    assert (B, OTHER) in list(wire.due(now + 30.0))
