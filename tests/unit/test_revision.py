"""Code digests: one for the same script in every process, another for every change of what travels."""

from __future__ import annotations

import array
import dataclasses
import enum
import functools
import importlib
import json
import linecache
import math
import os
import re
import subprocess
import sys
import textwrap
import threading
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashq.local_modules import is_local_module
from flashq.revision import RevisionWarning, code_digest, describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SCRIPT = '''
    import dataclasses, enum, functools, json, math, re, sys
    from collections import namedtuple, OrderedDict, defaultdict
    from typing import Any, NamedTuple, Optional

    from flashq.revision import code_digest

    def endpoint(**settings):
        def mark(function):
            class Wrapper:
                __flashq_endpoint__ = settings["name"]
                raw = staticmethod(function)
            return Wrapper()
        return mark

    NAMES = {"alpha", "beta", "gamma", "delta", ("a", "b"), 1, 2.5, None, frozenset({"x", "y", "z"})}
    TABLE = {name: {name} for name in ["one", "two", "three"]}
    LIMIT = 17

    class Colour(enum.Enum):
        RED = {"r", "e", "d"}
        BLUE = 2

    @dataclasses.dataclass(frozen=True)
    class Point:
        x: int
        y: int = 3
        tags: set[str] = dataclasses.field(default_factory=set)

        def length(self) -> float:
            return math.hypot(self.x, self.y) + LIMIT

    Pair = namedtuple("Pair", "left right")

    class Row(NamedTuple):
        name: str
        size: int = 0

    class Base:
        registry = {"p", "q", "r"}
        def __init_subclass__(cls): super().__init_subclass__()
        def describe(self): return f"{type(self).__name__} {sorted(self.registry)}"

    class Child(Base):
        @property
        def loud(self): return super().describe().upper()
        @staticmethod
        def even(n): return n == 0 or odd(n - 1)
        @functools.cached_property
        def slow(self): return [self.loud for _ in range(3)]

    def even(n): return n == 0 or odd(n - 1)
    def odd(n): return n != 0 and even(n - 1)

    def cyclic():
        ring = [{"u", "v"}, odd]
        ring.append(ring)
        return ring

    RING = cyclic()
    SHOUT = functools.partial(str.center, fillchar="*")
    PATTERN = re.compile(r"a+", re.I)

    def scaled(factor, offsets):
        def scale(x, *, extra: Optional[int] = None):
            return x * factor + len(offsets) + (extra or 0)
        return scale

    SCALE = scaled(2.5, {"m", "n", "o"})

    @functools.cache
    def cached(n): return n * LIMIT

    @endpoint(name="other", idle_timeout=1)
    def other(x): return x + 1

    @endpoint(name="main", idle_timeout=1)
    async def target(x: Point, *rest: Any, words: frozenset = frozenset({"k", "l"})) -> list[Pair]:
        """What it does."""
        found = {name for name in NAMES if x in {"a", "b", "c"}}
        await other(x)
        return [
            Pair(SCALE(x, extra=3), TABLE), Row("n"), Colour.RED, Child().loud, even(4), RING, cached(3),
            SHOUT("x"), PATTERN.match("a"), json.dumps(1), (lambda y: y in {"s", "t"})(x), found, words, rest,
            OrderedDict(a=1), defaultdict(list), Child, Point(1), NAMES,
        ]

    print(code_digest(target.raw))
'''


