"""The range of diffusers in setup.cfg: the golden cases pass at its lower end, and the upper one is what is installed."""

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
LOWEST, ABOVE = re.search(r"^    diffusers>=([\d.]+),<([\d.]+) ", (REPOSITORY / "setup.cfg").read_text(), re.M).groups()
PROGRAM = """
import sys, diffusers, pytest, torch
from diffusers.utils.torch_utils import fourier_filter
assert diffusers.__version__.startswith(sys.argv[1] + "."), diffusers.__version__
x = torch.randn(1, 4, 8, 8)
rounding = (fourier_filter(x.half(), 1, 0.6).float() - fourier_filter(x, 1, 0.6)).abs().max()
assert rounding < 5e-3, rounding  # FreeU in float16 is computed in float32
case = "tests/pipeline/test_reference_sampler.py::test_case_agrees_with_the_published_method[full]"
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:xdist", case]))
"""


def test_the_installed_diffusers_which_passes_all_golden_cases_is_the_upper_end():
    installed = metadata.version("diffusers")
    assert f"diffusers=={installed}" in (REPOSITORY / "slurm" / "constraints.txt").read_text()
    lowest, found, above = ([int(part) for part in text.split(".")[:2]] for text in (LOWEST, installed, ABOVE))
    assert lowest < found and [found[0], found[1] + 1] == above


def test_the_lowest_diffusers_gives_a_golden_case(tmp_path):
    """All of ConsiStory: masks, query blending, feature injection. About 20 s of CPU, most of it imports."""
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-compile", "--target", str(tmp_path)]
    fetched = subprocess.run([*pip, f"diffusers=={LOWEST}.*"], capture_output=True, text=True)
    if fetched.returncode:
        pytest.skip(f"diffusers {LOWEST} cannot be fetched here: {fetched.stderr[-200:]}")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    run = [sys.executable, "-c", PROGRAM, LOWEST]
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(run, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
