"""A plot of what `compare_estimators` measures."""

from stochnet.diagnostics.comparison import compare_estimators
from stochnet.diagnostics.estimators import ESTIMATORS
from stochnet.diagnostics.problem import GateProblem


class GradientEstimatorDisplay:
    """Bias against variance of gradient estimators.

    Parameters
    ----------
    results : dict
        Of `compare_estimators`.

    Attributes
    ----------
    figure_, ax_ : matplotlib objects
        After `plot`.
    """

    def __init__(self, results):
        self.results = results

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        y,
        *,
        estimators=None,
        n_draws=2000,
        random_state=0,
        options=None,
        ax=None,
    ):
        """Compare on the last layer of a `GatedMLPClassifier`, and plot.

        Parameters
        ----------
        estimator : GatedMLPClassifier
            Fitted or not (see `GateProblem.from_estimator`), with at most 20 gates in
            its last layer.
        X, y : array-like
            Rows and labels.
        estimators, n_draws, random_state, options
            As in `compare_estimators`.
        ax : matplotlib axes, optional

        Returns
        -------
        GradientEstimatorDisplay
        """
        problem = GateProblem.from_estimator(estimator, X, y)
        results = compare_estimators(
            problem, estimators, n_draws, random_state, options
        )
        return cls(results).plot(ax=ax)

    def plot(self, ax=None):
        """Draw one point for each estimator, on logarithmic axes.

        Unbiased estimators are drawn hollow at the lower edge, as are those of whose
        bias nothing is seen.

        Parameters
        ----------
        ax : matplotlib axes, optional

        Returns
        -------
        self : GradientEstimatorDisplay

        Raises
        ------
        ImportError
            Without matplotlib.
        """
        try:
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise ImportError(
                "GradientEstimatorDisplay.plot requires matplotlib."
            ) from error
        if ax is None:
            _, ax = plt.subplots()
        biases = {
            name: 0.0 if ESTIMATORS[name].unbiased else result["squared_bias"]
            for name, result in self.results.items()
        }
        lowest = min((b for b in biases.values() if b > 0), default=1.0) / 10
        for name, result in self.results.items():
            point = (result["variance"], biases[name] or lowest)
            ax.plot(*point, "o", fillstyle="full" if biases[name] else "none")
            ax.annotate(name, point, fontsize="small", rotation=30)
        ax.set(xscale="log", yscale="log", xlabel="variance", ylabel="squared bias")
        self.ax_, self.figure_ = ax, ax.figure
        return self