def run(text: str, *arguments: str, seed: str = "random", cwd: Path | None = None) -> str:
    """What a Python process with this hash seed prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        input=text,
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONHASHSEED": seed},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def digest_of_script(folder: Path, text: str, *, seed: str = "random") -> str:
    folder.mkdir(exist_ok=True)
    file = folder / "script.py"
    file.write_text(textwrap.dedent(text))
    return run("", str(file), seed=seed)


def test_the_same_script_has_the_same_digest_whatever_the_hash_seed_and_the_path(tmp_path: Path) -> None:
    digests = {digest_of_script(tmp_path / f"run-{seed}", SCRIPT, seed=str(seed)) for seed in range(6)}
    assert len(digests) == 1
    assert re.fullmatch("[0-9a-f]{64}", digests.pop())


UNCHANGED = {
    "a comment elsewhere": ("NAMES =", "# a comment\n    NAMES ="),
    "blank lines": ("\n    def even", "\n\n\n\n    def even"),
    "an unused function": ("\n    def even", "\n    def unused(): return 1\n    def even"),
    "the decorator's arguments": ('name="main", idle_timeout=1', 'name="main", idle_timeout=60, workers=3'),
    "another endpoint's code": ("def other(x): return x + 1", "def other(x): return x + 2"),
    "another endpoint's settings": ('name="other", idle_timeout=1', 'name="other", idle_timeout=9'),
    "the order of a dict": ('["one", "two", "three"]', '["three", "one", "two"]'),
    "the order of a set": ('{"alpha", "beta", "gamma"', '{"gamma", "alpha", "beta"'),
    "a value never used": ("LIMIT = 17", "LIMIT = 17\n    UNUSED = 3"),
}
CHANGED = {
    "a line of the function": ("found = {name", "found = {name + ''"),
    "the docstring": ("What it does.", "What it did."),
    "an annotation": ("*rest: Any", "*rest: object"),
    "a default": ('frozenset({"k", "l"})', 'frozenset({"k", "m"})'),
    "a constant within a set": ('{"a", "b", "c"}', '{"a", "b", "d"}'),
    "a lambda within": ('{"s", "t"}', '{"s", "u"}'),
    "an element of a captured set": ('"gamma", "delta"', '"gamma", "delta2"'),
    "a captured dict's value": ("{name: {name} for", "{name: {name + '!'} for"),
    "a captured number used by a method": ("LIMIT = 17", "LIMIT = 18"),
    "an enum's member": ("BLUE = 2", "BLUE = 3"),
    "a dataclass's default": ("y: int = 3", "y: int = 4"),
    "a dataclass's method": ("+ LIMIT", "- LIMIT"),
    "a field of a named tuple": ("size: int = 0", "size: int = 1"),
    "names of a named tuple": ("left right", "left write"),
    "a base class": ("sorted(self.registry)", "self.registry"),
    "a base class's attribute": ('registry = {"p"', 'registry = {"P"'),
    "a property": (".upper()", ".lower()"),
    "a static method": (
        "def even(n): return n == 0 or odd(n - 1)\n        @functools",
        "def even(n): return odd(n)\n        @functools",
    ),
    "a cached property": ("range(3)]", "range(4)]"),
    "the other half of a mutual recursion": ("return n != 0 and", "return n > 0 and"),
    "a captured cyclic list": ('[{"u", "v"}', '[{"u", "w"}'),
    "a partial's argument": ('fillchar="*"', 'fillchar="+"'),
    "a pattern's flags": ("re.I)", "re.I | re.S)"),
    "a closure's value": ("scaled(2.5", "scaled(2.6"),
    "a closure's set": ('{"m", "n", "o"}', '{"m", "n"}'),
    "a nested function's line": ("+ len(offsets)", "- len(offsets)"),
    "a cached function": ("return n * LIMIT", "return n + LIMIT"),
    "which endpoint is called": ('@endpoint(name="other"', '@endpoint(name="another"'),
    "a module's name": ("json.dumps(1)", "math.floor(1)"),
    "what a global is": ("OrderedDict(a=1)", "dict(a=1)"),
}


ALL_AT_ONCE = """
    import runpy, sys
    for file in sys.argv[1:]:
        runpy.run_path(file, run_name="__main__")
"""


@pytest.fixture(scope="module")
def digests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The digest of the script and of each of its variants by the variant's name ("" is the script)."""
    folder = tmp_path_factory.mktemp("variants")
    files = {"": folder / "script.py"}
    files[""].write_text(textwrap.dedent(SCRIPT))
    for number, (change, (old, new)) in enumerate({**UNCHANGED, **CHANGED}.items()):
        assert old in SCRIPT, change
        files[change] = folder / f"variant{number}.py"
        files[change].write_text(textwrap.dedent(SCRIPT.replace(old, new, 1)))
    printed = run(textwrap.dedent(ALL_AT_ONCE), "-", *map(str, files.values()))
    return dict(zip(files, printed.split(), strict=True))


@pytest.mark.parametrize("change", UNCHANGED)
def test_what_does_not_travel_does_not_count(digests: dict[str, str], change: str) -> None:
    assert digests[change] == digests[""]


@pytest.mark.parametrize("change", CHANGED)
def test_every_change_of_what_travels_counts(digests: dict[str, str], change: str) -> None:
    assert digests[change] != digests[""]


def test_code_without_a_source_has_a_stable_digest_too(tmp_path: Path) -> None:
    # Given the script on standard input (no file, as in a REPL), and through exec.
    piped = {run(textwrap.dedent(SCRIPT), "-", seed=str(seed), cwd=tmp_path) for seed in range(3)}
    executed = {
        run("", "-c", f"exec({textwrap.dedent(SCRIPT)!r})", seed=str(seed), cwd=tmp_path) for seed in range(3)
    }
    assert len(piped) == len(executed) == 1
    changed = textwrap.dedent(SCRIPT.replace("y: int = 3", "y: int = 4"))
    assert run(changed, "-", cwd=tmp_path) not in piped


