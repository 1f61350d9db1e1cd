"""Which modules are shipped: imports followed through tiny programs, and the bundle that comes of it."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import msgpack
import pytest

from flashq.errors import MalformedEnvelope, PayloadTooLarge, SerializationError
from flashq.model.bundle import Found, Kind, Module, follow, pack, unpack
from flashq.model.imports import Imported, imports_of, listed_names

if TYPE_CHECKING:
    from collections.abc import Mapping

REFUSED = {"native": "is a compiled extension (native.so)", "random": "hides the standard library's"}
INSTALLED = {"json", "os", "sys", "numpy", "typing", "importlib", "contextlib"}


class Program:
    """The user's files by path; what is no file is installed, refused, a folder, or missing."""

    def __init__(self, files: Mapping[str, str | bytes]) -> None:
        self.files = files

    def find(self, name: str) -> Found:
        path = name.replace(".", "/")
        if name.partition(".")[0] in INSTALLED:
            return Found(Kind.INSTALLED)
        if name == "made":
            return Found(Kind.MADE)
        if name.rpartition(".")[2] in REFUSED:
            return Found(Kind.REFUSED, reason=REFUSED[name.rpartition(".")[2]])
        for file, package in ((f"{path}/__init__.py", True), (f"{path}.py", False)):
            if file in self.files:
                return Found(Kind.SOURCE, file, package)
        folder = any(file.startswith(f"{path}/") for file in self.files)
        return Found(Kind.FOLDER, path, package=True) if folder else Found(Kind.MISSING)

    def read(self, found: Found) -> bytes:
        source = self.files[found.file]
        return source.encode() if isinstance(source, str) else source

    def shipped(self, start: str, package: str = "", *, deep: bool = True) -> list[str]:
        """What is shipped for a program that begins with these lines."""
        return sorted(follow(imports_of(start, package, deep=deep), self.find, self.read))


@pytest.mark.parametrize(
    ("start", "files", "shipped"),
    [
        pytest.param("import json, numpy", {}, [], id="nothing of the user's"),
        pytest.param(
            "import a", {"a.py": "import b", "b.py": "import c", "c.py": ""}, ["a", "b", "c"], id="on and on"
        ),
        pytest.param("import a", {"a.py": "import b", "b.py": "import a"}, ["a", "b"], id="a cycle"),
        pytest.param("import a", {"a.py": "import a"}, ["a"], id="of itself"),
        pytest.param("def f():\n    import a", {"a.py": ""}, ["a"], id="inside a function"),
        pytest.param("class C:\n    import a", {"a.py": ""}, ["a"], id="inside a class"),
        pytest.param(
            "import p.q.r",
            {"p/__init__.py": "import x", "p/q/__init__.py": "", "p/q/r.py": "", "x.py": ""},
            ["p", "p.q", "p.q.r", "x"],
            id="the packages it is in, and what those import",
        ),
        pytest.param(
            "from p import q, name",
            {"p/__init__.py": "name = 1", "p/q.py": "", "p/other.py": ""},
            ["p", "p.q"],
            id="from a package: a module, and a name that is none",
        ),
        pytest.param(
            "from p.q import thing",
            {"p/__init__.py": "", "p/q.py": "from .. import u", "u.py": ""},
            None,
            id="beyond the top",
        ),
        pytest.param(
            "from p.q import thing",
            {
                "p/__init__.py": "",
                "p/q.py": "from . import r\nfrom .s import t",
                "p/r.py": "",
                "p/s.py": "t = 1",
            },
            ["p", "p.q", "p.r", "p.s"],
            id="relative",
        ),
        pytest.param(
            "from p.sub.q import thing",
            {
                "p/__init__.py": "",
                "p/sub/__init__.py": "",
                "p/sub/q.py": "from ..r import x",
                "p/r.py": "x = 1",
            },
            ["p", "p.r", "p.sub", "p.sub.q"],
            id="relative, of the package above",
        ),
        pytest.param(
            "import ns.a", {"ns/a.py": "from . import b", "ns/b.py": ""}, ["ns.a", "ns.b"], id="namespace"
        ),
        pytest.param(
            "import importlib\nimportlib.import_module('a.b')", {"a/b.py": ""}, ["a.b"], id="import_module"
        ),
        pytest.param(
            "from importlib import import_module as _\n__import__('a')", {"a.py": ""}, ["a"], id="__import__"
        ),
        pytest.param(
            "import p",
            {
                "p/__init__.py": "from importlib import import_module\nimport_module('.q', __name__)",
                "p/q.py": "",
            },
            ["p", "p.q"],
            id="import_module, relative",
        ),
        pytest.param("import importlib\nimportlib.import_module(name)", {"name.py": ""}, [], id="no literal"),
        pytest.param(
            "from p import *",
            {"p/__init__.py": "__all__ = ['q', 'x']\nx = 1", "p/q.py": "", "p/r.py": ""},
            ["p", "p.q"],
            id="star",
        ),
        pytest.param("from m import *", {"m.py": "__all__ = ['x']\nx = 1"}, ["m"], id="star, of a module"),
        pytest.param(
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import a\nelse:\n    import b",
            {"a.py": "", "b.py": ""},
            ["b"],
            id="TYPE_CHECKING",
        ),
        pytest.param(
            "import typing\nif typing.TYPE_CHECKING:\n    import a",
            {"a.py": ""},
            [],
            id="typing.TYPE_CHECKING",
        ),
        pytest.param("if True:\n    import a", {"a.py": ""}, ["a"], id="under a condition"),
        pytest.param("import torch_of_the_worker", {}, [], id="found nowhere: the worker may have it"),
        pytest.param(
            "try:\n    import p.fast\nexcept ImportError:\n    import p.slow",
            {"p/__init__.py": "", "p/slow.py": ""},
            ["p", "p.slow"],
            id="optional, absent",
        ),
        pytest.param(
            "try:\n    import native\nexcept ImportError:\n    pass", {}, [], id="optional, compiled"
        ),
        pytest.param(
            "import contextlib\nwith contextlib.suppress(ImportError):\n    from . import gone",
            {},
            [],
            id="suppressed",
        ),
        pytest.param(
            "try:\n    import a\nexcept ModuleNotFoundError:\n    pass",
            {"a.py": "import native\nimport b", "b.py": ""},
            ["a", "b"],
            id="what only an optional module wants is optional",
        ),
        pytest.param(
            "import a",
            {"a.py": b"# -*- coding: latin-1 -*-\nx = '\xe9'\nimport b", "b.py": ""},
            ["a", "b"],
            id="coding",
        ),
    ],
)
def test_imports_are_followed(start: str, files: Mapping[str, str], shipped: list[str] | None) -> None:
    # If a program begins with these lines, expect just these modules of its to be shipped
    program = Program(files)
    if shipped is None:
        with pytest.raises(SerializationError, match="cannot be shipped"):
            program.shipped(start)
    else:
        assert program.shipped(start) == shipped


