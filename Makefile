# Every target sets up what it needs in .venv; a second run starts at once. Paths are relative, so the folder's name may have spaces.
PYTHON ?= python3
BIN := .venv/bin
USE := .venv/use
STAMP := .venv/ready
# two at a time, each file as a whole: what a file has loaded or trained serves all its tests; in the order of tests/conftest.py
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
# torch first and exactly this version: CPU builds of it are small where the package index has them
TORCH ?= torch==2.13.0

.PHONY: demo test check bench tables peers results docs train-assets setup clean

demo: $(USE)
	$(BIN)/outpace demo

test: $(STAMP)
	$(PYTEST)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST)

# outpace beside llama.cpp and the other engines that are installed, three models, then the tables of the README: about 40 minutes on two
# cores that do nothing else. Drafters on prompts of your own: make bench PROMPTS=questions.jsonl
bench: $(USE)
ifdef PROMPTS
	$(BIN)/outpace bench --prompts "$(PROMPTS)" --limit 48
else
	$(BIN)/python -m outpace.bench.peers llama.cpp
	$(BIN)/python dev/measure/tables/write.py measure
endif

# every table of the documentation, from the documents in docs/results/
tables: $(USE)
	$(BIN)/python dev/measure/tables/write.py

# the engines that `outpace bench --peers` compares with, each in an environment of its own
peers: $(STAMP)
	$(BIN)/python -m outpace.bench.peers

# make results PROMPTS=question_even.jsonl   (measures what docs/results/ lacks and writes the tables; about half an hour)
results: $(STAMP)
	$(BIN)/python dev/measure/results.py measure "$(PROMPTS)"
	$(BIN)/python dev/measure/tables/write.py

# the site, in build/site; fails if a link leads nowhere
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# make train-assets DATA=folder   (trains the shipped helpers anew, hours on two cores; called again after a stop it goes on)
WORK ?= build/train-assets
train-assets: $(STAMP)
	$(BIN)/python dev/training/train_assets.py "$(DATA)" "$(WORK)"

setup: $(STAMP)

# what the commands need: outpace with its server
$(USE): pyproject.toml
	@echo "setting up .venv (the first time takes a minute or two)" >&2
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "outpace needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[bench]"
	@touch $(USE)

# what tests, conversions and training need, too
$(STAMP): $(USE)
	@echo "adding torch and the tools for tests to .venv (the first time takes a few minutes)" >&2
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $(STAMP)

clean:
	rm -rf .venv
