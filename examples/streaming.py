"""Words as they are written, from an endpoint that yields: `python examples/streaming.py [--seed N] [OPENING]`

The writer is a Markov chain over the language reference that comes with Python. It stands where a language model
would: it is made once, as its worker starts, then streams one word after the other for as long as somebody reads.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from random import Random
from typing import TYPE_CHECKING

from flashq import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator


@Endpoint(name="writer", cpu="any", workers=(0, 1), idle_timeout=5)
class Writer:
    def setup(self) -> None:
        from pydoc_data.topics import topics

        words = " ".join(topics.values()).split()
        self.following: dict[tuple[str, str], list[str]] = defaultdict(list)
        for first, second, third in zip(words, words[1:], words[2:], strict=False):
            self.following[first, second].append(third)

    def write(self, opening: str, seed: int) -> Iterator[str]:
        """Yield words without end; each is one that follows the two before it somewhere in the reference."""
        choose = Random(seed).choice  # noqa: S311 -- nothing is kept secret by it
        first, second = opening.split()[-2:]
        while True:
            if (first, second) not in self.following:
                raise LookupError(f"nowhere in the reference does anything follow {first!r} {second!r}")
            first, second = second, choose(self.following[first, second])
            yield second


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("opening", nargs="?", default="A class", metavar="OPENING", help="two words or more")
    options.add_argument("--seed", type=int, default=7)
    given = options.parse_args()

    print(given.opening, end="", flush=True)
    for word in Writer().write.stream(given.opening, given.seed):
        print("", word, end="", flush=True)
        if word.endswith("."):
            break  # cancels the job, which would go on for ever
    print()


if __name__ == "__main__":
    main()
