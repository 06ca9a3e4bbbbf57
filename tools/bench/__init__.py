"""Benchmarks: discovery, rewriting, scoring and what comes out, beside Torch-Pruning.

    python -m tools.bench                     # all parts, into docs/speed.json and docs/speed.md
    python -m tools.bench discovery rewriting # some
    python -m tools.bench --quick             # a few small cases, compared with the stored ratios

Absolute times are noisy; what counts are ratios of works that alternate in one process.
"""
