import math

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from lit_continual.functional import unbiased_cross_entropy, unbiased_distillation_loss


def random(*shape, seed=0, dtype=torch.float64):
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def labels(channels, *shape):
    return torch.randint(0, channels, shape, generator=torch.Generator().manual_seed(1))


def with_gradient(function, logits, *args):
    logits = logits.clone().requires_grad_()
    loss = function(logits, *args)
    return loss.detach(), torch.autograd.grad(loss, logits)[0]


def test_golden_values_and_gradients(golden):
    numbers = {k: torch.from_numpy(v) for k, v in golden("mib").items()}
    loss, gradient = with_gradient(
        unbiased_cross_entropy, numbers["logits"], numbers["target"], int(numbers["old_channels"])
    )
    assert_close(loss, numbers["unce"], rtol=1e-12, atol=0)
    assert_close(gradient, numbers["grad_unce"], rtol=1e-12, atol=1e-14)
    loss, gradient = with_gradient(unbiased_distillation_loss, numbers["logits"], numbers["old_logits"])
    assert_close(loss, numbers["unkd"], rtol=1e-12, atol=0)
    assert_close(gradient, numbers["grad_unkd"], rtol=1e-12, atol=1e-14)


def test_golden_values_of_the_other_file(golden):
    numbers = {k: torch.from_numpy(v) for k, v in golden("distill").items()}
    found = unbiased_distillation_loss(numbers["mib/student_logits"], numbers["teacher_logits"])
    assert_close(found, numbers["mib/unkd_mean"], rtol=1e-12, atol=0)


@pytest.mark.parametrize("spatial", [(4, 5), (2, 3, 4), ()])
def test_every_voxel_has_the_probability_that_it_may_have(spatial):
    logits, target = random(2, 5, *spatial), labels(5, 2, *spatial)
    p = logits.softmax(1)
    p[:, 0] = p[:, :3].sum(1)  # the labels' background may be any old class
    assert_close(unbiased_cross_entropy(logits, target, 3), -p.gather(1, target[:, None]).log().mean())
    teacher = random(2, 3, *spatial, seed=2)
    q = logits.softmax(1)
    q[:, 0] += q[:, 3:].sum(1)  # to the old network new classes were background
    assert_close(unbiased_distillation_loss(logits, teacher), -(teacher.softmax(1) * q[:, :3].log()).sum(1).mean() / 3)


def test_without_old_classes_it_is_the_ordinary_cross_entropy():
    logits, target = random(2, 4, 3, 3), labels(4, 2, 3, 3)
    assert_close(unbiased_cross_entropy(logits, target, 1), cross_entropy(logits, target))


def test_without_new_classes_it_is_ordinary_distillation_and_labels_may_be_old():
    """As in a domain increment, where `inputs[:, 1:-0]` of a public implementation is empty."""
    student, teacher, target = random(2, 3, 4, 4), random(2, 3, 4, 4, seed=1), labels(3, 2, 4, 4)
    expected = cross_entropy(student, teacher.softmax(1)) / 3
    assert_close(unbiased_distillation_loss(student, teacher), expected)
    assert unbiased_distillation_loss(student, teacher).isfinite()
    foreground = target.clamp(min=1)
    assert_close(unbiased_cross_entropy(student, foreground, 3), cross_entropy(student, foreground))


def test_classes_that_share_what_the_background_had_have_no_gradient():
    teacher = random(2, 3, 4, 4)
    background = teacher[:, :1] - math.log(3)
    student = torch.cat([background, teacher[:, 1:], background, background], 1)
    _, gradient = with_gradient(unbiased_distillation_loss, student, teacher)
    assert gradient.abs().max() < 1e-17
    _, gradient = with_gradient(unbiased_distillation_loss, teacher, teacher)
    assert not gradient.any()


def test_adding_a_constant_to_all_logits_changes_nothing():
    logits, teacher, target = random(2, 5, 4), random(2, 3, 4, seed=1), labels(5, 2, 4)
    assert_close(unbiased_cross_entropy(logits + 7, target, 3), unbiased_cross_entropy(logits, target, 3))
    assert_close(unbiased_distillation_loss(logits - 7, teacher + 3), unbiased_distillation_loss(logits, teacher))


def test_gradients_equal_finite_differences():
    logits, teacher, target = random(2, 5, 2, 2).requires_grad_(), random(2, 3, 2, 2, seed=1), labels(5, 2, 2, 2)
    assert gradcheck(lambda z: unbiased_cross_entropy(z, target, 3), logits)
    assert gradcheck(lambda z: unbiased_distillation_loss(z, teacher), logits)
    teacher.requires_grad_()
    assert torch.autograd.grad(unbiased_distillation_loss(logits, teacher), teacher, allow_unused=True) == (None,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_finite_at_200_in_any_precision(dtype):
    logits = torch.tensor([200.0, -200.0, 200.0, -200.0], dtype=dtype).view(1, 4, 1)
    for function, args in (
        (unbiased_cross_entropy, (torch.ones(1, 1, dtype=torch.long), 2)),
        (unbiased_distillation_loss, (-logits[:, :2],)),
    ):
        loss, gradient = with_gradient(function, logits, *args)
        assert loss.isfinite()
        assert loss.dtype == torch.float32
        assert gradient.isfinite().all()


def test_bad_arguments_are_named():
    logits, target = random(1, 4, 3), labels(4, 1, 3)
    for old in (0, 5):
        with pytest.raises(ValueError, match=rf"`old_channels` must be from 1, .* to the 4 channels .* got {old}"):
            unbiased_cross_entropy(logits, target, old)
    with pytest.raises(ValueError, match=r"`target` has shape \(1, 1, 3\), and logits of \(1, 4, 3\) need \(1, 3\)"):
        unbiased_cross_entropy(logits, target[:, None], 2)
    for teacher in (random(1, 5, 3), random(1, 3, 2), random(2, 3, 3)):
        with pytest.raises(ValueError, match=r"have shape \(1, 4, 3\), those of the old network"):
            unbiased_distillation_loss(logits, teacher)
