"""The static checks of tools/lint.py, and tools/layers.py on small bad trees."""

import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import layers  # noqa: E402
import lint  # noqa: E402


@pytest.mark.parametrize("step", lint.STEPS)
def test_step(step):
    tool = lint.STEPS[step]()[0]
    if not shutil.which(tool):
        pytest.skip(f"needs {tool}")
    result = lint.run(step)
    if result.returncode:
        pytest.fail(result.stdout, pytrace=False)


def findings(tree: Path, files: dict[str, str]) -> list[str]:
    for name, text in files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return [str(f) for f in layers.check(tree)]


GOOD = {
    "csrc/base/types.h": "#include <stdio.h>\nextern int pb_count;\n",
    "csrc/mem/pool.h": '#include "base/types.h"\n',
    "csrc/dev/xsk.h": "#include <linux/if_xdp.h>\n",
    "csrc/dev/xsk_open.c": '#include "dev/xsk.h"\n#include "mem/pool.h"\n',
    "csrc/bpf/x.bpf.c": '#include "dev/xsk.h"\n#include <linux/bpf.h>\n',
    "csrc/tcp/tcp.h": """/* Not a float, 1.5 or time(): a comment. */
#include "mem/pool.h"
#include <stdint.h>
#define PB_RATIO(x) ((x) * 3 / 2) /* 1.5 */
typedef struct pb_tcp pb_tcp;
struct pb_tcp {
    uint32_t snd_una, version;
    int (*send)(void *arg);
};
enum state { CLOSED, LISTEN };
_Static_assert(sizeof(struct pb_tcp) <= 64, "one cache line");
extern const struct pb_tcp pb_defaults;
int pb_tcp_input(struct pb_tcp *e, const uint8_t *p);
static inline uint32_t next(uint32_t v)
{
    static const uint8_t step[2] = {1, 2};
    return v + step[0];
}
""",
    "csrc/tcp/table.c": """#include "tcp/tcp.h"
static const char *const names[] = {"CLOSED", "double trouble"};
static int (*const handlers[2])(void *) = {0};
const struct pb_tcp pb_defaults = {.snd_una = 0x1e5};
int pb_tcp_input(struct pb_tcp *e, const uint8_t *p)
{
    uint64_t now_ns = 0;
    struct pb_tcp local = {0};
    return names[0][0] + (int)now_ns + (int)local.snd_una + !e + !p;
}
""",
    "csrc/path/path.c": '#include "tcp/tcp.h"\n#include <pthread.h>\nstatic int n;\n',
    "pybypass/errors.py": "import os\n",
    "pybypass/ports.py": "from . import _mem\nfrom .errors import X\n",
    "pybypass/_mem.pyx": "from pybypass.c.pool cimport x\nfrom pybypass.errors import X\nfrom ._sys import y\n",
    "pybypass/c/pool.pxd": '# x\nfrom libc.stdint cimport uint8_t\n\ncdef extern from "mem/pool.h" nogil:\n    int x\n',
}


def test_a_good_tree_has_no_findings(tmp_path):
    assert findings(tmp_path, GOOD) == []


