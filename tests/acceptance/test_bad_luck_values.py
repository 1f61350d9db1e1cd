"""Values that cannot travel: unpicklable arguments, results and exceptions, and payloads over the limit."""

from __future__ import annotations

import os
import pickle
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint, FlashqError, Status
from flashq.errors import (
    EndpointFailed,
    PayloadTooLarge,
    RemoteError,
    ResultNotSerializable,
    SerializationError,
    UnsupportedCall,
)
from flashq.revision import RevisionWarning
from tests.acceptance.stage import Stage, stage
from tests.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.requires("valkey"), pytest.mark.timeout(30)]

LIMIT = 100_000


class Grumpy:
    """Its pickling raises."""

    def __reduce__(self) -> Any:
        raise RuntimeError("I will not be pickled")


class Surprise:
    """Its unpickling raises."""

    def __reduce__(self) -> Any:
        return (_refuse, ())


def _refuse() -> None:
    raise RuntimeError("I will not be unpickled")


class Leaver:
    """Its unpickling would end a process."""

    def __reduce__(self) -> Any:
        return (_leave, ())


def _leave() -> None:
    raise SystemExit(3)


class Fussy(Exception):
    """A common mistake: more parameters than `args`, so that a copy cannot be made from them."""

    def __init__(self, code: int, hint: str) -> None:
        super().__init__(f"code {code}: {hint}")
        self.code = code


class Locked(Exception):
    """Holds something that cannot be pickled."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.lock = threading.Lock()


@Endpoint(name="values", cpu="any")
def act(what: str, *args: Any) -> Any:
    match what:
        case "pid":
            return os.getpid()
        case "echo":
            return args[0]
        case "size":
            return len(args[0])
        case "make":
            return b"x" * args[0]
        case "raise":
            raise args[0]
    return _misbehave(what, *args)


def _misbehave(what: str, *args: Any) -> Any:  # noqa: C901 — a list
    match what:
        case "lock":
            return threading.Lock()
        case "generator":
            return (n for n in range(3))
        case "grumpy":
            return Grumpy()
        case "surprise":
            return Surprise()
        case "fussy":
            raise Fussy(7, "be kind")
        case "locked":
            raise Locked("locked in")
        case "surprising error":
            raise ValueError(Surprise())
        case "huge error":
            raise ValueError("x" * args[0])
        case "deep":
            nested: list[Any] = []
            for _ in range(args[0]):
                nested = [nested]
            return nested
        case "repr":

            class Nasty(Exception):
                def __str__(self) -> str:
                    raise RuntimeError("no words")

                __repr__ = __str__

            raise Nasty
    return None


@Endpoint(name="values-coroutine", cpu="any", max_concurrency=2)
async def act_async(what: str, *args: Any) -> Any:
    return act.local(what, *args)


@pytest.fixture(scope="module")
def theatre() -> Iterator[Stage]:
    with stage(payload_limit=LIMIT) as made:
        made.ready_worker(act)
        made.ready_worker(act_async)
        yield made


@pytest.fixture
def executor(theatre: Stage) -> Iterator[int]:
    """The executor's pid, which has to be the same at the end of the test."""
    before: int = act.remote("pid")
    yield before
    assert act.remote("pid") == before


BOTH = pytest.mark.parametrize("function", [act, act_async], ids=["function", "coroutine"])


@BOTH
@pytest.mark.parametrize(
    ("value", "named"),
    [
        (threading.Lock(), "lock"),
        ((n for n in range(3)), "generator"),
        (sys.stdout, "TextIOWrapper|EncodedFile|file"),
        (Grumpy(), "Grumpy|I will not be pickled"),
    ],
    ids=["lock", "generator", "file", "grumpy"],
)
def test_an_argument_that_cannot_be_pickled_is_refused_at_once(
    theatre: Stage, executor: int, function: Any, value: object, named: str
) -> None:
    # Given how many jobs there are
    before = len(theatre.states(function.name))

    # If such an argument is given, as it is or inside another, with each verb
    for call, argument in (
        (function, value),
        (function.remote, [{"deep": value}]),
        (function.spawn, value),
    ):
        with pytest.raises(SerializationError, match=named) as raised:
            call("echo", argument)

        # Expect a TypeError of flashq's, here and now, and no job
        assert isinstance(raised.value, TypeError)
        assert isinstance(raised.value, FlashqError)
    assert len(theatre.states(function.name)) == before


