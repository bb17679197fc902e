"""Conditional computation with stochastic gating units on multicore CPUs.

Implements Bengio, Léonard & Courville (2013), "Estimating or Propagating Gradients
Through Stochastic Neurons for Conditional Computation".
"""

from importlib.metadata import version as _version

from stochnet._versions import show_versions
from stochnet.estimator import GatedMLPClassifier

__version__ = _version("stochnet")

__all__ = ["GatedMLPClassifier", "show_versions"]
