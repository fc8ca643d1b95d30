import pytest
import torch

from milepost.modeling import label_loss as module
from milepost.modeling.label_loss import label_losses


def drawn(rows, dtype=torch.float32):
    generator = torch.Generator().manual_seed(4)
    hidden = torch.randn(rows, 16, generator=generator).to(dtype).requires_grad_()
    head = torch.randn(50, 16, generator=generator).to(dtype)
    return hidden, head, torch.randint(0, 50, (rows,), generator=generator)


@pytest.mark.parametrize("rows", [1, 255, 256, 700])
def test_loss_hits_and_gradient_equal_cross_entropy(rows):
    hidden, head, labels = drawn(rows)
    losses, hits = label_losses(hidden, head, labels)
    loss = losses.sum()
    (loss / rows).backward()
    ours, hidden.grad = hidden.grad, None

    logits = hidden @ head.T
    reference = torch.nn.functional.cross_entropy(logits, labels)
    reference.backward()
    assert (loss / rows).item() == pytest.approx(reference.item(), abs=1e-6)
    assert torch.equal(hits, logits.argmax(-1) == labels)
    torch.testing.assert_close(ours, hidden.grad, atol=1e-7, rtol=1e-4)


def test_without_gradients_none_is_formed():
    hidden, head, labels = drawn(10)
    with torch.no_grad():
        losses, _ = label_losses(hidden, head, labels)
    assert not losses.requires_grad


def test_a_weighted_loss_has_the_gradient_of_its_weights():
    hidden, head, labels = drawn(300)
    weights = torch.linspace(-1, 1, 300)
    losses, _ = label_losses(hidden, head, labels)
    (losses * weights).sum().backward()
    ours, hidden.grad = hidden.grad, None
    (torch.nn.functional.cross_entropy(hidden @ head.T, labels, reduction="none") * weights).sum().backward()
    torch.testing.assert_close(ours, hidden.grad, atol=1e-6, rtol=1e-4)


def test_logits_exist_for_one_chunk_at_a_time():
    assert module.CHUNK * 49_152 * 4 < 60e6  # bytes of fp32 logits of the default base
