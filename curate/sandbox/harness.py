"""Runs inside the sandbox and nowhere else; `curate.sandbox` sends its source there and never imports it.

Two processes: the *candidate* loads the program and answers calls; the *grader* runs the tests and alone holds the pipe of the
verdict. The candidate is forked off before the tests are read, so that it never has them, nor the values they expect. What
passes between the two is JSON of plain types: an object of the candidate's own class stays there and is known by a number.
Standard library only, and little of it, as each import is paid for by every execution; runs on Python 3.8 and later.
"""
# mypy: ignore-errors
# ruff: noqa: S102, D102, D103, UP031, PTH112, B905

import _ast
import _ctypes
import _operator
import _socket
import marshal
import os
import resource
import sys

try:
    import _json

    encode_text = _json.encode_basestring_ascii
except ImportError:
    _json = None

MESSAGE_BYTES = 16_000_000
DEPTH = 200
ONLY_TREE = 0x400


# --- messages: JSON without the json package, whose regular expressions cost 8 ms to load -------------------------------------


class _Reading:
    strict = False
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    memo = {}  # noqa: RUF012
    parse_constant = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}.__getitem__


def _unknown(value):
    raise TypeError("not a plain value: " + type(value).__name__)


if _json is not None:
    _write = _json.make_encoder(None, _unknown, encode_text, None, ":", ",", False, False, True)
    _read = _json.make_scanner(_Reading)

    def dumps(value):
        return "".join(_write(value, 0)).encode()

    def loads(data):
        return _read(data.decode(), 0)[0]

else:
    import json

    def dumps(value):
        return json.dumps(value).encode()

    loads = json.loads


