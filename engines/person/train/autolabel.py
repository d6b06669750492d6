#!/usr/bin/env python3
"""Make person boxes from the video of a fixed camera, without anybody's annotation.

    python autolabel.py --video vtest.avi --out labels.txt --last 600

Foreground blobs of the height that the perspective wants become people; they are linked over time,
and short gaps (people passing each other, or behind a post) are interpolated. Foreground that stays
unexplained becomes a region to ignore (flag 0). Output: MOT's text format.

Needs numpy and opencv-python-headless.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def main() -> None:
    """Label the frames 1..last of a video."""
    args = options()
    import blobs  # below the options, so that --help needs none of this
    import footage
    import numpy as np
    import tracks

    frames = [frame for _, frame in footage.read_frames(args.video, 1, args.last)]
    background = np.median(np.stack(frames[::6]), 0).astype(np.uint8)
    height, width = background.shape[:2]
    masks = (blobs.foreground(frame, background, args.threshold) for frame in frames)
    found = [blobs.find(mask, 60) for mask in masks]
    line = blobs.fit_height(np.concatenate(found), width, height)
    print(f"height = {line[0]:.3f} * foot {line[1]:+.1f}")

    people = tracks.link(
        {n: blobs.singles(rows, line, width, height) for n, rows in enumerate(found, 1)}, args.gap
    )
    for track in people:
        tracks.prune(track, *line)
    people = [track for track in people if len(track.boxes) >= 6]
    for track in people:
        tracks.fill(track, args.gap)

    lines = []
    for number, rows in enumerate(found, 1):
        here = {k: t.boxes[number] for k, t in enumerate(people, 1) if number in t.boxes}
        lines += [mot_line(number, k, box, 1) for k, box in here.items()]
        rest = blobs.unexplained(rows, list(here.values()))
        lines += [mot_line(number, -1, box, 0) for box in rest]
    args.out.write_text("\n".join(lines) + "\n")
    print(f"{len(people)} tracks, {len(lines)} boxes and regions")


def mot_line(frame: int, track: int, box: tuple[float, ...], flag: int) -> str:
    """Write corners as a line of MOT's text format."""
    x1, y1, x2, y2 = box
    return f"{frame},{track},{x1:.2f},{y1:.2f},{x2 - x1:.2f},{y2 - y1:.2f},{flag},-1,-1,-1"


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--video", type=Path, required=True)
    add("--out", type=Path, required=True)
    add("--last", type=int, default=600)
    add("--threshold", type=int, default=30, help="grey levels that make a pixel foreground")
    add("--gap", type=int, default=20, help="frames that a person may be out of sight")
    return parser.parse_args()


if __name__ == "__main__":
    main()
