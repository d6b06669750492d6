"""PersonNet: a small anchor-free detector, and the two forms it is exported in; needs torch.

Only convolutions with kernels up to 3, ReLU, addition and nearest upsampling: what every accelerator
has. Boxes are told as distances from an anchor point to their four sides.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDES = (8, 16, 32)
REACH = 4.0
"""A side of a box lies at most 4 * REACH strides from its anchor point."""

Raw = list[tuple[Tensor, Tensor]]
"""For each stride: box maps [B, 4, h, w] and class logits [B, 1, h, w]."""


class ConvBnRelu(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs, momentum=0.03)

    def forward(self, x: Tensor) -> Tensor:
        """Run the three."""
        return functional.relu(self.bn(self.conv(x)))


class Residual(nn.Module):
    """A 1x1 squeeze, a 3x3 expansion, and a skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = ConvBnRelu(channels, channels // 2, 1)
        self.expand = ConvBnRelu(channels // 2, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Add what the two convolutions find."""
        return x + self.expand(self.squeeze(x))


def _heads(neck: int, width: int, outputs: int, bias: float) -> nn.ModuleList:
    heads = nn.ModuleList(
        nn.Sequential(ConvBnRelu(neck, width), nn.Conv2d(width, outputs, 1)) for _ in STRIDES
    )
    for head in heads:
        nn.init.constant_(head[-1].bias, bias)
    return heads


class PersonNet(nn.Module):
    """Backbone, top-down neck, and a box head and a class head for each stride."""

    def __init__(self, neck: int = 64, head: int = 48) -> None:
        super().__init__()
        self.stem = nn.Sequential(ConvBnRelu(3, 16, 3, 2), ConvBnRelu(16, 32, 3, 2), Residual(32))
        self.stage3 = nn.Sequential(ConvBnRelu(32, 64, 3, 2), Residual(64), Residual(64))
        self.stage4 = nn.Sequential(ConvBnRelu(64, 96, 3, 2), Residual(96), Residual(96))
        self.stage5 = nn.Sequential(ConvBnRelu(96, 128, 3, 2), Residual(128))
        self.lateral = nn.ModuleList(ConvBnRelu(c, neck, 1) for c in (64, 96, 128))
        self.smooth = nn.ModuleList(ConvBnRelu(neck, neck) for _ in range(2))
        self.box = _heads(neck, head, 4, -1.0)
        # Most anchors are background: start from a score of 0.01.
        self.cls = _heads(neck, head, 1, -math.log((1 - 0.01) / 0.01))

    def forward(self, x: Tensor) -> Raw:
        """Run on [B, 3, H, W], RGB in 0..1, sides divisible by 32."""
        c3 = self.stage3(self.stem(x))
        c4 = self.stage4(c3)
        c5 = self.stage5(c4)
        p5 = self.lateral[2](c5)
        p4 = self.smooth[1](self.lateral[1](c4) + functional.interpolate(p5, scale_factor=2.0))
        p3 = self.smooth[0](self.lateral[0](c3) + functional.interpolate(p4, scale_factor=2.0))
        return [(self.box[i](p), self.cls[i](p)) for i, p in enumerate((p3, p4, p5))]


def make_anchors(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Anchor points [2, N] in input pixels, and the stride [1, N] of each."""
    points, strides = [], []
    for stride in STRIDES:
        rows, columns = torch.arange(height // stride), torch.arange(width // stride)
        ys, xs = torch.meshgrid(rows, columns, indexing="ij")
        points.append((torch.stack((xs.flatten(), ys.flatten())).float() + 0.5) * stride)
        strides.append(torch.full((1, xs.numel()), float(stride)))
    return torch.cat(points, 1), torch.cat(strides, 1)


def decode(raw: Raw, points: Tensor, strides: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """Raw maps to boxes [B, 4, N] (cx, cy, w, h in pixels) and class logits [B, 1, N]."""
    box = torch.cat([b.reshape(batch, 4, -1) for b, _ in raw], 2)
    logit = torch.cat([c.reshape(batch, 1, -1) for _, c in raw], 2)
    side = torch.sigmoid(box) * 2.0
    side = side * side * (strides * REACH)  # distances to left, top, right, bottom
    left_top, right_bottom = side.split(2, 1)
    centre = points + (right_bottom - left_top) * 0.5
    return torch.cat((centre, left_top + right_bottom), 1), logit


class DecodedNet(nn.Module):
    """PersonNet that gives boxes and scores [1, 5, N], for one input size."""

    def __init__(self, net: PersonNet, height: int, width: int) -> None:
        super().__init__()
        self.net = net
        points, strides = make_anchors(height, width)
        self.register_buffer("points", points[None])
        self.register_buffer("strides", strides[None])

    def forward(self, x: Tensor) -> Tensor:
        """Run and decode one picture."""
        box, logit = decode(self.net(x), self.points, self.strides, 1)
        return torch.cat((box, torch.sigmoid(logit)), 1)


class RawNet(nn.Module):
    """PersonNet that gives its head tensors as they are, for accelerators that decode elsewhere."""

    def __init__(self, net: PersonNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Run one picture: box and class maps by stride."""
        return tuple(tensor for pair in self.net(x) for tensor in pair)
