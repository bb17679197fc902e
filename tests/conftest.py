"""What has to stand before SciPy and the tests' helpers are imported."""

import os

import pytest

# or scikit-learn's checks of array API inputs are skipped
os.environ.setdefault("SCIPY_ARRAY_API", "1")

# so that what fails in them says as much as in a test
pytest.register_assert_rewrite("helpers", "estimator_checks", "network_checks")
