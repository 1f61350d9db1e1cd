"""GPU groups and models, CPU sizes: what is read from a user's words, and what is refused."""

from __future__ import annotations

import subprocess
import sys

import pytest

from flashq.model.resources import (
    CpuInstanceType,
    CpuRequest,
    GpuGroup,
    GpuRequest,
    GpuType,
    ServerlessScalerType,
    parse_cpu,
    parse_gpu,
)

H100S = ("NVIDIA H100 PCIe", "NVIDIA H100 80GB HBM3", "NVIDIA H100 NVL")
A100S = ("NVIDIA A100 80GB PCIe", "NVIDIA A100-SXM4-80GB")


def test_flashs_names_are_all_here() -> None:
    # The members of runpod-flash 1.21, as its documentation lists them.
    assert {member.name for member in GpuGroup} == {
        *("ANY", "ADA_24", "ADA_32_PRO", "ADA_48_PRO", "ADA_80_PRO", "AMPERE_16", "AMPERE_24", "AMPERE_48"),
        *("AMPERE_80", "HOPPER_141", "BLACKWELL_96", "BLACKWELL_180"),
    }
    assert len(CpuInstanceType) == 12
    assert {member.value for member in ServerlessScalerType} == {"QUEUE_DELAY", "REQUEST_COUNT"}
    assert GpuGroup("any") is GpuGroup.ANY
    assert GpuType("NVIDIA H200") is GpuType.NVIDIA_H200


def test_every_model_is_in_exactly_one_group() -> None:
    grouped = [product for group in GpuGroup for product in group.products]
    assert len(grouped) == len(set(grouped))
    assert {model.value for model in GpuType.all()} <= set(grouped)
    assert GpuGroup.ANY not in GpuGroup.all()


@pytest.mark.parametrize(
    ("given", "products"),
    [
        (None, ()),
        (GpuGroup.ANY, ()),
        (GpuType.ANY, ()),
        ("any", ()),
        ("ANY", ()),
        ([GpuGroup.ANY, GpuType.NVIDIA_L4], ()),
        (GpuGroup.AMPERE_80, A100S),
        ("ampere_80", A100S),
        (GpuType.NVIDIA_H200, ("NVIDIA H200",)),
        ("NVIDIA_H200", ("NVIDIA H200",)),
        ("nvidia a100-sxm4-80gb", ("NVIDIA A100-SXM4-80GB",)),
        ("NVIDIA_A100_80GB_PCIe", ("NVIDIA A100 80GB PCIe",)),
        ("H100", H100S),
        ("RTX 4090", ("NVIDIA GeForce RTX 4090",)),
        ("L4", ("NVIDIA L4",)),
        ("L40", ("NVIDIA L40",)),
        ("Tesla T4", ("Tesla T4",)),
        ("NVIDIA A10", ("NVIDIA A10",)),
        ([GpuType.NVIDIA_L4, GpuGroup.AMPERE_80], ("NVIDIA L4", *A100S)),
        ((GpuGroup.AMPERE_80, "A100"), A100S),
    ],
)
def test_gpu_is_read_as_product_names_in_the_order_given(given: object, products: tuple[str, ...]) -> None:
    assert parse_gpu(given) == GpuRequest(products)


@pytest.mark.parametrize("given", [True, 1, 0.5, {}, object(), [None], [["L4"]], []])
def test_gpu_refuses_what_is_no_name(given: object) -> None:
    with pytest.raises(ValueError, match="must"):
        parse_gpu(given)


@pytest.mark.parametrize(
    ("given", "suggested"),
    [("AMPERE_81", "AMPERE_80"), ("NVIDIA_H2OO", "NVIDIA H200"), ("hopper", "HOPPER_141")],
)
def test_gpu_refuses_an_unknown_name_with_the_nearest_and_the_list(given: str, suggested: str) -> None:
    with pytest.raises(ValueError, match="no such GPU") as caught:
        parse_gpu(given)
    assert f"did you mean '{suggested}'" in str(caught.value)
    assert all(group.value in str(caught.value) for group in GpuGroup.all())


@pytest.mark.parametrize("given", ["", "RTX", "NVIDIA", "gpu", "80 GB"])
def test_gpu_refuses_words_that_name_no_model(given: str) -> None:
    with pytest.raises(ValueError, match="no such GPU"):
        parse_gpu(given)


def test_a_request_accepts_by_product_name_without_case() -> None:
    assert GpuRequest().any
    assert GpuRequest().accepts("Tesla T4")
    only = parse_gpu("H200")
    assert not only.any
    assert only.accepts("nvidia h200")
    assert not only.accepts("NVIDIA H200 NVL")


@pytest.mark.parametrize("member", list(CpuInstanceType))
def test_cpu_size_is_read_from_the_name(member: CpuInstanceType) -> None:
    _, cores, gib = member.value.split("-")
    for given in (member, member.value, member.name, member.value.upper()):
        assert parse_cpu(given) == CpuRequest(member.value, int(cores), int(gib))


def test_cpu5c_4_8_is_four_cores_and_eight_gib() -> None:
    size = parse_cpu("cpu5c-4-8")
    assert (size.cores, size.memory_gib, size.memory_bytes) == (4, 8, 8 * 2**30)


def test_cpu_any_counts_nothing() -> None:
    assert parse_cpu("any") == CpuRequest("any", None, None)
    assert CpuRequest().memory_bytes is None


def test_of_several_cpu_sizes_the_smallest_is_reserved() -> None:
    assert parse_cpu(["cpu3g-8-32", CpuInstanceType.CPU3C_2_4, "cpu3g-2-8"]).instance == "cpu3c-2-4"
    assert parse_cpu(["cpu3g-8-32", "any"]).instance == "any"


@pytest.mark.parametrize("given", [True, False, None, 4, 4.0, {}, [], [True], ["cpu5c-4-8", 2]])
def test_cpu_refuses_what_is_no_name(given: object) -> None:
    with pytest.raises(ValueError, match="must"):
        parse_cpu(given)


@pytest.mark.parametrize("given", ["cpu5c-4-9", "cpu9c-4-8", "cpu", "", "4", "cpu5c", "GpuGroup.ANY"])
def test_cpu_refuses_an_unknown_name_with_the_list(given: str) -> None:
    with pytest.raises(ValueError, match="no such CPU instance type") as caught:
        parse_cpu(given)
    assert all(member.value in str(caught.value) for member in CpuInstanceType)


def test_importing_it_imports_nothing_heavy() -> None:
    code = "import sys, flashq.model.resources; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert not {"pydantic", "packaging", "difflib", "redis", "rq", "cloudpickle"} & set(loaded)
