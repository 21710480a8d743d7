# ringpost. `make help` lists the targets; docs/HACKING.md explains them.
VERSION = 0.1.0
PREFIX ?= /usr/local
MODE ?= release
ifndef JOBS
JOBS := $(shell nproc)
endif
FUZZ_SECONDS ?= 10
MINUTES ?= 5
WERROR ?= -Werror

ifeq ($(origin CC),default)
CC = $(if $(filter fuzz,$(MODE)),clang,gcc)
endif

# --- build modes: each in its own folder -----------------------------------------------------------
SANITIZE.asan = -fsanitize=address,undefined -fno-sanitize-recover=all
SANITIZE.tsan = -fsanitize=thread
SANITIZE.tiny = $(SANITIZE.asan)
SANITIZE.fuzz = -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all
SANITIZE.cov = --coverage -fprofile-update=atomic
HARDEN = -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2 -fstack-protector-strong
# Sanitizers and coverage do more at the end of a process than the sandbox lets it (relay/sandbox/sandbox.c).
SANITIZED = $(if $(filter-out release,$(MODE)),-DRINGPOST_SANITIZED)
MODE_FLAGS.release = -O2 $(HARDEN)
MODE_FLAGS.asan = -O1 -DRINGPOST_SLOW_CHECKS
MODE_FLAGS.tsan = -O1
MODE_FLAGS.tiny = -O1 -DRINGPOST_SLOW_CHECKS -DLIMITS_TINY
MODE_FLAGS.fuzz = -O1 -DRINGPOST_SLOW_CHECKS -DRINGPOST_FUZZ
MODE_FLAGS.cov = -O0
ifeq ($(MODE_FLAGS.$(MODE)),)
$(error MODE=$(MODE): expected one of release asan tsan cov tiny fuzz)
endif
B = build$(if $(filter-out release,$(MODE)),/$(MODE))

# --- libraries ---------------------------------------------------------------------------------------
# liburing: always the static one. LIBURING_DIR, else what `make deps` fetched, else the system's.
ifeq ($(LIBURING_DIR),)
ifneq ($(wildcard third_party/liburing/.version),)
LIBURING_DIR = third_party/liburing/usr
endif
endif
ifneq ($(LIBURING_DIR),)
URING_INCLUDE := -isystem $(LIBURING_DIR)/include
URING_A := $(firstword $(wildcard $(LIBURING_DIR)/lib/liburing.a $(LIBURING_DIR)/lib/*/liburing.a))
else ifneq ($(wildcard /usr/include/liburing/io_uring_version.h),)
URING_A := $(filter /%,$(shell $(CC) -print-file-name=liburing.a))
URING_OLD := $(shell awk '/VERSION_M/ { v = v * 100 + $$3 } END { if (v < 209) print "old" }' \
	/usr/include/liburing/io_uring_version.h)
endif
# liburing's headers want <linux/blkdev.h>; kernel headers before 6.12 have none.
SHIM := $(if $(wildcard /usr/include/linux/blkdev.h),,-isystem packaging/shim)

# BoringSSL: the distribution's shared one (full paths: an OpenSSL beside it must never be picked),
# or a static one: BORINGSSL_DIR=/path (include/, lib/), or FAST_TLS=1 after `make deps-fast-tls`.
ifeq ($(FAST_TLS),1)
BORINGSSL_DIR = third_party/boringssl
endif
ifneq ($(BORINGSSL_DIR),)
TLS_INCLUDE = -isystem $(BORINGSSL_DIR)/include
TLS_HEADER = $(BORINGSSL_DIR)/include/openssl/base.h
TLS_LIBS := $(BORINGSSL_DIR)/lib/libssl.a $(BORINGSSL_DIR)/lib/libcrypto.a -lstdc++ -lpthread
else
TLS_INCLUDE = -isystem /usr/include/android
TLS_HEADER = /usr/include/android/openssl/base.h
TLS_FOLDER := $(firstword $(wildcard /usr/lib/$(shell uname -m)-linux-gnu/android /usr/lib/*/android))
TLS_LIBS := $(TLS_FOLDER)/libssl.so.0 $(TLS_FOLDER)/libcrypto.so.0 -Wl,-rpath,$(TLS_FOLDER)
endif

