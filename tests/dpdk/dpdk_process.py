"""A process with an EAL of its own."""

import json
import os
import subprocess
import sys
import textwrap


def run(body, *, prefix=(), home=None, cwd=None):
    """What a script prints as JSON on its last line, and all of its standard error."""
    text = "import json, logging, os, pybypass as pb\nfrom pybypass import dpdk\n" + textwrap.dedent(body)
    path = os.pathsep.join(p or os.getcwd() for p in sys.path)
    done = subprocess.run(
        [*prefix, sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=False, cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, **({"HOME": home, "XDG_RUNTIME_DIR": home} if home else {})},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr
