"""The variables that an executor begins with, beside those of its endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashq_worker.scrub import scrubbed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MODEL_CACHES = {
    "HF_HOME": "huggingface",
    "TORCH_HOME": "torch",
    "SENTENCE_TRANSFORMERS_HOME": "sentence-transformers",
    "FASTEMBED_CACHE_PATH": "fastembed",
    "TIKTOKEN_CACHE_DIR": "tiktoken",
    "TFHUB_CACHE_DIR": "tfhub",
    "KERAS_HOME": "keras",
    "NLTK_DATA": "nltk",
    "VLLM_CACHE_ROOT": "vllm",
    "TRITON_CACHE_DIR": "triton",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
}
"""Where libraries keep what they download or compile: one folder a host, which outlives workers."""


def variables(environ: Mapping[str, str], home: Path, cpus: float) -> dict[str, str]:
    """`environ` without what is flashq's own, with the host's model caches; `cpus`, unless 0, sizes thread pools."""
    found = scrubbed(environ)
    for name, folder in MODEL_CACHES.items():
        if not found.get(name):  # the operator's own place is kept
            found[name] = str(home / "models" / folder)
    if cpus:
        threads = str(max(1, int(cpus)))
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
            found[name] = threads
    return found
