# Run `make help` for what there is.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

UI_SOURCES := $(shell find ui/src ui/public -type f) openapi.json ui/index.html ui/build.mjs ui/vite.config.ts \
    ui/tsconfig.json ui/package-lock.json

# Without it the binary has a few plain pages in place of the web interface.
ui/dist/index.html: $(UI_SOURCES)
	@scripts/need.sh node ui
	@echo "Building the web interface"
	@npm run --silent build --prefix ui

.PHONY: ui
ui: ui/dist/index.html ## Build the web interface into ui/dist

.PHONY: run
run: ui ## Build everything and show it at work: real traffic, a surge, verified deliveries
	@scripts/need.sh cargo cc
	@echo "Building (a few minutes the first time)"
	@cargo build --release --locked
	@target/release/pulsehook demo

.PHONY: test
test: ui ## Install what the tests need, then run all of them
	@scripts/need.sh cargo cc node postgres tools chromium snippets
	@$(MAKE) --no-print-directory lint
	@echo "Running the tests"
	@cargo test --locked
	@$(MAKE) --no-print-directory browser

.PHONY: browser
browser: ui ## Try the web interface in a browser, through the real binary
	@scripts/need.sh cargo cc node chromium snippets postgres clickhouse
	@cargo build --locked --bin pulsehook --example verify
	@echo "Running the tests in a browser"
	@node --test --test-concurrency=2 ui/tests/*.test.mjs

.PHONY: screenshots
screenshots: ui ## Take a picture of every page, to be looked at, into ui/screenshots
	@scripts/need.sh cargo cc chromium
	@cargo build --locked --bin pulsehook
	@rm -rf ui/screenshots
	@cd ui && node tests/screenshots.mjs screenshots

.PHONY: lint
lint: ## Check format, lints and that nothing of one machine slipped in
	@scripts/need.sh cargo cc
	@cargo fmt --check
	@cargo clippy --locked --all-targets -- -D warnings
	@cargo metadata --locked --format-version 1 --manifest-path fuzz/Cargo.toml >/dev/null
	@scripts/check-clean.sh

.PHONY: bench
bench: ## Measure everything, each figure beside its ceiling and its target (ONLY=drain for one)
	@scripts/need.sh cargo cc postgres clickhouse anchor
	@cargo build --release --locked
	@scripts/with-postgres.sh scripts/with-clickhouse.sh sh -c \
	    'exec target/release/pulsehook bench $(or $(ONLY),all) --postgres "$$PULSEHOOK_BENCH_POSTGRES" \
	        --clickhouse "$$PULSEHOOK_BENCH_CLICKHOUSE"'

# The names of the tests that make up a run on each database.
CHAOS_both := chaos::survives::
CHAOS_sqlite := chaos::survives::sqlite
CHAOS_postgres := chaos::survives::postgres

.PHONY: chaos
chaos: SECONDS ?= 180
chaos: DATABASE ?= both
chaos: SEED ?= $(shell date +%s)
chaos: ## Crash nodes, databases and connections under load, then look for anything lost (SECONDS, SEED, DATABASE)
	$(if $(CHAOS_$(DATABASE)),,$(error DATABASE must be sqlite, postgres or both))
	@scripts/need.sh cargo cc postgres
	@CHAOS_SECONDS=$(SECONDS) CHAOS_SEED=$(SEED) CHAOS_OLD=$(CHAOS_OLD) cargo test --locked --test it $(CHAOS_$(DATABASE)) -- \
	    --nocapture --test-threads 1

.PHONY: upgrade
upgrade: SECONDS ?= 60
upgrade: DATABASE ?= both
upgrade: SEED ?= $(shell date +%s)
upgrade: ## The same while nodes of an earlier commit and of this one take turns on one database (FROM=commit)
	$(if $(FROM),,$(error FROM must name the commit to upgrade from))
	@scripts/need.sh cargo cc
	@old=$$(scripts/build-at.sh '$(FROM)') && \
	    $(MAKE) --no-print-directory chaos SECONDS=$(SECONDS) DATABASE=$(DATABASE) SEED=$(SEED) CHAOS_OLD="$$old"

.PHONY: lab
lab: ## Run the server in a network of its own, whose internet has canaries where private services would be
	@scripts/need.sh cargo cc tools
	@cargo test --locked --test it lab:: -- --nocapture

.PHONY: conformance
conformance: EXAMPLES ?= 100
conformance: ## Try everything the API's document says, and more, against the server (EXAMPLES)
	@scripts/need.sh cargo cc tools
	@CONFORMANCE_EXAMPLES=$(EXAMPLES) cargo test --locked --test it conformance:: -- --nocapture

.PHONY: fuzz
fuzz: SECONDS ?= 60
fuzz: ## Fuzz what reads what strangers write, guided by coverage (TARGET, SECONDS)
	$(if $(TARGET),,$(error TARGET must be one of $(basename $(notdir $(wildcard fuzz/targets/*.rs)))))
	@scripts/need.sh cargo cc c++
	@scripts/fuzz.sh '$(TARGET)' '$(SECONDS)'

.PHONY: mutants
mutants: ## Change the rules that nobody may get round, one small thing at a time, and look whether a test notices (FILE)
	@scripts/need.sh cargo cc postgres
	@command -v cargo-mutants >/dev/null || cargo install --locked cargo-mutants
	@git diff --quiet HEAD || { echo "Commit first: the files are changed where they are, and put back." >&2; exit 1; }
	@cargo mutants --in-place --output target $(if $(FILE),--file '$(FILE)')

.PHONY: timing
timing: REQUESTS ?= 3000
timing: ## Measure whether the time of an answer tells that somebody else has what was asked for (REQUESTS, ONLY)
	@scripts/need.sh cargo cc postgres clickhouse
	@command -v python3 >/dev/null || { echo "Python 3 is missing." >&2; exit 1; }
	@cargo build --release --locked
	@scripts/with-postgres.sh scripts/with-clickhouse.sh sh -c 'for database in "" "$$PULSEHOOK_BENCH_POSTGRES"; do \
	    python3 tests/tools/timing.py target/release/pulsehook --requests $(REQUESTS) \
	        $${database:+--database "$$database" --analytics "$$PULSEHOOK_BENCH_CLICKHOUSE"} \
	        $(if $(ONLY),--only "$(ONLY)"); done'

.PHONY: audit
audit: ## Look for known advisories in everything we are built of (needs the network)
	@scripts/need.sh cargo cc node
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	@cargo deny --locked check
	@cd tests/tools && npm audit
	@cd scripts/anchor && npm audit

.PHONY: sbom
sbom: ## Write what the program is built of as CycloneDX: pulsehook.cdx.json
	@scripts/need.sh cargo
	@scripts/sbom.py >pulsehook.cdx.json

.PHONY: clean
clean: ## Remove what was built
	@cargo clean
	@rm -rf fuzz/target fuzz/found
	@rm -rf tests/tools/.venv tests/tools/node_modules scripts/anchor/node_modules ui/node_modules ui/screenshots
	@find ui/dist -mindepth 1 ! -name .gitignore -delete
