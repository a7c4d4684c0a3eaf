#!/usr/bin/env python3
"""Reads the register that lets QEMU's igb stamp the next received frame. Usage: igb-rxlatch.py IF...

The emulation opens the latch of the receive stamp when RXSATRH (0xB630) is read; Linux's igb reads RXSTMPH instead, so
without this only the first PTP frame is ever stamped. Boot with iomem=relaxed. Runs until it is killed.
"""

import mmap
import os
import sys
import time

TSYNCRXCTL, RXSATRH, VALID, SIZE = 0xB620, 0xB630, 1, 0x20000

registers = []
for name in sys.argv[1:]:
    fd = os.open(f"/sys/class/net/{name}/device/resource0", os.O_RDWR | os.O_SYNC)
    mapped = mmap.mmap(fd, SIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    registers.append(memoryview(mapped).cast("I"))
while True:
    for card in registers:
        if card[TSYNCRXCTL // 4] & VALID:
            time.sleep(0.002)  # the driver reads the stamp first
            _ = card[RXSATRH // 4]
    time.sleep(0.002)
