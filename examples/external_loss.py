"""A loss that comes from outside as a number: no derivative, no back-propagation.

    python examples/external_loss.py

A reader of digits may look at a few pixels only, and pays for each. It is a black box,
here scikit-learn's nearest neighbours, which returns for each image whether it was
misread; nothing can be differentiated. Stochastic binary neurons choose the pixels,
one for each, and learn from that number alone by REINFORCE with the baseline of
Corollary 1 (Bengio, Léonard & Courville 2013, Sec. 3).
"""

import argparse

import numpy as np
from scipy.special import expit
from sklearn.neighbors import KNeighborsClassifier

from stochnet._kernels.gate import estimator_gradient, unit_forward
from stochnet.datasets import load_digits_split
from stochnet.gaters import Noise

PRICE = 0.01  # of a pixel
BATCH = 64


class Reader:
    """The world outside: says what reading an image through a mask costs."""

    def __init__(self, X, y):
        self.X, self.y = X, y
        self.generator = np.random.default_rng(0)

    def misread(self, X, y, h):
        """1 for each misread image, else 0, when only pixels with h = 1 are seen."""
        known = self.generator.choice(len(self.X), 400, replace=False)
        seen = h.mean(axis=0) > self.generator.random(h.shape[1])
        seen |= ~seen.any()
        model = KNeighborsClassifier(3).fit(self.X[known] * seen, self.y[known])
        return (model.predict(X * h) != y).astype(float)


def train(reader, X, y, steps, seed):
    """Learn pre-activations of the pixels' gates from the reader's numbers."""
    generator = np.random.default_rng(seed)
    a = np.full(X.shape[1], 1.0)
    numerator = denominator = np.zeros(X.shape[1])
    for step in range(steps):
        rows = generator.choice(len(X), BATCH, replace=False)
        z = generator.random((BATCH, len(a)))
        h = np.stack(
            [unit_forward("bernoulli", Noise(), np.full(BATCH, a_), z_)
             for a_, z_ in zip(a, z.T, strict=True)],
            axis=1,
        )  # fmt: skip
        loss = reader.misread(X[rows], y[rows], h) + PRICE * h.sum(axis=1)
        baseline = numerator / np.maximum(denominator, 1e-12)
        for k in range(len(a)):
            a[k] -= (
                2.0
                * estimator_gradient(
                    "reinforce",
                    np.full(BATCH, a[k]),
                    h[:, k],
                    np.zeros(BATCH),
                    loss,
                    baseline=baseline[k],
                ).sum()
            )
        a = np.clip(a, -4, 4)
        weight = (h - expit(a)) ** 2
        numerator = 0.9 * numerator + 0.1 * (weight * loss[:, None]).mean(axis=0)
        denominator = 0.9 * denominator + 0.1 * weight.mean(axis=0)
        if step % 100 == 0 or step == steps - 1:
            print(
                f"step {step:4d}: loss {loss.mean():.3f}, pixels {h.sum(1).mean():.1f},"
                f" misread {100 * np.mean(loss - PRICE * h.sum(1)):.0f}%",
                flush=True,
            )
    return a


def main():
    """Train, then read with the pixels that are more likely on than off."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    X, y, _, _, X_test, y_test = load_digits_split()
    a = train(Reader(X, y), X, y, arguments.steps, arguments.seed)
    chosen = np.argsort(-a)[: max(1, (a > 0).sum())]
    error = 1 - KNeighborsClassifier(3).fit(X[:, chosen], y).score(
        X_test[:, chosen], y_test
    )
    others = np.random.default_rng(1).permuted(
        np.tile(np.arange(X.shape[1]), (20, 1)), axis=1
    )[:, : len(chosen)]
    random_error = np.mean(
        [
            1 - KNeighborsClassifier(3).fit(X[:, o], y).score(X_test[:, o], y_test)
            for o in others
        ]
    )
    print(f"{len(chosen)} of {X.shape[1]} pixels chosen: test error {100 * error:.1f}%")
    print(f"as many pixels at random: {100 * random_error:.1f}%")


if __name__ == "__main__":
    main()
