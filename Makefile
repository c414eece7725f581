# Everything below sets itself up in .venv from the pinned files in requirements/.

PYTHON ?= python3.11
# One's own recordings: `make demo AUDIO=folder`. Without it, a packaged sample of recorded speech.
AUDIO ?=
DEMO ?= demo
export ANTIPHON_CACHE ?= $(HOME)/.cache/antiphon
export TOKENIZERS_PARALLELISM = false
BIN := .venv/bin
DEMO_WEIGHTS := whisper-tiny silero-vad hifigan-universal stories15m

# What the tests load. Where one cannot be fetched, the tests that need it are skipped, and say so.
TEST_WEIGHTS := $(DEMO_WEIGHTS) smollm2-135m-instruct kokoro-82m resemblyzer dnsmos

.PHONY: help demo test check lock clean
help:  ## list what can be made
	@grep -hE '^[a-z]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 10

demo: .venv/core  ## set up, fetch weights, prepare real speech, train, speak: about a quarter of an hour on two cores
	$(BIN)/antiphon pull $(DEMO_WEIGHTS) $(if $(AUDIO),,ljspeech-sample)
	$(BIN)/antiphon prepare configs/demo.yaml --out $(DEMO)/corpus \
		--set 'sources=["$(or $(AUDIO),$(ANTIPHON_CACHE)/ljspeech-sample/manifest.jsonl)"]'
	$(BIN)/antiphon status $(DEMO)/corpus
	$(BIN)/antiphon inspect $(DEMO)/corpus --rows 2
	$(BIN)/antiphon train configs/demo.yaml --corpus $(DEMO)/corpus --out $(DEMO)/model
	$(BIN)/antiphon evaluate $(DEMO)/model $(DEMO)/corpus
	$(BIN)/antiphon speak $(DEMO)/model --text "In the beginning" --out $(DEMO)/spoken.wav
	@echo
	@echo "shards:      $(DEMO)/corpus/data"
	@echo "checkpoint:  $(DEMO)/model"
	@echo "spoken wav:  $(DEMO)/spoken.wav"

test: .venv/dev  ## fetch weights, and run the tests
	-$(BIN)/antiphon pull $(TEST_WEIGHTS)
	$(BIN)/python -m pytest

check: .venv/dev  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/core: requirements/core.txt setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -qq "pip==26.3" "setuptools==84.2.1" wheel
	$(BIN)/pip install -qq -r requirements/core.txt
	$(BIN)/pip install -qq --no-deps --no-build-isolation -e .
	@touch $@

.venv/dev: .venv/core requirements/dev.txt requirements/alone.txt
	$(BIN)/pip install -qq -r requirements/dev.txt
	$(BIN)/pip install -qq --no-deps -r requirements/alone.txt
	@touch $@

lock: .venv/dev  ## resolve requirements/*.in into the pinned *.txt again
	$(BIN)/python requirements/lock.py

clean:  ## remove what `make demo` made; .venv and the weights' cache stay
	rm -rf $(DEMO)
