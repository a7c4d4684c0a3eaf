"""What a port does whose NIC grants times: each function is a case of test_dpdk_times.py, all in one process.

They are in the files of PARTS, by concept. As a program: granted_cases.py FILE SOCKET calls them, and writes what each of
them raised into FILE.
"""

import importlib
import json
import sys
import traceback

from granted import CASES

from pybypass import dpdk

PARTS = ("granted_launch", "granted_stamps", "granted_receiving", "granted_watch")


def run(path):
    """Writes {case: what it raised, or ""}."""
    dpdk.start(dpdk.EalOptions(huge="no"))
    for part in PARTS:
        importlib.import_module(part)
    found = {}
    for name, function in CASES.items():
        try:
            function()
            found[name] = ""
        except BaseException:
            found[name] = traceback.format_exc()
        with open(path, "w") as file:
            json.dump(found, file)


if __name__ == "__main__":
    run(sys.argv[1])
