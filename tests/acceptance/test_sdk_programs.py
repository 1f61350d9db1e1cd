"""Whole programs: scripts, imported modules, `python -c`, a REPL, notebook cells, forks, threads, quick exits.

All of them call an endpoint named `program`, so one worker serves them all, each with the code of its own.
"""

from __future__ import annotations

import signal
import textwrap
import time
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.stage import PREAMBLE, Stage, stage
from tests.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.requires("valkey")

NAME = "program"


@pytest.fixture(scope="module")
def theatre() -> Iterator[Stage]:
    with stage() as made:
        yield made


def test_a_script_with_its_own_classes_helpers_and_constants(theatre: Stage) -> None:
    # Given a script whose function uses what stands around it
    said = theatre.run(
        """
        import dataclasses, enum, math
        from collections import namedtuple
        from flashq import Endpoint

        FACTOR = 3
        Pair = namedtuple("Pair", "left right")

        class Colour(enum.Enum):
            RED = 1

        @dataclasses.dataclass
        class Point:
            x: float

        class Base:
            def twice(self, x):
                return 2 * x

        class Child(Base):
            def twice(self, x):
                return super().twice(x) + FACTOR

        def helper(x):
            return helper_of_helper(x) * FACTOR

        def helper_of_helper(x):
            return math.floor(x)

        class OwnError(Exception):
            def __init__(self, code, *, hint):
                super().__init__(code)
                self.code, self.hint = code, hint

            def __reduce__(self):
                return (_make_own_error, (self.code, self.hint))

        def _make_own_error(code, hint):
            return OwnError(code, hint=hint)

        @Endpoint(name="program", cpu="any")
        def work(x, point=None):
            if x < 0:
                raise OwnError(7, hint="be positive")
            return helper(x), Child().twice(x), Colour.RED, Pair(1, point), Point(x), os.getpid()

        if __name__ == "__main__":
            value = work.remote(2.5, Point(1))
            helped, twice, colour, pair, point, pid = value
            try:
                work.remote(-1)
            except OwnError as error:
                tell(code=error.code, hint=error.hint)
            tell(helped=helped, twice=twice, elsewhere=pid != os.getpid())
            tell(same=[colour is Colour.RED, type(pair) is Pair, pair.right == Point(1), type(point) is Point])
        """,
        serve=NAME,
    )

    # Expect values of the script's own classes, its helpers used, its exception with all it holds
    assert said == {
        "helped": 6,
        "twice": 8.0,
        "elsewhere": True,
        "same": [True] * 4,
        "code": 7,
        "hint": "be positive",
    }


def test_nothing_else_of_the_script_runs_on_the_worker(theatre: Stage) -> None:
    # Given a script that does something at import, without an `if __name__` guard
    said = theatre.run(
        """
        from flashq import Endpoint

        with open("imported", "a") as file:
            file.write("x")

        @Endpoint(name="program", cpu="any")
        def work():
            return "value"

        tell(value=work.remote())
        tell(imported=open("imported").read())
        """,
        serve=NAME,
    )

    # Expect it to have happened once: here
    assert said == {"value": "value", "imported": "x"}


def test_modules_beside_the_script_go_with_it(theatre: Stage) -> None:
    # Given a function in a package beside the script, which uses another module there, relative and absolute
    modules = {
        "shop/__init__.py": "VAT = 0.2\n",
        "shop/prices.py": """
            from flashq import Endpoint
            from . import VAT
            from .rounding import cents
            import tools

            @Endpoint(name="program", cpu="any")
            def price(net):
                return tools.shown(cents(net * (1 + VAT)))
        """,
        "shop/rounding.py": "def cents(x):\n    return round(x, 2)\n",
        "tools.py": "def shown(x):\n    return f'{x:.2f} EUR'\n",
    }

    # If the script imports and calls it
    said = theatre.run(
        """
        from shop.prices import price
        tell(price=price.remote(10))
        """,
        modules=modules,
        serve=NAME,
    )

    # Expect it to work on a worker that has no such files
    assert said["price"] == "12.00 EUR"


