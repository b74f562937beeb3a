from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import ndimage

from nnunet_instance_trainers.instances import label_batch, labelling
from nnunet_instance_trainers.instances.labelling import label_objects, labeller
from nnunet_instance_trainers.instances.propagation import propagate_labels

CUDA = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def _forget():
    labeller.cache_clear()
    yield
    labeller.cache_clear()


@pytest.fixture
def masks() -> torch.Tensor:
    return torch.rand((3, 9, 8, 7), generator=torch.Generator().manual_seed(1)) < 0.2


class Memory:
    """Stands in for CuPy's allocator and counts what it is asked for."""

    def __init__(self, malloc, free) -> None:
        self.malloc = malloc


@pytest.fixture
def cupy(monkeypatch):
    """NumPy and SciPy in the place of CuPy and its ndimage, whose functions have the same arguments."""
    cuda = SimpleNamespace(
        Device=lambda index: nullcontext(),
        ExternalStream=lambda pointer: nullcontext(),
        PythonFunctionAllocator=Memory,
        using_allocator=lambda malloc: nullcontext(),
    )
    modules = {"cupy": SimpleNamespace(cuda=cuda, from_dlpack=np.from_dlpack), "cupyx.scipy.ndimage": ndimage}
    stream = SimpleNamespace(cuda_stream=0)
    monkeypatch.setattr(labelling.importlib, "import_module", modules.__getitem__)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device: self)  # there is no CUDA to go to
    return modules


def test_ids_are_those_of_each_sample(masks: torch.Tensor) -> None:
    ids = label_batch(masks)
    assert ids.dtype == torch.int32 and ids.device == masks.device
    for found, mask in zip(ids, masks):
        expected, n = ndimage.label(mask, np.ones((3, 3, 3)))
        assert len(np.unique(np.stack((found, expected)).reshape(2, -1), axis=1).T) == n + 1 == found.max() + 1


def test_the_host_is_used_on_a_cpu_and_where_no_gpu_way_was_made() -> None:
    assert str(labeller(torch.device("cpu"))) == "cc3d (the fastest on a CPU)"
    assert labeller(torch.device("mps")).name == "cc3d" and "this is mps" in labeller(torch.device("mps")).reason


def test_pytorch_is_used_on_cuda_without_cupy(monkeypatch) -> None:
    def missing(device):
        raise ModuleNotFoundError("No module named 'cupy'")

    monkeypatch.setattr(labelling, "_check_cupy", missing)
    assert labeller(CUDA).label is propagate_labels and "not installed" in labeller(CUDA).reason


def test_cupy_is_used_on_cuda_where_it_works(cupy, masks: torch.Tensor) -> None:
    chosen = labeller(CUDA)
    assert chosen.name == "CuPy"
    assert all(map(labelling._same_components, chosen.label(masks), propagate_labels(masks)))
    several = masks * torch.randint(1, 3, masks.shape)  # CuPy would join them
    assert torch.equal(chosen.label(several), propagate_labels(several))


@pytest.mark.parametrize("wrong", [lambda ids: ids.clip(max=1), lambda ids: ids + (ids == 0), lambda ids: ids * 0])
def test_a_cupy_that_finds_other_components_is_not_used(cupy, wrong) -> None:
    label = ndimage.label
    cupy["cupyx.scipy.ndimage"] = SimpleNamespace(label=lambda *args: (wrong(label(*args)[0]), 1))
    assert labeller(CUDA).name == "PyTorch" and "finds other components" in labeller(CUDA).reason


def test_a_cupy_that_fails_is_not_used_and_the_reason_says_why(cupy) -> None:
    def fails(*_):
        raise RuntimeError("CUDA driver version is insufficient")

    cupy["cupyx.scipy.ndimage"] = SimpleNamespace(label=fails)
    assert labeller(CUDA).label is propagate_labels and "driver version is insufficient" in labeller(CUDA).reason


def test_a_gpu_without_memory_left_gets_its_ids_from_the_host(monkeypatch, masks: torch.Tensor) -> None:
    def full(labels):
        raise torch.cuda.OutOfMemoryError("out of memory")

    monkeypatch.setattr(labelling, "labeller", lambda device: labelling.Labeller("PyTorch", "", full))
    assert torch.equal(label_batch(masks), labelling._on_host(masks))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_all_ways_agree_on_a_gpu(masks: torch.Tensor) -> None:
    there = masks.to(CUDA)
    host = label_batch(masks)
    for ids in (label_batch(there), propagate_labels(there), labelling._on_host(there)):
        assert ids.device == there.device
        assert all(map(labelling._same_components, ids.cpu(), host))


@pytest.mark.parametrize("label", [labelling._on_host, propagate_labels], ids=["one by one", "at once"])
def test_objects_of_several_scales_and_classes(monkeypatch, label) -> None:
    """As each image labelled alone; a sample is a class in an image."""
    monkeypatch.setattr(labelling, "labeller", lambda device: labelling.Labeller("some", "", label))
    generator = torch.Generator().manual_seed(2)
    scales = [torch.randint(-4, 6, shape, generator=generator).clamp(min=0) for shape in ((2, 9, 8), (2, 5, 4))]
    scales = [scale.where(scale != 2, 0).byte() for scale in scales]
    objects = label_objects(scales, (1, 3, 4, 5))
    expected = []
    for scale in scales:
        for image in scale:
            for one in (1, 3, 4, 5):
                ids = label_batch((image == one)[None])
                expected.append(sorted(ids[ids > 0].bincount()[1:].tolist()))
    found = [sorted(objects.size[objects.sample == sample].tolist()) for sample in range(objects.n_samples)]
    assert found == expected and len(objects) == sum(map(len, expected)) > 20
    assert objects.number.tolist() == list(map(len, expected))


def test_a_gpu_without_memory_left_gets_its_objects_from_the_host(monkeypatch, masks: torch.Tensor) -> None:
    def full(labels):
        raise torch.cuda.OutOfMemoryError("out of memory")

    expected = label_objects([masks])
    monkeypatch.setattr(labelling, "labeller", lambda device: labelling.Labeller("PyTorch", "", full))
    found = label_objects([masks])
    assert torch.equal(found.member, expected.member) and torch.equal(found.sample, expected.sample)
