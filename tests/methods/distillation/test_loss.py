import pytest
import torch
from torch.autograd import gradcheck
from torch.testing import assert_close

from lit_continual.functional import dice_distillation_loss, distillation_loss

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


def random_logits(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("temperature", [1, 2])
def test_golden_values_and_gradients_of_the_dice_term(golden, temperature):
    numbers = {k: torch.from_numpy(v) for k, v in golden("distill").items()}
    student, teacher = numbers["student_logits"].requires_grad_(), numbers["teacher_logits"]
    heads = numbers["heads"].tolist()
    mean = dice_distillation_loss(student, teacher, heads, temperature)
    samples = dice_distillation_loss(student, teacher, heads, temperature, reduction="per_sample")
    key = f"dice/T{temperature}"
    assert_close(mean.detach(), numbers[f"{key}/mean"], rtol=1e-12, atol=0)
    assert_close(samples.detach(), numbers[f"{key}/per_sample"], rtol=1e-12, atol=0)
    gradient = torch.autograd.grad(mean, student)[0]
    assert_close(gradient, numbers[f"{key}/grad_mean"], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("heads", [None, [[0, 2], [1, 3]]])
@pytest.mark.parametrize("reduction", ["mean", "per_sample"])
def test_gradient_of_the_dice_term_equals_finite_differences(heads, reduction):
    student, teacher = random_logits(2, 4, 3, 2).requires_grad_(), random_logits(2, 4, 3, 2, seed=1)
    assert gradcheck(lambda z: dice_distillation_loss(z, teacher, heads, 1.5, 0.3, reduction), student)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("heads", [None, [[0, 1, 2], [3, 4]]])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_dice_term_and_its_gradient_are_zero_where_student_equals_teacher(dtype, heads, temperature):
    student = (10 * random_logits(2, 5, 6, 7)).to(dtype).requires_grad_()
    loss = dice_distillation_loss(student, student.detach().clone(), heads, temperature)
    assert loss == 0
    assert not torch.autograd.grad(loss, student)[0].any()


def test_a_soft_answer_is_a_minimum_of_the_dice_term():
    """Without squares in the denominator a student of 0 and 1 would be nearer to a teacher in doubt than itself."""
    teacher = torch.full((1, 1, 50), 0.5).logit()
    assert dice_distillation_loss(teacher + 0.3, teacher) > 0
    assert dice_distillation_loss(teacher - 0.3, teacher) > 0
    certain = torch.cat([torch.full((1, 1, 25), 20.0), torch.full((1, 1, 25), -20.0)], 2)
    assert dice_distillation_loss(certain, teacher) > 0.2


def test_a_small_class_weighs_in_the_dice_term_what_a_large_one_does():
    """The same mistake, a class that is lost, costs one half here and one fifth of a percent in eq. 2."""
    sizes, lost = [4, 1000], []
    for size in sizes:
        teacher = torch.full((1, 4, 4000), -20.0)
        teacher[:, 0], teacher[:, 2] = 0, 0  # two heads' backgrounds
        teacher[:, 1, :size] = 20.0
        student = teacher.clone()
        student[:, 1] = -20.0
        teacher[:, 3, -500:], student[:, 3, -500:] = 20.0, 20.0  # of which nothing is lost
        lost.append([dice_distillation_loss(student, teacher, [[0, 1], [2, 3]]).item()])
        lost[-1].append(distillation_loss(student, teacher, [[0, 1], [2, 3]]).item())
    assert lost[0][0] == pytest.approx(0.5 * 4 / 5, rel=1e-4)
    assert lost[1][0] == pytest.approx(0.5 * 1000 / 1001, rel=1e-4)
    assert lost[1][1] / lost[0][1] == pytest.approx(250, rel=1e-3)


def test_means_of_the_dice_term_do_not_depend_on_the_batch():
    student, teacher = random_logits(3, 4, 6, 6), random_logits(3, 4, 6, 6, seed=1)
    samples = dice_distillation_loss(student, teacher, [[0, 1], [2, 3]], reduction="per_sample")
    alone = [dice_distillation_loss(student[i : i + 1], teacher[i : i + 1], [[0, 1], [2, 3]]) for i in range(3)]
    assert_close(samples, torch.stack(alone))
    assert_close(samples.mean(), dice_distillation_loss(student, teacher, [[0, 1], [2, 3]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smooth": 0.0}, "`smooth` must be positive, got 0.0"),
        ({"temperature": 0.0}, "`temperature` must be positive, got 0.0"),
        ({"reduction": "sum"}, "`reduction` must be 'mean' or 'per_sample', got 'sum'"),
        ({"heads": [[0]]}, r"`heads` has \[0\], but a softmax head needs at least two"),
    ],
)
def test_bad_arguments_of_the_dice_term_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        dice_distillation_loss(random_logits(1, 2, 3), random_logits(1, 2, 3), **options)