# -- the user's other modules ------------------------------------------------------------------------

MODULES = {
    "helpers.py": "import deeper\nFACTOR = 2\ndef double(x):\n    return x * FACTOR\nclass Kept:\n    pass\n",
    "deeper.py": "def down():\n    return 1\n",
    "late.py": "def late():\n    return 1\n",
    "pack/__init__.py": "",
    "pack/inner.py": "from . import sibling\n\ndef inner():\n    return sibling.value\n",
    "pack/sibling.py": "value = 1\n",
    "unrelated.py": "x = 1\n",
}
MAIN = """
    import math
    import helpers
    from helpers import double, Kept
    from pack.inner import inner
    import unrelated
    from flashq.revision import describe

    def target(x):
        import late
        from pack import sibling
        return helpers.double(x), double(x), Kept, late.late(), inner(), sibling.value, math.pi

    found = describe(target)
    print(found.digest, *sorted(found.by_value), "/", *sorted({each.name for each in found.imports}))
    target(1)
    assert describe(target).digest == found.digest, "importing late.py made a difference"
"""


def digest_with_modules(folder: Path, **changed: tuple[str, str]) -> list[str]:
    for name, text in MODULES.items():
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        old, new = changed.get(file.stem, ("", ""))
        assert old in text
        file.write_text(text.replace(old, new))
    return digest_of_script(folder, MAIN).split()


def test_what_the_users_modules_define_counts_by_name(tmp_path: Path) -> None:
    # If a function uses what other modules define, or imports them
    digest, *found = digest_with_modules(tmp_path)

    # Expect those modules to be named, and what they say to make no difference here: it counts where it is shipped
    assert " ".join(found) == "__main__ / helpers late math pack pack.inner pack.sibling"
    for module, change in {"helpers": ("x * FACTOR", "x + FACTOR"), "late": ("return 1", "return 2")}.items():
        assert digest_with_modules(tmp_path, **{module: change})[0] == digest


@pytest.mark.parametrize(
    "name", ["json", "os.path", "pytest", "_pytest.mark", "builtins", "flashq.errors", "cloudpickle", "sys"]
)
def test_installed_modules_are_not_local(name: str) -> None:
    assert not is_local_module(name)


@pytest.mark.parametrize("name", ["__main__", "__mp_main__", __name__, "made.by.exec"])
def test_the_users_modules_are_local(name: str) -> None:
    assert is_local_module(name)


# -- values ------------------------------------------------------------------------------------------


def capturing(value: Any) -> Callable[[], Any]:
    def function() -> Any:
        return value

    return function


@dataclasses.dataclass
class Config:
    depth: int
    names: set[str] = dataclasses.field(default_factory=set)


class Plain:
    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


class Slotted:
    __slots__ = ("x",)

    def __init__(self, x: Any) -> None:
        self.x = x


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Words(set[str]):
    pass


class Table(dict[str, int]):
    pass


