PREFIX ?= /usr/local
TOOL := go tool -modfile=tools/go.mod
COUNT ?= 500
SEED ?= 0
PARALLEL ?= 2
CASE ?=
ONLY ?=
FOR ?= 0
SIZES ?= 1000,100000,1000000,10000000
PARTS ?= all
ROUNDS ?= 5
FUZZTIME ?= 0
SUITES ?=
SCENARIOS ?=
DOCS ?=
KEPT ?= false
export PATH := $(PATH):/usr/sbin:/sbin

.NOTPARALLEL:
.PHONY: build demo test soak failover differ faults bench pictures test-page kernels fuzz backends deb deb-test dist cross deps lint fmt tidy vet staticcheck errcheck errorlint vuln unit man install uninstall clean

build:
	CGO_ENABLED=0 go build -trimpath -ldflags "-X flowcut/internal/cli.stamp=$$(packaging/version)" -o flowcut ./cmd/flowcut

demo: build
	./flowcut demo

test: deps lint unit

soak: build
	go run ./internal/soak/runsoak -count $(COUNT) -seed $(SEED) -parallel $(PARALLEL)

failover: build
	go test -count 1 ./internal/failover -args -full

differ: build
	go run ./internal/differ/rundiffer -count $(COUNT) -seed $(SEED)

faults: build
	go run ./internal/faults/runfaults -seed $(SEED) -parallel $(PARALLEL) -for $(FOR) -only '$(ONLY)' -case '$(CASE)' \
		-results faults.json -page docs/faults.md

bench: build
	cd bench && CGO_ENABLED=0 go build -trimpath -o bin/ ./...
	bench/bin/bench -sizes $(SIZES) -parts $(PARTS) -rounds $(ROUNDS)

pictures: build
	cd pictures && CGO_ENABLED=0 go build -trimpath -o bin/ ./...
	pictures/bin/pictures -flowcut flowcut -only '$(ONLY)'

test-page: build
	.ci/page-deps
	cd pictures && go test -count 1 ./browser -args -flowcut $(CURDIR)/flowcut -dir $(CURDIR)/docs/pictures

fuzz:
	go run ./internal/fuzz/runfuzz -each $(FUZZTIME)

deb:
	packaging/build dist $$(go env GOARCH)

deb-test: deb
	packaging/deb-test

dist:
	packaging/dist

cross:
	packaging/cross

backends: build
	go test -count 1 -timeout 20m -run 'XT|OnIPTables' ./internal/fence ./cut -args -fence iptables
	go run ./internal/soak/runsoak -fence iptables -count 60 -seed $(SEED)

kernels:
	.ci/kernels-deps
	go run ./internal/kernels/runkernels -suites '$(SUITES)' -scenarios '$(SCENARIOS)' -kept=$(KEPT) -docs '$(DOCS)'

deps:
	.ci/deps

lint: fmt tidy vet staticcheck errcheck errorlint vuln

fmt:
	test -z "$$(gofmt -l . | tee /dev/stderr)"

tidy:
	go mod tidy -diff
	cd bench && go mod tidy -diff
	cd pictures && go mod tidy -diff

vet:
	go vet ./...
	go vet -tags kernels ./cut ./internal/detour ./internal/doctor
	cd bench && go vet ./...
	cd pictures && go vet ./...

staticcheck:
	$(TOOL) staticcheck -tags kernels ./...

errcheck:
	$(TOOL) errcheck -ignoretests -exclude tools/errcheck.txt ./...

errorlint:
	$(TOOL) go-errorlint ./...

vuln:
	tools/vuln

unit:
	go test -p 2 -count 1 -timeout 8m ./...

man:
	man -l docs/flowcut.8 docs/flowcut-conntrack.8

install: build
	install -D -m 0755 flowcut $(DESTDIR)$(PREFIX)/sbin/flowcut
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/man/man8 docs/flowcut.8 docs/flowcut-conntrack.8

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/sbin/flowcut $(DESTDIR)$(PREFIX)/share/man/man8/flowcut.8 $(DESTDIR)$(PREFIX)/share/man/man8/flowcut-conntrack.8

clean:
	rm -f flowcut demo.svg
	rm -rf bench/bin pictures/bin dist
