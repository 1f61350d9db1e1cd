"""The demo's batches and its search, and how it finds and checks the model's files."""

from __future__ import annotations

import hashlib
import json
import math
import random
from pathlib import Path

import pytest

from tests.demo import embedding, search


def unit(*numbers: float) -> list[float]:
    length = math.hypot(*numbers)
    return [number / length for number in numbers]


def test_batches_hold_every_position_once_and_like_lengths_together() -> None:
    # Given texts of random lengths
    lengths = random.Random(7).choices(range(500), k=100)
    texts = ["x" * length for length in lengths]

    # If they are put into batches of 32
    batches = search.batches(texts, 32)

    # Expect all of them, the longest first, equal ones as they came
    order = [position for batch in batches for position in batch]
    assert sorted(order) == list(range(100))
    assert [len(batch) for batch in batches] == [32, 32, 32, 4]
    assert order == sorted(range(100), key=lambda position: (-lengths[position], position))


def test_no_texts_make_no_batches() -> None:
    assert search.batches([], 32) == []


@pytest.mark.parametrize(
    ("count", "wanted", "expected"),
    [(10, 3, [0, 3, 6]), (3, 10, [0, 1, 2]), (5, 5, [0, 1, 2, 3, 4]), (0, 4, [])],
)
def test_a_sample_is_spread_evenly(count: int, wanted: int, expected: list[int]) -> None:
    assert search.spread(count, wanted) == expected


def test_the_nearest_are_found_in_order_with_their_cosines() -> None:
    # Given vectors at growing angles to the question
    index = search.Index(
        [("far", unit(-1, 0)), ("near", unit(3, 1)), ("same", [1.0, 0.0]), ("off", unit(0, 1))]
    )

    # If three are asked for
    found = index.nearest([1.0, 0.0], 3)

    # Expect them nearest first
    assert [name for name, _ in found] == ["same", "near", "off"]
    assert [cosine for _, cosine in found] == pytest.approx([1.0, 3 / math.sqrt(10), 0.0])


def test_cosine_of_opposite_vectors_is_minus_one() -> None:
    assert search.cosine([0.0, 1.0], [0.0, -1.0]) == pytest.approx(-1)


def test_a_model_file_is_found_beside_its_package_without_importing_it() -> None:
    # Given the digest of a file of some installed package, and a first place that is not installed
    file = Path(json.__file__).with_name("decoder.py")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()

    # Expect its path
    assert embedding.find_file(["no_such_package/model.onnx", "json/decoder.py"], digest) == str(file)


def test_a_file_with_another_digest_is_refused() -> None:
    with pytest.raises(ValueError, match=r"decoder\.py has the SHA-256 .* written for 0000"):
        embedding.find_file(["json/decoder.py"], "0" * 64)


def test_a_file_that_no_package_holds_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"no installed package holds no_such_package/model\.onnx"):
        embedding.find_file(["no_such_package/model.onnx"], "0" * 64)


def test_no_texts_need_no_model() -> None:
    assert embedding.embed([]) == []
