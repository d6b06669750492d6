"""Print the shell's completion script for `edgetrt`: completion.py VENDOR_FOLDER bash|zsh."""

from __future__ import annotations

import sys

sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True

from typer.completion import get_completion_script  # noqa: E402 - found in the folder named

print(
    get_completion_script(prog_name="edgetrt", complete_var="_EDGETRT_COMPLETE", shell=sys.argv[2])
)
