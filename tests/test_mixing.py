"""MixUp and CutMix in fine-tuning.

About 3 s.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from bottleneck import FinetuneSettings
from bottleneck.errors import UsageError
from bottleneck.finetune.checkpoints import changed_settings
from bottleneck.finetune.mixing import check_mix, mixed
from bottleneck.heads.training import losses

ROWS = np.array([4, 0, 5, 2, 3, 1])
SEED = (0, 1, 2, 0, 1)
KINDS = ("mixup", "cutmix")


def settings(mix: str, **others) -> FinetuneSettings:
    return FinetuneSettings("all", mix=mix, mix_alpha=1.0, **others)


def maps(number: int = 6) -> torch.Tensor:
    """Activations whose values tell the image: image r has r + 1 everywhere."""
    return (torch.from_numpy(ROWS[:number]) + 1.0)[:, None, None, None].expand(-1, 3, 8, 8)


def shares_of(parts) -> torch.Tensor:
    """Return the share of each image (columns) in each mixture (rows)."""
    found = torch.zeros(len(parts[0][1]), len(ROWS))
    for share, rows in parts:
        found += share[:, None] * functional.one_hot(torch.from_numpy(rows), len(ROWS))
    return found


def test_nothing_is_mixed_by_default():
    given = maps()
    found, parts = mixed(given, ROWS, FinetuneSettings("all"), SEED)
    assert found is given
    assert parts == [(1.0, ROWS)]


@pytest.mark.parametrize("kind", KINDS)
def test_shares_are_those_in_the_mixture(kind):
    """The mean of a mixture is that of its images, by their shares; the largest come first."""
    for step in range(20):
        found, parts = mixed(maps(), ROWS, settings(kind), (0, 1, step, 0, 1))
        shares = shares_of(parts)
        means = shares @ (torch.arange(6) + 1.0)
        torch.testing.assert_close(found.mean(dim=(1, 2, 3)), means)
        torch.testing.assert_close(shares.sum(dim=1), torch.ones(6))
        assert bool((parts[0][0] >= parts[1][0]).all())
        assert not (parts[0][1] == parts[1][1])[(parts[0][0] < 1).numpy()].any()
        values = found[0].unique()
        assert len(values) <= (1 if kind == "mixup" else 2)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_depend_on_the_seed_alone(kind):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, parts = mixed(maps(), ROWS, settings(kind), SEED)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again, same = mixed(maps(), ROWS, settings(kind), SEED)
    assert torch.equal(first, again)
    assert torch.equal(shares_of(parts), shares_of(same))
    others = [mixed(maps(), ROWS, settings(kind), (*SEED[:-1], number))[0] for number in (2, 3)]
    assert not torch.equal(first, others[0])
    assert not torch.equal(others[0], others[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("link", ["softmax", "one_vs_rest", "independent"])
def test_the_loss_is_that_of_the_mixed_labels(kind, link):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(6, 3, generator=generator)
    codes = torch.tensor([0, 1, 2, 0, 1, 2])
    if link == "independent":
        codes = torch.rand(6, 3, generator=generator) < 0.5
    _, parts = mixed(maps(), ROWS, settings(kind), SEED)
    found = sum(share * losses(link, scores, codes[rows], 0.1).mean(dim=1) for share, rows in parts)
    labels = codes if link == "independent" else functional.one_hot(codes)
    soft = shares_of(parts) @ labels.float()
    if link == "softmax":
        expected = functional.cross_entropy(scores, soft, reduction="none", label_smoothing=0.1)
    else:
        smooth = soft * 0.9 + 0.05
        each = functional.binary_cross_entropy_with_logits(scores, smooth, reduction="none")
        expected = each.mean(dim=1)
    torch.testing.assert_close(found, expected)


def test_vectors_and_tokens_can_be_mixed_up():
    for shape in ((6, 5), (6, 4, 5)):
        given = (torch.arange(6)[ROWS] + 1.0).reshape(6, *[1] * (len(shape) - 1)).expand(shape)
        found, parts = mixed(given, ROWS, settings("mixup"), SEED)
        assert found.shape == shape
        means = shares_of(parts) @ (torch.arange(6) + 1.0)
        torch.testing.assert_close(found.flatten(1).mean(dim=1), means)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_alone_stays_as_it_is(kind):
    found, parts = mixed(maps(1), ROWS[:1], settings(kind), SEED)
    torch.testing.assert_close(found, maps(1))
    torch.testing.assert_close(shares_of(parts).sum(), torch.tensor(1.0))
    assert all(rows.tolist() == ROWS[:1].tolist() for _, rows in parts)


def test_rectangles_are_cut_out_of_maps_only():
    layers = {name: SimpleNamespace(axes=name) for name in ("CHW", "NC", "C", "HWC")}
    network = SimpleNamespace(layers=layers)
    for boundary in (None, "CHW"):
        check_mix(settings("cutmix"), network, SimpleNamespace(boundary=boundary))
    for boundary in ("NC", "C", "HWC"):
        split = SimpleNamespace(boundary=boundary)
        check_mix(settings("mixup"), network, split)
        with pytest.raises(UsageError, match=f"{boundary!r}, which is the input of what is"):
            check_mix(settings("cutmix"), network, split)


def test_alpha_without_mix_is_refused():
    with pytest.raises(UsageError, match="`mix_alpha` has no effect without `mix`"):
        FinetuneSettings("all", mix_alpha=0.3)


def test_a_run_is_resumed_in_the_same_pieces_where_they_are_mixed():
    for mix, names in (("none", []), ("mixup", ["accumulate"])):
        whole, pieces = (FinetuneSettings("all", mix=mix, accumulate=each) for each in (1, 2))
        assert changed_settings(whole, pieces.as_dict()) == names