def test_the_argument_that_cannot_be_pickled_is_named(theatre: Stage) -> None:
    # If the second of three arguments is at fault, or one given by name, expect it to be named
    with pytest.raises(SerializationError, match=r"\b2\b|args") as raised:
        act("echo", threading.Lock(), 3)
    assert "lock" in str(raised.value)

    @Endpoint(name="values-keyword", cpu="any")
    def keyword(*, size: int, lock: object) -> None: ...

    with pytest.raises(SerializationError, match=r"\block\b"):
        keyword.spawn(size=1, lock=threading.Lock())


LOCK = threading.Lock()


class Guarded:
    """Has a lock beside a method."""

    lock = LOCK

    def method(self) -> bool:
        return self.lock.locked()


def helper() -> bool:
    return LOCK.locked()


def _captures(how: str) -> Any:
    lock, holder = threading.Lock(), {"deep": [threading.Lock()]}
    functions = {
        "closure": lambda: lock.locked(),
        "dict": lambda: holder["deep"][0].locked(),
        "global": lambda: LOCK.locked(),
        "helper": lambda: helper(),
        "class": lambda: Guarded().method(),
        "default": lambda it=lock: it.locked(),  # type: ignore[misc]
    }
    return functions[how]


@pytest.mark.parametrize(
    ("how", "named"),
    [
        ("closure", r"the variable lock \(_thread\.lock\)"),
        ("dict", r"the variable holder \(dict\)"),
        ("global", r"the global LOCK \(_thread\.lock\)"),
        ("helper", r"the global LOCK \(_thread\.lock\) of helper"),
        ("class", r"the attribute lock \(_thread\.lock\) of Guarded"),
        ("default", r"the default of it \(_thread\.lock\)"),
    ],
)
def test_a_function_that_captures_what_cannot_be_pickled_is_refused_at_once(
    theatre: Stage, how: str, named: str
) -> None:
    # Given a function that takes a lock along, on any way
    capture = Endpoint(name=f"values-capture-{how}", cpu="any")(_captures(how))

    # If it is called, expect an error that names what it captures, a warning that names this line, and no job
    with (
        pytest.warns(RevisionWarning, match="captures .*_thread.lock") as warned,
        pytest.raises(SerializationError, match=rf"cannot be pickled, because of {named}: .*lock"),
    ):
        capture.spawn()
    assert {each.filename for each in warned} == {__file__}
    assert theatre.states(f"values-capture-{how}") == {}


@BOTH
@pytest.mark.parametrize("what", ["lock", "generator", "grumpy"])
def test_a_result_that_cannot_be_pickled_is_its_own_error(
    theatre: Stage, executor: int, function: Any, what: str
) -> None:
    # If a function returns such a value
    job = function.spawn(what)
    with pytest.raises(ResultNotSerializable) as raised:
        job.result(10)

    # Expect an error that names the type or what its pickling said; the job failed; the executor goes on
    assert {"lock": "lock", "generator": "generator", "grumpy": "I will not be pickled"}[what] in str(
        raised.value
    )
    assert job.status().result() is Status.FAILED


@BOTH
def test_an_exception_that_cannot_be_rebuilt_comes_with_its_words(
    theatre: Stage, executor: int, function: Any
) -> None:
    # If exceptions are raised that cannot be pickled, or not rebuilt from what was
    with pytest.raises(RemoteError) as locked:
        function.spawn("locked").result(10)
    with pytest.raises((RemoteError, Fussy)) as fussy:
        function.spawn("fussy").result(10)

    # Expect type, text and traceback of each
    assert locked.value.type_name.endswith("Locked")
    assert "locked in" in str(locked.value)
    assert "raise Locked" in locked.value.traceback
    assert "code 7: be kind" in str(fussy.value)
    assert "Fussy" in type(fussy.value).__name__ + str(fussy.value)
    assert "raise Fussy" in "\n".join(getattr(fussy.value, "__notes__", [])) + getattr(
        fussy.value, "traceback", ""
    )


