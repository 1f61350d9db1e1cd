"""What a zygote imports ahead: tried in a fork first; what is no good is dropped; what is dear is weighed."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashq_worker.executor import imports, preimport, safety
from flashq_worker.executor.preimport import Tried, affordable

if TYPE_CHECKING:
    from pathlib import Path

GOOD = "import time; time.sleep(0.01); from . import part"
THREAD = (
    "import threading, time; t = threading.Thread(target=time.sleep, args=(1000,), daemon=True); t.start()"
)
KNOWS_FORKS = """
import os, threading
end = threading.Event()
t = threading.Thread(target=end.wait, daemon=True)
t.start()
os.register_at_fork(before=lambda: (end.set(), t.join()))
"""
HEAVY = "import time; kept = bytearray(64 * 2**20); time.sleep(0.01)"
PACKAGES = {
    "fq_good": GOOD,
    "fq_raises": "raise RuntimeError('not here')",
    "fq_leaves": "import sys; sys.exit(3)",
    "fq_ends": "import os; os._exit(3)",
    "fq_thread": THREAD,
    "fq_by_another": "import time; time.sleep(0.01); import fq_thread",
    "fq_knows_forks": KNOWS_FORKS + "import time; time.sleep(0.01)",
    "fq_opens": "import os; kept = os.open('/dev/null', os.O_RDONLY)",
    "fq_heavy": HEAVY,
    "fq_slow": "import time; time.sleep(1000)",
}


@pytest.fixture(autouse=True)
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, code in PACKAGES.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(code)
        (tmp_path / name / "part.py").write_text("")


def tried(*names: str) -> Tried:
    """What comes of trying these; nothing of them stays in this process."""
    threads, descriptors = safety.threads(), safety.descriptors()
    found = preimport._try(names, {})
    assert not any(name in sys.modules for name in PACKAGES)
    assert (safety.threads(), safety.descriptors()) == (threads, descriptors)
    return found


# -- the trial -----------------------------------------------------------------------------------------


def test_what_is_good_is_measured() -> None:
    """Given packages that import well, expect the time and memory of each, and nothing for what another implied."""
    found = tried("fq_good", "fq_good.part", "fq_heavy")
    assert found.dropped == {}
    assert list(found.costs) == ["fq_good", "fq_heavy"]
    assert 10 <= found.costs["fq_good"][0] < 5000
    assert found.costs["fq_heavy"][1] > 60 * 1024


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("fq_raises", "RuntimeError: not here"),
        ("fq_leaves", "SystemExit: 3"),
        ("fq_ends", "it ended the process"),
        ("fq_thread", "it leaves 1 thread(s) running"),
        ("fq_opens", "it leaves 1 descriptor(s) open"),
        ("fq_none_such", "ModuleNotFoundError"),
    ],
)
def test_what_is_no_good_is_dropped_and_the_rest_kept(bad: str, why: str) -> None:
    """Given a module that fails, ends the process or leaves something behind, expect it alone to be dropped."""
    found = tried("fq_good", f"{bad}.part" if bad == "fq_thread" else bad, "fq_heavy")
    assert list(found.dropped) == [bad]
    assert why in found.dropped[bad]
    assert list(found.costs) == ["fq_good", "fq_heavy"]


def test_what_brings_a_bad_one_along_is_dropped_with_it() -> None:
    """Given a package that imports one that starts a thread, expect both to be dropped, however they are listed."""
    found = tried("fq_by_another", "fq_thread", "fq_good")
    assert set(found.dropped) == {"fq_by_another", "fq_thread"}
    assert list(found.costs) == ["fq_good"]


def test_threads_that_are_put_away_before_a_fork_do_no_harm() -> None:
    """Given a library that ends its threads when its process is forked, as OpenBLAS does, expect it to be kept."""
    assert list(tried("fq_knows_forks").costs) == ["fq_knows_forks"]


def test_what_takes_too_long_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a module whose import does not end, expect it to be dropped when its time is over."""
    monkeypatch.setattr(preimport, "TRIAL_S", 0.5)
    begun = time.monotonic()
    found = tried("fq_good", "fq_slow")
    assert time.monotonic() - begun < 30
    assert "over 0.5 s" in found.dropped["fq_slow"]


# -- memory and weight ---------------------------------------------------------------------------------


def test_what_was_dropped_is_remembered(tmp_path: Path) -> None:
    """Given what was tried once, expect the same from its file, and nothing from one that is none."""
    memory = tmp_path / "z.tried"
    assert Tried.read(memory) == Tried()
    found = tried("fq_good", "fq_raises")
    found.write(memory)
    assert Tried.read(memory) == found
    for text in ("", "[]", '{"names": 1}', '{"names": [], "dropped": {}, "costs": {"a": 1}}', "[" * 9999):
        memory.write_text(text)
        assert Tried.read(memory) == Tried()


def test_affordable_takes_what_saves_most_for_its_memory() -> None:
    costs = {"a": (100.0, 1000), "b": (90.0, 100), "c": (0.01, 1), "d": (1.0, 900), "e": (50.0, 0)}
    assert affordable(costs, 10_000) == ["a", "b", "d", "e"], "all but what is not worth it, in order"
    assert affordable(costs, 1000) == ["b", "d", "e"]
    assert affordable(costs, 0) == ["e"]
    assert affordable({}, 100) == []


@given(
    st.dictionaries(st.text(max_size=3), st.tuples(st.floats(0, 1e4), st.integers(0, 10**6))),
    st.integers(0, 10**6),
)
def test_affordable_keeps_to_the_budget(costs: dict[str, tuple[float, int]], budget: int) -> None:
    chosen = affordable(costs, budget)
    assert sum(costs[name][1] for name in chosen) <= budget
    assert chosen == [name for name in costs if name in set(chosen)]


# -- what is noted -------------------------------------------------------------------------------------


def test_only_packages_and_the_standard_library_are_noted(tmp_path: Path) -> None:
    """Given modules of ours, of the user's, of the library and of packages, expect the last two."""
    import wave

    import fq_good  # type: ignore[import-not-found]  # lies in a folder of its own, as a user's module does
    import hypothesis

    found = imported = imports.imported(())
    assert {"wave", "hypothesis"} <= set(found), (wave, hypothesis)
    assert not {"fq_good", fq_good.__name__, "flashq_worker", "flashq", "__main__", "sys"} & set(imported)
    assert imports.imported(imported) == []
    del sys.modules["fq_good"], sys.modules["fq_good.part"]


def test_notes_are_added_to(tmp_path: Path) -> None:
    """Given notes of another executor, expect them kept, and what is no name never read."""
    file = tmp_path / "own.modules"
    assert imports.noted(file) == []
    imports.note(file, before=[name for name in sys.modules if name != "json"])
    assert imports.noted(file) == ["json"]
    imports.note(file, before=[name for name in sys.modules if name not in ("json", "decimal")])
    assert imports.noted(file)[0] == "json"
    for text in ("", "{}", '[1, "a b", "../x", "os;x", "", "a..b"]', "[" * 9999, "\xff"):
        file.write_bytes(text.encode("latin-1"))
        assert imports.noted(file) == []
    imports.note(tmp_path / "none" / "own.modules", before=())
