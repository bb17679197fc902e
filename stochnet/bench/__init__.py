"""Benchmarks beside scikit-learn, PyTorch and what the machine can do.

``python -m stochnet.bench --help`` says how to use them.
"""
