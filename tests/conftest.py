"""What has to stand before SciPy is imported."""

import os

# or scikit-learn's checks of array API inputs are skipped
os.environ.setdefault("SCIPY_ARRAY_API", "1")
