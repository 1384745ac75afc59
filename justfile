# The same commands as CI: `just check test`.

set shell := ["sh", "-cu"]

# List the recipes
default:
    @just --list

# Make .venv and install what development needs
setup:
    sh scripts/environment dev

# Lint, layers and types
check: setup
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    .venv/bin/lint-imports
    .venv/bin/mypy

# Format the code
format: setup
    .venv/bin/ruff check --fix .
    .venv/bin/ruff format .

# Run the tests; arguments go to pytest
test *arguments:
    sh scripts/test {{arguments}}

# Renew the tables of the documentation and run its code
docs: setup
    .venv/bin/python docs/tables.py
    sh scripts/test tests/docs

# Run a program on the embedded model
demo *arguments:
    sh scripts/demo {{arguments}}

# Everything that CI runs
ci:
    .ci/run

# Measure against plain generation; arguments go to benchmarks/run.py
bench *arguments: setup
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/run.py {{arguments}}

# Count what intervals and verdicts miss; arguments go to tests.exactness.coverage
coverage *arguments: setup
    OMP_NUM_THREADS=1 .venv/bin/python -m tests.exactness.coverage {{arguments}}
