import pytest
import torch
from torch.autograd import gradcheck
from torch.testing import assert_close

from lit_continual.functional import distillation_loss

HEADS = {"sigmoid_bce": None, "softmax_per_head": [[0, 1], [2, 3]], "softmax_joint": [[0, 1, 2, 3]]}


def loss_and_gradient(student, *args, **kwargs):
    student = student.clone().requires_grad_()
    loss = distillation_loss(student, *args, **kwargs)
    return loss.detach(), torch.autograd.grad(loss, student)[0]


@pytest.mark.parametrize("form", HEADS)
@pytest.mark.parametrize("temperature", [1, 2])
@pytest.mark.parametrize("reduction", ["sum", "per_pixel_mean"])
def test_golden_values_and_gradients(golden, form, temperature, reduction):
    numbers = {k: torch.from_numpy(v) for k, v in golden("distill").items()}
    key = f"{form}/T{temperature}"
    if f"{key}/{reduction}" not in numbers:
        pytest.skip("not among the golden numbers")
    loss, gradient = loss_and_gradient(
        numbers["student_logits"], numbers["teacher_logits"], HEADS[form], temperature, reduction
    )
    assert_close(loss, numbers[f"{key}/{reduction}"], rtol=1e-12, atol=0)
    assert_close(gradient, numbers[f"{key}/grad_{reduction}"], rtol=1e-12, atol=1e-14)


def test_the_readings_that_are_wrong_are_not_ours(golden):
    numbers = {k: torch.from_numpy(v) for k, v in golden("distill").items()}
    loss, gradient = loss_and_gradient(numbers["student_logits"], numbers["teacher_logits"], None, 1.0, "sum")
    assert loss > 0
    for name in ("no_minus_grad", "minus_but_no_1mp_term_grad"):
        assert (gradient - numbers[f"wrong/{name}"]).abs().max() > 1e-3
    assert (gradient > 0).any()  # Without the background term every old class drifts to 1.
    assert (gradient < 0).any()


def test_saturated_logits_are_exact(golden):
    numbers = {k: torch.from_numpy(v) for k, v in golden("distill").items() if k.startswith("extreme")}
    p = numbers["extreme/p"]
    teacher = torch.logit(p).clamp(-1e4, 1e4).view(1, -1, 1)
    loss, gradient = loss_and_gradient(numbers["extreme/z"].view(1, -1, 1), teacher, None, 1.0, "sum")
    assert_close(loss, numbers["extreme/loss"].sum())
    assert_close(gradient.flatten(), numbers["extreme/grad"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("heads", [None, [[0, 1], [2, 3]]])
def test_finite_at_200_in_any_precision(dtype, heads):
    student = torch.tensor([200.0, -200.0, 200.0, -200.0], dtype=dtype).view(1, 4, 1)
    loss, gradient = loss_and_gradient(student, -student, heads)
    assert loss.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("heads", [None, [[0, 1, 2], [3, 4]]])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.0])
def test_gradient_is_zero_where_student_equals_teacher(dtype, heads, temperature):
    logits = (10 * torch.randn(2, 5, 6, 7, generator=torch.Generator().manual_seed(0))).to(dtype)
    _, gradient = loss_and_gradient(logits, logits.clone(), heads, temperature)
    assert not gradient.any()


@pytest.mark.parametrize("heads", [None, [[0, 2], [1, 3]]])
@pytest.mark.parametrize("reduction", ["sum", "per_pixel_mean", "per_sample"])
def test_gradient_equals_finite_differences(heads, reduction):
    generator = torch.Generator().manual_seed(1)
    student, teacher = (torch.randn(2, 4, 3, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    student.requires_grad_()
    assert gradcheck(lambda z: distillation_loss(z, teacher, heads, 1.5, reduction), student)


def test_two_way_softmax_is_a_sigmoid_of_the_difference():
    generator = torch.Generator().manual_seed(2)
    student, teacher = (torch.randn(2, 2, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    pair = distillation_loss(student, teacher, [[0, 1]])
    single = distillation_loss(student[:, 1:] - student[:, :1], teacher[:, 1:] - teacher[:, :1])
    assert_close(pair, single)


def test_means_do_not_depend_on_image_size_or_batch():
    generator = torch.Generator().manual_seed(3)
    student, teacher = (torch.randn(2, 4, 6, 6, generator=generator) for _ in range(2))
    heads = [[0, 1], [2, 3]]
    one = distillation_loss(student, teacher, heads)
    tiled = distillation_loss(student.repeat(3, 1, 2, 2), teacher.repeat(3, 1, 2, 2), heads)
    assert_close(one, tiled)
    assert_close(distillation_loss(student, teacher, heads, reduction="per_sample").mean(), one)


def test_no_gradient_reaches_the_teacher():
    student, teacher = torch.randn(1, 2, 4, requires_grad=True), torch.randn(1, 2, 4, requires_grad=True)
    distillation_loss(student, teacher, [[0, 1]]).backward()
    assert student.grad.abs().max() > 0
    assert teacher.grad is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher_logits": torch.zeros(1, 3, 4)}, r"shape \(1, 2, 4\) and `teacher_logits` \(1, 3, 4\)"),
        ({"temperature": 0.0}, "`temperature` must be positive, got 0.0"),
        ({"heads": [[0]]}, r"`heads` has \[0\], but a softmax head needs at least two"),
        ({"heads": [[0, 2]]}, r"`heads` has \[0, 2\].*channels 0 to 1"),
        ({"reduction": "mean"}, "got 'mean'"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {"student_logits": torch.zeros(1, 2, 4), "teacher_logits": torch.zeros(1, 2, 4), **change}
    with pytest.raises(ValueError, match=message):
        distillation_loss(**arguments)