@BOTH
def test_what_raises_when_it_is_unpickled_here(theatre: Stage, executor: int, function: Any) -> None:
    # If a result raises as it is unpickled, expect that to be told as the reason, now and later
    job = function.spawn("surprise")
    for _ in range(2):
        with pytest.raises(FlashqError, match="I will not be unpickled"):
            job.result(10)
    assert job.status().result() is Status.COMPLETED

    # If an exception does, expect its text and traceback all the same
    with pytest.raises(RemoteError, match="ValueError"):
        function.spawn("surprising error").result(10)


@BOTH
@pytest.mark.parametrize("value", [Surprise(), Leaver()], ids=["raises", "exits"])
def test_what_raises_when_it_is_unpickled_on_the_worker(
    theatre: Stage, executor: int, function: Any, value: object
) -> None:
    # If an argument raises there, expect the job to fail with the reason, and the executor to go on
    job = function.spawn("echo", value)
    with pytest.raises(Exception, match=r"I will not be unpickled|SystemExit|3"):
        job.result(10)
    assert job.status().result() is Status.FAILED
    assert job.timing.attempts <= 1


@BOTH
def test_an_exception_without_words(theatre: Stage, executor: int, function: Any) -> None:
    # If an exception's own __str__ raises, expect its type all the same
    with pytest.raises(Exception) as raised:  # noqa: PT011 — it may come as its own type
        function.spawn("repr").result(10)
    shown = type(raised.value).__name__ + getattr(raised.value, "type_name", "")
    assert "Nasty" in shown


@BOTH
@pytest.mark.parametrize("depth", [500, 100_000])
def test_a_very_deep_result_is_a_value_or_a_clear_error(
    theatre: Stage, executor: int, function: Any, depth: int
) -> None:
    # If a result is nested deeply, expect it, or an error that says so
    job = function.spawn("deep", depth)
    wait_until(lambda: job.done, 20, "it ended")
    assert job.output or "recursion" in str(job.error).lower()

    # Expect the client to go on
    assert function.remote("echo", 1) == 1


def test_a_very_deep_argument_is_refused_at_once(theatre: Stage, executor: int) -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(SerializationError, match=r"(?i)recursion|deep"):
        act.spawn("echo", nested)


def test_arguments_up_to_the_limit_pass_and_above_it_are_refused(theatre: Stage, executor: int) -> None:
    # Given a limit of 100,000 bytes
    before = len(theatre.states("values"))
    assert act.remote("size", b"x" * (LIMIT - 200)) == LIMIT - 200

    # If arguments are larger, expect a refusal here and now that says by how much, with no job
    for size in (LIMIT, 50 * LIMIT):
        with pytest.raises(PayloadTooLarge) as raised:
            act("size", b"x" * size)
        assert "100" in str(raised.value)
    assert len(theatre.states("values")) == before + 1


def test_what_the_limit_is_and_how_to_raise_it_is_said(theatre: Stage) -> None:
    with pytest.raises(PayloadTooLarge, match=r"FLASHQ_PAYLOAD_LIMIT|payload_limit"):
        act("size", b"x" * LIMIT)


@BOTH
def test_results_up_to_the_limit_pass_and_above_it_are_told(
    theatre: Stage, executor: int, function: Any
) -> None:
    # If a result is as large as may be, expect it
    assert len(function.remote("make", LIMIT - 200)) == LIMIT - 200

    # If it is larger, expect an error that says so, and the job failed, not tried again
    job = function.spawn("make", 3 * LIMIT)
    with pytest.raises(FlashqError, match=r"limit|large") as raised:
        job.result(10)
    assert "100" in str(raised.value)
    assert job.status().result() is Status.FAILED
    assert job.timing.attempts == 1


@BOTH
def test_a_huge_exception_is_told_within_the_limit(theatre: Stage, executor: int, function: Any) -> None:
    # If an exception holds more than the limit, expect its type and the beginning of its text
    with pytest.raises((ValueError, RemoteError)) as raised:
        function.spawn("huge error", 5 * LIMIT).result(10)
    assert "xxx" in str(raised.value)
    assert "ValueError" in type(raised.value).__name__ + str(raised.value)


def test_a_function_over_the_limit_is_refused_at_once(theatre: Stage) -> None:
    # Given a function that captures more than the limit
    ballast = os.urandom(2 * LIMIT)

    @Endpoint(name="values-ballast", cpu="any")
    def heavy() -> int:
        return len(ballast)

    # If it is called, expect a refusal that says it is the function
    with pytest.raises(PayloadTooLarge):
        heavy.spawn()
    assert theatre.states("values-ballast") == {}


