"""`make chaos`: long campaigns of every fault that this machine allows, their results as JSON.

    python -m tests.chaos --calls 10000 --faults 1000 --seeds 1 2 --fsync always everysec --output FILE

Each campaign's result is added to the file when it is there, so that a long series may be run in parts. Exit code 1
where a promise was broken; then its records and logs are kept and named.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashq._version import __version__
from flashq.cli.verify import numbers
from flashq.verify.campaign import Campaign, Plan, throwaway_prefix
from tests.chaos.hard import Hard

if TYPE_CHECKING:
    from flashq.verify.check import Verdict

LEASE_S, PACE_S = 4.0, 0.75


def main() -> int:
    """Run the campaigns that are asked for; the exit code."""
    asked = _arguments()
    broken = 0
    for fsync in asked.fsync:
        for seed in asked.seeds:
            folder = Path(tempfile.mkdtemp(prefix="fqc-"))
            result, verdict = campaign(asked, seed, fsync, folder)
            _report(result, verdict)
            if asked.output is not None:
                _add(asked.output, result)
            if verdict.holds:
                shutil.rmtree(folder, ignore_errors=True)
            else:
                broken += 1
                print(f"what happened is in {folder}", flush=True)
    return int(broken > 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Long campaigns of faults.")
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--faults", type=int, default=1_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--fsync", nargs="+", choices=["always", "everysec"], default=["always", "everysec"])
    parser.add_argument("--wipes", action="store_true", help="the broker also comes back empty")
    parser.add_argument("--pace", type=float, default=PACE_S, metavar="SECONDS", help="from fault to fault")
    parser.add_argument("--lease", type=float, default=LEASE_S, metavar="SECONDS")
    parser.add_argument("--output", type=Path, help="a JSON file to add the results to")
    return parser.parse_args()


def campaign(
    asked: argparse.Namespace, seed: int, fsync: str, folder: Path
) -> tuple[dict[str, Any], Verdict]:
    """One campaign: what is recorded of it, and its verdict."""
    began = time.monotonic()
    with Hard.open(folder, fsync) as hard:
        for kind, why in hard.lacking.items():
            print(f"skipped: {kind}: {why}", flush=True)
        plan = Plan(
            seed=seed,
            faults=asked.faults,
            calls=asked.calls,
            kinds=hard.kinds(wipes=asked.wipes),
            actions=hard.actions(),
            lease_s=asked.lease,
            pace_s=asked.pace,
            variations=hard.variations,
        )
        run = Campaign(plan, folder, hard.broker.url, prefix=throwaway_prefix("rq"), broker=hard.broker)
        verdict = run.run(_progress(asked.faults))
        lacking = dict(hard.lacking)
    result = {
        "about": _about(),
        "seed": seed,
        "fsync": fsync,
        "wipes": asked.wipes,
        "calls": asked.calls,
        "lease_s": asked.lease,
        "took_s": round(time.monotonic() - began),
        "skipped": lacking,
        **numbers(verdict),
        "lost_by_design": verdict.lost_by_design,
        "faults": {kind: {"count": count, "hits": hits} for kind, (count, hits) in verdict.faults.items()},
        "violations": dict(Counter(violation.kind for violation in verdict.violations)),
    }
    return result, verdict


def _about() -> dict[str, Any]:
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python -m tests.chaos", *sys.argv[1:]]),
        "flashq": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "load_average": round(os.getloadavg()[1], 1),
    }


def _commit() -> str:
    """Of the tree that was tried; "unknown" outside of one."""
    asked = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def _progress(faults: int) -> Any:
    def tell(done: int) -> None:
        if done % 50 == 0 or done == faults:
            print(f"{time.strftime('%H:%M:%S')} {done} of {faults} faults", flush=True)

    return tell


def _report(result: dict[str, Any], verdict: Verdict) -> None:
    shown = {name: value for name, value in result.items() if name not in ("about", "faults")}
    print(json.dumps(shown), flush=True)
    for violation in verdict.violations[:50]:
        print(*violation, sep=": ", flush=True)


def _add(file: Path, result: dict[str, Any]) -> None:
    """Add a result, in the place of an earlier one of the same campaign."""
    known = json.loads(file.read_text("utf-8"))["campaigns"] if file.exists() else []
    which = ("seed", "fsync", "wipes")
    others = [other for other in known if [other[w] for w in which] != [result[w] for w in which]]
    campaigns = sorted([*others, result], key=lambda one: (one["wipes"], one["fsync"], one["seed"]))
    file.write_text(json.dumps({"campaigns": campaigns}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
