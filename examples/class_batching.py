"""A model kept by a class, its calls gathered into batches: `python examples/class_batching.py [QUESTION]`

Embeds the topics of Python's language reference, a call for each, then the question, and prints what is nearest.
"""

from __future__ import annotations

import sys

from ask_your_python.embedding import REQUIREMENTS, Model
from ask_your_python.search import Index

from flashq import Endpoint


@Endpoint(name="minilm", cpu="any", idle_timeout=5, dependencies=REQUIREMENTS, batch=(16, 20))
class MiniLM:
    def setup(self) -> None:
        """Runs once, as the worker starts, before it takes a job."""
        self.model = Model()

    def embed(self, texts: list[str]) -> list[list[float]]:
        """Each call brings one text; those of up to 16 come together as a list."""
        print(f"a batch of {len(texts)}")
        return self.model.embed(texts)


def main() -> None:
    from pydoc_data.topics import topics

    question = " ".join(sys.argv[1:]) or "what happens when an error occurs?"
    minilm = MiniLM()
    beginnings = [text[:400] for text in topics.values()]
    vectors = minilm.embed.map(beginnings, progress=False)
    index = Index(zip(topics, vectors, strict=True))

    print(f"Of {len(topics)} topics, nearest to {question!r}:")
    for topic, cosine in index.nearest(minilm.embed.remote(question), 3):
        print(f"  {cosine:.2f}  {topic}")


if __name__ == "__main__":
    main()