def test_the_imports_of_a_file_without_its_functions() -> None:
    program = Program({"a.py": "", "b.py": "", "c.py": ""})
    start = "import a\ndef f():\n    import b\nclass C:\n    def g(self):\n        import c"
    assert program.shipped(start, deep=False) == ["a"]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (
            {"a.py": "\nimport p.gone", "p/__init__.py": ""},
            r"'p\.gone', imported by a \(line 2\), cannot .*not found",
        ),
        ({"a.py": "import native"}, r"'native', imported by a \(line 1\).*compiled extension"),
        ({"a.py": "import random"}, "hides the standard library's"),
        ({"a.py": "import made"}, "'made', imported by a .line 1., .*it was made while the program ran"),
        ({"a.py": "from . import b"}, "not found"),
        ({"a.py": "import b", "b.py": "x ="}, r"'b', imported by a \(line 1\).*b\.py is no Python source"),
        ({"a.py": "import b", "b.py": b"x = '\xe9'"}, r"b\.py is no Python source"),
        ({"a.py": "import b", "b.py": b"x = '\0'"}, r"b\.py is no Python source"),
        (
            {
                "a.py": "import b\ntry:\n    import native\nexcept ImportError:\n    pass",
                "b.py": "import native",
            },
            "'native', imported by b",
        ),
    ],
)
def test_what_cannot_be_shipped_is_named_with_who_wants_it(files: Mapping[str, str], says: str) -> None:
    with pytest.raises(SerializationError, match=says):
        Program(files).shipped("import a")


def test_what_the_file_alone_wants_is_left_out_where_it_cannot_be_shipped() -> None:
    # Given a root that is only perhaps needed, of which a part cannot be shipped
    program = Program({"a.py": "import native", "b.py": ""})
    roots = [Imported("a", optional=True), Imported("b", optional=True), Imported("native", optional=True)]

    # Expect the rest to be shipped
    assert sorted(follow(roots, program.find, program.read)) == ["a", "b"]


def test_names_listed_in_several_steps() -> None:
    assert listed_names("__all__ = ['a']\n__all__ += ('b', c)\nother = ['d']") == ("a", "b")


# -- bundles -----------------------------------------------------------------------------------------


def modules(**sources: str) -> dict[str, Module]:
    return {
        name: Module(name, package=False, source=text.encode(), file=f"/x/{name}.py")
        for name, text in sources.items()
    }


def test_a_bundle_is_the_same_whatever_the_order() -> None:
    # If the same modules are packed in another order, expect the same bundle; and another for another text
    forward, backward = pack(modules(a="x = 1", b="")), pack(modules(b="", a="x = 1"))
    assert forward == backward
    assert pack(modules(a="x = 2", b=""))[0] != forward[0]
    assert pack({}) == ("", b"")


def test_a_bundle_says_what_was_packed() -> None:
    package = Module("p", package=True, source=b"import p.q", file="/x/p/__init__.py")
    inner = Module("p.q", package=False, source=b"", file="/x/p/q.py")
    digest, raw = pack({"p": package, "p.q": inner})
    assert unpack(raw) == (digest, {"p/__init__.py": b"import p.q", "p/q.py": b""})


def test_too_much_source_is_refused_with_the_largest_files_first() -> None:
    with pytest.raises(
        PayloadTooLarge, match=r"take 1,110 bytes.*limit is 1,000.*/x/big\.py \(1,000\), /x/mid\.py"
    ):
        pack(modules(small="1" * 10, big="1" * 1000, mid="1" * 100), limit=1000)


@pytest.mark.parametrize(
    "files",
    [
        {"../a.py": b""},
        {"/etc/a.py": b""},
        {"a/../../b.py": b""},
        {"a.so": b""},
        {"a.py\n": b""},
        {"a//b.py": b""},
        {"a\\b.py": b""},
        {".py": b""},
        {"a.py": "text"},
        {1: b""},
        {"sitecustomize.pth": b""},
        ["a.py"],
    ],
)
def test_a_bundle_of_anything_but_modules_is_refused(files: object) -> None:
    with pytest.raises(MalformedEnvelope, match="bundle"):
        unpack(zlib.compress(msgpack.packb(files)))


def test_a_bundle_that_blows_up_or_is_cut_is_refused() -> None:
    _, raw = pack(modules(a="x = 1"))
    for bad in (zlib.compress(b"\0" * 10_000_000), raw[:-1], b"", b"nonsense"):
        with pytest.raises(MalformedEnvelope, match="bundle"):
            unpack(bad, limit=1_000_000)