MISSING := $(if $(URING_A),$(if $(URING_OLD),liburing>=2.9),liburing>=2.9) \
	$(if $(wildcard $(TLS_HEADER)),,BoringSSL:$(TLS_HEADER)) \
	$(if $(wildcard /usr/include/libfyaml.h /usr/local/include/libfyaml.h),,libfyaml) \
	$(if $(wildcard /usr/include/seccomp.h /usr/local/include/seccomp.h),,libseccomp) \
	$(if $(shell command -v $(CC)),,$(CC))

# --- flags -------------------------------------------------------------------------------------------
# string-conversion (clang): ASSERT(!"why") is meant.
WARN = -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion \
	-Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla \
	$(if $(findstring clang,$(CC)),-Wno-string-conversion) $(WERROR)
FLAGS := -std=gnu17 -g -fPIE -fno-omit-frame-pointer -pthread $(WARN) $(MODE_FLAGS.$(MODE)) \
	$(SANITIZE.$(MODE)) $(SANITIZED) -DRINGPOST_VERSION='"$(VERSION)"' -D_GNU_SOURCE -I. \
	$(TLS_INCLUDE) $(SHIM) $(URING_INCLUDE)
LINK = $(CC) -g -pie -pthread -Wl,-z,relro,-z,now $(SANITIZE.$(MODE)) $(LDFLAGS)
LIBS := $(TLS_LIBS) $(URING_A) -lfyaml -lseccomp

