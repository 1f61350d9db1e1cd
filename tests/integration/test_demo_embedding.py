"""The demo's model in an environment like a worker's, where its function arrives by value."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import cloudpickle
import pytest

from tests.demo import FOLDER, embedding, require_model, search

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TEXTS = [
    "temporary folder that deletes itself",
    "Return the greatest common divisor.",
    "",
    "Café, naïve, 北京, and an emoji 🐍 that no vocabulary has",
    "json.dumps: Serialize obj to a JSON formatted str. " * 20,  # cut at 64 tokens
]

# What a worker does with a function that came by value.
WORKER = """
import json, pickle, sys
with open(sys.argv[1], "rb") as file:
    embed = pickle.load(file)
texts = json.load(sys.stdin)
together = embed(texts)
print(json.dumps([together, [embed([text])[0] for text in texts]]))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the demo's requirements and cloudpickle."""
    require_model()
    folder = tmp_path_factory.mktemp("demo") / "environment"
    found = folder / "bin" / "python"
    uv = [sys.executable, "-m", "uv", "--quiet"]
    subprocess.run([*uv, "venv", "--python", sys.executable, str(folder)], check=True)
    packages = ["cloudpickle", *embedding.REQUIREMENTS]
    subprocess.run([*uv, "pip", "install", "--python", str(found), *packages], check=True)
    return found


@pytest.fixture
def by_value() -> Iterator[bytes]:
    """The function as it travels: with all it needs of its module."""
    cloudpickle.register_pickle_by_value(embedding)
    yield cloudpickle.dumps(embedding.embed)
    cloudpickle.unregister_pickle_by_value(embedding)


def answer(command: list[str], texts: list[str]) -> list[str]:
    """The lines that a command prints when it is given texts."""
    done = subprocess.run(command, input=json.dumps(texts), check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_vectors_of_a_worker_are_those_of_a_plain_process(
    python: Path, by_value: bytes, tmp_path: Path
) -> None:
    # Given the function as it arrives at a worker
    function = tmp_path / "function.pickle"
    function.write_bytes(by_value)

    # If it embeds texts in one batch and one by one, and a plain process does so with other code
    *loaded, said = answer([str(python), "-I", "-c", WORKER, str(function)], TEXTS)
    together, alone = json.loads(said)
    (reference,) = map(json.loads, answer([str(python), str(FOLDER / "reference.py")], TEXTS))

    # Expect the same vectors of length 1, and one load of the model for all calls
    assert loaded == ["model loaded; computing with CPUExecutionProvider"]
    for ours, single, theirs in zip(together, alone, reference, strict=True):
        assert len(ours) == 384
        assert search.cosine(ours, [0.0] * 384) == pytest.approx(0.5)  # the distance from 0 is 1
        assert search.cosine(ours, theirs) > 0.9999
        assert search.cosine(single, theirs) > 0.9999


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_tokens_are_those_of_the_vocabulary_cut_at_the_limit(python: Path) -> None:
    # If the tokenizer is loaded and given a short text and a long one
    script = """
import json, sys
from embedding import _load_tokenizer
tokenizer = _load_tokenizer()
batch = tokenizer.encode_batch(json.load(sys.stdin))
print(json.dumps([[each.ids, each.attention_mask] for each in batch]))
"""
    run = f"import sys; sys.path.insert(0, {str(FOLDER)!r}); exec({script!r})"
    (said,) = answer([str(python), "-I", "-B", "-c", run], ["Hello world", "word " * 100])
    (short, short_mask), (long, long_mask) = json.loads(said)

    # Expect [CLS] hello world [SEP] and padding, and 64 tokens that end with [SEP]
    assert short == [101, 7592, 2088, 102] + [0] * 60
    assert short_mask == [1] * 4 + [0] * 60
    assert long == [101, *[2773] * 62, 102]
    assert long_mask == [1] * 64
