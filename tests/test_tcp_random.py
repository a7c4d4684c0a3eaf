"""Two engines over mem: settings, links, late and shuffled completions, and two applications, all drawn at random."""

import itertools
import time

from behaviour import End, configs, links, plans, profile, run
from hypothesis import given
from hypothesis import strategies as st
from support import Pair

import pybypass as pb

_number = itertools.count()


@st.composite
def devices(draw):
    """Options of a mem port whose completions come late and in another order, by its seed."""
    delay, shuffle, seed = draw(st.sampled_from((0, 50_000, 3_000_000))), draw(st.booleans()), draw(st.integers(0, 99))
    return f"?frames=2048&completion_delay_ns={delay}&completion_reorder={int(shuffle)}&seed={seed}"


@profile(40)
@given(
    device=devices(), config_a=configs(), config_b=configs(), there=links(), back=links(), plan_a=plans(), plan_b=plans(),
    v6=st.booleans(),
)  # fmt: skip
def test_ours_to_ours(device, config_a, config_b, there, back, plan_a, plan_b, v6):
    with Pair(
        config_a=config_a,
        config_b=config_b,
        uri=f"mem:drawn{next(_number)}{device}",
        v6=v6,
        impair_tx=there,
        impair_rx=back,
    ) as pair:
        c = pair.a.connect((pair.ip_b, 80), timeout=30)
        run(End(c, plan_a, 1), End(pair.listener.accept(30), plan_b, 2))


@profile(15)
@given(config=configs(), there=links(), plan_b=plans(("shutdown",)), sizes=st.lists(st.integers(1, 30000), max_size=5))
def test_cork_and_close(config, there, plan_b, sizes):
    """A corked stream whose end is close(): everything that was queued arrives, and then the end."""
    with Pair(config_a=config, config_b=pb.EngineConfig(rto_initial=0.05, rto_min=0.02), impair_tx=there) as pair:
        c = pair.a.connect((pair.ip_b, 80), timeout=30)
        s = pair.listener.accept(30)
        far = End(s, type(plan_b)((), "shutdown", plan_b.read_size, plan_b.rest_ms, plan_b.views), 2)
        far.start()
        c.settimeout(30)
        c.set_option("cork", True)
        sent = [bytes([i + 1]) * n for i, n in enumerate(sizes)]
        for data in sent:
            c.sendall(data)
        c.close()
        run_until(far)
        assert bytes(far.received) == b"".join(sent)


def run_until(end):
    end.join(time.monotonic() + 60)
    assert end.eof and not end.failures, end.failures
    end.conn.close()
