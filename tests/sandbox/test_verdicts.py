"""What a program can do to its verdict: pass by being right, and in no other way that is known to us."""

import pytest

from curate.errors import SandboxError
from curate.sandbox import Job, Limits, Sandbox, Verdict, open_sandbox

LIMITS = Limits(cpu_s=1, wall_s=4.0, memory_mb=128)
TESTS = "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(3) == 9\n"


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    try:
        return open_sandbox(LIMITS)
    except SandboxError as error:
        pytest.skip(f"no sandbox on this machine: {error}")


def judged(sandbox: Sandbox, program: str, tests: str = TESTS, *, runs: int = 1, setup: str = "") -> Verdict:
    return sandbox.run(Job([program], tests, entry="f", setup=setup), runs=runs)


def test_a_right_program_passes(sandbox: Sandbox) -> None:
    assert judged(sandbox, "def f(x):\n    return x * x") == Verdict("passed")


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("def f(x):\n    return x + 2", "failed"),
        ("def f(x):\n    return x +", "syntax"),
        ("def g(x):\n    return x * x", "error"),
        ("def f(x):\n    return y", "error"),
        ("raise ValueError", "error"),
        ("def f(x):\n    assert False", "error"),
        ("def f(x):\n    while True: pass", "timeout"),
        ("def f(x):\n    import time; time.sleep(1e9)", "timeout"),
        ("def f(x):\n    return 'a' * 10**9", "memory"),
        ("def f(x):\n    while True: print('a' * 1000)", "output"),
        ("def f(x):\n    return f(x)", "error"),
        ("def f(x):\n    return input()", "error"),
        ("def f(x):\n    import ctypes; ctypes.string_at(0)", "error"),
        ("def f(x):\n    import os\n    while True: os.fork()", "error"),
        ("def f(x):\n    import time\n    time.sleep(1e9)\nf(1)", "timeout"),
        ("", "error"),
        ("\x00", "syntax"),
        ("(" * 50_000, "syntax"),
    ],
)
def test_every_other_end_has_its_name(sandbox: Sandbox, program: str, status: str) -> None:
    assert (
        judged(sandbox, program).status in {status, "timeout"} if "fork" in program else judged(sandbox, program).status == status
    )


EQUALS_ALL = (
    "class Any:\n    def __eq__(self, other): return True\n    def __ne__(self, other): return False\n"
    "    def __hash__(self): return 0\n    def __bool__(self): return True\n"
)
# Ways to a pass without an answer, from reported cases and RELIABILITY's list; none may end as `passed`.
FAKES = {
    "os._exit on load": "import os; os._exit(0)",
    "os._exit in the call": "def f(x):\n    import os; os._exit(0)",
    "sys.exit on load": "import sys; sys.exit(0)",
    "sys.exit in the call": "def f(x):\n    raise SystemExit(0)",
    "equals everything": EQUALS_ALL + "def f(x): return Any()",
    "int that equals everything": EQUALS_ALL.replace("class Any", "class Any(int)") + "def f(x): return Any(7)",
    "str that equals everything": EQUALS_ALL.replace("class Any", "class Any(str)") + "def f(x): return Any('7')",
    "list that equals everything": EQUALS_ALL.replace("class Any", "class Any(list)") + "def f(x): return Any([7])",
    "patched assertion": "import builtins\nbuiltins.AssertionError = type('A', (BaseException,), {})\ndef f(x): return 0",
    "patched builtins": "import builtins\nfor n in ('exec', 'compile', 'isinstance', 'len'):\n"
    "    setattr(builtins, n, lambda *a, **k: True)\ndef f(x): return 0",
    "atexit": "import atexit, os\natexit.register(lambda: os._exit(0))\ndef f(x): return 0",
    "forged line on stdout": "import sys, json\nprint(json.dumps({'status': 'passed'}))\nsys.stdout.flush()\ndef f(x): return 0",
    "forged frame on every descriptor": "import os, json\nb = json.dumps({'status': 'passed', 'detail': '', 'checks': 2}).encode()\n"
    "for n in range(0, 64):\n    try: os.write(n, len(b).to_bytes(4, 'big') + b)\n    except OSError: pass\ndef f(x): return 0",
    "forged frame and exit": "import os, json\ndef f(x):\n    b = json.dumps({'status': 'passed', 'detail': '', 'checks': 2}).encode()\n"
    "    for n in range(0, 64):\n        try: os.write(n, len(b).to_bytes(4, 'big') + b)\n        except OSError: pass\n    os._exit(0)",
    "stack inspection": "import sys, gc\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n        for v in list(frame.f_locals.values()):\n"
    "            if hasattr(v, 'grade') or hasattr(v, 'passed_check'): v.checks = 9\n        frame = frame.f_back\n"
    "    for o in gc.get_objects():\n        if type(o).__name__ == 'Grader': o.checks = 9\n    return 0",
    "tests in memory": "import gc\ndef f(x):\n    if any(isinstance(o, str) and 'candidate(2) == 4' in o for o in gc.get_objects()):\n"
    "        return x * x\n    return 0",
    "patched candidate loop": "import __main__, sys\nfor m in list(sys.modules.values()):\n    for n in ('encode', 'write_message'):\n"
    "        if hasattr(m, n): setattr(m, n, lambda *a, **k: None)\ndef f(x): return 0",
    "planted modules": "for n in ('sitecustomize', 'conftest', 'json', 'math', 'unittest', 'copy'):\n"
    "    open(f'/tmp/{n}.py', 'w').write('import os; os._exit(0)')\ndef f(x): return 0",
    "kills the grader": "import os, signal\ndef f(x):\n    os.kill(os.getppid(), signal.SIGKILL)\n    return 0",
    "replaces its code": "def f(x): return 0\nf.__call__ = lambda x: x * x",
    "swallows by skipping": "import unittest\ndef f(x): raise unittest.SkipTest('no')",
    "answers with nan": "def f(x): return float('nan')",
    "unknown tag": "def f(x): return {'t': 'handle', 'v': 0}",
}


