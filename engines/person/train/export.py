"""Trained weights to the two ONNX files; needs torch and onnx."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import onnx
import torch
from personnet import REACH, STRIDES, ConvBnRelu, DecodedNet, PersonNet, RawNet
from torch import nn

if TYPE_CHECKING:
    from pathlib import Path

DESCRIPTION = (
    "PersonNet, small anchor-free person detector for demos and tests. Trained on frames 1-600 of "
    "vtest.avi (PETS 2009 S2.L1 View_001, copyright University of Reading, distributed with OpenCV) "
    "with boxes from our own background-subtraction labeller; the labeller's filters were tuned once "
    "against MOT15 boxes of the training frames, no annotation of others was trained on."
)
OPSET = 17


def export(net: PersonNet, height: int, width: int, out: Path) -> None:
    """Write person.onnx (boxes decoded inside) and person_raw_head.onnx, with metadata."""
    net = net.eval()
    with torch.no_grad():
        fold_batch_norm(net)
    heads = [f"{kind}_s{stride}" for stride in STRIDES for kind in ("box", "cls")]
    decoding = {"outputs": heads, "decode": f"d = (2*sigmoid(box))**2 * {REACH:g} * stride"}
    meta = metadata(height, width)
    decoded = DecodedNet(net, height, width).eval()
    _write(out / "person.onnx", decoded, (height, width), ["output0"], meta)
    raw = meta | {"head": json.dumps(decoding)}
    _write(out / "person_raw_head.onnx", RawNet(net).eval(), (height, width), heads, raw)


def fold_batch_norm(net: nn.Module) -> None:
    """Fold every batch norm into the convolution before it, in place."""
    for module in net.modules():
        if isinstance(module, ConvBnRelu):
            conv, bn = module.conv, module.bn
            gain = bn.weight / torch.sqrt(bn.running_var + bn.eps)
            channels = conv.in_channels, conv.out_channels
            fused = nn.Conv2d(*channels, conv.kernel_size, conv.stride, conv.padding)
            fused.weight.data = conv.weight.data * gain[:, None, None, None]
            fused.bias.data = bn.bias.data - bn.running_mean * gain
            module.conv, module.bn = fused, nn.Identity()


def metadata(height: int, width: int) -> dict[str, str]:
    """Build the keys that Ultralytics' exports carry, so that the file needs no config."""
    return {
        "description": DESCRIPTION,
        "version": "1.0.0",
        "license": "Apache-2.0",
        "task": "detect",
        "names": "{0: 'person'}",
        "imgsz": str([height, width]),
        "stride": str(max(STRIDES)),
        "batch": "1",
        "channels": "3",
    }


def _write(
    path: Path, module: nn.Module, size: tuple[int, int], outputs: list[str], meta: dict[str, str]
) -> None:
    torch.onnx.export(
        module,
        (torch.zeros(1, 3, *size),),
        str(path),
        input_names=["images"],
        output_names=outputs,
        opset_version=OPSET,
        dynamo=False,
        do_constant_folding=True,
    )
    model = onnx.load(path)
    onnx.helper.set_model_props(model, meta)
    model.producer_name, model.producer_version = "personnet", "1.0.0"
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    print(f"{path}: {path.stat().st_size} bytes", flush=True)
