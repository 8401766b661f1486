"""A batch on two Ray workers: a worker is killed, then the whole batch; it resumes, and every line has exactly one answer.

usage: python dev/robust/ray_batch.py [--model tiny] [--lines 128]     (pip install 'outpace[scale]')

The answers must be those of a batch on this machine without Ray. Prints one JSON document; the exit code is 1 if they are not.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ray_processes import processes_named

LOG = ".answers.jsonl"
WORKER = b"MapWorker"


def num_kept(out: Path) -> int:
    """Answers in the log."""
    return (out / LOG).read_bytes().count(b"\n") if (out / LOG).exists() else 0


def wait_for(condition: Any, process: subprocess.Popen[bytes], seconds: float = 240.0) -> None:
    """Poll until the condition holds, while the process runs."""
    end = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > end:
            raise SystemExit("the batch ended, or did not come so far in time")
        time.sleep(0.05)


def main() -> None:
    """Run it all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--lines", type=int, default=128)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [{"prompt": f"Name a river of country number {number}.", "id": number} for number in range(args.lines)]
        (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        common = [sys.executable, "-m", "outpace", "generate", "--input", str(folder / "in.jsonl"), "--model", args.model, "--json"]
        common += ["--max-tokens", "8", "--threads", "1", "--output"]
        with_ray = [*common, str(folder / "ray"), "--ray", "--replicas", "2"]
        document = killed_twice(with_ray, folder / "ray")
        resumed = subprocess.run(with_ray, capture_output=True, text=True)
        document["num_new_after_resuming"] = json.loads(resumed.stdout)["num_new"]
        subprocess.run([*common, str(folder / "alone")], capture_output=True, check=True)
        answers = [(folder / place / "in.jsonl").read_bytes() for place in ("ray", "alone")]
        document["num_lines"] = answers[0].count(b"\n")
        document["is_equal_to_a_batch_without_ray"] = answers[0] == answers[1]
    document["is_good"] = (
        document["is_equal_to_a_batch_without_ray"]
        and document["num_lines"] == args.lines
        and document["num_new_after_resuming"] == args.lines - document["num_kept_when_killed"]
        and document["num_kept_when_killed"] > document["num_kept_when_a_worker_was_killed"]
    )
    sys.stdout.write(json.dumps(document, indent=1) + "\n")
    sys.exit(0 if document["is_good"] else 1)


def killed_twice(command: list[str], out: Path) -> dict[str, Any]:
    """Run the batch; kill a worker after the first answers, and the driver some answers later."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        wait_for(lambda: num_kept(out) > 0, process)
        before, workers = num_kept(out), processes_named(WORKER, process.pid)
        os.kill(workers[0], signal.SIGKILL)
        wait_for(lambda: num_kept(out) > before + 32, process)
        process.send_signal(signal.SIGKILL)
    kept = num_kept(out)
    return {"num_workers": len(workers), "num_kept_when_a_worker_was_killed": before, "num_kept_when_killed": kept}


if __name__ == "__main__":
    main()