def read_exactly(handle, count):
    parts = []
    while count:
        part = os.read(handle, min(count, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def read_message(handle):
    size = int.from_bytes(read_exactly(handle, 4), "big")
    if size > MESSAGE_BYTES:
        raise ValueError("message too long")
    return loads(read_exactly(handle, size))


def write_message(handle, value):
    data = dumps(value)
    if len(data) > MESSAGE_BYTES:
        raise ValueError("value too large to pass: %d bytes" % len(data))
    data = len(data).to_bytes(4, "big") + data
    while data:
        data = data[os.write(handle, data) :]


# --- confinement: what the outer sandbox leaves open --------------------------------------------------------------------------


class _Long(_ctypes._SimpleCData):
    _type_ = "l"


class _Function(_ctypes.CFuncPtr):
    _flags_ = 1 | 8  # C calling convention, errno kept
    _restype_ = _Long


class _Bytes(_ctypes._SimpleCData):
    _type_ = "z"


def _libc(name):
    return _Function(_ctypes.dlsym(_ctypes.dlopen(None, 0), name))


def _long(value):
    return _Long(value)


def landlock(readable, writable):
    """Allow reading these paths and writing those; returns the version of Landlock in force, 0 where the kernel has none."""
    syscall = _libc("syscall")
    version = syscall(_long(444), _long(0), _long(0), _long(1))
    if version < 1:
        return 0
    known = (1 << 13) - 1 | (1 << 13 if version >= 2 else 0) | (1 << 14 if version >= 3 else 0) | (1 << 15 if version >= 5 else 0)
    attributes = known.to_bytes(8, "little")
    if version >= 4:
        attributes += (3).to_bytes(8, "little")
    if version >= 6:
        attributes += (3).to_bytes(8, "little")
    ruleset = syscall(_long(444), _Bytes(attributes), _long(len(attributes)), _long(0))
    if ruleset < 0:
        raise OSError("landlock_create_ruleset")
    on_files = 1 | 2 | 4 | 1 << 14 | 1 << 15
    for paths, rights in ((readable, 4 | 8), (writable, known & ~1 & ~(1 << 6) & ~(1 << 11) & ~(1 << 15))):
        for path in paths:
            try:
                handle = os.open(path, getattr(os, "O_PATH", 0o10000000) | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            allowed = rights if os.path.isdir(path) else rights & on_files & known
            rule = allowed.to_bytes(8, "little") + handle.to_bytes(4, "little")
            if syscall(_long(445), _long(ruleset), _long(1), _Bytes(rule), _long(0)) < 0:
                raise OSError("landlock_add_rule " + path)
            os.close(handle)
    if syscall(_long(446), _long(ruleset), _long(0)) < 0:
        raise OSError("landlock_restrict_self")
    os.close(ruleset)
    return version


class _Program:
    """struct sock_fprog as bytes whose pointers stay alive."""

    def __init__(self, filter_bytes):
        self.code = _Bytes(filter_bytes)
        address = int.from_bytes(bytes(memoryview(self.code)), sys.byteorder)
        self.bytes = (len(filter_bytes) // 8).to_bytes(8, sys.byteorder) + address.to_bytes(8, sys.byteorder)


def confine(limits):
    """Limits, no new privileges, Landlock, seccomp. Raises where one that the kernel has cannot be put on."""
    prctl = _libc("prctl")
    for name, value in limits["rlimits"].items():
        soft, hard = value
        kind = getattr(resource, name)
        ceiling = resource.getrlimit(kind)[1]
        if ceiling != resource.RLIM_INFINITY:
            soft, hard = min(soft, ceiling), min(hard, ceiling)
        resource.setrlimit(kind, (soft, hard))
    if prctl(_long(4), _long(0), _long(0), _long(0), _long(0)) != 0:  # PR_SET_DUMPABLE: the candidate cannot look into the grader
        raise OSError("prctl(PR_SET_DUMPABLE)")
    if prctl(_long(38), _long(1), _long(0), _long(0), _long(0)) != 0:
        raise OSError("prctl(PR_SET_NO_NEW_PRIVS)")
    version = landlock(limits["readable"], limits["writable"])
    program = _Program(bytes.fromhex(limits["seccomp"]))
    if prctl(_long(22), _long(2), _Bytes(program.bytes), _long(0), _long(0)) != 0:
        raise OSError("prctl(PR_SET_SECCOMP)")
    return version


# --- values: plain types cross, everything else stays where it is -------------------------------------------------------------

_TEXTS = {
    ("decimal", "Decimal"): str,
    ("fractions", "Fraction"): str,
    ("datetime", "date"): lambda value: value.isoformat(),
    ("datetime", "datetime"): lambda value: value.isoformat(),
    ("datetime", "time"): lambda value: value.isoformat(),
}
_SMALL = 1 << 63


def encode(value, other, depth=0):
    """A JSON value; what is not plain goes through `other`. Subclasses of plain types cross as their base."""
    if depth > DEPTH:
        raise ValueError("nested too deeply to pass")
    kind = type(value)
    if value is None or kind is bool or kind is float or kind is str:
        return value
    if kind is int:
        return value if -_SMALL < value < _SMALL else {"t": "int", "v": hex(value)}
    deeper = depth + 1
    if kind is list:
        return [encode(item, other, deeper) for item in value]
    if kind in (tuple, set, frozenset):
        return {"t": kind.__name__, "v": [encode(item, other, deeper) for item in value]}
    if kind is dict:
        return {"t": "dict", "v": [[encode(key, other, deeper), encode(item, other, deeper)] for key, item in value.items()]}
    if kind in (bytes, bytearray):
        return {"t": kind.__name__, "v": value.hex()}
    if kind is complex:
        return {"t": "complex", "v": [value.real, value.imag]}
    if kind is range:
        return {"t": "range", "v": [encode(part, other, deeper) for part in (value.start, value.stop, value.step)]}
    text = _TEXTS.get((kind.__module__, kind.__name__))
    if text is not None:
        return {"t": kind.__name__, "v": text(value)}
    if (kind.__module__, kind.__name__) == ("collections", "deque"):
        return {"t": "deque", "v": [encode(item, other, deeper) for item in value]}
    if isinstance(value, type):
        return other(value)
    for base in (str, int, float, list, tuple, set, frozenset):
        if isinstance(value, base):
            # The base's own methods: what the subclass overrides has no say.
            plain = base.__iter__(value) if base in (list, tuple, set, frozenset) else None
            made = base(plain) if plain is not None else _as_base(base, value)
            return encode(made, other, depth)
    if isinstance(value, dict):
        return encode(dict(dict.items(value)), other, depth)
    return other(value)


def _as_base(base, value):
    return "".join(str.__iter__(value)) if base is str else base.__add__(value, 0) if base is int else float.__add__(value, 0.0)


_SEQUENCES = {"tuple": tuple, "set": set, "frozenset": frozenset}


def decode(value, other):
    """The value that `encode` was given; `other` gets the tags that are not plain."""
    kind = type(value)
    if kind is list:
        return [decode(item, other) for item in value]
    if kind is not dict:
        return value
    tag, held = value["t"], value["v"]
    if tag in _SEQUENCES:
        return _SEQUENCES[tag](decode(item, other) for item in held)
    if tag == "dict":
        return {decode(key, other): decode(item, other) for key, item in held}
    if tag == "int":
        return int(held, 16)
    if tag == "bytes":
        return bytes.fromhex(held)
    if tag == "bytearray":
        return bytearray.fromhex(held)
    if tag == "complex":
        return complex(float(held[0]), float(held[1]))
    if tag == "range":
        return range(*(decode(part, other) for part in held))
    if tag == "deque":
        import collections

        return collections.deque(decode(item, other) for item in held)
    if tag == "Decimal":
        import decimal

        return decimal.Decimal(held)
    if tag == "Fraction":
        import fractions

        return fractions.Fraction(held)
    if tag in ("date", "datetime", "time"):
        import datetime

        return getattr(datetime, tag).fromisoformat(held)
    return other(tag, held)


# --- the candidate ------------------------------------------------------------------------------------------------------------


def defined_names(tree):
    """Names that the top level of a program gives a meaning, in order."""
    names = []
    todo = list(tree.body)
    while todo:
        node = todo.pop(0)
        if isinstance(node, (_ast.FunctionDef, _ast.AsyncFunctionDef, _ast.ClassDef)):
            names.append(node.name)
        elif isinstance(node, (_ast.Import, _ast.ImportFrom)):
            names += [(alias.asname or alias.name).split(".")[0] for alias in node.names]
        elif isinstance(node, (_ast.Assign, _ast.AnnAssign)):
            targets = node.targets if isinstance(node, _ast.Assign) else [node.target]
            names += [target.id for target in targets if isinstance(target, _ast.Name)]
        else:
            todo[:0] = [
                inner for part in ("body", "orelse", "handlers", "finalbody") for inner in getattr(node, part, None) or ()
            ]
    return names


class Candidate:
    """Serves the grader; after `load` nothing of this process can be trusted, and nothing is."""

    def __init__(self, handle):
        self.handle = handle
        self.objects = []
        self.places = {}
        self.module = type(sys)("solution")

    def keep(self, value):
        if id(value) not in self.places:
            self.places[id(value)] = len(self.objects)
            self.objects.append(value)
        place = self.places[id(value)]
        if isinstance(value, type) and issubclass(value, Exception):
            base = next(one.__name__ for one in value.__mro__ if one.__module__ == "builtins")
            return {"t": "exception", "v": [place, value.__name__, base]}
        if type(value) is type(sys):
            return {"t": "module", "v": value.__name__}
        return {"t": "handle", "v": place}

    def known(self, tag, held):
        if tag == "handle":
            return self.objects[held]
        return lambda *args, **kwargs: self.call_back(held, args, kwargs)

    def call_back(self, number, args, kwargs):
        write_message(self.handle, {"call_back": number, "args": encode([list(args), kwargs], self.keep)})
        return self.serve()

    def serve(self):
        """Answer requests until a call back returns."""
        while True:
            message = read_message(self.handle)
            if "return" in message:
                return decode(message["return"], self.known)
            if "raise" in message:
                raise RuntimeError(message["raise"])
            try:
                answer = self.answer(message)
            except BaseException as error:
                answer = {"error": [type(error).__name__, _text(error)]}
            answer["id"] = message["id"]
            try:
                write_message(self.handle, answer)
            except (TypeError, ValueError, MemoryError) as error:
                write_message(self.handle, {"id": message["id"], "error": [type(error).__name__, _text(error)]})

    def answer(self, message):
        do = message["do"]
        if do == "load":
            return {"value": self.load(**message["args"])}
        if do == "name":
            if message["name"] not in vars(self.module):
                return {"missing": True}
            return {"value": encode(vars(self.module)[message["name"]], self.keep)}
        args, kwargs = decode(message["args"], self.known)
        if do == "get":
            return {"value": encode(getattr(*args), self.keep)}
        if do == "set":
            setattr(*args)
            return {"value": None}
        if do == "call":
            function = args.pop(0)
            given = message["args"][0][1:]
            value = encode(function(*args, **kwargs), self.keep)
            after = encode(args, self.keep) if any(type(arg) in (list, dict, set, bytearray) for arg in args) else given
            return {"value": value} if after == given else {"value": value, "args": after}
        functions = {"len": len, "iter": iter, "next": next, "bool": bool, "str": str, "repr": repr, "abs": abs, "float": float}
        function = functions.get(do) or getattr(_operator, do)
        return {"value": encode(function(*args), self.keep)}

    def load(self, programs, setup, entry, seed, is_random):
        if is_random:
            import random

            random.seed(seed)
        complaint, chosen = None, None
        for program in programs:
            try:
                tree = compile(program, "solution.py", "exec", ONLY_TREE, True)
                code = compile(tree, "solution.py", "exec", 0, True)
            except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
                complaint = complaint or "%s: %s" % (type(error).__name__, _text(error))
                continue
            names = defined_names(tree)
            if chosen is None or (entry is not None and entry not in chosen[1] and entry in names):
                chosen = (code, names, tree)
        if chosen is None:
            return {"syntax": complaint}
        code, _, tree = chosen
        sys.modules["solution"] = self.module
        if setup:
            exec(compile(setup, "setup.py", "exec", 0, True), vars(self.module))
        exec(code, vars(self.module))
        functions = [node.name for node in tree.body if isinstance(node, _ast.FunctionDef)]
        return {"entry": entry if entry is not None else functions[-1] if functions else None}


def _text(error):
    try:
        return str(error)[:300]
    except BaseException:
        return ""


# --- the grader ---------------------------------------------------------------------------------------------------------------


class Ended(BaseException):
    """The candidate's process is gone."""


class CandidateError(Exception):
    """An exception of a class that the grader does not know."""


class Handle:
    """An object that stays with the candidate."""

    __slots__ = ("_grader", "_number")

    def __init__(self, grader, number):
        object.__setattr__(self, "_grader", grader)
        object.__setattr__(self, "_number", number)

    def __call__(self, *args, **kwargs):
        grader = self._grader
        reply = grader.ask({"do": "call", "args": grader.plain([[self, *args], kwargs])}, counts=True)
        if "args" in reply:
            for mine, theirs in zip(args, grader.value(reply["args"])):
                if type(mine) is type(theirs) and type(mine) in (list, bytearray):
                    mine[:] = theirs
                elif type(mine) is type(theirs) and type(mine) in (dict, set):
                    mine.clear()
                    mine.update(theirs)
        return grader.value(reply["value"])

    def __getattr__(self, name):
        return self._grader.do("get", self, name)

    def __setattr__(self, name, value):
        self._grader.do("set", self, name, value)

    def __eq__(self, other):
        # A plain value never equals an object: only between two of the candidate's own objects has its __eq__ a say.
        return isinstance(other, Handle) and self._grader.do("eq", self, other) is True

    def __ne__(self, other):
        return not self == other

    def __hash__(self):
        return hash(self._number)

    def __iter__(self):
        return self._grader.do("iter", self)

    def __contains__(self, value):
        return bool(self._grader.do("contains", self, value))

    def __str__(self):
        return str(self._grader.do("str", self))

    def __repr__(self):
        return str(self._grader.do("repr", self))

    def __bool__(self):
        return bool(self._grader.do("bool", self))


def _forward(do, turned=False):
    def method(self, *args):
        return self._grader.do(do, *args, self) if turned else self._grader.do(do, self, *args)

    return method


for _do in ("len", "next", "abs", "float", "lt", "le", "gt", "ge", "neg", "getitem", "setitem", "delitem"):
    setattr(Handle, "__%s__" % _do, _forward(_do))
for _do in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
    setattr(Handle, "__%s__" % _do, _forward(_do))
    setattr(Handle, "__r%s__" % _do, _forward(_do, True))


BUILTINS = frozenset(dir(sys.modules["builtins"]))
_COMMON = (
    "bisect cmath collections copy datetime decimal functools heapq itertools json math operator random re statistics string"
)
MODULES = getattr(sys, "stdlib_module_names", None) or frozenset(_COMMON.split())


def run_given(job, space):
    """Run what the row gives besides the program, its setup and its stub; returns the stub's last function, or None."""
    if job["program"]["setup"]:
        exec(compile(job["program"]["setup"], "setup.py", "exec", 0, True), space)
    entry = job["program"]["entry"]
    try:
        tree = compile(job["stub"], "stub.py", "exec", ONLY_TREE, True)
        code = compile(tree, "stub.py", "exec", 0, True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # it may end in the middle, as `def f(x):` does
        return entry
    exec(code, space)
    functions = [node.name for node in tree.body if isinstance(node, _ast.FunctionDef)]
    return entry if entry is not None else functions[-1] if functions else None


class Grader:
    """Runs the tests against an unknown process."""

    def __init__(self, handle):
        self.handle = handle
        self.sent = self.calls = self.checks = 0
        self.callbacks = []
        self.errors = {}

    def keep(self, value):
        if type(value) is Handle:
            return {"t": "handle", "v": value._number}
        if isinstance(value, type) and value in self.errors.values():
            raise TypeError("an exception class cannot be passed")
        if not callable(value):
            raise TypeError("a %s cannot be passed to the candidate" % type(value).__name__)
        self.callbacks.append(value)
        return {"t": "call_back", "v": len(self.callbacks) - 1}

    def plain(self, value):
        return encode(value, self.keep)["v"] if type(value) is tuple else [encode(part, self.keep) for part in value]

    def known(self, tag, held):
        if tag == "exception":
            _, name, base = held
            kind = _builtin_error(base)
            if name not in self.errors:
                self.errors[str(name)] = type(str(name), (kind,), {})
            return self.errors[name]
        if tag == "module":
            if held not in MODULES:
                raise CandidateError("module %s is not part of the standard library" % str(held)[:80])
            __import__(held)
            return sys.modules[held]
        if tag != "handle" or type(held) is not int:
            raise Ended("protocol")
        return Handle(self, held)

    def value(self, raw):
        try:
            return decode(raw, self.known)
        except (KeyError, IndexError, AttributeError) as error:
            raise Ended("protocol") from error

    def do(self, do, *args):
        return self.value(self.ask({"do": do, "args": self.plain([list(args), {}])}, counts=True)["value"])

    def ask(self, message, counts=False):
        self.sent += 1
        message["id"] = number = self.sent
        try:
            write_message(self.handle, message)
            while True:
                reply = read_message(self.handle)
                if type(reply) is not dict:
                    raise Ended("protocol")
                if "call_back" not in reply:
                    break
                self.return_call(reply)
        except (EOFError, OSError) as error:
            raise Ended("gone") from error
        except (UnicodeDecodeError, StopIteration, RecursionError) as error:
            raise Ended("protocol") from error
        if reply.get("id") != number:
            raise Ended("protocol")
        if "error" in reply:
            name, text = reply["error"]
            raise self.errors[name](text) if name in self.errors else _builtin_error(name)(text)
        if "value" not in reply and "missing" not in reply:
            raise Ended("protocol")
        self.calls += counts
        return reply

    def return_call(self, reply):
        try:
            args, kwargs = self.value(reply["args"])
            answer = {"return": encode(self.callbacks[reply["call_back"]](*args, **kwargs), self.keep)}
        except Exception as error:
            answer = {"raise": _text(error)}
        write_message(self.handle, answer)

    def take_name(self, name, space, entry, dotted):
        """Let the tests see what the program calls `name`, where that can decide nothing but the program's own answers.

        Not the meaning of a builtin, of a module, or of a function that the row itself gives: a program could otherwise
        define the `abs`, `set` or `math` with which its answers are compared. Classes of the row stay with the program's objects.
        """
        if name != entry:
            is_given = name in space and not isinstance(space[name], type)
            if name in BUILTINS or name.startswith("__") or is_given:
                return False
        raw = self.ask({"do": "name", "name": name}).get("value", self)
        if raw is self:
            return False
        is_module = type(raw) is dict and raw.get("t") == "module"
        if is_module and raw.get("v") != name:
            return False
        if not is_module and name != entry and name in MODULES and name in dotted:
            return False
        space[name] = self.value(raw)
        return not is_module

    def passed_check(self):
        self.checks += 1

    def grade(self, job):
        """Status and detail."""
        try:
            loaded = self.ask({"do": "load", "args": job["program"]})["value"]
        except Ended:
            raise
        except BaseException as error:
            return _status_of(error), "on loading: %s: %s" % (type(error).__name__, _text(error))
        if type(loaded) is not dict:
            raise Ended("protocol")
        if "syntax" in loaded:
            return "syntax", str(loaded["syntax"])
        try:
            tree = compile(job["tests"], "tests.py", "exec", ONLY_TREE, True)
            names, dotted, asserts, is_called = prepare(tree)
            code = compile(tree, "tests.py", "exec", 0, True)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            return "bad_tests", "%s: %s" % (type(error).__name__, _text(error))
        space = {"__name__": "tests", "__builtins__": __builtins__, "__curate_passed__": self.passed_check}
        entry = loaded.get("entry")
        try:
            named = run_given(job, space)
            taken = [self.take_name(name, space, named, dotted) for name in sorted(names)]
            if named is None and not any(taken):
                # With no word on what is tested, `sum(1, 2)` may mean the program's, where the tests use nothing else of it.
                for name in sorted(names & BUILTINS):
                    self.take_name(name, space, name, dotted)
            exec(code, space)
            if not is_called and callable(space.get("check")):
                reply = self.ask({"do": "name", "name": str(entry)})
                if "value" not in reply:
                    return "error", "the program does not define %s" % str(entry)[:80]
                space["check"](self.value(reply["value"]))
        except AssertionError as error:
            return "failed", (_text(error) + " " + _where(error)).strip()
        except Ended:
            raise
        except BaseException as error:
            return _status_of(error), "%s: %s %s" % (type(error).__name__, _text(error), _where(error))
        if not self.checks or not self.calls:
            return "no_checks", "%d asserts, %d of them reached, %d calls of the program" % (asserts, self.checks, self.calls)
        return "passed", ""


def _status_of(error):
    return "memory" if isinstance(error, MemoryError) else "error"


def _where(error):
    trace, line = error.__traceback__, None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "tests.py":
            line = trace.tb_lineno
        trace = trace.tb_next
    return "" if line is None else "in line %d of the tests" % line


def _builtin_error(name):
    builtins = sys.modules["builtins"]
    kind = getattr(builtins, name, None) if type(name) is str else None
    is_usable = (
        isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, (StopAsyncIteration, UnicodeError))
    )
    # A failed assert inside the program is an error of the program; `failed` is what the tests say.
    return kind if is_usable and kind is not AssertionError else CandidateError


def prepare(tree):
    """Count every assert that passes. Returns the names that are read, those of them before a dot, the number of asserts,
    and whether `check` is called."""
    names, dotted, asserts = set(), set(), 0
    todo = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, _ast.Name):
            names.add(node.id)
        if isinstance(node, _ast.Attribute) and isinstance(node.value, _ast.Name):
            dotted.add(node.value.id)
        for field in node._fields:
            held = getattr(node, field, None)
            if isinstance(held, _ast.AST):
                todo.append(held)
            elif isinstance(held, list):
                todo += [inner for inner in held if isinstance(inner, _ast.AST)]
                if any(isinstance(inner, _ast.Assert) for inner in held):
                    counted = []
                    for inner in held:
                        counted.append(inner)
                        if isinstance(inner, _ast.Assert):
                            asserts += 1
                            counted.append(_counting(inner))
                    setattr(node, field, counted)
    own = {node.name for node in tree.body if isinstance(node, (_ast.FunctionDef, _ast.ClassDef))}
    calls = [node.value for node in tree.body if isinstance(node, _ast.Expr) and isinstance(node.value, _ast.Call)]
    is_called = "check" not in own or any(isinstance(call.func, _ast.Name) and call.func.id == "check" for call in calls)
    return names - own, dotted, asserts, is_called


def _counting(node):
    place = {part: getattr(node, part) for part in ("lineno", "col_offset", "end_lineno", "end_col_offset")}
    name = _ast.Name(id="__curate_passed__", ctx=_ast.Load(), **place)
    return _ast.Expr(value=_ast.Call(func=name, args=[], keywords=[], **place), **place)


def _ending(pid, seconds):
    """Status and detail of a candidate that is gone."""
    _, status, usage = os.wait4(pid, 0)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number == 24 or (number == 9 and usage.ru_utime + usage.ru_stime >= seconds):
            return "timeout", "more than %g s of processor time" % seconds
        return "error", "the program was ended by signal %d" % number
    return "exited", "the program ended itself, exit code %d, before the tests were done" % os.WEXITSTATUS(status)


def open_descriptors():
    found = []
    for number in range(3, 1024):
        try:
            os.fstat(number)
            found.append(number)
        except OSError:
            continue
    return found


def main():
    verdict = os.dup(1)
    os.dup2(2, 1)
    header = read_message(0)
    inherited = [number for number in open_descriptors() if number != verdict] if header.get("probe") else None
    sys.setrecursionlimit(1000)
    if hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(0)
    version = confine(header["limits"])
    if header.get("probe"):
        import datetime
        import decimal
        import json

        code = marshal.dumps(compile(header["source"], "harness.py", "exec", 0, True)).hex()
        facts = {"landlock": version, "prefix": sys.prefix, "version": "%d.%d.%d" % sys.version_info[:3], "code": code}
        facts["descriptors"] = inherited
        facts["imports"] = [json.__name__, decimal.__name__, datetime.__name__]
        write_message(verdict, facts)
        return
    ours, theirs = _socket.socketpair()
    pid = os.fork()
    if pid == 0:
        os.close(verdict)
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 0)
        handle = os.dup2(theirs.fileno(), 9)
        os.closerange(3, 9)
        os.closerange(10, 256)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            Candidate(handle).serve()
        finally:
            os._exit(0)
    theirs.close()
    write_message(verdict, {"ready": version})
    job = read_message(0)
    grader = Grader(ours.fileno())
    if job["program"]["is_random"]:
        import random

        random.seed(job["program"]["seed"])
    try:
        status, detail = grader.grade(job)
    except Ended as ended:
        if str(ended) == "protocol":
            status, detail = "error", "the program answered with what is no value"
        else:
            status, detail = _ending(pid, header["limits"]["cpu_s"])
    except BaseException as error:
        status, detail = "error", type(error).__name__
    write_message(verdict, {"status": status, "detail": detail, "checks": grader.checks})
    os._exit(0)


main()