DIFFERENT: list[tuple[Callable[[], Any], Callable[[], Any]]] = [
    (lambda: 1, lambda: 2),
    (lambda: 1, lambda: True),
    (lambda: 1, lambda: 1.0),
    (lambda: 0.0, lambda: -0.0),
    (lambda: "1", lambda: b"1"),
    (lambda: b"1", lambda: bytearray(b"1")),
    (lambda: None, lambda: ...),
    (lambda: 2**5000, lambda: 2**5000 + 1),
    (lambda: 1j, lambda: 2j),
    (lambda: [1, 2], lambda: [2, 1]),
    (lambda: [1, 2], lambda: (1, 2)),
    (lambda: {1, 2}, lambda: frozenset({1, 2})),
    (lambda: {"a": 1}, lambda: {"a": 2}),
    (lambda: {"a": 1}.keys(), lambda: {"b": 1}.keys()),
    (lambda: {"a": 1}.items(), lambda: {"a": 2}.items()),
    (lambda: {"a": {"b": [{1}]}}, lambda: {"a": {"b": [{2}]}}),
    (lambda: range(3), lambda: range(4)),
    (lambda: slice(1), lambda: slice(2)),
    (lambda: Config(1), lambda: Config(2)),
    (lambda: Config(1, {"a"}), lambda: Config(1, {"b"})),
    (lambda: Plain(a=1), lambda: Plain(a=2)),
    (lambda: Plain(a=1), lambda: Plain(b=1)),
    (lambda: Slotted(1), lambda: Slotted(2)),
    (lambda: Level.LOW, lambda: Level.HIGH),
    (lambda: Level.LOW, lambda: 1),
    (lambda: Words("ab"), lambda: {"a", "b"}),
    (lambda: Words("ab"), lambda: Words("ac")),
    (lambda: Table(a=1), lambda: Table(a=2)),
    (lambda: functools.partial(int, base=2), lambda: functools.partial(int, base=3)),
    (lambda: array.array("d", [1.0]), lambda: array.array("d", [2.0])),
    (lambda: memoryview(b"abcd"), lambda: memoryview(b"abce")),
    (lambda: memoryview(b"abcd"), lambda: memoryview(b"abcd").cast("B", (2, 2))),
    (lambda: re.compile("a"), lambda: re.compile("b")),
    (lambda: Path("a"), lambda: Path("b")),
    (lambda: len, lambda: max),
    (lambda: math.sin, lambda: math.cos),
    (lambda: str.lower, lambda: str.upper),
    (lambda: "a".join, lambda: "b".join),
    (lambda: Config(1).__repr__, lambda: Config(2).__repr__),
    (lambda: int, lambda: float),
    (lambda: list[int], lambda: list[str]),
    (lambda: math, lambda: json),
    (lambda: types.MappingProxyType({"a": 1}), lambda: types.MappingProxyType({"a": 2})),
    (lambda: lambda: 1, lambda: lambda: 2),
    (lambda: types.FunctionType, lambda: types.MethodType),
    (lambda: ValueError("a"), lambda: ValueError("b")),
    (lambda: eval("lambda x: x + 1"), lambda: eval("lambda x: x + 2")),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_different_captured_values_have_different_digests(
    one: Callable[[], Any], other: Callable[[], Any]
) -> None:
    assert code_digest(capturing(one())) == code_digest(capturing(one()))
    assert code_digest(capturing(one())) != code_digest(capturing(other()))


plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(), inner, max_size=4)
        | st.frozensets(st.integers())
    ),
    max_leaves=12,
)


@given(plain_values)
def test_equal_values_built_apart_have_one_digest(value: Any) -> None:
    assert code_digest(capturing(value)) == code_digest(capturing(rebuilt(value)))


def rebuilt(value: Any) -> Any:
    """An equal value of new objects, dicts and sets filled in the reverse order."""
    if isinstance(value, list):
        return [rebuilt(item) for item in value]
    if isinstance(value, dict):
        return {key: rebuilt(item) for key, item in reversed(value.items())}
    if isinstance(value, frozenset):
        return frozenset(reversed(list(value)))
    return value


@given(plain_values, plain_values)
def test_values_that_read_differently_have_different_digests(one: Any, other: Any) -> None:
    same = code_digest(capturing(one)) == code_digest(capturing(other))
    assert same is (canonical(one) == canonical(other))


def canonical(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(canonical, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(sorted(f'{key!r}: {canonical(item)}' for key, item in value.items()))}}}"
    if isinstance(value, frozenset):
        return f"frozenset({sorted(map(repr, value))})"
    return repr(value)


class FakeArray:
    """Pickles as numpy's arrays do: a constructor, then a state with the buffer's bytes."""

    def __init__(self, data: bytes, shape: tuple[int, ...] = (1,)) -> None:
        self.data, self.shape = data, shape

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return (FakeArray, (b"",), {"data": self.data, "shape": self.shape})

    def __getattribute__(self, name: str) -> Any:
        if name == "__dict__":
            raise AssertionError("its own form is the one to take")
        return object.__getattribute__(self, name)


def test_an_object_is_taken_apart_as_it_says_itself() -> None:
    one = code_digest(capturing(FakeArray(b"abcd")))
    assert one == code_digest(capturing(FakeArray(b"abcd")))
    assert one != code_digest(capturing(FakeArray(b"abce")))
    assert one != code_digest(capturing(FakeArray(b"abcd", (2, 2))))


def test_numpy_arrays_count_by_content() -> None:
    np = pytest.importorskip("numpy")
    for one, other in [
        (np.arange(6), np.arange(6) + 1),
        (np.arange(6), np.arange(6).reshape(2, 3)),
        (np.arange(6), np.arange(6).astype("f8")),
        (np.array(["a", None], dtype=object), np.array(["b", None], dtype=object)),
        (np.array(["2020-01-01"], dtype="M8[D]"), np.array(["2020-01-02"], dtype="M8[D]")),
        (np.float32(1), np.float32(2)),
    ]:
        assert code_digest(capturing(one)) == code_digest(capturing(one.copy()))
        assert code_digest(capturing(one)) != code_digest(capturing(other))


