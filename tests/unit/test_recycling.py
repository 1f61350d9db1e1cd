"""When an executor is replaced: tables."""

from __future__ import annotations

import pytest

from flashq_worker.recycling import GIB, is_due, is_poisoned


@pytest.mark.parametrize(
    ("terms", "jobs", "rss_bytes", "why"),
    [
        ({}, 10**6, 1 << 50, ""),
        ({"recycle_jobs": 3}, 2, 0, ""),
        ({"recycle_jobs": 3}, 3, 0, "it has run 3 jobs"),
        ({"recycle_gib": 1.5}, 1, int(1.5 * GIB), ""),
        ({"recycle_gib": 1.5}, 1, 2 * GIB, "it has 2.00 GiB of memory, more than 1.5"),
        ({"startup_timeout": 5.0}, 9, 9 * GIB, ""),
    ],
)
def test_due_after_jobs_or_above_memory(terms: dict[str, float], jobs: int, rss_bytes: int, why: str) -> None:
    assert is_due(terms, jobs=jobs, rss_bytes=rss_bytes) == why


@pytest.mark.parametrize(
    ("kind", "message", "poisoned"),
    [
        ("RuntimeError", "CUDA error: device-side assert triggered\nCUDA kernel errors might be …", True),
        ("torch.AcceleratorError", "CUDA error: an illegal memory access was encountered", True),
        (
            "cupy_backends.cuda.api.runtime.CUDARuntimeError",
            "cudaErrorIllegalAddress: an illegal memory access",
            True,
        ),
        ("pycuda._driver.LogicError", "cuMemcpyDtoH failed: CUDA_ERROR_LAUNCH_FAILED", True),
        ("RuntimeError", "CUDA error: uncorrectable ECC error encountered", True),
        ("torch.OutOfMemoryError", "CUDA out of memory. Tried to allocate 20.00 GiB", False),
        ("RuntimeError", "CUDA error: out of memory", False),
        ("RuntimeError", "CUDA error: no kernel image is available for execution on the device", False),
        ("RuntimeError", "CUDA error: invalid device ordinal", False),
        ("AssertionError", "cudaErrorAssertion is no error of CUDA's", False),
        ("ValueError", "an illegal memory access was encountered", False),
    ],
)
def test_errors_after_which_nothing_of_cuda_works(kind: str, message: str, poisoned: bool) -> None:
    assert is_poisoned({"type": kind, "message": message}) is poisoned
