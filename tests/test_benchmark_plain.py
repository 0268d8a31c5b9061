"""The ways of plain fine-tuning of ``benchmarks/plain.py``, without images. About 5 s."""

import pytest
import timm
import torch
from test_benchmarks import FOLDER
from torch import nn


@pytest.fixture
def plain(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import plain  # noqa: PLC0415 - benchmarks are scripts of a folder of their own

    return plain


@pytest.fixture
def body() -> nn.Module:
    return timm.create_model("tf_efficientnet_lite0", pretrained=False)


def rates(phase, steps: int) -> list[list[float]]:
    """Return the rates of each group in each step."""
    found = []
    for step in range(1, steps + 1):
        found.append([group["lr"] for group in phase.optimizer.param_groups])
        phase.optimizer.step()
        phase.advance(step)
    return found


@pytest.mark.ci
def test_fastai_trains_the_head_and_then_all_with_discriminative_rates(plain, body):
    network = plain.BodyAndHead(body, 3)
    every = [id(each) for each in network.parameters()]
    early, late, head = network.groups()
    assert sorted(id(each) for each in (*early, *late, *head)) == sorted(every)
    assert any(each is body.conv_stem.weight for each in early)
    assert any(each is body.conv_head.weight for each in late)
    phases = plain.fastai_phases(network, 5, 10)
    first = next(phases)
    frozen = {id(each) for each in network.body.parameters() if not each.requires_grad}
    assert frozen == {id(each) for each in network.body.parameters() if each.dim() > 1}
    assert first.epochs == 1
    assert max(rates(first, 10))[2] == pytest.approx(2e-3, rel=0.1)
    second = next(phases)
    assert all(each.requires_grad for each in network.parameters())
    assert second.epochs == 4
    found = torch.tensor(rates(second, 40))
    assert found[0].tolist() == pytest.approx([2e-6, 2e-5, 2e-4])
    assert found.max(0).values.tolist() == pytest.approx([1e-5, 1e-4, 1e-3], rel=0.01)
    assert int(found[:, 2].argmax()) == pytest.approx(12, abs=1)
    assert found[-1, 2] < 1e-5
    assert network(torch.rand(2, 3, 64, 64)).shape == (2, 3)


@pytest.mark.ci
def test_timm_trains_everything_with_a_cosine_after_a_warm_up(plain, body):
    network = plain.with_linear_head(body, 3)
    (phase,) = plain.timm_phases(1e-3)(network, 5, 10)
    trained = [id(each) for group in phase.optimizer.param_groups for each in group["params"]]
    assert sorted(trained) == sorted(id(each) for each in network.parameters())
    found = [max(each) for each in rates(phase, 50)]
    assert found[0] == pytest.approx(1e-5)
    assert max(found) == pytest.approx(1e-3, rel=0.1)
    assert found.index(max(found)) in {10, 11}
    assert found[-1] < 1e-5
    assert network(torch.rand(2, 3, 64, 64)).shape == (2, 3)


def test_ways_are_compared_by_seed(plain):
    """Seeds that only one of both has do not count; the difference is ours less the other."""
    names = ("seed", "way", "accuracy", plain.FROM_FILES, plain.FROM_CACHE)
    rows = [
        dict(zip(names, row, strict=False))
        for row in (
            (0, "ours", 0.9, 20.0, 10.0),
            (1, "ours", 0.8, 20.0, 10.0),
            (2, "ours", 0.1, 99.0, 99.0),
            (0, "fastai", 0.8, 60.0),
            (1, "fastai", 0.8, 100.0),
        )
    ]
    found = plain.compared(rows)["fastai"]
    assert found["ours less it"][0] == pytest.approx(0.05)
    low, high = found["ours less it"][1:]
    assert (low + high) / 2 == pytest.approx(0.05)
    assert low < -0.5
    assert [found[name] for name in plain.RATIOS.values()] == [4.0, 8.0]
    (head, *table) = plain.tables({"faces": plain.compared(rows), "faces, seed 0, ours": {}})[
        "plain"
    ]
    assert {len(row) for row in table} == {len(head)}
    assert [row[0] for row in table] == ["faces, ours", "faces, fastai"]
