# Firn: build, test and install. "make help" lists the targets.

GO       ?= go
PREFIX   ?= /usr/local
DESTDIR  ?=
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
FUZZTIME ?= 10s
SOAK     ?= 10
RUN      ?= .
BENCHFLAGS ?=

GOLANGCI_VERSION := v2.15.0

TOOLS   := $(CURDIR)/.cache/tools
BIN     := $(CURDIR)/bin
PLUGINS  = $(sort $(wildcard plugins/*/cmd/firn-plugin-*))
LDFLAGS := -s -w -X main.version=$(VERSION)
# Without x/net/trace, which nobody looks at: less to initialise in every plugin.
TAGS    := grpcnotrace
GOBUILD := CGO_ENABLED=0 $(GO) build -trimpath -tags $(TAGS) -ldflags "$(LDFLAGS)"

# Modules of their own below the root: the examples of third-party plugins.
EXAMPLES = $(sort $(patsubst %/go.mod,%,$(wildcard sdk/examples/*/go.mod)))

.DEFAULT_GOAL := help
.PHONY: help build demo test unit race bench fuzz soak lint fmt generate \
	generate-check cross install clean deps tools

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build firn and its plugins into bin/
	@mkdir -p $(BIN)
	$(GOBUILD) -o $(BIN)/ ./host/cmd/firn $(addprefix ./,$(PLUGINS))

demo: build ## checkpoint and restore real programs, step by step
	@bash scripts/demo.sh

test: deps build ## run every test (whole programs included), under 20 minutes on two cores
	$(GO) test -timeout 20m -count=1 ./...
	@for d in $(EXAMPLES); do \
		echo "== example $$d"; (cd $$d && $(GO) vet ./... && FIRN=$(BIN)/firn $(GO) test -count=1 ./...) || exit 1; \
	done

unit: ## run the tests without the whole-program tests; RUN=REGEXP selects
	$(GO) test -run '$(RUN)' $$($(GO) list ./... | grep -v '/host/integration')

race: deps ## run the tests under the race detector (needs a C compiler)
	CGO_ENABLED=1 $(GO) test -race -timeout 40m -count=1 ./...

bench: ## measure whole checkpoints and restores beside the machine's own limits
	$(GO) run ./host/integration/bench $(BENCHFLAGS)

fuzz: ## run every fuzz target for FUZZTIME
	@FUZZTIME=$(FUZZTIME) GO=$(GO) bash scripts/fuzz.sh

soak: deps ## repeat the crash and cycle tests SOAK times as often
	FIRN_TEST_SOAK=$(SOAK) $(GO) test -timeout 6h -count=1 -v -run 'Crash|Cycle|Killed' ./host/integration/... ./sdk/hbuf/... ./host/task/...

lint: $(TOOLS)/golangci-lint-$(GOLANGCI_VERSION) ## run golangci-lint
	$< run ./...

fmt: ## format the Go code
	gofmt -w $$(git ls-files '*.go' | grep -v '\.pb\.go$$')

generate: tools ## regenerate the code of every .proto file (needs protoc)
	@PATH=$(TOOLS):$$PATH bash scripts/generate.sh

generate-check: tools ## fail when generated code differs from its .proto file
	@PATH=$(TOOLS):$$PATH bash scripts/generate.sh --check

cross: ## build and vet everything for arm64
	GOOS=linux GOARCH=arm64 CGO_ENABLED=0 $(GO) build ./...
	GOOS=linux GOARCH=arm64 CGO_ENABLED=0 $(GO) vet ./...
	@for d in $(EXAMPLES); do \
		echo "== example $$d"; (cd $$d && GOOS=linux GOARCH=arm64 CGO_ENABLED=0 $(GO) vet ./...) || exit 1; \
	done

install: build ## install below DESTDIR and PREFIX
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/firn/plugins
	install -m 755 $(BIN)/firn $(DESTDIR)$(PREFIX)/bin/firn
	install -m 755 $(BIN)/firn-plugin-* $(DESTDIR)$(PREFIX)/lib/firn/plugins/

clean: ## remove what was built (tools stay in .cache)
	rm -rf $(BIN)

deps: ## install what tests and generation need, if it is missing (Debian)
	@bash scripts/deps.sh

tools:
	@mkdir -p $(TOOLS)
	@$(GO) build -o $(TOOLS)/ google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc

$(TOOLS)/golangci-lint-$(GOLANGCI_VERSION):
	@mkdir -p $(TOOLS)
	@echo "building golangci-lint $(GOLANGCI_VERSION) (once, a few minutes)"
	GOBIN=$(TOOLS) GOFLAGS= CGO_ENABLED=0 $(GO) install -trimpath -ldflags "-s -w" \
		github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	mv $(TOOLS)/golangci-lint $@
