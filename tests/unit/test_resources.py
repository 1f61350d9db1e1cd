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
    cuda_suffices,
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
        (["any", "any"], ()),
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


@pytest.mark.parametrize(
    ("wanted", "product", "rank"),
    [
        (None, "Tesla T4", 0),
        ("any", "NVIDIA GeForce GTX 1080 Ti", 0),
        # What Flash names is matched to the letter, but for case and the older drivers' names.
        (GpuType.NVIDIA_GEFORCE_RTX_4090, "NVIDIA GeForce RTX 4090", 0),
        (GpuType.NVIDIA_GEFORCE_RTX_4090, "GeForce RTX 4090", 0),
        (GpuType.NVIDIA_GEFORCE_RTX_4090, "NVIDIA GeForce RTX 4090 D", None),
        (GpuType.NVIDIA_GEFORCE_RTX_4090, "NVIDIA GeForce RTX 4090 Laptop GPU", None),
        (GpuType.NVIDIA_GEFORCE_RTX_3090, "NVIDIA GeForce RTX 3090 Ti", None),
        (GpuType.NVIDIA_A100_SXM4_80GB, "NVIDIA A100-SXM4-80GB", 0),
        (GpuType.NVIDIA_A100_SXM4_80GB, "NVIDIA A100-SXM4-40GB", None),
        (GpuType.NVIDIA_H100_80GB_HBM3, "NVIDIA H100 80GB HBM3", 0),
        (GpuType.NVIDIA_H100_80GB_HBM3, "NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        (GpuType.NVIDIA_L4, "NVIDIA L40S", None),
        ("H200", "nvidia h200", 0),
        ("H200", "NVIDIA H200 NVL", None),
        (GpuGroup.ADA_48_PRO, "NVIDIA L40S", 2),
        (GpuGroup.ADA_80_PRO, "NVIDIA H100 PCIe", 0),
        (GpuGroup.ADA_80_PRO, "NVIDIA H100 80GB HBM3", 1),
        (GpuGroup.AMPERE_80, "NVIDIA A100 80GB PCIe", 0),
        (GpuGroup.AMPERE_80, "NVIDIA A40", None),
        # Other makes: their name stands for every form and memory size of the model, and for no other model.
        ("Tesla V100", "Tesla V100-SXM2-16GB", 0),
        ("Tesla V100", "Tesla V100-PCIE-32GB", 0),
        ("Tesla V100-SXM2-16GB", "Tesla V100-SXM2-32GB", None),
        ("NVIDIA A100-SXM4-40GB", "NVIDIA A100-SXM4-40GB", 0),
        ("NVIDIA A10", "NVIDIA A10G", None),
        ("NVIDIA A30", "NVIDIA A30 MIG 1g.6gb", None),
        ("NVIDIA GeForce RTX 3060", "NVIDIA GeForce RTX 3060 Ti", None),
        ("GeForce RTX 3060", "NVIDIA GeForce RTX 3060", 0),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", 0),
        # A list is an order of preference.
        (["NVIDIA_L4", GpuGroup.AMPERE_80, "Tesla T4"], "NVIDIA L4", 0),
        (["NVIDIA_L4", GpuGroup.AMPERE_80, "Tesla T4"], "NVIDIA A100-SXM4-80GB", 2),
        (["NVIDIA_L4", GpuGroup.AMPERE_80, "Tesla T4"], "Tesla T4", 3),
        (["NVIDIA_L4", GpuGroup.AMPERE_80, "Tesla T4"], "NVIDIA H200", None),
        (["H200", "any"], "NVIDIA H200", 0),
        (["H200", "any"], "Quadro RTX 8000", 1),
        (["H200", "any"], "", 1),
        ("H200", "", None),
    ],
)
def test_names_that_nvml_gives_are_ranked(wanted: object, product: str, rank: int | None) -> None:
    assert parse_gpu(wanted).rank(product) == rank


@pytest.mark.parametrize(
    ("driver", "wanted", "enough"),
    [
        ("12.4", "", True), ("", "", True), ("12.4", "12.4", True), ("13.0", "12.8", True),
        ("12.4", "12.8", False), ("9.2", "12.0", False), ("", "11.0", False),
    ],
)  # fmt: skip
def test_cuda_of_a_driver_is_compared_as_a_version(driver: str, wanted: str, enough: bool) -> None:
    assert cuda_suffices(driver, wanted) is enough


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
