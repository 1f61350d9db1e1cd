"""Reuse, update, create: what a name stands for, across runs, edits and programs that live at the same time."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint
from flashq.errors import EndpointExists
from tests.acceptance.stage import Stage, stage
from tests.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.requires("valkey")

NAME = "named"

SCRIPT = """
from flashq import Endpoint

OFFSET = 1

def helper(x):
    return x + OFFSET

@Endpoint(name="named", cpu="any", workers=(0, 1))
def work(x):
    return helper(x), os.getpid()

value, pid = work.remote(1)
tell(value=value, executor=pid)
"""


@pytest.fixture(scope="module")
def theatre() -> Iterator[Stage]:
    with stage() as made:
        yield made


@pytest.fixture(scope="module")
def before(theatre: Stage) -> dict[str, Any]:
    """What a first run of `SCRIPT` leaves on record, and the executor that ran it."""
    said = theatre.run(SCRIPT, serve=NAME)
    return {**record(theatre), "executor": said["executor"]}


def record(theatre: Stage) -> dict[str, Any]:
    """What the broker has on record of the endpoint, and the pid of its one worker."""
    (worker,) = [worker for worker in theatre.workers if worker.id[:-37] == NAME]
    assert worker.process.poll() is None, worker.log.read_text()
    fields = {
        field: theatre.endpoint_field(NAME, field) for field in ("revision", "environment", "resources")
    }
    return {
        **fields,
        "scaling": json.loads(theatre.endpoint_field(NAME, "scaling")),
        "pid": worker.process.pid,
    }


def unchanged(theatre: Stage, before: dict[str, Any], *, but: str = "") -> bool:
    """Whether the record is as it was, except for one field."""
    return all(before[field] == value for field, value in record(theatre).items() if field != but)


def test_the_same_script_twice_is_the_same_revision_and_executor(
    theatre: Stage, before: dict[str, Any]
) -> None:
    # If a script runs twice more, unchanged
    said = [theatre.run(SCRIPT) for _ in range(2)]

    # Expect all that is on record, and the executor, to be the same each time
    assert unchanged(theatre, before)
    assert said[0] == said[1]


def test_hash_randomisation_and_another_folder_change_no_revision(
    theatre: Stage, before: dict[str, Any]
) -> None:
    # Given captured sets and dictionaries, whose order differs from process to process
    script = SCRIPT.replace(
        "OFFSET = 1", 'OFFSET = 1\nWORDS = {"a", "b", "c", "d", "e"}\nTABLE = {"x": WORDS}'
    )
    script = script.replace("return helper(x), os", "return helper(x) + len(WORDS) + len(TABLE), os")
    revisions = set()

    # If the script runs under several hash seeds, in folders of their own, by several names
    for n in range(3):
        theatre.run(script, name=f"script_{n}.py", env={"PYTHONHASHSEED": str(n)})
        revisions.add(record(theatre)["revision"])

    # Expect one revision
    assert len(revisions) == 1


def test_a_change_elsewhere_in_the_file_is_none(theatre: Stage, before: dict[str, Any]) -> None:
    # If things change that the function does not use, in lines before and after it
    changed = "# a comment\nUNUSED = 5\n" + SCRIPT.replace("value, pid =", "\n\nprint('more')\nvalue, pid =")
    theatre.run(changed)

    # Expect the same revision
    assert record(theatre)["revision"] == before["revision"]


@pytest.mark.parametrize(
    ("old", "new", "value"),
    [
        ("return helper(x), os.getpid()", "return helper(x) * 10, os.getpid()", 20),
        ("return x + OFFSET", "return x + OFFSET + 5", 7),
        ("OFFSET = 1", "OFFSET = 2", 3),
        ("def work(x):", "def work(x, y=7):\n    x = x + y", 9),
    ],
    ids=["its body", "a helper it calls", "a global it reads", "a default"],
)
def test_a_code_change_is_a_new_revision_on_the_same_worker(
    theatre: Stage, before: dict[str, Any], old: str, new: str, value: int
) -> None:
    # If a line of the function, or of what it captures, changes
    assert old in SCRIPT
    said = theatre.run(SCRIPT.replace(old, new))

    # Expect the new code's answer, in a fresh executor of the same worker: no rollout
    assert said["value"] == value
    assert said["executor"] != before["executor"]
    assert record(theatre)["revision"] != before["revision"]
    assert unchanged(theatre, before, but="revision")


def test_going_back_to_older_code_is_the_older_revision(theatre: Stage, before: dict[str, Any]) -> None:
    theatre.run(SCRIPT.replace("OFFSET = 1", "OFFSET = 9"))
    assert record(theatre)["revision"] != before["revision"]
    assert theatre.run(SCRIPT)["value"] == 2
    assert record(theatre)["revision"] == before["revision"]


@pytest.mark.parametrize(
    ("parameters", "changed"),
    [
        ("workers=(0, 5)", {"workers_max": 5}),
        ("workers=(0, 1), idle_timeout=7", {"idle_timeout": 7}),
        ("workers=(0, 1), scaler_type='QUEUE_DELAY', scaler_value=9", {"scaler_value": 9}),
    ],
)
def test_a_change_of_scaling_replaces_nothing(
    theatre: Stage, before: dict[str, Any], parameters: str, changed: dict[str, Any]
) -> None:
    # Given the executor
    executor = theatre.run(SCRIPT)["executor"]

    # If only a scaling setting changes
    said = theatre.run(SCRIPT.replace("workers=(0, 1)", parameters))

    # Expect it on record, with code, environment, worker and even executor as they were
    assert changed.items() <= record(theatre)["scaling"].items()
    assert unchanged(theatre, before, but="scaling")
    assert said["executor"] == executor


def test_a_change_of_a_calls_defaults_replaces_nothing(theatre: Stage, before: dict[str, Any]) -> None:
    # If what holds for the next call changes, expect the same executor to take it
    executor = theatre.run(SCRIPT)["executor"]
    said = theatre.run(
        SCRIPT.replace("workers=(0, 1)", "workers=(0, 1), execution_timeout_ms=60_000, retries=2")
    )
    assert record(theatre)["pid"] == before["pid"]
    assert said["executor"] == executor


def test_a_new_name_is_a_new_endpoint(theatre: Stage, before: dict[str, Any]) -> None:
    # If only the name changes
    said = theatre.run(SCRIPT.replace('name="named"', 'name="named-anew"'), serve="named-anew")

    # Expect an endpoint of its own beside the first
    assert said["value"] == 2
    assert theatre.endpoint_field("named-anew", "revision")
    assert theatre.endpoint_field(NAME, "revision")


def test_two_live_programs_with_different_code_get_their_own_answers(
    theatre: Stage, before: dict[str, Any]
) -> None:
    # Given two programs with different code under one name, that call in turns while both live
    programs = [
        theatre.start(
            f"""
            from flashq import Endpoint

            @Endpoint(name="named", cpu="any", workers=(0, 1))
            def work(x):
                return x * {factor}

            wrong = 0
            for n in range(10):
                wrong += work.remote(n) != n * {factor}
            tell(done=True)
            while not os.path.exists("go"):
                time.sleep(0.01)
            wrong += list(work.map(range(10))) != [n * {factor} for n in range(10)]
            tell(wrong=wrong)
            """
        )
        for factor in (10, 1000)
    ]

    # If both call at the same time, and again after both have registered
    for program in programs:
        program.wait_for("done", 45)
    for program in programs:
        (program.folder / "go").touch()

    # Expect every answer to be of the program's own code
    assert [program.end()["wrong"] for program in programs] == [0, 0]

    # Expect one of them at least to be told, and none to be told anything twice
    told = [program.errors.splitlines() for program in programs]
    assert any(told)
    assert all(len(set(lines)) == len(lines) for lines in told), told


def test_a_job_runs_the_code_it_was_submitted_with(theatre: Stage) -> None:
    # Given a job submitted by one program, without a worker, and another program with other code
    source = """
    from flashq import Endpoint

    @Endpoint(name="named-late", cpu="any")
    def work(path):
        open(path, "x").write("CODE")

    tell(id=work.spawn(sys.argv[1]).id)
    """
    paths = [theatre.folder() / "first", theatre.folder() / "second"]
    for path, word in zip(paths, ("old", "new"), strict=True):
        theatre.run(source.replace("CODE", word), str(path))

    # If a worker comes only now, expect each job to run its own program's code
    theatre.serve("named-late")
    wait_until(lambda: all(path.exists() and path.read_text() for path in paths), what="both ran")
    assert [path.read_text() for path in paths] == ["old", "new"]


def test_two_endpoints_of_one_name_in_one_program_are_refused() -> None:
    # Given an endpoint
    @Endpoint(name="named-twice", cpu="any")
    def first() -> None: ...

    # If another function of the program takes its name, expect a refusal that names both
    with pytest.raises(EndpointExists, match="named-twice") as raised:

        @Endpoint(name="named-twice", cpu="any")
        def second() -> None: ...

    assert "first" in str(raised.value)
    assert "second" in str(raised.value)


def test_functions_of_one_endpoint_object_share_its_workers(theatre: Stage) -> None:
    # Given one configuration that decorates several functions, as in Flash
    shared = Endpoint(name="named-shared", cpu="any")

    @shared
    def add(a: int, b: int) -> int:
        return a + b

    @shared
    async def times(a: int, b: int) -> int:
        return a * b

    # Expect one endpoint, on whose worker both run, from here and by name
    added = add.spawn(2, 3)
    theatre.serve("named-shared")
    assert added.result(30) == 5
    assert times.remote(2, 3) == 6
    assert Endpoint(id="named-shared").times.remote(4, 5) == 20
    assert (add.local(1, 2), add.name, times.name) == (3, "named-shared", "named-shared")

    # If a function is defined again, expect it in place of itself; another one of its name to be refused
    def defined(bonus: int, where: str) -> Any:
        def again(a: int, b: int) -> int:
            return a + b + bonus

        again.__name__, again.__qualname__ = "add", where
        return again

    assert shared(defined(100, add.__qualname__)).remote(2, 3) == 105
    with pytest.raises(EndpointExists, match="by that name already"):
        shared(defined(0, "elsewhere.add"))


def test_a_redefinition_is_an_update_and_keeps_what_it_was_told() -> None:
    # If the same function is defined again (a cell run twice), expect no error, and the latest parameters
    made = []
    for maximum in (1, 2):

        @Endpoint(name="named-again", cpu="any", workers=maximum)
        def again() -> None: ...

        made.append(again.spec.workers)
    assert made == [(0, 1), (0, 2)]


def test_two_modules_with_one_name_are_refused_in_a_program(theatre: Stage) -> None:
    # Given two modules of a program, each with an endpoint "shared"
    source = """
        from flashq import Endpoint

        @Endpoint(name="shared", cpu="any")
        def work():
            return 1
    """
    said = theatre.run(
        """
        from flashq.errors import EndpointExists
        import one
        try:
            import two
        except EndpointExists as error:
            tell(error=str(error))
        """,
        modules={"one.py": source, "two.py": source},
    )

    # Expect the second to be refused, naming the first
    assert "shared" in said["error"]
    assert "one" in said["error"]


TWO_OF_ONE = """
from flashq import Endpoint

def where():
    import flashq
    return flashq.current().endpoint

one = Endpoint(name="one-of-two", cpu="any")(where)
other = Endpoint(name="other-of-two", cpu="any", idle_timeout=30)(where)
tell(ready=True)
first, second = one.spawn(), other.spawn()
tell(registered=True)
tell(said=[first.result(30), second.result(30), one.remote()])
"""


def test_two_endpoints_of_one_function_are_two_endpoints(theatre: Stage) -> None:
    # Given a function that is made an endpoint twice, under two names
    program = theatre.start(TWO_OF_ONE)
    program.wait_for("registered")
    theatre.serve("one-of-two")
    theatre.serve("other-of-two")

    # Expect each to be on record, and each call to be the one's that was called
    assert program.end()["said"] == ["one-of-two", "other-of-two", "one-of-two"]