def test_a_class_of_a_local_module_is_the_same_class_on_return(theatre: Stage) -> None:
    said = theatre.run(
        """
        from flashq import Endpoint
        from shapes import Square, ShapeError

        @Endpoint(name="program", cpu="any")
        def grow(square, by):
            if by < 0:
                raise ShapeError("shrinking")
            return Square(square.side + by)

        grown = grow.remote(Square(2), 1)
        try:
            grow.remote(Square(2), -1)
        except ShapeError as error:
            tell(error=str(error))
        tell(side=grown.side, same=isinstance(grown, Square), equal=grown == Square(3))
        """,
        modules={
            "shapes.py": """
                from dataclasses import dataclass

                @dataclass(frozen=True)
                class Square:
                    side: int

                class ShapeError(Exception):
                    pass
            """
        },
        serve=NAME,
    )
    assert said == {"error": "shrinking", "side": 3, "same": True, "equal": True}


def test_the_scripts_own_classes_are_the_same_in_its_next_run(theatre: Stage) -> None:
    # Given a script, run twice on one broker, with classes of its own in arguments, results and exceptions
    folder = theatre.folder()
    script = """
        import enum
        from flashq import Endpoint

        class Refused(Exception):
            pass

        class Colour(enum.Enum):
            RED = 1

        class Outer:
            class Inner:
                def __init__(self, colour):
                    self.colour = colour

        @Endpoint(name="program", cpu="any")
        def work(given):
            if given is None:
                raise Refused("nothing")
            assert isinstance(given, Outer.Inner) and given.colour is Colour.RED
            return Outer.Inner(Colour.RED)

        back = work.remote(Outer.Inner(Colour.RED))
        try:
            work.remote(None)
        except Refused:
            caught = True
        except Exception:
            caught = False
        tell(own=type(back) is Outer.Inner, colour=back.colour is Colour.RED, caught=caught)
        """
    revisions = set()
    for _ in range(2):
        said = theatre.run(script, folder=folder, serve=NAME)
        revisions.add(theatre.endpoint_field(NAME, "revision"))

        # Expect them to be those of the run that looks, though the code on record is of the first
        assert said == {"own": True, "colour": True, "caught": True}
    assert len(revisions) == 1


def test_a_change_in_a_local_module_is_seen(theatre: Stage) -> None:
    # Given a script and a module beside it, of which the module changes between two runs
    folder = theatre.folder()
    script = """
        from flashq import Endpoint
        import rules

        @Endpoint(name="program", cpu="any")
        def work():
            return rules.answer()

        tell(answer=work.remote())
        """
    said = []
    for answer in (41, 42):
        modules = {"rules.py": f"def answer():\n    return {answer}\n"}
        said.append(theatre.run(script, modules=modules, folder=folder, serve=NAME)["answer"])

    # Expect each run's own answer from the one worker, which keeps no stale module
    assert said == [41, 42]


def test_closures_lambdas_defaults_and_decorators(theatre: Stage) -> None:
    said = theatre.run(
        """
        import functools
        from flashq import Endpoint

        def loud(function):
            @functools.wraps(function)
            def wrapper(*args, **kwargs):
                return function(*args, **kwargs).upper()
            return wrapper

        def factory(word):
            count = len(word)

            @Endpoint(name="program", cpu="any")
            @loud
            def work(x, sep=word[0], *, end="!"):
                return f"{word}{sep}{count}{sep}{x}{end}"

            return work

        tell(value=factory("abc").remote("x"), apply=factory("abc").remote(end="?", x="y"))
        """,
        serve=NAME,
    )
    assert said == {"value": "ABCA3AX!", "apply": "ABCA3AY?"}


def test_a_lambda_and_a_partial_can_be_arguments(theatre: Stage) -> None:
    said = theatre.run(
        """
        import functools
        from flashq import Endpoint

        @Endpoint(name="program", cpu="any")
        def apply(function, *args):
            return function(*args)

        offset = 5
        tell(value=[apply.remote(lambda x: x + offset, 1), apply.remote(functools.partial(max, 3), 2)])
        """,
        serve=NAME,
    )
    assert said["value"] == [6, 3]


def test_code_given_to_python_c(theatre: Stage) -> None:
    # If a program has no file at all, expect it to work
    code = PREAMBLE + textwrap.dedent(
        """
        from flashq import Endpoint

        @Endpoint(name="program", cpu="any")
        def work(x):
            return x * 2

        tell(value=work.remote(21))
        """
    )
    assert theatre.run(command=["-c", code], serve=NAME)["value"] == 42