@pytest.mark.parametrize("name", FAKES)
def test_a_faked_pass_is_none(sandbox: Sandbox, name: str) -> None:
    assert judged(sandbox, FAKES[name]).status in ("failed", "error", "exited")


# Each program defines with what its answer would be compared; `STUB` and `SETUP` are what the row itself gives.
GIVEN = "def poly(xs, x):\n    return xs[0] + xs[1] * x\ndef f(xs):\n    'Root.'\n"


@pytest.mark.parametrize(
    ("program", "tests"),
    [
        ("def f(x): return 0\ndef abs(x): return 0", "assert abs(f(2) - 4) < 1e-6"),
        (
            "def f(x): return []\nset = sorted = list = len = lambda x: 1",
            "assert set(f(2)) == set([4])\nassert sorted(f(2)) == sorted([4])",
        ),
        ("class M:\n    def isclose(self, *a): return True\nmath = M()\ndef f(x): return 0", "assert math.isclose(f(2), 4)"),
        ("import operator as math\ndef f(x): return 0", "assert math.eq(f(2), 0)"),
        (
            "def f(xs): return 0\ndef poly(xs, x): return 0",
            "def check(candidate):\n    assert poly([1, 2], candidate([1, 2])) == 0",
        ),
        ("def f(x): return 0\ndef check(candidate): pass", "def check(candidate):\n    assert candidate(2) == 4"),
        ("def f(x): return 0\n__builtins__ = {}\n__name__ = '__main__'", "assert f(2) == 4"),
    ],
)
def test_a_program_does_not_choose_what_its_answer_is_compared_with(sandbox: Sandbox, program: str, tests: str) -> None:
    assert sandbox.run(Job([program], tests, entry="f", stub=GIVEN)).status in ("failed", "error")


@pytest.mark.parametrize(
    ("program", "tests", "entry"),
    [
        ("def sum(a, b):\n    return a - b", "assert sum(5, 2) == 3", None),
        ("def max(a):\n    return 7", "assert max([1]) == 7 and abs(-1) == 1", "max"),
        ("def copy(a):\n    return [a]", "assert copy(1) == [1]", None),
        ("import math\ndef f(x):\n    return x", "assert math.isclose(f(1.0), 1.0)", None),
    ],
)
def test_a_function_may_be_called_like_a_builtin_or_a_module(
    sandbox: Sandbox, program: str, tests: str, entry: str | None
) -> None:
    assert sandbox.run(Job([program], tests, entry=entry)) == Verdict("passed")


def test_functions_of_the_stub_and_classes_of_the_setup_serve_the_tests(sandbox: Sandbox) -> None:
    setup = "class Pair:\n    def __init__(self, a): self.a = a\ndef twice(x): return 2 * x"
    tests = "assert poly([1, 2], f([1, 2])) == 0\nassert g(Pair(3)) == twice(3)"
    program = GIVEN + "    return -xs[0] / xs[1]\ndef g(pair): return pair.a * 2"
    assert sandbox.run(Job([program], tests, entry="f", stub=GIVEN, setup=setup)) == Verdict("passed")


def test_an_answer_of_own_making_is_only_data(sandbox: Sandbox) -> None:
    # The candidate's process may send whatever it likes; it does not know what is expected.
    program = 'import os\ndef f(x):\n    for _ in range(3): os.write(9, b\'\\x00\\x00\\x00\\x18{"id":3,"value":{"t":"x"}}\')\n    return 0'
    assert judged(sandbox, program).status in ("failed", "error", "timeout")


@pytest.mark.parametrize(
    "tests",
    [
        "f(1)",
        "print(f(2))",
        "assert True",
        "x = 4\nassert x == 4",
        "def check(candidate):\n    candidate(2)",
        "if f(1) == 99:\n    assert False",
    ],
)
def test_tests_that_check_nothing_are_not_passed(sandbox: Sandbox, tests: str) -> None:
    assert judged(sandbox, "def f(x):\n    return x * x", tests).status == "no_checks"


