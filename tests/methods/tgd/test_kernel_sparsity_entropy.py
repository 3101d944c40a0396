import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lit_continual.functional import kernel_sparsity_entropy

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "kse.npz")


def normalised(values, constant):
    low, high = min(values), max(values)
    return [(v - low) / (high - low) if high > low else constant for v in values]


def brute_force(weight, k, alpha):
    """The paper's equations with Python lists and loops."""
    sparsity, entropy = [], []
    for c in range(weight.shape[1]):
        kernels = [weight[n, c].flatten().tolist() for n in range(weight.shape[0])]
        sparsity.append(sum(abs(v) for kernel in kernels for v in kernel))
        density = [
            sum(sorted(math.dist(a, b) for j, b in enumerate(kernels) if j != i)[:k]) for i, a in enumerate(kernels)
        ]
        shares = [d / sum(density) for d in density]
        entropy.append(-sum(p * math.log2(p) for p in shares if p > 0))
    s, e = normalised(sparsity, 1.0), normalised(entropy, 0.0)
    return normalised([math.sqrt(a / (1 + alpha * b)) for a, b in zip(s, e, strict=True)], 1.0)


@pytest.mark.parametrize("name", GOLDEN["names"].tolist())
def test_golden(name):
    score = kernel_sparsity_entropy(torch.from_numpy(GOLDEN[f"{name}/W"]))
    np.testing.assert_allclose(score.numpy(), GOLDEN[f"{name}/kse"], atol=1e-5, rtol=0)


def test_golden_transposed():
    score = kernel_sparsity_entropy(torch.from_numpy(GOLDEN["convtranspose_8x16/W"]), transposed=True)
    np.testing.assert_allclose(score.numpy(), GOLDEN["convtranspose_8x16/kse"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(9, 4, 3), (7, 5, 3, 2), (12, 3, 2, 2, 2)])
@pytest.mark.parametrize(("k", "alpha"), [(5, 1.0), (2, 0.5), (1, 0.0), (50, 2.0)])
def test_equals_the_equations_with_loops(shape, k, alpha):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.tensor(brute_force(weight, k, alpha), dtype=torch.float64)
    torch.testing.assert_close(kernel_sparsity_entropy(weight, k, alpha), expected, atol=1e-9, rtol=0)


def test_chunks_do_not_show(monkeypatch):
    weight = torch.randn(12, 9, 3, 3, generator=torch.Generator().manual_seed(0))
    whole = kernel_sparsity_entropy(weight)
    monkeypatch.setattr(sys.modules[kernel_sparsity_entropy.__module__], "_CHUNK", 300)  # two channels at a time
    torch.testing.assert_close(kernel_sparsity_entropy(weight), whole, atol=0, rtol=0)


def test_permuting_outputs_changes_nothing_and_permuting_inputs_permutes():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(10, 6, 3, 3, generator=generator)
    score = kernel_sparsity_entropy(weight)
    order = torch.randperm(6, generator=generator)
    torch.testing.assert_close(kernel_sparsity_entropy(weight[torch.randperm(10, generator=generator)]), score)
    torch.testing.assert_close(kernel_sparsity_entropy(weight[:, order]), score[order])


@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (1, 1, 1), (1, 5, 1, 1), (6, 1, 1, 1, 1), (2, 2, 3)])
@pytest.mark.parametrize("value", [0.0, 0.1])
def test_a_constant_layer_is_all_useful_and_a_dead_one_all_redundant(shape, value):
    score = kernel_sparsity_entropy(torch.full(shape, value))
    torch.testing.assert_close(score, torch.full((shape[1],), float(value > 0), dtype=torch.float64), atol=0, rtol=0)


def test_channels_that_differ_only_by_the_order_of_their_kernels_are_equal():
    kernels = torch.randn(16, 27, generator=torch.Generator().manual_seed(0)) * 1e3
    weight = torch.stack([kernels[torch.randperm(16)] for _ in range(4)], 1).view(16, 4, 3, 3, 3)
    assert kernel_sparsity_entropy(weight).tolist() == [1.0] * 4


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_does_not_matter(scale):
    weight = torch.from_numpy(GOLDEN["partial_dups_ch1_12x6/W"]).double()
    torch.testing.assert_close(kernel_sparsity_entropy(weight * scale), kernel_sparsity_entropy(weight))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_computes_in_float64_whatever_comes_and_keeps_no_graph(dtype):
    weight = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    score = kernel_sparsity_entropy(weight)
    torch.testing.assert_close(score, kernel_sparsity_entropy(weight.double()), atol=0, rtol=0)
    assert not score.requires_grad


@pytest.mark.parametrize(
    ("weight", "options", "message"),
    [
        (torch.ones(3, 3), {}, r"one to three kernel dimensions.*\(3, 3\)"),
        (torch.ones(3, 0, 3), {}, r"non-empty float tensor.*\(3, 0, 3\)"),
        (torch.ones(3, 3, 3, dtype=torch.int64), {}, "float tensor.*torch.int64"),
        (torch.full((3, 3, 3), math.nan), {}, "holds nan or inf"),
        (torch.ones(3, 3, 3), {"k": 0}, "`k` must be at least 1, got 0"),
        (torch.ones(3, 3, 3), {"alpha": -1}, "`alpha` must be a number of 0 or more, got -1"),
    ],
)
def test_bad_input(weight, options, message):
    with pytest.raises(ValueError, match=message):
        kernel_sparsity_entropy(weight, **options)


@pytest.mark.slow
def test_a_layer_of_512_times_512_kernels_fits_into_two_gigabytes():
    code = (
        "import resource, torch; from lit_continual.functional import kernel_sparsity_entropy as kse;"
        "torch.set_num_threads(1); kse(torch.randn(512, 512, 3, 3));"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(run.stdout) * unit < 2 * 2**30
