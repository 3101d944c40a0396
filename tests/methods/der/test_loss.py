import pytest
import torch
from torch.testing import assert_close

from lit_continual.functional import dark_experience_loss


@pytest.mark.parametrize("spatial", [(), (4, 3), (3, 2, 2)])
def test_it_is_the_mean_square_of_the_channels_that_were_there(spatial):
    torch.manual_seed(0)
    logits = torch.randn(2, 5, *spatial, requires_grad=True)
    stored = torch.randn(2, 3, *spatial, requires_grad=True)
    found = dark_experience_loss(logits, stored)
    by_hand = [sum((logits[b, c] - stored[b, c]).square().mean() for c in range(3)) / 3 for b in range(2)]
    assert_close(found, torch.stack(by_hand))
    found.sum().backward()
    assert stored.grad is None
    size = 3 * logits[0, 0].numel()
    assert_close(
        logits.grad[:, :3],
        2 * (logits - torch.nn.functional.pad(stored.detach(), [0, 0] * len(spatial) + [0, 2]))[:, :3].detach() / size,
    )
    assert (logits.grad[:, 3:] == 0).all()


def test_equal_logits_have_no_gradient_and_half_precision_is_not_kept():
    logits = torch.randn(2, 3, 4, dtype=torch.bfloat16).requires_grad_()
    loss = dark_experience_loss(logits, logits.detach())
    loss.sum().backward()
    assert loss.dtype == torch.float32
    assert (loss == 0).all()
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("shape", [(2, 4, 5), (1, 2, 5), (2, 2, 4)])
def test_shapes_that_do_not_fit_are_named(shape):
    with pytest.raises(ValueError, match=r"`logits` have shape \(2, 3, 5\) and `stored_logits` "):
        dark_experience_loss(torch.zeros(2, 3, 5), torch.zeros(shape))
