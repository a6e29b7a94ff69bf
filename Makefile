# make serve PHOTOS=./photos   set everything up, learn the folders' classes (photos/cat/1.jpg, photos/dog/1.jpg), serve them
# make serve   set everything up, serve, and show a link to the page
# make test    set everything up and pass the tests
# make slow    the tests of servers that are killed, stopped, starved or attacked, and what else takes minutes
# make soak    the long tests that make test leaves out, those marked soak (minutes of load and generated requests)
# make cluster the tests past one machine, those marked cluster: servers on a real Milvus, a Ray cluster, a load balancer
# make networks  architectures of torchvision, timm and Keras with random weights, ONNX dialects, a hub: found, exported, proven
# make numerics  the tests of the maths as on a processor without AVX (LEVEL=avx2: with AVX2): results differ in their last digits
# make check   lint, types, import directions
# make bench   what things cost: engines, index build, stages of an answer, a server under load, stores by size (a quarter of an hour)
# make gpu     the same on a GPU machine, from PyTorch and numpy alone, without network (ten minutes): docs/benchmarks/README.md
# make paper   the published errors, from the author's own weights; fails where one is missed (half an hour, 10 GB of memory)
# make lock    compile the lock files anew

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet

.PHONY: serve test slow soak cluster networks numerics check bench gpu paper lock setup setup-test clean

# Quoted by the shell, not by make: a folder's name may have spaces and quotes.
serve: setup
	@if [ -n "$$PHOTOS" ]; then exec $(BIN)/secondlook start -- "$$PHOTOS"; else exec $(BIN)/secondlook serve; fi

# Two processes, each with whole files; those that measure or starve servers (slow, cluster) have the machine to themselves.
BOTH := -n 2 --dist loadfile

test: setup-test
	$(BIN)/pytest $(BOTH) $(PYTEST_ARGS)

# The last -m counts: this one overrides that of pyproject.toml.
slow: setup-test
	$(BIN)/pytest -m "slow and not soak and not cluster" $(PYTEST_ARGS)

soak: setup-test
	$(BIN)/pytest -m soak $(PYTEST_ARGS)

cluster: setup-test
	$(BIN)/pytest -m "cluster and not soak" $(PYTEST_ARGS)

networks: setup-test
	$(BIN)/pytest -m networks $(PYTEST_ARGS)

# What numpy, PyTorch, oneDNN, MKL, OpenBLAS and FAISS would run on an older processor; ONNX Runtime cannot be asked.
LEVEL ?= default
AVX512 := X86_V4 AVX512_ICL AVX512_SPR
OLDER_default := NPY_DISABLE_CPU_FEATURES="X86_V3 $(AVX512)" ATEN_CPU_CAPABILITY=default OPENBLAS_CORETYPE=Nehalem \
                 MKL_ENABLE_INSTRUCTIONS=SSE4_2 ONEDNN_MAX_CPU_ISA=SSE41 FAISS_SIMD_LEVEL=NONE
OLDER_avx2 := NPY_DISABLE_CPU_FEATURES="$(AVX512)" ATEN_CPU_CAPABILITY=avx2 OPENBLAS_CORETYPE=Haswell \
              MKL_ENABLE_INSTRUCTIONS=AVX2 ONEDNN_MAX_CPU_ISA=AVX2 FAISS_SIMD_LEVEL=AVX2

# Decoders have no maths of ours, and their tests want the machine to themselves: make slow.
numerics: setup-test
	$(OLDER_$(LEVEL)) $(BIN)/pytest $(BOTH) -m "not soak and not cluster and not networks" tests/unit tests/integration \
		$(patsubst %,--ignore tests/integration/%.py,test_decoders test_image_peaks) $(PYTEST_ARGS)

check: setup-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# One index of 12,288 x 100,000 numbers at a time: each is removed when its errors are measured.
paper: setup-test
	$(BIN)/secondlook reproduce --weights "$${SECONDLOOK_AUTHOR_WEIGHTS:?the folder of the .h5 files}" --only errors --recipe paper --out runs/paper

bench: setup-test
	$(BIN)/python -m benchmarks

# With the Python that is there: nothing is installed. GPU_ARGS: --data FOLDER, --weights FOLDER, --part NAME, ...
gpu:
	$(if $(wildcard .venv/.test),$(BIN)/python,$(PYTHON)) -m benchmarks.gpu --out runs/gpu.json $(GPU_ARGS)

setup: .venv/.serve
setup-test: .venv/.test

.venv/bin/pip:
	$(PYTHON) -m venv .venv

.venv/.serve: locks/serve.txt pyproject.toml | .venv/bin/pip
	@echo "installing what serving needs (about 770 MB) ..."
	@$(PIP) install --require-hashes -r locks/serve.txt
	@$(PIP) install --no-build-isolation --no-deps -e .
	@touch $@

.venv/.test: locks/test.txt pyproject.toml | .venv/bin/pip
	@echo "installing what the tests need, PyTorch among it (about 7 GB, some minutes) ..."
	$(PIP) install --require-hashes -r locks/test.txt
	@$(PIP) install --no-build-isolation --no-deps -e .
	@touch $@ .venv/.serve

# uv comes from the index like any package; the lock files hold hashes and no address.
LOCK := uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --quiet \
        --no-emit-index-url --no-emit-find-links --no-header

lock:
	$(LOCK) --extra cpu --extra client --extra photos --extra fast --extra map --group build --output-file locks/serve.txt
	$(LOCK) --extra cpu --extra client --extra photos --extra fast --extra map --extra milvus --group build --output-file locks/cluster.txt
	$(LOCK) --extra gpu --extra client --extra photos --group build --output-file locks/gpu.txt
	$(LOCK) --extra cpu --extra client --extra lab --extra photos --extra fast --extra int8 --extra map --extra milvus --extra ray --group build --group test --output-file locks/test.txt

clean:
	rm -rf .venv
