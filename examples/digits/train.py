"""Train the digits model and export it to ONNX.

    python examples/digits/train.py --data mnist.npz --output examples/digits/model.onnx

The .npz file holds `images`, uint8 (N, 28, 28), white on black, and `labels`, uint8 (N,); the README says where MNIST
can be had. One digit in eight is held out; the accuracy on those is printed and is not used to choose anything.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional

SEED = 20261121
EPOCHS = 40
BATCH = 128


class Net(nn.Module):
    """Two convolution blocks and a small head; takes pixels from 0 to 255, gives the digit."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU(),
            nn.Conv2d(24, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(24, 48, 3, padding=1, bias=False), nn.BatchNorm2d(48), nn.ReLU(),
            nn.Conv2d(48, 48, 3, padding=1, bias=False), nn.BatchNorm2d(48), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(48, 64, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.4), nn.Linear(64 * 25, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(images.unsqueeze(1) / 255.0))


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Small random rotations, scales, shears and shifts."""
    n = len(images)

    def uniform(limit: float) -> torch.Tensor:
        return (torch.rand(n, generator=generator) * 2 - 1) * limit

    angle, scale, shear = uniform(math.radians(12)), 1 + uniform(0.12), uniform(0.15)
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    theta = torch.stack(
        [torch.stack([cos, -sin + shear, uniform(0.14)], 1), torch.stack([sin, cos, uniform(0.14)], 1)], 1
    )
    grid = functional.affine_grid(theta, [n, 1, 28, 28], align_corners=False)
    return functional.grid_sample(images.unsqueeze(1), grid, align_corners=False).squeeze(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--output", default="model.onnx")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    arguments = parser.parse_args()

    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    with np.load(arguments.data, allow_pickle=False) as data:
        images = torch.from_numpy(data["images"].astype(np.float32))
        labels = torch.from_numpy(data["labels"].astype(np.int64))
    order = torch.randperm(len(images), generator=generator)
    held_out, training = order[: len(order) // 8], order[len(order) // 8 :]

    net = Net()
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=1e-2)
    steps = arguments.epochs * math.ceil(len(training) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for epoch in range(arguments.epochs):
        net.train()
        for chunk in training[torch.randperm(len(training), generator=generator)].split(BATCH):
            loss = functional.cross_entropy(net(augment(images[chunk], generator)), labels[chunk], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.4f}", flush=True)

    net.eval()
    with torch.no_grad():
        accuracy = (net(images[held_out]).argmax(1) == labels[held_out]).float().mean().item()
    print(f"accuracy on {len(held_out)} held-out digits: {accuracy:.4f}")
    torch.onnx.export(
        net,
        (images[:2],),
        arguments.output,
        input_names=["images"],
        output_names=["scores"],
        dynamic_axes={"images": {0: "batch"}, "scores": {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )


if __name__ == "__main__":
    main()
