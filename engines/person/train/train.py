#!/usr/bin/env python3
"""Train PersonNet on a labelled video and export it to ONNX.

    python autolabel.py --video vtest.avi --out labels.txt --last 600
    python train.py --video vtest.avi --labels labels.txt --minutes 17 --bf16 --out .

Needs torch, numpy, opencv-python-headless and onnx; README.md tells what came of it.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def main() -> None:
    """Train, or take trained weights, and export."""
    args = options()
    import cv2  # below the options, so that --help needs none of this
    import torch
    from export import export
    from personnet import PersonNet
    from training import train

    cv2.setNumThreads(1)
    if args.threads:
        torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.weights:
        net = PersonNet()
        net.load_state_dict(torch.load(args.weights, map_location="cpu", weights_only=True))
    else:
        net = train(args)
    export(net, *args.imgsz, args.out)


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--video", type=Path, help="vtest.avi")
    add("--labels", type=Path, help="boxes in MOT's text format, of autolabel.py")
    add("--out", type=Path, default=Path(), help="folder of the results")
    add("--weights", type=Path, help="skip training and export these")
    add("--first", type=int, default=1)
    add("--last", type=int, default=600)
    add("--imgsz", type=int, nargs=2, default=(384, 512), metavar=("H", "W"))
    add("--crop", type=int, nargs=2, default=(256, 320), metavar=("H", "W"))
    add("--batch", type=int, default=16)
    add("--lr", type=float, default=2e-3)
    add("--minutes", type=float, default=40.0)
    add("--final-phase", type=float, default=0.85, help="when mild full-size training starts, 0..1")
    add("--bf16", action="store_true", help="bfloat16 autocast while training")
    add("--threads", type=int, default=0)
    add("--seed", type=int, default=1)
    args = parser.parse_args()
    if not args.weights and not (args.video and args.labels):
        parser.error("give --video and --labels, or --weights")
    return args


if __name__ == "__main__":
    main()
