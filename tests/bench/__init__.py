"""The benchmarks: `python -m tests.bench`. They need Linux, a C compiler and, once, a network."""