def test_code_read_from_stdin(theatre: Stage) -> None:
    code = PREAMBLE + textwrap.dedent(
        """
        from flashq import Endpoint

        @Endpoint(name="program", cpu="any")
        async def work(x):
            return x * 2

        tell(value=work.remote(21))
        """
    )
    assert theatre.run(command=["-"], stdin=code, serve=NAME)["value"] == 42


def test_a_module_run_with_dash_m(theatre: Stage) -> None:
    modules = {
        "app/__init__.py": "",
        "app/rules.py": "def answer():\n    return 42\n",
        "app/__main__.py": PREAMBLE
        + textwrap.dedent(
            """
            from flashq import Endpoint
            from .rules import answer

            @Endpoint(name="program", cpu="any")
            def work():
                return answer()

            tell(value=work.remote())
            """
        ),
    }
    assert theatre.run(modules=modules, command=["-m", "app"], serve=NAME)["value"] == 42


def test_an_interactive_session(theatre: Stage) -> None:
    # Given what somebody types into `python -i`, a function redefined in the middle
    typed = textwrap.dedent(
        """
        import json
        def tell(**what): print(json.dumps(what), flush=True)

        from flashq import Endpoint
        rate = 2
        @Endpoint(name="program", cpu="any")
        def work(x):
            return x * rate

        tell(first=work.remote(21))
        @Endpoint(name="program", cpu="any")
        def work(x):
            return x + rate

        tell(second=work.remote(21))
        rate = 100
        tell(third=work.remote(21))
        """
    )

    # If the lines run as they are typed
    said = theatre.run(command=["-i", "-q"], stdin=typed, serve=NAME)

    # Expect each definition's answer, and at least the code of the call's time
    assert said["first"] == 42
    assert said["second"] == 23
    assert said["third"] in (23, 121)


CELLS = '''
import asyncio, linecache

namespace = {"__name__": "__main__", "tell": tell}

def cell(source, number, registered=True):
    """Run one cell as a notebook does: compiled under a name of its own, awaits at top level allowed."""
    import ast, inspect, types
    name = f"<cell {number}>"
    if registered:
        linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    code = compile(source, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    made = eval(code, namespace)
    if inspect.iscoroutine(made):
        loop.run_until_complete(made)

loop = asyncio.new_event_loop()
'''


@pytest.mark.parametrize("source_known", [True, False], ids=["with source", "without source"])
def test_notebook_cells(theatre: Stage, source_known: bool) -> None:
    # Given cells: imports, a definition, calls, the definition again with another body, a new loop, calls
    program = f"""
cell("from flashq import Endpoint", 1, {source_known})
cell('''
offset = 1

@Endpoint(name="program", cpu="any")
def work(x):
    return x + offset
''', 2, {source_known})
cell("first = await work(1)", 3, {source_known})
cell("job = work(10)", 4, {source_known})
cell("later = await job", 5, {source_known})
cell('''
@Endpoint(name="program", cpu="any")
def work(x):
    return x * 100
''', 6, {source_known})
cell("second = await work(1); blocking = work.remote(2)", 7, {source_known})
loop = asyncio.new_event_loop()
cell("third = [value async for value in work.map([1, 2, 3])]", 8, {source_known})
cell('''
@Endpoint(name="program", cpu="any", idle_timeout=120)
def work(x):
    return x * 100
''', 9, {source_known})
cell("fourth = await work(4)", 10, {source_known})
cell("offset = 5; tell(first=first, later=later, second=second, blocking=blocking, third=third, fourth=fourth)", 11)
"""
    # If they are run in order, on two event loops
    said = theatre.run(CELLS + program, serve=NAME)

    # Expect the answers of the definition that was there at each call
    assert said == {
        "first": 2,
        "later": 11,
        "second": 100,
        "blocking": 200,
        "third": [100, 200, 300],
        "fourth": 400,
    }


def test_a_traceback_shows_lines_that_no_worker_has_a_file_of(theatre: Stage) -> None:
    """Given a cell whose function calls another, and a method, if one raises, expect the lines of all three."""
    program = """
cell('''
from flashq import Endpoint

def divide(number):
    return 1 / number  # helper's line

class Kept:
    def method(self, number):
        return divide(number)  # method's line

@Endpoint(name="program", cpu="any")
def work(number):
    halves = [
        number,
    ]
    return Kept().method(halves[0])  # function's line
''', 1)
try:
    namespace["work"].remote(0)
except ZeroDivisionError as error:
    tell(notes="".join(error.__notes__))
"""
    notes = theatre.run(CELLS + program, serve=NAME)["notes"]
    for name, line, text in (
        ("work", 16, "function's"),
        ("method", 9, "method's"),
        ("divide", 5, "helper's"),
    ):
        assert f'File "<cell 1>", line {line}, in {name}\n' in notes
        assert f"# {text} line" in notes