class Unpicklable:
    def __reduce_ex__(self, protocol: Any) -> Any:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (threading.Lock, "_thread.lock"),
        (lambda: (n for n in range(3)), "builtins.generator"),
        (Unpicklable, f"{__name__}.Unpicklable"),
        (lambda: Plain(lock=threading.Lock(), a=[1]), "_thread.lock"),
    ],
)
def test_a_value_without_a_stable_form_counts_by_its_type_with_a_warning(
    make: Callable[[], Any], named: str
) -> None:
    with pytest.warns(RevisionWarning, match=rf"function captures a {re.escape(named)}: a change"):
        one = code_digest(capturing(make()))
    with pytest.warns(RevisionWarning):
        assert code_digest(capturing(make())) == one
    assert describe(capturing(make())).uncomparable == (named,)


class Endpointish:
    """Whatever carries the mark is known by it; the code behind it may not even be comparable."""

    def __init__(self, name: str, code: Any) -> None:
        self.__flashq_endpoint__ = name
        self.code = code


def test_an_endpoint_is_its_name() -> None:
    one = code_digest(capturing(Endpointish("a", threading.Lock())))
    assert one == code_digest(capturing(Endpointish("a", 1)))
    assert one != code_digest(capturing(Endpointish("b", 1)))


class Evil:
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


def test_a_value_that_resists_being_looked_at_does_no_harm() -> None:
    assert code_digest(capturing(Evil())) == code_digest(capturing(Evil()))


# -- functions ---------------------------------------------------------------------------------------


def test_running_a_function_does_not_change_its_digest() -> None:
    def busy(n: int) -> int:
        return sum(math.floor(i / 2) for i in range(n)) + len(str(n))

    cold = code_digest(busy)
    for n in range(200):  # long enough for the interpreter to specialise its bytecode
        busy(n)
    assert code_digest(busy) == cold


def test_lambdas_on_one_line_are_told_apart() -> None:
    pair = [lambda x: x + 1, lambda x: x + 2]
    assert code_digest(pair[0]) != code_digest(pair[1])


def test_a_cell_that_is_not_filled_yet_is_no_error() -> None:
    def outer() -> Iterator[Callable[[], int]]:
        def early() -> int:
            return late

        yield early
        late = 1
        yield early

    steps = outer()
    before = code_digest(next(steps))
    assert code_digest(next(steps)) != before


def test_a_wrapped_function_counts_with_what_it_wraps() -> None:
    def wrap(function: Callable[[], int]) -> Callable[[], int]:
        @functools.wraps(function)
        def wrapper() -> int:
            return function()

        return wrapper

    def one() -> int:
        return 1

    def two() -> int:
        return 2

    two.__name__, two.__qualname__ = one.__name__, one.__qualname__
    assert code_digest(wrap(one)) != code_digest(wrap(two))


def test_any_callable_has_a_digest() -> None:
    class Callable_:  # noqa: N801
        def __init__(self, n: int) -> None:
            self.n = n

        def __call__(self) -> int:
            return self.n

    digests = {
        code_digest(each) for each in (Callable_(1), Callable_(2), functools.partial(max, 1), max, Callable_)
    }
    assert len(digests) == 5


def test_a_deep_value_needs_no_recursion() -> None:
    deep: list[Any] = []
    for _ in range(20_000):
        deep = [deep]
    assert code_digest(capturing(deep))


def test_text_newer_than_the_running_code_cannot_pass_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a module that was imported, then edited on disk
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "edited_while_running.py"
    file.write_text("def function():\n    return 1\n")
    module = importlib.import_module("edited_while_running")
    file.write_text("def function():\n    return 2\n")
    # The digest of the code that runs is not that of the code on disk once that runs.
    running = code_digest(module.function)
    linecache.clearcache()
    reloaded = types.ModuleType("edited_while_running")
    exec(compile(file.read_text(), str(file), "exec"), reloaded.__dict__)
    assert code_digest(reloaded.function) != running


def test_notebook_cells_have_sources_without_files() -> None:
    def cell(number: int, text: str) -> dict[str, Any]:
        name = f"<cell-{number}>"
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        namespace: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(text, name, "exec"), namespace)
        return namespace

    text = "class A:\n    x: int = {n}\n    def m(self):\n        return 1\ndef f():\n    return A # {n}\n"
    one, again, other = (cell(number, text.format(n=n))["f"] for number, n in [(1, 1), (2, 1), (3, 2)])
    assert code_digest(one) == code_digest(again)
    assert code_digest(one) != code_digest(other)
