"""The plan on paper: docs/scaling.md shows what the script says, and the script's sums are what they say."""

import subprocess
import sys
from pathlib import Path

from benchmarks.plan import Plan, latents

ROOT = Path(__file__).parents[2]


def test_the_page_shows_what_the_script_says() -> None:
    done = subprocess.run([sys.executable, "benchmarks/plan.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout in (ROOT / "docs" / "scaling.md").read_text()


def test_the_samples_are_those_of_the_original() -> None:
    assert round((Plan().small + Plan().large) / 1e9, 1) == 2.4
    assert latents(512) == 2 * (2 * 4 * 64 * 64) + 154
    assert Plan(gpus=1, batch=32).seconds(64.0, 640.0) == 10.0
