"""The same vectors by plain means, to compare: one text at a time, no batches, no padding, no flashq.

The demo runs it in a process of its own: it reads a JSON list of texts from standard input and writes a JSON
list of vectors to standard output.
"""

from __future__ import annotations

import json
import math
import sys
from typing import Any

from embedding import MAX_TOKENS, MODEL_FILE, TOKENIZER_FILE, find_file


def embed_one(tokenizer: Any, session: Any, text: str) -> list[float]:
    """Return the unit vector of one text: the mean of its tokens' states, brought to length 1."""
    encoded = tokenizer.encode(text)
    ones, zeros = [1] * len(encoded.ids), [0] * len(encoded.ids)
    inputs = {"input_ids": [encoded.ids], "attention_mask": [ones], "token_type_ids": [zeros]}
    states = session.run(["last_hidden_state"], inputs)[0][0].tolist()
    means = [math.fsum(column) / len(states) for column in zip(*states, strict=True)]
    length = math.hypot(*means)
    return [mean / length for mean in means]


def main() -> None:
    """Answer standard input on standard output."""
    import onnxruntime
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(find_file(*TOKENIZER_FILE))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    session = onnxruntime.InferenceSession(find_file(*MODEL_FILE), providers=["CPUExecutionProvider"])
    json.dump([embed_one(tokenizer, session, text) for text in json.load(sys.stdin)], sys.stdout)


if __name__ == "__main__":
    main()
