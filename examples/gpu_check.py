"""Does a GPU worker get the GPU that it was given, and can it work there? `python examples/gpu_check.py [--gpu H100]`

One call fills 256 MiB of each of its worker's GPUs through CUDA's driver (no package is needed for that), reads them
back, and tells what it has seen. Exit code 0: all is well; 1: something is not; 2: there is no GPU, it ran on the CPU.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from flashq import Endpoint


def check() -> dict[str, Any]:
    """Runs on the worker: what it is bound to, and each GPU that CUDA shows there, tried out."""
    import ctypes
    import os
    import uuid

    bound = os.environ["CUDA_VISIBLE_DEVICES"]  # noqa: TID251 -- a worker's, not this program's
    seen: dict[str, Any] = {"bound": bound.split(","), "gpus": []}
    if seen["bound"] == [""]:
        return seen
    cuda = ctypes.CDLL("libcuda.so.1")

    def call(name: str, *arguments: Any) -> None:
        if code := getattr(cuda, name)(*arguments):
            raise RuntimeError(f"{name} failed with CUDA error {code}")

    count, pattern = ctypes.c_int(), 0xA5
    call("cuInit", 0)
    call("cuDeviceGetCount", ctypes.byref(count))
    for index in range(count.value):
        device, context, memory = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
        name, raw, total = ctypes.create_string_buffer(96), (ctypes.c_ubyte * 16)(), ctypes.c_size_t()
        call("cuDeviceGet", ctypes.byref(device), index)
        call("cuDeviceGetName", name, len(name), device)
        call("cuDeviceGetUuid_v2", raw, device)
        call("cuDeviceTotalMem_v2", ctypes.byref(total), device)
        call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        call("cuCtxSetCurrent", context)
        size = 256 << 20
        call("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(size))
        call("cuMemsetD8_v2", memory, ctypes.c_ubyte(pattern), ctypes.c_size_t(size))
        back = ctypes.create_string_buffer(size)
        call("cuMemcpyDtoH_v2", back, memory, ctypes.c_size_t(size))
        call("cuMemFree_v2", memory)
        seen["gpus"].append(
            {
                "name": name.value.decode(),
                "uuid": str(uuid.UUID(bytes=bytes(raw))),
                "gib": total.value / 2**30,
                "sound": back.raw.count(pattern) == size,
            }
        )
    return seen


def main() -> int:
    """One call, and what came of it."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    options.add_argument(
        "--gpu", default="any", help="a group, a model or words of one, as for Endpoint(gpu=…)"
    )
    options.add_argument("--count", type=int, default=1, help="GPUs of the worker")
    given = options.parse_args()

    endpoint = Endpoint(name="gpu-check", gpu=given.gpu, gpu_count=given.count, idle_timeout=1)(check)
    seen = endpoint.remote()
    if seen["bound"] == [""]:
        print("no GPU: it ran on the CPU, with CUDA hidden")
        return 2
    print(f"bound to {', '.join(seen['bound'])}")
    for gpu in seen["gpus"]:
        verdict = "256 MiB written and read" if gpu["sound"] else "READ BACK OTHER BYTES THAN WERE WRITTEN"
        print(f"{gpu['name']} {gpu['uuid']}, {gpu['gib']:.0f} GiB: {verdict}")
    own = {uuid.removeprefix("GPU-").removeprefix("MIG-") for uuid in seen["bound"]}
    if {gpu["uuid"] for gpu in seen["gpus"]} != own:
        print("CUDA shows other GPUs than it is bound to")
        return 1
    return 0 if all(gpu["sound"] for gpu in seen["gpus"]) else 1


if __name__ == "__main__":
    sys.exit(main())