def test_a_changed_global_is_a_changed_function(theatre: Stage) -> None:
    # Given a notebook in which a cell changes a value that a function captures, and defines it again
    said = theatre.run(
        CELLS
        + """
cell("from flashq import Endpoint", 1)
definition = '''
@Endpoint(name="program", cpu="any")
def work():
    return rate
'''
for rate in (1, 2, 1):
    cell(f"rate = {rate}", 2)
    cell(definition, 3)
    cell(f"tell(at_{rate}=work.remote())", 4)
""",
        serve=NAME,
    )
    assert said == {"at_1": 1, "at_2": 2}


def test_code_without_source_still_runs_and_changes(theatre: Stage) -> None:
    # Given two functions made by exec, of which inspect finds no source
    said = theatre.run(
        """
        from flashq import Endpoint

        for n in (1, 2):
            namespace = {"Endpoint": Endpoint, "__name__": "made"}
            exec(f'''
        @Endpoint(name="program", cpu="any")
        def work(x):
            return x + {n}
        '''.replace("\\n        ", "\\n"), namespace)
            tell(**{f"value_{n}": namespace["work"].remote(10)})
        """,
        serve=NAME,
    )

    # Expect each one's own answer
    assert said == {"value_1": 11, "value_2": 12}


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("", 0),
        ("sys.exit(0)", 0),
        ("raise RuntimeError('of the program')", 1),
        ("import threading; threading.Thread(target=lambda: work(str(path) + '-0')).start()", 0),
    ],
    ids=["end", "exit", "error", "thread"],
)
def test_a_program_that_ends_at_once_loses_no_call(
    theatre: Stage, tmp_path: Path, ending: str, code: int
) -> None:
    # Given a program that calls 100 times and ends, in several ways
    program = theatre.start(
        f"""
        from flashq import Endpoint

        @Endpoint(name="program", cpu="any")
        def work(path):
            open(path, "x").close()

        path = {str(tmp_path / "ran")!r}
        for n in range(1, 100):
            work(f"{{path}}-{{n}}")
        {ending or "work(path + '-0')"}
        """,
        serve=NAME,
    )
    assert program.ended(30) == code, program.errors

    # Expect every call to have been accepted, and to run
    first = 1 if code or "exit" in ending else 0
    paths = [tmp_path / f"ran-{n}" for n in range(first, 100)]
    wait_until(lambda: all(path.exists() for path in paths), 20, "all of them ran")


def test_an_asyncio_program_that_ends_at_once_loses_no_call(theatre: Stage, tmp_path: Path) -> None:
    theatre.run(
        f"""
        import asyncio
        from flashq import Endpoint

        @Endpoint(name="program", cpu="any")
        async def work(path):
            open(path, "x").close()

        async def main():
            for n in range(10):
                work({str(tmp_path)!r} + f"/async-{{n}}")

        asyncio.run(main())
        """,
        serve=NAME,
    )
    wait_until(lambda: all((tmp_path / f"async-{n}").exists() for n in range(10)), what="all ran")


def test_one_hundred_threads_at_once_in_a_fresh_program(theatre: Stage) -> None:
    # Given a program whose very first calls come from 100 threads at once
    said = theatre.run(
        """
        import threading
        from flashq import Endpoint

        @Endpoint(name="program", cpu="any")
        def work(x):
            return x + 1

        gate = threading.Barrier(100)
        answers = {}

        def call(n):
            gate.wait()
            answers[n] = work.remote(n)

        threads = [threading.Thread(target=call, args=(n,)) for n in range(100)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        tell(right=sum(answers[n] == n + 1 for n in range(100)))
        """,
        serve=NAME,
    )

    # Expect each thread's own answer
    assert said["right"] == 100


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing_children_call_too(theatre: Stage, method: str) -> None:
    # Given a program that has called (so that its client and threads exist), and then starts children that call
    said = theatre.run(
        f"""
        import multiprocessing
        from flashq import Endpoint

        @Endpoint(name="program", cpu="any")
        def work(x):
            return x + 1

        def child(n):
            return work.remote(n), [*work.map(range(3))]

        if __name__ == "__main__":
            before = work.remote(0)
            with multiprocessing.get_context({method!r}).Pool(3) as pool:
                answers = pool.map(child, range(6))
            tell(before=before, after=work.remote(1), answers=answers)
        """,
        serve=NAME,
    )

    # Expect parent and children to get their own answers
    assert said["before"] == 1
    assert said["after"] == 2
    assert said["answers"] == [[n + 1, [1, 2, 3]] for n in range(6)]


