"""What classifies images without a pretrained network, for the benchmarks to compare with."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from bottleneck.heads import fit_rows
from bottleneck.images import ImageItem, decode

SIDE = 64
BATCH = 32


def raw_pixels(train: Sequence[ImageItem], val: Sequence[ImageItem], test: Sequence[ImageItem]):
    """Return the test accuracy of logistic regression on 32 x 32 pixels; C is chosen on val."""
    (X, y), held, (X_test, y_test) = (flattened(items) for items in (train, val, test))
    head = fit_rows(X, y, "softmax", validation=held)
    return float((head.predict(X_test) == y_test).mean())


def flattened(items: Sequence[ImageItem]) -> tuple[np.ndarray, np.ndarray]:
    pixels = np.stack([thumbnail(item.path, 32) for item in items])
    return pixels.reshape(len(items), -1), np.array([item.label for item in items])


@cache
def thumbnail(path: str, side: int) -> np.ndarray:
    """Return an image resized to a square, as float32 from 0 to 1."""
    image = Image.fromarray(decode(Path(path).read_bytes()))
    return np.asarray(image.resize((side, side)), dtype=np.float32) / 255


def small_convnet(
    train: Sequence[ImageItem],
    val: Sequence[ImageItem],
    test: Sequence[ImageItem],
    *,
    seed: int,
    epochs: int,
) -> float:
    """Return the test accuracy of four convolutions trained from scratch on flips and shifts.

    Kept is the epoch with the best accuracy on the val images.
    """
    classes = sorted({item.label for item in train})
    (X, y), held, tested = (maps(items, classes) for items in (train, val, test))
    torch.manual_seed(seed)
    network = nn.Sequential(
        *convolution(3, 32),
        *convolution(32, 64),
        *convolution(64, 128),
        *convolution(128, 128),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(128 * (SIDE // 16) ** 2, len(classes)),
    ).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    best = (-1.0, 0.0)
    for _ in range(epochs):
        network.train()
        for rows in torch.randperm(len(X)).split(BATCH):
            loss = nn.functional.cross_entropy(
                network(moved(X[rows])), y[rows], label_smoothing=0.1
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
        best = max(best, (accuracy(network, *held), accuracy(network, *tested)))
    return best[1]


def convolution(inputs: int, outputs: int) -> list[nn.Module]:
    plain = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return [plain, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]


def maps(items: Sequence[ImageItem], classes: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    pixels = torch.from_numpy(np.stack([thumbnail(item.path, SIDE) for item in items]))
    codes = torch.tensor([classes.index(item.label) for item in items])
    normal = pixels.permute(0, 3, 1, 2).sub(0.5).div(0.25)
    return normal.contiguous(memory_format=torch.channels_last), codes


def moved(batch: torch.Tensor) -> torch.Tensor:
    """Flip half of the images, and shift each by up to an eighth of its side."""
    flips = torch.rand(len(batch)) < 0.5
    batch = torch.where(flips[:, None, None, None], batch.flip(3), batch)
    far = SIDE // 8
    padded = nn.functional.pad(batch, [far] * 4, mode="replicate")
    places = torch.randint(2 * far + 1, (len(batch), 2)).tolist()
    cut = [
        each[:, top : top + SIDE, left : left + SIDE]
        for each, (top, left) in zip(padded, places, strict=True)
    ]
    return torch.stack(cut).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def accuracy(network: nn.Module, X: torch.Tensor, y: torch.Tensor) -> float:
    network.eval()
    return float((network(X).argmax(1) == y).float().mean())
