"""Two stages, one on CPUs and one on GPUs: `python examples/pipeline.py [--cuda] [--files FILE …] [QUESTION]`

The first stage cuts Markdown pages into sections, the second embeds these: each page goes on as soon as it is cut,
while others still are. Then the question is embedded, too, and the nearest sections are printed.

Without a GPU the second stage runs on the CPU, which flashq says. On a GPU give --cuda: it installs the build of the
runtime that computes there, which takes some GB.
"""

from __future__ import annotations

import argparse
from heapq import nlargest
from pathlib import Path

from ask_your_python import embedding
from ask_your_python.search import cosine

from flashq import Endpoint

HOW_TO = Path(__file__).resolve().parent.parent / "docs" / "how-to"


@Endpoint(name="sections", cpu="any", idle_timeout=5)
def sections(page: str) -> list[str]:
    """The sections of a Markdown page, without its code; each begins with its title."""
    import re

    text = re.sub(r"^```.*?^```$", "", page, flags=re.DOTALL | re.MULTILINE)
    parts = re.split(r"^#+ +", text, flags=re.MULTILINE)
    return [part.strip() for part in parts if part.strip()]


def embed(texts: list[str]) -> list[tuple[str, list[float]]]:
    """Each text with its vector."""
    return list(zip(texts, embedding.embed(texts), strict=True))


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("question", nargs="?", default="how do I keep a model in memory?")
    options.add_argument("--files", nargs="+", type=Path, default=sorted(HOW_TO.glob("*.md")))
    options.add_argument("--cuda", action="store_true")
    given = options.parse_args()

    requirements = embedding.GPU_REQUIREMENTS if given.cuda else embedding.REQUIREMENTS
    embedder = Endpoint(name="embedder", gpu="any", idle_timeout=5, dependencies=requirements)(embed)

    pages = [file.read_text("utf-8") for file in given.files]
    stages = embedder.map(sections.map(pages, progress=False), progress=False)
    known = [
        (file.name, text, vector)
        for file, part in zip(given.files, stages, strict=True)
        for text, vector in part
    ]
    ((_, asked),) = embedder.remote([given.question])

    print(f"{len(known)} sections of {len(pages)} pages. Nearest to {given.question!r}:")
    for name, text, vector in nlargest(3, known, key=lambda section: cosine(asked, section[2])):
        print(f"  {cosine(asked, vector):.2f}  {name}: {text.splitlines()[0]}")


if __name__ == "__main__":
    main()
