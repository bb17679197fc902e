"""scikit-learn's contender: a dense network of rectifiers of the same width.

It is another function, without gates, so nothing can be compared with it but time.
"""

import numpy as np
from sklearn.neural_network import MLPClassifier

from stochnet.bench.shapes import LEARNING_RATE, SEED


def make_classifier(hidden_layer_sizes, batch, **options):
    """`MLPClassifier` with plain SGD; `options` replace the settings here."""
    settings = {
        "solver": "sgd",
        "momentum": 0.0,
        "nesterovs_momentum": False,
        "learning_rate_init": LEARNING_RATE,
        "batch_size": batch,
        "random_state": SEED,
    }
    return MLPClassifier(hidden_layer_sizes, **settings | options)


def prediction(shape, data):
    """Class probabilities of the next mini-batch."""
    n = shape.n_classes
    model = make_classifier(shape.n_units, data.batch)
    first = slice(data.batch)
    model.partial_fit(data.X[first], data.y[first], classes=np.arange(n))
    batches = data.batches()
    return lambda: model.predict_proba(next(batches)[0])


def width_with_parameters(n_parameters, n_inputs, n_classes):
    """Width of one hidden layer at which there are about so many parameters."""
    return max(1, round((n_parameters - n_classes) / (n_inputs + 1 + n_classes)))
