.PHONY: help run test lint format bench clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

run:  ## start the service on http://localhost:5000
	deploy/start

test:  ## lint, types and all tests
	tests/run

lint:  ## lint and types only
	tests/run --lint

format:  ## put the code into shape
	tests/run --exec ruff check --fix .
	tests/run --exec ruff format .

bench:  ## measure
	tests/run --exec python -m tests.bench

clean:  ## remove what the commands above made
	rm -rf .venv .venv-test-* .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
