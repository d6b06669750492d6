"""The training loop of PersonNet, bounded by the clock; needs torch, numpy and OpenCV."""

from __future__ import annotations

import math
import queue
import threading
import time
from typing import TYPE_CHECKING

import cv2
import footage
import numpy as np
import torch
from augment import Augmenter
from loss import detection_loss
from personnet import PersonNet, make_anchors
from torch import nn

if TYPE_CHECKING:
    import argparse

    Batch = tuple[footage.Image, list[footage.Rows]]


class Budget:
    """How much of the training time is over."""

    def __init__(self, minutes: float) -> None:
        self.start, self.seconds = time.monotonic(), minutes * 60

    @property
    def used(self) -> float:
        """0 at the start, 1 at the end."""
        return (time.monotonic() - self.start) / self.seconds


def train(args: argparse.Namespace) -> PersonNet:
    """Train as `train.py`'s options say and return the averaged network."""
    torch.manual_seed(args.seed)
    net, average = PersonNet(), PersonNet()
    average.load_state_dict(net.state_dict())
    net = net.to(memory_format=torch.channels_last)
    print(f"parameters {sum(p.numel() for p in net.parameters())}", flush=True)
    optimizer = _optimizer(net, args.lr)
    frames, labels = _labelled(args)
    budget = Budget(args.minutes)
    batches = _feeder(Augmenter(frames, labels, args.seed), args, budget)
    step, mean = 0, np.zeros(2)
    while (used := budget.used) < 1:
        rate = _learning_rate(args.lr, step, used)
        for group in optimizer.param_groups:
            group["lr"] = rate
        parts = _step(net, optimizer, batches.get(), args.bf16)
        step += 1
        _average(average, net, min(0.998, step / (step + 50)))
        mean = 0.98 * mean + 0.02 * np.array(parts)
        if step % 50 == 0:
            print(f"step {step} lr {rate:.5f} cls {mean[0]:.4f} box {mean[1]:.4f}", flush=True)
        if step % 500 == 0:
            torch.save(average.state_dict(), args.out / "person.pt")
    torch.save(average.state_dict(), args.out / "person.pt")
    print(f"done: {step} steps", flush=True)
    return average


def _labelled(args: argparse.Namespace) -> tuple[list[footage.Image], list[footage.Rows]]:
    boxes = footage.read_boxes(args.labels)
    frames, labels = [], []
    for number, frame in footage.read_frames(args.video, args.first, args.last):
        frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        labels.append(boxes.get(number, footage.NOBODY))
    print(f"frames {len(frames)}, boxes {sum(len(rows) for rows in labels)}", flush=True)
    return frames, labels


def _feeder(augmenter: Augmenter, args: argparse.Namespace, budget: Budget) -> queue.Queue[Batch]:
    """Start a thread that draws batches; small hard crops first, mild full pictures at the end."""
    batches: queue.Queue[Batch] = queue.Queue(6)
    height, width = args.imgsz
    frame = augmenter.background
    base = min(height / frame.shape[0], width / frame.shape[1])

    def feed() -> None:
        while True:
            final = budget.used > args.final_phase
            size = (height, width) if final else tuple(args.crop)
            count = args.batch // 2 if final else args.batch
            drawn = [augmenter.sample(*size, base, not final) for _ in range(count)]
            batches.put((np.stack([image for image, _ in drawn]), [rows for _, rows in drawn]))

    threading.Thread(target=feed, daemon=True).start()
    return batches


def _optimizer(net: nn.Module, rate: float) -> torch.optim.Optimizer:
    """AdamW that leaves biases and norms undecayed."""
    decayed = [p for p in net.parameters() if p.ndim > 1]
    plain = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate)


def _learning_rate(peak: float, step: int, used: float) -> float:
    """Warm up over 200 steps, then half a cosine down to 2 % of the peak."""
    return peak * min(1.0, (step + 1) / 200) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * used)))


def _step(
    net: PersonNet, optimizer: torch.optim.Optimizer, batch: Batch, bf16: bool
) -> tuple[float, float]:
    """Learn from one batch; gives the class and box parts of the loss."""
    images, targets = batch
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255)
    points, strides = make_anchors(*images.shape[1:3])
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        raw = net(x.contiguous(memory_format=torch.channels_last))
    raw = [(box.float(), logit.float()) for box, logit in raw]
    loss, cls_loss, box_loss = detection_loss(raw, points, strides, targets)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), 10.0)
    optimizer.step()
    return cls_loss, box_loss


@torch.no_grad()
def _average(average: nn.Module, net: nn.Module, decay: float) -> None:
    """Move the exponential average of weights and buffers towards the network."""
    pairs = zip(average.state_dict().values(), net.state_dict().values(), strict=True)
    for mean, now in pairs:
        if mean.dtype.is_floating_point:
            mean.lerp_(now, 1 - decay)
        else:
            mean.copy_(now)
