"""Modules beside a program: shipped once, imported on the worker, followed by revisions, shown in tracebacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.acceptance.stage import SMALL_PACKAGE, Stage, require_index, stage

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "modules"


@pytest.fixture
def theatre() -> Iterator[Stage]:
    with stage() as made:
        yield made


def test_modules_that_only_the_function_imports_are_on_the_worker(theatre: Stage) -> None:
    # Given a function that imports a package beside its script, which imports further ones in every way
    said = theatre.run(
        """
        from flashq import Endpoint

        @Endpoint(name="modules", cpu="any")
        def work(x):
            import inspect, os
            import shop.prices
            from space.deep import deep
            return {
                "value": deep(shop.prices.price(x)),
                "away": os.path.dirname(shop.prices.__file__) != HERE + "/shop",
                "shown": inspect.getsource(shop.prices.price).splitlines()[0],
            }

        HERE = os.path.dirname(os.path.abspath(__file__))
        tell(**work.remote(10), unimported="shop" not in sys.modules)
        """,
        modules={
            "shop/__init__.py": "",
            "shop/prices.py": """
                from typing import TYPE_CHECKING
                from . import rates
                if TYPE_CHECKING:
                    from nowhere import Type
                try:
                    from . import fast
                except ImportError:
                    fast = None

                def price(x: "Type"):
                    import importlib
                    return x * rates.VAT + importlib.import_module("late").extra() + (fast is None)
            """,
            "shop/rates.py": "VAT = 2\n",
            "late.py": "def extra():\n    return 1\n",
            "space/deep.py": "import cycle\n\ndef deep(x):\n    return cycle.back(x)\n",
            "cycle.py": "import space.deep\n\ndef back(x):\n    return -x\n",
        },
        serve=NAME,
    )

    # Expect them to be there, from files of the worker's, with their source
    assert said == {
        "value": -22,
        "away": True,
        "shown": 'def price(x: "Type"):',
        "unimported": True,
    }


def test_an_edited_module_is_a_new_revision_on_the_same_worker(theatre: Stage) -> None:
    # Given a script whose helper is edited between runs, and edited back
    folder = theatre.folder()
    script = """
        from flashq import Endpoint

        @Endpoint(name="modules", cpu="any")
        def work():
            import os
            import rules
            return rules.answer(), os.getpid(), os.getppid()

        answer, executor, worker = work.remote()
        tell(answer=answer, executor=executor, worker=worker)
        """
    runs, revisions = [], []
    for answer in (41, 42, 42, 41):
        modules = {"rules.py": f"def answer():\n    return {answer}\n"}
        runs.append(theatre.run(script, modules=modules, folder=folder, serve=NAME))
        revisions.append(theatre.endpoint_field(NAME, "revision"))

    # Expect each run's own answer, from one worker: a fresh executor where the text differs, and the same where not
    assert [run["answer"] for run in runs] == [41, 42, 42, 41]
    assert len({run["worker"] for run in runs}) == 1
    executors = [run["executor"] for run in runs]
    assert executors[1] == executors[2]
    assert len(set(executors)) == 3
    assert revisions[0] == revisions[3] != revisions[1] == revisions[2]


def test_a_traceback_shows_the_lines_of_a_shipped_module(theatre: Stage) -> None:
    said = theatre.run(
        """
        from flashq import Endpoint
        from broken import Trouble, fall

        @Endpoint(name="modules", cpu="any")
        def work():
            fall()

        try:
            work.remote()
        except Trouble as error:
            tell(caught=str(error), notes=error.__notes__)
        """,
        modules={
            "broken.py": """
                class Trouble(Exception):
                    pass

                def fall():
                    raise Trouble("down")  # here
            """
        },
        serve=NAME,
    )
    assert said["caught"] == "down"
    assert any('broken.py", line 6, in fall' in note for note in said["notes"])
    assert any('raise Trouble("down")  # here' in note for note in said["notes"])


def test_a_class_is_the_callers_own_also_for_a_later_program(theatre: Stage) -> None:
    # Given a program, run twice, whose function gets and returns what a module beside it defines
    folder = theatre.folder()
    script = """
        from flashq import Endpoint
        from shapes import Shape, Kind

        @Endpoint(name="modules", cpu="any")
        def grow(shape):
            assert isinstance(shape, Shape), type(shape)
            import shapes
            return [shapes.Shape(shape.side + 1, Kind.ROUND), shape, isinstance(shape, shapes.Shape)]

        made, back, same = grow.remote(Shape(1, Kind.FLAT))
        tell(own=type(made) is Shape and type(back) is Shape, same=same, kind=made.kind is Kind.ROUND, side=made.side)
        """
    modules = {
        "shapes.py": """
            import dataclasses, enum

            class Kind(enum.Enum):
                FLAT = 1
                ROUND = 2

            @dataclasses.dataclass
            class Shape:
                side: int
                kind: Kind
        """
    }
    for _ in range(2):
        said = theatre.run(script, modules=modules, folder=folder, serve=NAME)

        # Expect one class on either side, in the second program too, whose revision was on record
        assert said == {"own": True, "same": True, "kind": True, "side": 2}


@pytest.mark.parametrize(
    ("modules", "imports", "says"),
    [
        pytest.param(
            {
                "pack/__init__.py": "",
                "pack/inner.py": "def f():\n    from . import gone\n    from .missing import x\n",
            },
            "import pack.inner",
            "'pack.missing', imported by pack.inner (line 3), cannot be shipped",
            id="missing",
        ),
        pytest.param({"calendar.py": "x = 1\n"}, "import calendar", "hides the standard library", id="hides"),
        pytest.param({"native.so": ""}, "import native", "compiled extension", id="compiled"),
        pytest.param({"helper.py": "import __main__\n"}, "import helper", "the program itself", id="main"),
        pytest.param({"wrong.py": "def f(:\n"}, "import wrong", "no Python source", id="syntax"),
        pytest.param({"big.py": "# " + "x" * 2**23}, "import big", "PayloadTooLarge", id="large"),
    ],
)
def test_what_cannot_be_shipped_is_refused_before_anything_is_sent(
    theatre: Stage, modules: dict[str, str], imports: str, says: str
) -> None:
    said = theatre.run(
        f"""
        from flashq import Endpoint, FlashqError

        @Endpoint(name="modules", cpu="any")
        def work():
            {imports}

        try:
            work.spawn()
        except FlashqError as error:
            tell(error=type(error).__name__ + ": " + str(error))
        """,
        modules=modules,
    )
    assert "endpoint modules: " in said["error"]
    assert says in said["error"]
    assert not theatre.endpoint_field(NAME, "revision")


def test_modules_found_by_tricks_of_the_path_and_links(theatre: Stage) -> None:
    # Given modules in a folder that the script adds to its path, one of them a link, one loaded from a named file
    folder = theatre.folder()
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "real.txt").write_text("def linked():\n    return 'linked'\n")
    (folder / "linked.py").symlink_to(folder / "elsewhere" / "real.txt")
    said = theatre.run(
        """
        import importlib.util
        from flashq import Endpoint

        sys.path.insert(0, os.path.abspath("lib"))
        import thing
        sys.path.pop(0)
        spec = importlib.util.spec_from_file_location("renamed", "lib/other-name.py")
        renamed = sys.modules["renamed"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(renamed)

        @Endpoint(name="modules", cpu="any")
        def work():
            import linked
            return thing.value(), renamed.value(), linked.linked()

        tell(value=work.remote())
        """,
        modules={
            "lib/thing.py": "def value():\n    return 1\n",
            "lib/other-name.py": "def value():\n    return 2\n",
        },
        folder=folder,
        serve=NAME,
    )
    assert said == {"value": [1, 2, "linked"]}


def test_a_process_that_a_job_starts_has_the_modules_too(theatre: Stage) -> None:
    said = theatre.run(
        """
        from flashq import Endpoint
        from chores import chore

        @Endpoint(name="modules", cpu="any")
        def work(xs):
            import multiprocessing
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                return pool.map(chore, xs)

        if __name__ == "__main__":
            tell(value=work.remote([1, 2]))
        """,
        modules={"chores.py": "def chore(x):\n    return x * 10\n"},
        serve=NAME,
    )
    assert said == {"value": [10, 20]}


def test_a_module_that_changed_since_it_was_imported_goes_as_it_is_now_with_a_warning(theatre: Stage) -> None:
    said = theatre.run(
        """
        import warnings
        from flashq import Endpoint
        import rules

        @Endpoint(name="modules", cpu="any")
        def work():
            return rules.answer()

        open("rules.py", "w").write("def answer():\\n    return 42\\n")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            value = work.remote()
        tell(value=value, warned=[str(each.message) for each in caught])
        """,
        modules={"rules.py": "def answer():\n    return 41\n"},
        serve=NAME,
    )
    assert said["value"] == 42
    assert ["rules.py changed since" in text for text in said["warned"]] == [True]


def test_what_was_written_into_the_shipped_files_is_undone_for_the_next_executor(theatre: Stage) -> None:
    # Given a job that overwrites the module it was given, and adds one, then kills its executor
    said = theatre.run(
        """
        from flashq import Endpoint

        @Endpoint(name="modules", cpu="any")
        def work(spoil):
            import os
            import rules
            if spoil:
                with open(rules.__file__, "w") as file:
                    file.write("def answer():\\n    return 'spoiled'\\n")
                with open(os.path.join(os.path.dirname(rules.__file__), "added.py"), "w") as file:
                    file.write("")
                os._exit(1)
            try:
                import added
            except ModuleNotFoundError:
                return rules.answer()
            return "added"

        job = work.with_options(delivery="at_most_once").spawn(True)
        try:
            job.result()
        except Exception as error:
            tell(ended=type(error).__name__)
        tell(value=work.remote(False))
        """,
        modules={"rules.py": "def answer():\n    return 42\n"},
        serve=NAME,
    )
    assert said["value"] == 42


def test_a_class_in_an_environment_of_its_own_and_batches_have_the_modules(theatre: Stage) -> None:
    # Given a class endpoint with a dependency, whose base is in a module beside it, and a batching function
    require_index()
    said = theatre.run(
        f"""
        from flashq import Endpoint
        from models.base import Base

        @Endpoint(name="modules", cpu="any", dependencies=["{SMALL_PACKAGE}"])
        class Model(Base):
            def __init__(self, factor):
                import iniconfig
                from models import weights
                self.factor = factor * weights.SCALE
                self.dependency = iniconfig.__name__

            def scaled(self, x):
                return self.scale(x), self.dependency

        tell(value=Model(2).scaled.remote(5))
        """,
        modules={
            "models/__init__.py": "",
            "models/base.py": "class Base:\n    def scale(self, x):\n        return self.factor * x\n",
            "models/weights.py": "SCALE = 10\n",
        },
        serve=NAME,
    )
    assert said == {"value": [100, "iniconfig"]}


def test_a_batch_has_the_modules(theatre: Stage) -> None:
    said = theatre.run(
        """
        from flashq import Endpoint

        @Endpoint(name="modules", cpu="any", batch=(4, 50))
        def work(xs):
            from rules import doubled
            return [doubled(x) for x in xs]

        tell(values=[job.result() for job in [work.spawn(x) for x in range(4)]])
        """,
        modules={"rules.py": "def doubled(x):\n    return 2 * x\n"},
        serve=NAME,
    )
    assert said == {"values": [0, 2, 4, 6]}


def test_a_notebooks_cell_and_an_editable_package(theatre: Stage) -> None:
    # Given a cell, which has no file, that uses a package whose sources a .pth file of the environment names
    folder = theatre.folder()
    said = theatre.run(
        """
        import linecache, site
        os.makedirs("site/nothing"); open("site/editable.pth", "w").write(os.path.abspath("src") + "\\n")
        site.addsitedir("site")
        import project.core

        cell = '''
        from flashq import Endpoint
        import project.core

        @Endpoint(name="modules", cpu="any")
        def work(x):
            from project import late
            return late.plus(project.core.twice(x))
        '''
        import textwrap
        cell = textwrap.dedent(cell)
        linecache.cache["<cell 1>"] = (len(cell), None, cell.splitlines(True), "<cell 1>")
        exec(compile(cell, "<cell 1>", "exec"))
        tell(value=work.remote(20))
        """,
        modules={
            "src/project/__init__.py": "",
            "src/project/core.py": "def twice(x):\n    return 2 * x\n",
            "src/project/late.py": "def plus(x):\n    return x + 1\n",
        },
        folder=folder,
        serve=NAME,
    )
    assert said == {"value": 41}


def test_a_module_in_an_archive_is_refused(theatre: Stage) -> None:
    said = theatre.run(
        """
        import zipfile
        with zipfile.ZipFile("packed.zip", "w") as archive:
            archive.writestr("zipped.py", "x = 1\\n")
        sys.path.insert(0, os.path.abspath("packed.zip"))
        from flashq import Endpoint
        from flashq.errors import SerializationError
        import zipped

        @Endpoint(name="modules", cpu="any")
        def work():
            return zipped.x

        try:
            work.spawn()
        except SerializationError as error:
            tell(error=str(error))
        """
    )
    assert "'zipped'" in said["error"]
    assert "packed.zip: unpack that" in said["error"]
