"""Time the report's page in a browser: until 200 trials are drawn, and until a search has filtered them.

    python experiments/benchmarks/report_page.py --rounds 5

Needs chromium. The study is made up on the spot, by `tests/simulated.py`.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from myosotis.report import write_report

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.simulated import simulated

ARMS = ("full", "lora", "replay", "ewc", "l2")
RANKS = (2, 4, 8, 16, 32)


def measured(folder: Path, rounds: int) -> Iterator[tuple[float, float]]:
    """Give the seconds until all pictures are drawn, and from a search to all that it leaves."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for _ in range(rounds):
            page = browser.new_page()
            began = time.perf_counter()
            page.goto((folder / "report.html").as_uri())
            page.evaluate("drawn.then(() => null)")
            drawn = time.perf_counter()
            search(page)
            yield drawn - began, time.perf_counter() - drawn
            page.close()


def search(page: Page) -> None:
    page.get_by_role("searchbox").fill("replay rank=8")
    page.evaluate("Promise.all(charts.map((chart) => chart.view.runAsync())).then(() => null)")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as place:
        record = simulated(Path(place) / "study", ARMS, RANKS, seeds=4)
        write_report(record)
        times = list(measured(record.folder, rounds))
    for name, values in zip(("drawn", "searched"), zip(*times, strict=True), strict=True):
        print(
            f"{len(record.trials)} trials, {name}: {statistics.median(values):.2f} s "
            f"[{min(values):.2f}, {max(values):.2f}], {rounds} rounds"
        )


if __name__ == "__main__":
    main()