# --- what there is to build ----------------------------------------------------------------------------
SOURCES := $(filter-out relay/main.c,$(sort $(wildcard core/*.c tls/*.c relay/*.c relay/*/*.c)))
OBJECTS := $(SOURCES:%.c=$(B)/obj/%.o)
UNIT_OBJECTS = $(patsubst %.c,$(B)/obj/%.o,$(sort $(wildcard tests/unit/*.c)))
BENCH_OBJECTS = $(patsubst %.c,$(B)/obj/%.o,$(sort $(wildcard bench/*.c)))
FUZZERS = $(patsubst tests/fuzz/%.c,$(B)/%,$(sort $(wildcard tests/fuzz/fuzz_*.c)))
BENCHES = $(patsubst bench/%.c,$(B)/%,$(sort $(wildcard bench/*.c)))
# ringpost-bench, of bench/tool/; unit tests link all of it but its main().
TOOL_OBJECTS = $(patsubst %.c,$(B)/obj/%.o,$(filter-out bench/tool/main.c,$(sort $(wildcard bench/tool/*.c))))
BINARIES := $(strip $(if $(wildcard relay/main.c),$(B)/ringpost) $(B)/ringpost-bench $(BENCHES))
# The simulator stands in for the door to the kernel: sim_*.c is the machine, spool_*.c, net_*.c and
# relay_*.c are drivers of the spool, of its network, and of the whole relay.
SIM_OBJECTS = $(patsubst %.c,$(B)/obj/%.o,$(sort $(wildcard tests/sim/*.c)))
SIM_MACHINE = $(filter $(B)/obj/tests/sim/sim_%,$(SIM_OBJECTS))
SIM_CORE = $(filter-out $(addprefix $(B)/obj/core/,io_uring.o io_acknowledged.o io_file.o io_restrict.o clock.o), \
	$(filter $(B)/obj/core/%,$(OBJECTS)))
SIM_SPOOL_DRIVER = $(SIM_MACHINE) $(filter $(B)/obj/tests/sim/spool_%,$(SIM_OBJECTS))
# All of the relay but what makes it a process.
SIM_RELAY = $(SIM_CORE) $(filter-out $(B)/obj/relay/process.o $(B)/obj/relay/descriptors.o $(B)/obj/relay/tools/% \
	$(B)/obj/relay/sandbox/% $(B)/obj/relay/stats/stats%,$(filter $(B)/obj/relay/%,$(OBJECTS))) $(SIM_MACHINE)
SIM_SPOOL = $(filter $(B)/obj/relay/spool/%,$(OBJECTS))
# CANARY=NAME: the files that have that planted bug are built with it (docs/TESTING.md).
CANARY_SOURCES := $(if $(CANARY),$(shell grep -lw 'CANARY_$(CANARY)' core/*.c relay/*.c relay/*/*.c))
CANARY_OBJECTS = $(CANARY_SOURCES:%.c=$(B)/canary/$(CANARY)/%.o)
without_canary = $(filter-out $(CANARY_SOURCES:%.c=$(B)/obj/%.o),$(1))
ALL_OBJECTS = $(OBJECTS) $(UNIT_OBJECTS) $(BENCH_OBJECTS) $(B)/obj/relay/main.o \
	$(TOOL_OBJECTS) $(B)/obj/bench/tool/main.o \
	$(patsubst %.c,$(B)/obj/%.o,$(wildcard tests/fuzz/*.c)) $(SIM_OBJECTS)

SUBMAKE = +@$(MAKE) --no-print-directory $(if $(filter -j% --jobserver%,$(MAKEFLAGS)),,-j$(JOBS))
# Sanitizers of these compilers fail at random under high-entropy address layouts.
STEADY := $(shell setarch -R true 2>/dev/null && echo setarch -R)

.PHONY: build binaries unit-binary fuzzers preflight force help deps deps-test deps-bench deps-fast-tls run test \
	unit unit-run sim-binary sim-net-binary sim-canary-binary sim-canary-relay-binary \
	sim-relay-binary sim sim-smoke sim-soak sim-net sim-spool sim-spool-soak sim-canaries \
	machine fuzz fuzz-smoke system torture abuse tls-face check cov tsan asan format \
	bench bench-full bench-check bench-micro tidy-clang install clean clean-all
.SECONDARY:
.DELETE_ON_ERROR:

build: ## compile build/ringpost (MODE=release|asan|tsan|cov|tiny, CC=gcc|clang, FAST_TLS=1)
	$(SUBMAKE) binaries

binaries: $(BINARIES) $(if $(BINARIES),,$(OBJECTS))

preflight:
	@[ -z '$(strip $(MISSING))' ] || { echo 'ringpost needs what this machine lacks: $(strip $(MISSING))'; \
	echo 'get it with: make deps'; exit 1; }

# Objects are rebuilt when compiler or flags change.
$(B)/flags: force | preflight
	@mkdir -p $(@D); echo '$(CC) $(subst ','\'',$(FLAGS))' | cmp -s - $@ || \
	echo '$(CC) $(subst ','\'',$(FLAGS))' >$@

$(B)/obj/%.o: %.c $(B)/flags Makefile
	@mkdir -p $(@D)
	@echo "  CC    $(MODE) $<"
	@$(CC) $(FLAGS) $(CFLAGS) -MMD -MP -c $< -o $@

$(B)/ringpost: $(OBJECTS) $(B)/obj/relay/main.o
	@echo "  LINK  $@"
	@$(LINK) $^ $(LIBS) -o $@

$(B)/ringpost-bench: $(OBJECTS) $(TOOL_OBJECTS) $(B)/obj/bench/tool/main.o
	@echo "  LINK  $@"
	@$(LINK) $^ $(LIBS) -lm -o $@

# What bench/measure.py compares with: each of one file that shares nothing with the relay; micro measures its parts.
$(BENCHES): $(B)/%: $(B)/obj/bench/%.o
	@echo "  LINK  $@"
	@$(LINK) $^ $(LIBS) -o $@
$(B)/micro: $(OBJECTS)

# libcriterion brings OpenSSL's libcrypto along; the linker's warning of it is expected (docs/HACKING.md).
$(B)/tests/unit: $(OBJECTS) $(TOOL_OBJECTS) $(UNIT_OBJECTS)
	@mkdir -p $(@D)
	@echo "  LINK  $@"
	@$(LINK) $^ $(LIBS) -lm -lcriterion -o $@ 2>$@.log || { cat $@.log >&2; exit 1; }

$(B)/fuzz_%: $(B)/obj/tests/fuzz/fuzz_%.o $(OBJECTS)
	@echo "  LINK  $@"
	@$(LINK) -fsanitize=fuzzer $^ $(LIBS) -o $@

$(B)/sim-spool: $(SIM_CORE) $(SIM_SPOOL) $(SIM_SPOOL_DRIVER)
	@echo "  LINK  $@"
	@$(LINK) $^ -lfyaml -o $@

$(B)/sim-net: $(SIM_RELAY) $(filter $(B)/obj/tests/sim/net_%,$(SIM_OBJECTS))
	@echo "  LINK  $@"
	@$(LINK) $^ -lfyaml -o $@

$(B)/sim: $(SIM_RELAY) $(filter $(B)/obj/tests/sim/relay_%,$(SIM_OBJECTS))
	@echo "  LINK  $@"
	@$(LINK) $^ -lfyaml -o $@

$(B)/canary/$(CANARY)/%.o: %.c $(B)/flags Makefile
	@mkdir -p $(@D)
	@$(CC) $(FLAGS) $(CFLAGS) -DCANARY_$(CANARY) -MMD -MP -c $< -o $@

$(B)/canary/$(CANARY)/sim-spool: $(CANARY_OBJECTS) $(call without_canary,$(SIM_CORE) $(SIM_SPOOL) \
	$(SIM_SPOOL_DRIVER))
	@$(LINK) $^ -lfyaml -o $@

$(B)/canary/$(CANARY)/sim: $(CANARY_OBJECTS) $(call without_canary,$(SIM_RELAY) \
	$(filter $(B)/obj/tests/sim/relay_%,$(SIM_OBJECTS)))
	@$(LINK) $^ -lfyaml -o $@

sim-binary: $(B)/sim-spool
sim-net-binary: $(B)/sim-net
sim-relay-binary: $(B)/sim
sim-canary-binary: $(B)/canary/$(CANARY)/sim-spool
sim-canary-relay-binary: $(B)/canary/$(CANARY)/sim
unit-binary: $(B)/tests/unit
fuzzers: $(FUZZERS)

-include $(ALL_OBJECTS:.o=.d) $(CANARY_OBJECTS:.o=.d)

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

# --- dependencies -----------------------------------------------------------------------------------------
deps: ## install what the build needs (root; distribution packages only; liburing 2.9 into third_party/)
	@BORINGSSL_DIR='$(BORINGSSL_DIR)' LIBURING_DIR='$(filter-out third_party/%,$(LIBURING_DIR))' packaging/deps.sh build

deps-test: ## install what the tests need on top
	@packaging/deps.sh test

deps-bench: ## get what ringpost is compared with (root): relays, gnuplot; those that exclude each other into third_party/peers
	@packaging/deps.sh bench
	@bench/peers.sh

deps-fast-tls: ## build a static, faster BoringSSL from the distribution's source; then make FAST_TLS=1
	@packaging/fast_tls.sh

# --- running and testing ------------------------------------------------------------------------------------
run: ## get dependencies, build, start a relay with a sink behind it and send a first message
	$(SUBMAKE) deps
	$(SUBMAKE) build
	@MODE=$(MODE) packaging/demo.sh $(B)/ringpost

test: ## everything: dependencies, build, checks, unit, fuzz-smoke and system tests
	$(SUBMAKE) deps
	$(SUBMAKE) deps-test
	+@JOBS=$(JOBS) MAKE='$(MAKE)' FUZZ_SECONDS=$(FUZZ_SECONDS) python3 tests/run.py $(STEPS)

unit: ## build and run the unit tests (MODE=asan ..., FILTER='suite/name*')
	$(SUBMAKE) unit-binary
	$(SUBMAKE) unit-run

unit-run:
	@$(if $(SANITIZE.$(MODE)),$(STEADY)) $(B)/tests/unit --jobs $$(( $(JOBS) + 2 )) --timeout 60 $(if $(FILTER),--filter '$(FILTER)')

system: ## run the system tests against build/ringpost (MODE=asan ..., SYSTEM_TESTS='-k test_tls*')
	$(SUBMAKE) build
	@$(if $(SANITIZE.$(MODE)),$(STEADY)) tests/system.sh $(B)/ringpost $(SYSTEM_TESTS)

BENCH_SHORT = --peers ringpost-1,ringpost,bare,ringpost-spool-1 --loads bench-single,bench-reused,pipelined,deep,large \
	--rounds 3 --seconds 0.7 --minutes 1.7 --parts cpu
SIM_SPOOL_SHORT = --seeds 1 600 --clock 100 --steps 60 --depth 2 --prefixes 1 2
SIM_SMOKE = --each-kind --list tests/sim/regressions --seeds 1 $(SIM_SEEDS)
SIM_SEEDS ?= 1500
sim: ## the whole relay in a simulated world: one seed, SEED=n; VERBOSE=1 tells its story
	$(SUBMAKE) MODE=tiny sim-relay-binary
	@$(STEADY) build/tiny/sim --jobs 1 $(if $(VERBOSE),--verbose) --seeds $(or $(SEED),1) 1

sim-smoke: ## the same: seeds that found something once, and SIM_SEEDS (1500) others, always the same
	$(SUBMAKE) MODE=tiny sim-relay-binary
	@$(STEADY) build/tiny/sim --jobs $(JOBS) --file build/sim-failures $(SIM_SMOKE)

sim-soak: ## the same with new seeds for MINUTES (5); those that fail are kept in build/sim-failures
	$(SUBMAKE) MODE=tiny sim-relay-binary
	@$(STEADY) build/tiny/sim --jobs $(JOBS) --file build/sim-failures --minutes $(MINUTES)

sim-spool: ## the spool on a simulated disk: power cuts, faults (SEED=n, PREFIXES=n: only that one)
	$(SUBMAKE) MODE=tiny sim-binary
	@$(STEADY) build/tiny/sim-spool --jobs $(JOBS) $(if $(SEED),--seeds $(SEED) 1,$(if $(PREFIXES),\
	--steps 60 --depth 2 --prefixes $(PREFIXES) 1,$(SIM_SPOOL_SHORT)))

sim-net: ## the simulated network itself, with the whole relay on it (SEED=n, SCENARIO=name)
	$(SUBMAKE) MODE=tiny sim-net-binary
	@$(STEADY) build/tiny/sim-net $(if $(SEED),--seed $(SEED)) $(if $(SCENARIO),--scenario $(SCENARIO))

sim-spool-soak: ## the same with new seeds for MINUTES (5)
	$(SUBMAKE) MODE=tiny sim-binary
	@$(STEADY) build/tiny/sim-spool --jobs $(JOBS) --steps 60 --depth 3 --minutes $(MINUTES)

sim-canaries: ## bugs planted in relay and spool, each of which a simulation must find
	@JOBS=$(JOBS) MAKE='$(MAKE)' tests/sim/canaries.sh

torture: ## the promise of 250 under kills and bad next hops, for MINUTES (5), SEED=n repeats (MODE=asan ...)
	$(SUBMAKE) build
	@RINGPOST=$(B)/ringpost $(if $(SANITIZE.$(MODE)),$(STEADY)) python3 tests/system/torture.py \
		--minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

abuse: ## load abuse in full size, 10,000 connections: what good clients waited, unloaded and loaded
	$(SUBMAKE) build
	@rm -f $(B)/abuse-report.txt
	@RINGPOST_ABUSE=full RINGPOST_ABUSE_REPORT='$(abspath $(B))/abuse-report.txt' \
		$(if $(SANITIZE.$(MODE)),$(STEADY)) tests/system.sh $(B)/ringpost -j 1 --timeout 600 -k 'test_abuse*'
	@echo; cat $(B)/abuse-report.txt

machine: ## run COMMAND on the kernel of SUITE (bookworm, trixie, SUITE-backports) in a virtual machine (root; qemu)
	@tests/machines/machine.sh $(or $(SUITE),bookworm)

tls-face: ## what testssl.sh and sslscan say of the default TLS settings; five minutes
	$(SUBMAKE) build
	@packaging/deps.sh tls-face
	@RINGPOST=$(B)/ringpost python3 tests/system/tls_face.py

fuzz-smoke: ## every fuzz target for FUZZ_SECONDS (10)
	$(SUBMAKE) MODE=fuzz fuzzers
	@$(STEADY) tests/fuzz/run.sh $(FUZZ_SECONDS) $(TARGET)

fuzz: ## every fuzz target, or TARGET=line, for MINUTES (5); new inputs are kept in build/fuzz/corpus
	$(SUBMAKE) MODE=fuzz fuzzers
	@KEEP=build/fuzz/corpus $(STEADY) tests/fuzz/run.sh $$(( $(MINUTES) * 60 )) $(TARGET)

check: ## style: layers, system headers, lengths, contracts, banned calls
	@python3 tests/check_style.py

asan: ## unit and system tests under address and undefined behaviour sanitizers
	$(SUBMAKE) MODE=asan unit
	$(SUBMAKE) MODE=asan system

tsan: ## system tests under the thread sanitizer (Criterion's arenas need addresses that it forbids)
	$(SUBMAKE) MODE=tsan system

cov: ## line coverage of core, tls and relay by unit and system tests: table, and HTML in build/cov/
	@packaging/deps.sh coverage
	$(SUBMAKE) MODE=cov CC=gcc binaries unit-binary
	@find build/cov -name '*.gcda' -delete
	$(SUBMAKE) MODE=cov CC=gcc unit-run || echo 'cov: unit tests failed'
	@tests/system.sh build/cov/ringpost || echo 'cov: system tests failed'
	@gcovr --root . --object-directory build/cov --filter core/ --filter tls/ --filter relay/ \
		--gcov-ignore-parse-errors --txt build/cov/coverage.txt --html-details build/cov/index.html
	@cat build/cov/coverage.txt

bench: ## CPU per message beside the bare relay: a table in less than two minutes, needs nothing but the build
	$(SUBMAKE) build
	@RINGPOST=$(B)/ringpost bench/measure.py compare $(BENCH_SHORT) $(BENCH_ARGUMENTS)

bench-full: ## every relay that is there, latency, memory, the targets: docs/bench/, within 15 minutes (root; a quiet machine)
	$(SUBMAKE) build
	@RINGPOST=$(B)/ringpost bench/measure.py compare --output docs/bench $(BENCH_ARGUMENTS)

bench-check: ## a short comparison, and what got slower than docs/bench/baseline.json says (BENCH_ARGUMENTS=--write: a new one)
	$(SUBMAKE) build
	@RINGPOST=$(B)/ringpost bench/measure.py check $(BENCH_ARGUMENTS)

bench-micro: ## scanners in octets per cycle, state machines in commands per second
	$(SUBMAKE) build
	@$(B)/micro

format: ## clang-format over all C files
	clang-format -i $(wildcard core/*.[ch] tls/*.[ch] relay/*.[ch] relay/*/*.[ch] bench/*.[ch] tests/*/*.[ch])

tidy-clang: ## clang-tidy's bug finders
	clang-tidy --quiet --checks='-*,bugprone-*,-bugprone-easily-swappable-parameters,clang-analyzer-*' \
		$(SOURCES) -- $(FLAGS)

# --- installing ---------------------------------------------------------------------------------------------
USR_OR_ETC = $(if $(filter /usr,$(PREFIX)),/usr/lib,/etc)
install: ## copy binary, unit, man pages and sample configuration to DESTDIR (PREFIX=/usr/local)
	$(SUBMAKE) build
	install -D -m 755 build/ringpost $(DESTDIR)$(PREFIX)/bin/ringpost
	install -D -m 755 build/ringpost-bench $(DESTDIR)$(PREFIX)/bin/ringpost-bench
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system $(DESTDIR)$(USR_OR_ETC)/sysusers.d
	sed 's|@PREFIX@|$(PREFIX)|g' packaging/ringpost.service >$(DESTDIR)$(PREFIX)/lib/systemd/system/ringpost.service
	install -m 644 packaging/ringpost.sysusers $(DESTDIR)$(USR_OR_ETC)/sysusers.d/ringpost.conf
	install -D -m 644 packaging/ringpost.yaml $(DESTDIR)$(PREFIX)/share/doc/ringpost/ringpost.yaml
	[ -e $(DESTDIR)/etc/ringpost/ringpost.yaml ] || \
		install -D -m 644 packaging/ringpost.yaml $(DESTDIR)/etc/ringpost/ringpost.yaml
	for page in $(wildcard docs/man/*.[158]); do \
		install -D -m 644 $$page $(DESTDIR)$(PREFIX)/share/man/man$${page##*.}/$${page##*/} || exit 1; done

clean: ## remove build/
	rm -rf build

clean-all: clean ## remove build/ and third_party/
	rm -rf third_party