def test_the_limit_is_a_setting_of_the_program(theatre: Stage) -> None:
    # If a program sets a lower limit, expect it to hold for its calls
    said = theatre.run(
        """
        from flashq import Endpoint
        from flashq.errors import PayloadTooLarge

        @Endpoint(name="values-setting", cpu="any")
        def work(blob): ...

        try:
            work.spawn(b"x" * 6000)
        except PayloadTooLarge as error:
            tell(error=str(error))
        tell(id=work.spawn(b"x" * 1000).id)
        """,
        env={"FLASHQ_PAYLOAD_LIMIT": "5000"},
    )
    assert "5" in said["error"]
    assert said["id"]


def test_an_argument_of_a_class_that_the_worker_cannot_import(theatre: Stage, executor: int) -> None:
    # Given an instance whose class lives in a module that only this process has
    import types

    module = types.ModuleType("only_here")
    exec("class Odd:\n    pass", module.__dict__)
    sys.modules["only_here"] = module
    try:
        # If it is an argument, expect its value back, or an error that names the module; and a living executor
        job = act.spawn("size", [module.Odd()])
        wait_until(lambda: job.done, 10, "it ended")
        assert job.output == 1 or "only_here" in str(job.error)
    finally:
        del sys.modules["only_here"]


def test_calling_an_endpoint_from_inside_an_endpoint_says_what_to_do(theatre: Stage) -> None:
    # Given an endpoint that calls another, in each of the ways, and `.local`
    said = theatre.run(
        """
        import asyncio
        from flashq import Endpoint
        from flashq.errors import UnsupportedCall

        @Endpoint(name="values-inner", cpu="any")
        def inner(x):
            return x + 1

        @Endpoint(name="values-outer", cpu="any")
        def outer(verb):
            if verb == "local":
                return inner.local(1)
            if verb == "job":
                return inner(1)
            if verb == "call":
                return inner(1).result()
            if verb == "map":
                return list(inner.map([1, 2]))
            if verb == "await":
                async def awaited():
                    return await inner(1)
                return asyncio.run(awaited())
            return getattr(inner, verb)(1)

        tell(local=outer.remote("local"))
        for verb in ("remote", "spawn", "call", "await", "map", "job"):
            try:
                outer.spawn(verb).result(10)
            except Exception as error:
                tell(**{verb: [type(error).__name__, str(error)]})
        """,
        serve="values-outer",
    )

    # Expect `.local` to work on a worker beside which nobody signs calls, and the others to say so, and to name it
    assert said["local"] == 2
    for verb in ("remote", "spawn", "call", "map"):
        kind, text = said[verb]
        assert kind == UnsupportedCall.__name__, (verb, text)
        assert "values-inner.local(…) runs the function right there" in text
    assert "a plain function awaits nothing" in said["await"][1]
    assert "a job is no value" in said["job"][1]


def test_an_endpoint_calls_itself_locally(theatre: Stage) -> None:
    said = theatre.run(
        """
        from flashq import Endpoint

        @Endpoint(name="values-recursive", cpu="any")
        def factorial(n):
            return 1 if n < 2 else n * factorial.local(n - 1)

        tell(value=factorial.remote(10))
        """,
        serve="values-recursive",
    )
    assert said["value"] == 3628800


def test_a_job_as_an_argument_is_refused_clearly(theatre: Stage) -> None:
    # If a job itself is passed to another call, expect a clear refusal here, or its value there
    job = act.spawn("echo", 5)
    try:
        value = act.spawn("echo", job).result(10)
    except SerializationError:
        return
    assert value == 5


def test_jobs_and_errors_can_be_pickled_or_say_that_they_cannot(theatre: Stage) -> None:
    # If flashq's own errors travel between a user's processes, expect equal text and fields
    error = RemoteError("text", type_name="Locked", traceback="Traceback …", job_id="values-1", log="last")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.type_name, copy.job_id) == (str(error), error.type_name, error.job_id)
    assert isinstance(pickle.loads(pickle.dumps(EndpointFailed("x", job_id="y"))), EndpointFailed)
