"""Train the heads that come with outpace, and copy them to outpace/assets/.

usage: python dev/training/train_assets.py DATA WORK

DATA has the folders that dev/training/training_prompts.py reads. WORK keeps the answers, the captured rows (1.5 GB) and the runs. If it is
interrupted, run it again: it skips complete runs and resumes the others.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from outpace.files import write_whole
from outpace.heads.format import CONFIG, WEIGHTS
from outpace.heads.shipped import ASSETS

MODEL = "smollm2-135m-instruct"
MAX_BYTES = 16 << 20  # of all heads together
MAX_TOKENS = 192  # of an answer, the limit with which the kept answers were written
BLANKS_EVERY = 8  # mask tokens have few weights and run the whole model, so they are trained on every eighth answer
ANSWERS, LATER, BLANKS_ANSWERS, PROMPTS = "answers.jsonl", "later.jsonl", "blanks.jsonl", "prompts.jsonl"


@dataclass(frozen=True)
class Recipe:
    """The training of one kind of heads: the kind, its run and its data, both below WORK, and further options of `outpace train`.

    `goes_on`: the run whose heads it continues from. `is_shipped` is False for heads that others continue from.
    """

    kind: str
    run: str
    data: str
    words: tuple[str, ...] = ()
    goes_on: str = ""
    is_shipped: bool = True


ONCE, LATER_ONCE = ("--epochs", "1"), ("--epochs", "1", "--learning-rate", "5e-4")
RECIPES = (  # in this order: a run whose data are answers captures the rows for those that follow
    Recipe("recycling", "rows", ANSWERS),
    Recipe("medusa", "medusa-first", "rows/shards", ONCE, is_shipped=False),
    Recipe("eagle", "eagle-first", "rows/shards", ONCE, is_shipped=False),
    Recipe("medusa", "medusa", LATER, LATER_ONCE, "medusa-first"),
    Recipe("eagle", "eagle", "medusa/shards", LATER_ONCE, "eagle-first"),
    Recipe("blanks", "blanks", BLANKS_ANSWERS, ("--batch-size", "4")),
)


def command(recipe: Recipe, work: Path) -> list[str]:
    """The arguments of `outpace`. `--resume` also starts a run that does not exist yet."""
    places = ["--data", str(work / recipe.data), "--out", str(work / recipe.run)]
    earlier = ["--start-from", str(work / recipe.goes_on)] if recipe.goes_on else []
    return ["train", recipe.kind, "--model", "tiny", *places, "--max-tokens", str(MAX_TOKENS), *recipe.words, *earlier, "--resume"]


def run(words: Sequence[str]) -> None:
    """Run Python with these arguments; exit with its status if it fails."""
    status = subprocess.run([sys.executable, *words], check=False).returncode
    if status:
        raise SystemExit(status)


def restore_answers(data: Path, work: Path) -> None:
    """Write the kept answers, and the subset for mask tokens, if they are missing."""
    answers, later, part = (work / name for name in (ANSWERS, LATER, BLANKS_ANSWERS))
    if not answers.exists():
        unfinished = work / f"{ANSWERS}.part"
        run([str(Path(__file__).with_name("training_prompts.py")), str(data), str(work / PROMPTS), str(unfinished), str(later)])
        unfinished.replace(answers)
    if not part.exists():
        with later.open(encoding="utf-8") as lines:
            write_whole(part, "".join(itertools.islice(lines, 0, None, BLANKS_EVERY)).rstrip("\n"))


def ship(work: Path, assets: Path) -> int:
    """Copy all heads and return their total size in bytes. Exits before the first copy if they are too large."""
    shipped = [recipe for recipe in RECIPES if recipe.is_shipped]
    files = {work / recipe.run / name: assets / f"{recipe.kind}-{MODEL}" / name for recipe in shipped for name in (WEIGHTS, CONFIG)}
    size = sum(path.stat().st_size for path in files)
    if size > MAX_BYTES:
        raise SystemExit(f"the heads have {size:,} bytes together, more than {MAX_BYTES:,}; nothing was copied")
    for source, copy in files.items():
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(source, copy)
    return size


def main() -> None:
    """Write the answers, train, and copy."""
    if len(sys.argv) != 3:
        raise SystemExit("usage: python dev/training/train_assets.py DATA WORK")
    data, work = map(Path, sys.argv[1:])
    work.mkdir(parents=True, exist_ok=True)
    restore_answers(data, work)
    for recipe in RECIPES:
        if not (work / recipe.run / CONFIG).exists():
            run(["-m", "outpace", *command(recipe, work)])
    size = ship(work, ASSETS)
    sys.stderr.write(f"the heads in {ASSETS} have {size / (1 << 20):.1f} MiB together\n")


if __name__ == "__main__":
    main()