@pytest.mark.parametrize(
    ("path", "text", "line", "what"),
    [
        ("csrc/mem/ring.c", '\n#include "tcp/tcp.h"\n', 2, "mem may not include tcp/tcp.h: it is above"),
        ("csrc/udp/udp.c", '#include "tcp/tcp.h"\n', 1, "udp may not include tcp/tcp.h: it is beside"),
        ("csrc/path/a.c", '#include "app/a.h"\n', 1, "path may not include app/a.h: it is above"),
        ("csrc/dev/mem.c", '#include "dev/xsk.h"\n', 1, "back end of its own"),
        ("csrc/tcp/a.c", '#include "extra/a.h"\n', 1, "extra/a.h is in no layer"),
        ("csrc/extra/a.h", "\n", 1, "in no layer"),
        ("csrc/bpf/y.bpf.c", '#include "mem/pool.h"\n', 1, "compiled apart"),
        ("csrc/dev/a.c", '#include "bpf/x.h"\n', 1, "compiled apart"),
        ("csrc/tcp/a.c", "#include <time.h>\n", 1, "tcp may not include <time.h>"),
        ("csrc/sim/a.c", "\n\n#include <unistd.h>\n", 3, "sim may not include <unistd.h>"),
        ("csrc/link/a.c", "int f(void)\n{\n\treturn rand();\n}\n", 3, "link may not call rand()"),
        ("csrc/cc/a.c", "int f(void)\n{\n\treturn (int)(2 * 1.5);\n}\n", 3, "cc counts in integers: 1.5"),
        ("csrc/cc/a.c", "/*\n*/ double f(void);\n", 2, "cc counts in integers: double"),
        ("csrc/wire/a.c", "void f(void)\n{\n\tabort();\n}\n", 3, "abort(): the library does not"),
        ("csrc/tcp/a.c", "\nstatic int n;\n", 2, "tcp has a mutable global: static int n"),
        ("csrc/tcp/a.c", "static const char *p = 0;\n", 1, "tcp has a mutable global: static const char *p"),
        ("csrc/tcp/a.c", "struct s { int a; } g = {0};\n", 1, "tcp has a mutable global: struct s {} g"),
        ("csrc/tcp/a.c", "int (*hook)(int);\n", 1, "tcp has a mutable global: int (*hook)(int)"),
        ("csrc/tcp/a.c", "_Thread_local int n = 3;\n", 1, "tcp has a mutable global: _Thread_local int n"),
        ("csrc/tcp/a.c", "int f(void)\n{\n\tstatic int n;\n\treturn n++;\n}\n", 3, "mutable static variable"),
        ("pybypass/c/a.pxd", "cdef inline int f():\n    return 1\n", 1, "only externs belong here"),
        ("pybypass/c/a.pxd", 'cdef extern from "mem/pool.h":\n    int x\n', 1, "must be nogil"),
        ("pybypass/c/a.pxd", 'cdef extern from "mem/none.h" nogil:\n    int x\n', 1, "mem/none.h does not exist"),
        ("pybypass/_a.pyx", '\ncdef extern from "mem/pool.h":\n    int x\n', 2, "externs belong in pybypass/c"),
        ("pybypass/_a.pyx", "from pybypass.ports import open\n", 1, "may not import pybypass.ports: it is above"),
        ("pybypass/_a.pyx", "from . import ports\n", 1, "may not import pybypass.ports: it is above"),
        ("pybypass/a.py", "from . import cli\n", 1, "nothing imports the command line"),
        ("pybypass/errors.py", "from .ports import x\n", 1, "errors is below all"),
        ("pybypass/_mem.pyx", "import pybypass.tcp\n", 1, "may not import pybypass.tcp"),
        ("examples/a.py", "def f():\n    from sca" + "py.all import IP\n", 2, "never imported"),
        ("docs/a.md", "see\n/ho" + "me/someone/pybypass\n", 2, "a path of one machine"),
    ],
)
def test_a_bad_line_is_named(tmp_path, path, text, line, what):
    found = findings(tmp_path, {**GOOD, path: text})
    assert [f for f in found if f.startswith(f"{path}:{line}: ") and what in f], found


def test_a_circle_of_imports(tmp_path):
    circle = {"pybypass/a.py": "from .b import x\n", "pybypass/b.py": "\nfrom pybypass import a\n"}
    assert findings(tmp_path, circle) == ["pybypass/b.py:2: imports go in a circle: a -> b -> a"]
    late = {"pybypass/a.py": "from .b import x\n", "pybypass/b.py": "def f():\n    from . import a\n"}
    assert findings(tmp_path, late) == []


def test_the_checkout_itself_must_not_be_named(tmp_path):
    tree = tmp_path / "checkout"
    assert findings(tree, {"README.md": f"cd {tree}/tests\n"}) == [f"README.md:1: a path of one machine: {tree}/"]