@pytest.mark.parametrize("tests", ["import os; os._exit(0)", "raise SystemExit(0)", "assert f(2) == 4\nimport os; os._exit(0)"])
def test_tests_that_end_early_are_not_passed(sandbox: Sandbox, tests: str) -> None:
    assert judged(sandbox, "def f(x):\n    return x * x", tests).status == "error"


def test_tests_that_do_not_compile_say_so(sandbox: Sandbox) -> None:
    assert judged(sandbox, "def f(x):\n    return x", "assert f(1) ==").status == "bad_tests"


def test_plain_values_cross_and_come_back(sandbox: Sandbox) -> None:
    values = "None, True, 5, -2**200, 1.5, 'ü\\ud800', [1, [2]], (1, 2), {1, 2}, frozenset({3}), {(1, 2): [3]}, b'x', bytearray(b'y'), 2j, range(3)"
    tests = f"for one in [{values}]:\n    got = f(one)\n    assert got == one and type(got) is type(one)"
    assert judged(sandbox, "def f(x):\n    return x", tests) == Verdict("passed")


def test_dates_decimals_and_iterators_are_compared_by_value(sandbox: Sandbox) -> None:
    program = (
        "import datetime, decimal, fractions, collections\ndef f(x):\n    yield from range(x)\n"
        "def g(): return [datetime.date(2020, 1, 2), decimal.Decimal('1.5'), fractions.Fraction(1, 3), collections.deque([1]), collections.Counter('aa')]"
    )
    tests = (
        "import datetime, decimal, fractions, collections\nassert list(f(3)) == [0, 1, 2]\n"
        "assert g() == [datetime.date(2020, 1, 2), decimal.Decimal('1.5'), fractions.Fraction(1, 3), collections.deque([1]), {'a': 2}]"
    )
    assert judged(sandbox, program, tests) == Verdict("passed")


def test_objects_methods_callbacks_errors_and_changes_in_place_work_across(sandbox: Sandbox) -> None:
    program = (
        "class Stack:\n    def __init__(self): self.held = []\n    def push(self, x): self.held.append(x)\n    def __len__(self): return len(self.held)\n"
        "class Empty(Exception): pass\n"
        "def f(x):\n    if x < 0: raise ValueError('negative')\n    if x == 0: raise Empty('nothing')\n    return x\n"
        "def sort(values): values.sort()\ndef apply(function, x): return function(x) + 1\n"
    )
    tests = (
        "s = Stack()\ns.push(3)\nassert len(s) == 1 and s.held == [3]\nvalues = [3, 1, 2]\nassert sort(values) is None and values == [1, 2, 3]\n"
        "assert apply(lambda x: f(x) * 10, 4) == 41\nfor bad, kind in ((-1, ValueError), (0, Empty)):\n"
        "    try:\n        f(bad)\n    except kind:\n        pass\n    else:\n        assert False"
    )
    assert judged(sandbox, program, tests) == Verdict("passed")


def test_an_object_never_equals_a_plain_value(sandbox: Sandbox) -> None:
    for value in ("4", "'4'", "[4]", "None", "True"):
        assert judged(sandbox, EQUALS_ALL + "def f(x): return Any()", f"assert f(1) == {value}").status == "failed"
        assert judged(sandbox, EQUALS_ALL + "def f(x): return [Any()]", f"assert f(1) == [{value}]").status == "failed"


def test_a_program_that_tosses_a_coin_is_flaky_and_found_so_again(sandbox: Sandbox) -> None:
    program = "import random\ndef f(x):\n    return x * x if random.random() > 0.5 else 0"
    verdicts = {judged(sandbox, program, runs=8) for _ in range(2)}
    assert [(one.flaky, one.passed) for one in verdicts] == [(True, False)]


def test_an_order_that_hangs_on_the_hash_seed_is_flaky(sandbox: Sandbox) -> None:
    program = "def f(x):\n    return x * x if list({'a', 'b', 'c', 'd'})[0] in 'ab' else 0"
    assert judged(sandbox, program, runs=10).flaky


def test_output_is_kept_up_to_its_cap_and_readable(sandbox: Sandbox) -> None:
    verdict = judged(sandbox, "import os\nos.write(1, b'\\xff\\x1b[31m')\ndef f(x):\n    return x * x")
    assert verdict.status == "passed"
    assert verdict.output == "\ufffd\x1b[31m"
    assert len(judged(sandbox, "print('a' * 10**7)").output) == LIMITS.output_bytes


def test_setup_reaches_program_and_tests(sandbox: Sandbox) -> None:
    assert judged(sandbox, "def f(x):\n    return math.floor(x)", "assert f(math.pi) == 3", setup="import math") == Verdict(
        "passed"
    )


def test_order_is_kept_and_many_run_at_once(sandbox: Sandbox) -> None:
    jobs = [Job([f"def f(x):\n    return x + {add}"], "assert f(1) == 3") for add in (1, 2, 3, 2, 1, 2)]
    assert [verdict.passed for verdict in sandbox.run_all(jobs, workers=4)] == [False, True, False, True, False, True]
