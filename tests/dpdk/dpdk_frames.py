"""Ports on DPDK's virtual drivers for tests, and frames through them."""

import itertools

import numpy as np

NUMBER = itertools.count()


def uri(driver, **options):
    """A device of its own for each test."""
    words = "&".join(f"{k}={v}" for k, v in {"frames": 4096, **options}.items())
    return f"dpdk:net_{driver}{next(NUMBER)}?{words}"


def packets(n, size, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, size, dtype=np.uint8).tobytes() for _ in range(n)]


def send(port, payloads):
    burst = port.alloc_burst(len(payloads), max(map(len, payloads)))
    for i, data in enumerate(payloads):
        burst.write(i, data)
    with burst:
        return port.tx_burst(burst)


def receive(port, n, tries=2000):
    found = []
    for _ in range(tries):
        with port.rx_burst(64) as burst:
            found += [burst.view(i).tobytes() for i in range(len(burst))]
        if len(found) >= n:
            break
    return found


def free(umem):
    owners = umem.info()["owners"]
    return owners["free"] == umem.info()["frames"] == sum(owners.values())