@pytest.mark.parametrize("known", [True, False], ids=["after a call", "before the first answer"])
def test_a_fork_while_a_call_is_in_flight(theatre: Stage, known: bool) -> None:
    # Given a program that forks while it waits for a job
    program = theatre.start(
        f"""
        import signal, traceback
        from flashq import Endpoint

        @Endpoint(name="program", cpu="any")
        def work(x):
            import time
            time.sleep(0.2)
            return x + 1, "code of {time.time_ns()}"

        if {known}:
            work.remote(0)
        job = work(1)
        signal.alarm(30)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = work.remote(10)[0] - 11
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            os._exit(code)
        tell(value=job.result(20)[0])
        tell(child=os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), again=work.remote(2)[0])
        """,
        serve=NAME,
    )

    # Expect the parent's job and the child's call to end well
    assert program.ended(40) == 0, program.errors
    assert program.said() == {"value": 2, "child": 0, "again": 3}, program.errors


def test_a_program_ends_promptly(theatre: Stage) -> None:
    # Given a program that has called and got its answer
    program = theatre.start(
        """
        from flashq import Endpoint

        @Endpoint(name="program", cpu="any")
        def work():
            return 1

        tell(value=work.remote(), at=time.time())
        """,
        serve=NAME,
    )
    program.end()

    # Expect its end to take no waiting for threads
    assert time.time() - program.said()["at"] < 2


def test_a_program_says_nothing_that_it_did_not_print(theatre: Stage) -> None:
    # If a program calls with a broker configured, expect its output to be its own
    program = theatre.start(
        """
        from flashq import Endpoint

        @Endpoint(name="program-quiet", cpu="any")
        def work():
            print("on the worker")
            return 1

        assert work.remote() == 1
        """,
        serve="program-quiet",
    )
    program.end()
    assert program.output == ""
    assert program.errors == ""


def test_a_failing_program_shows_the_remote_traceback(theatre: Stage) -> None:
    # Given a script that does not catch what its function raises
    program = theatre.start(
        """
        from flashq import Endpoint

        def inner(x):
            return 1 / x

        @Endpoint(name="program", cpu="any")
        def work(x):
            return inner(x)

        work.remote(0)
        """,
        serve=NAME,
    )

    # Expect exit code 1, the error as its own type last, and the remote lines with their source
    assert program.ended(30) == 1
    assert "ZeroDivisionError: division by zero" in program.errors
    assert "in inner" in program.errors
    assert "script.py" in program.errors
    assert "return 1 / x" in program.errors


def test_killing_a_waiting_program_leaves_nothing_of_it_behind(theatre: Stage) -> None:
    # Given a program that waits for a job
    program = theatre.start(
        """
        from flashq import Endpoint

        @Endpoint(name="program-killed", cpu="any")
        def work():
            return 1

        job = work.spawn()
        tell(id=job.id)
        job.result()
        """
    )
    job = program.wait_for("id")

    # If it is killed, expect its job to stay and to run when a worker comes (nobody waiting is no reason)
    program.process.send_signal(signal.SIGKILL)
    program.ended(10)
    assert theatre.state(job) == "queued"
    theatre.serve("program-killed")
    wait_until(lambda: theatre.state(job) == "finished", what="it ran")


def test_the_workers_python_path_is_not_the_programs(theatre: Stage) -> None:
    # Given a script in a folder that has a module with a standard module's name
    said = theatre.run(
        """
        import sys
        from flashq import Endpoint

        @Endpoint(name="program", cpu="any")
        def work():
            return list(sys.path)

        tell(path=work.remote(), folder=os.getcwd())
        """,
        serve=NAME,
    )

    # Expect the executor not to look into the script's folder
    assert said["folder"] not in said["path"]
    assert "" not in said["path"]
