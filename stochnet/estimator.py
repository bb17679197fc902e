"""`GatedMLPClassifier`, the scikit-learn facade."""

import threading
from numbers import Integral, Real

import numpy as np
from scipy.sparse import csr_matrix, vstack
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state, check_scalar
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.multiclass import (
    _check_partial_fit_first_call,
    check_classification_targets,
)

from stochnet._threads import effective_n_threads
from stochnet._validation import check_fitted, prediction_data, training_data
from stochnet.calibration import CalibrationRows, calibrate
from stochnet.gaters import ESTIMATORS, GATERS, NOISES, PENALTIES, make_gater
from stochnet.initialization import INITIALIZATIONS
from stochnet.network import Network, Optimizer
from stochnet.training import Schedule, Trainer

_POSITIVE = Interval(Real, 0, None, closed="neither")
_NOT_NEGATIVE = Interval(Real, 0, None, closed="left")
_AT_LEAST_ONE = Interval(Integral, 1, None, closed="left")
_MOMENTUM = Interval(Real, 0, 1, closed="left")
_AUTO = StrOptions({"auto"})

# One thread calibrates while others wait to predict.
_calibrating = threading.Lock()


class GatedMLPClassifier(ClassifierMixin, BaseEstimator):
    """Classifier with wide hidden layers of which each row computes a small part.

    Each hidden layer has linear experts and gates, one for each expert or for each
    block of ``experts_per_gate``. A small gater (one layer of
    tanh units, then the gates) decides row by row which gates are non-zero; the layer's
    output is gate times expert, and an expert whose gate is zero is not computed,
    neither forward nor backward. The last layer feeds a softmax. Training minimises
    cross-entropy and a penalty on the density of the gates with mini-batch gradient
    descent; how the loss reaches the gates is the gater's business. See [1]_.

    Parameters
    ----------
    hidden_layer_sizes : int or array-like of shape (n_layers,), default=(500,)
        Experts of each conditional layer.
    experts_per_gate : int or array-like of shape (n_layers,), default=1
        Successive experts that one gate switches, a divisor of the layer's experts. A
        layer has that many times fewer gates, which makes its gater cheaper and its
        experts faster to compute. Where it is a multiple of 16 and ``density`` at most
        0.5, the layer above reads only the blocks that are switched on.
    gater : str, default="st"
        How gates fire and learn; see ``stochnet.gaters.GATERS``:

        - "noisy_rectifier": max(0, a + z) with noise z, back-propagation (Sec. 2.1);
        - "sts": stochastic times smooth, b sqrt(p) with b ~ Bernoulli(sqrt p) and
          p = sigm(a), back-propagation (Sec. 2.2);
        - "sbn": stochastic binary neuron, P(h = 1) = sigm(a), REINFORCE (Sec. 3);
        - "st": the same unit with the straight-through gradient (Sec. 4);
        - "rectifier", "sigmoid": the paper's baselines without stochastic gates. The
          sigmoid is dense: every expert is computed and ``density`` has no effect.

        and, with logistic noise l and a ``temperature`` T:

        - "concrete": binary concrete or Gumbel-sigmoid, sigm((a + l) / T),
          back-propagation [2]_ [3]_; dense, as the sigmoid is;
        - "concrete_st": the gate of "st", 1 where a + l > 0, with the gradient of the
          concrete sample in its place [3]_;
        - "hard_concrete": the concrete sample stretched to (-0.1, 1.1) and clamped to
          [0, 1], back-propagation [4]_.
    estimator : str, default="auto"
        How the loss reaches the gates, where a gater has a choice. "sbn": "reinforce"
        ("auto") or "local_expectation", which averages each gate out with the others as
        sampled: unbiased too, with less variance. It has to know every expert's output
        and the readout, so that its training forward pass is dense unless
        ``credit="probe"``, and there can be one layer only. "st": "straight_through"
        ("auto") or "reinmax", of second order [5]_. The others have one estimator.
    gater_hidden_size : int, array-like of shape (n_layers,) or "auto", default="auto"
        Tanh units of each layer's gater. "auto" is a fifth of the gates, as in the
        paper, and at least 16.
    density : float in (0, 1], default=0.1
        Target share of non-zero gates, the paper's s, for each unit in training and
        for each layer at prediction.
    noise : str or None, default="auto"
        Noise added to the gates' pre-activation. "noisy_rectifier": "gaussian" ("auto")
        or "logistic"; "sts": None ("auto"), "beta" (Appendix A.2), "gaussian" or
        "beta+gaussian"; "sigmoid": None ("auto") or "gaussian"; "concrete": "logistic"
        ("auto"); the others: None.
    noise_scale : float, default=1.0
        Standard deviation of Gaussian noise, scale of logistic noise.
    noise_beta : float, default=40.1
        Second parameter of the Beta distribution, above 1; the first puts its mode at
        ``density``.
    noise_on : {"gate", "draw"}, default="gate"
        Only for "sts" with noise: whether the noise reaches both halves of the unit or
        only the decision to fire.
    temperature : float or "auto", default="auto"
        Only for "concrete", "concrete_st" and "hard_concrete": T, above 0. Gates are
        the closer to 0 and 1, and their gradients the more variable, the lower it is.
        "auto" is 2/3.
    credit : {"auto", "all", "active", "probe"}, default="auto"
        For "st" and "concrete_st": "all" ("auto") knows the output of every expert in
        training, also where the gate is zero, which makes the forward pass of training
        dense; with "active" only gates that fired learn, and everything is sparse; with
        "probe" gates that fired learn and a random sample of the others, weighted so
        that the mean is the gradient of "all", and everything is sparse. "probe" is
        also for "sbn" with ``estimator="local_expectation"``, which stays unbiased. A
        probe computes the gate's experts forward; it does not count as activity,
        neither for the layer's output nor for weights and state of these experts.
    probe_rate : float in (0, 1], default=0.1
        Only for ``credit="probe"``: the probability with which a gate that did not fire
        is probed. The lower, the cheaper and the noisier.
    sigmoid_derivative : bool, default=False
        Only for "st" with its own estimator: multiply the gradient by
        sigm(a) (1 - sigm(a)).
    baseline : {"unit", "mean", None}, default="unit"
        Only for "sbn": what is subtracted from the loss: each unit's minimum-variance
        baseline (Eq. 10), the mean loss, or nothing. Both are moving averages that do
        not contain the present mini-batch.
    penalty : {"auto", "kl", "l1", None}, default="auto"
        What holds the density: Kullback-Leibler divergence of the mean firing
        probability from ``density`` (Eq. 14), or the L1 norm of the mean activation
        (Eq. 15). "auto" is "l1" for rectifiers, None for the dense "sigmoid" and
        "concrete", "kl" otherwise.
    penalty_weight : float or "auto", default="auto"
        The lambda of Eq. 14 and Eq. 15, for the sum over units. "auto" is 0.01 for
        "kl", 0.0001 for "l1".
    adaptive_penalty : bool, default=False
        Whether the weight grows by 5% after each mini-batch in which more than
        ``density + 0.01`` of the gates are non-zero, and shrinks where less than
        ``density - 0.01`` are, within a factor 1000 of its start (Appendix A.1).
    firing_rate_step : float, default=0.02
        Bias control of Sec. 2.1: after each mini-batch, a gate's bias grows by this
        times the distance of the unit's moving firing rate from ``density``. 0: none.
        With 0.2, the density in training is ``density`` itself within a few epochs, at
        some cost in accuracy.
    input_dropout : float in [0, 1), default=0.0
        Probability with which each input of a row is set to zero in training; the
        others are divided by 1 - input_dropout.
    averaging : float or None, default=None
        Predict with averaged weights, of which one is taken after every 64 mini-batches
        and the t-th counts in proportion to about t^averaging (polynomial-decay
        averaging, Shamir & Zhang 2013): about the last 1 / (1 + averaging) of the
        training. Training itself is the same, and its learning rate may stay high.
        None: predict with the last weights.
    max_norm : float or None, default=2.0
        Limit of the Euclidean norm of the incoming weights of each expert, gate and
        tanh unit; the softmax layer has none (Appendix A.4).
    initialization : {"sparse", "glorot", "authors"}, default="sparse"
        Initial weights, all uniform with Glorot's limits sqrt(6 / (fan_in + fan_out)).
        "sparse": gates four times that, and gate biases at which units fire with
        probability ``density``. "glorot": biases 0. "authors": as in the programs of
        the paper's authors, gates four times that or, for rectifiers, 15 standard
        normal weights each; biases 0; softmax weights within 0.005 (0.05 for binary
        units).
    solver : {"sgd", "adam"}, default="sgd"
        Weights and state of an expert advance only in mini-batches in which it is
        active.
    alpha : float, default=0.0001
        Strength of the L2 penalty, divided by the rows of the mini-batch as in
        `MLPClassifier`; it acts on an expert only where the expert is active.
    batch_size : int or "auto", default="auto"
        Rows of a mini-batch. "auto" is 32, at most n_samples.
    learning_rate_init : float, default=0.1
        Initial learning rate of experts and softmax. With solver="adam", values near
        0.001 are usual.
    gater_learning_rate_init : float or "auto", default="auto"
        Initial learning rate of the gaters. "auto" is ``learning_rate_init`` for binary
        gates and the sigmoid; others have smaller gradients, and it is 5 times that for
        "sts", "rectifier", "concrete" and "hard_concrete", 10 times for
        "noisy_rectifier", "concrete_st" and the estimator "reinmax". 0 leaves the
        gaters' weights as they were drawn, and their biases too with
        ``firing_rate_step=0``.
    learning_rate_decay : float in (0, 1], default=1.0
        Factor on both learning rates after each epoch of `fit`.
    learning_rate_min : float, default=0.0
        Floor of the decay.
    momentum : float in [0, 1), default=0.0
        Of solver="sgd", for experts and softmax.
    gater_momentum : float in [0, 1) or None, default=None
        Of the gaters; None is ``momentum``.
    nesterovs_momentum : bool, default=True
        Whether momentum is Nesterov's.
    beta_1, beta_2, epsilon : float, default=0.9, 0.999, 1e-8
        Of solver="adam".
    max_iter : int, default=200
        Most epochs.
    shuffle : bool, default=True
        Whether each epoch visits the rows in a new order.
    tol : float, default=1e-4
        Least gain of the training loss (of the validation score with
        ``early_stopping``) that counts.
    n_iter_no_change : int or inf, default=10
        Epochs without gain after which training stops.
    early_stopping : bool, default=False
        Stop by the accuracy on validation data, and keep the best epoch's network.
    validation_fraction : float in (0, 1), default=0.1
        Share of the training data held out for ``early_stopping``, stratified, where
        `fit` is given no validation data.
    warm_start : bool, default=False
        Whether `fit` goes on from the last call's network, with its sizes, gater and
        solver.
    verbose : bool, default=False
        Print a line after each epoch.
    random_state : int, RandomState instance or None, default=None
        Determines initial weights, order of the rows, gates and validation split.
    n_jobs : int or None, default=None
        Threads. None takes all CPUs that OpenMP and joblib leave to this process. The
        results are the same bits for any number.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Only where X has feature names that are all strings.
    n_iter_ : int
        Epochs, or calls of `partial_fit`.
    t_ : int
        Rows trained on, with repetition.
    loss_ : float
        Mean cross-entropy of the last epoch, with the gates as sampled in training.
    best_loss_ : float or None
        Lowest of ``loss_curve_``; None with ``early_stopping``.
    loss_curve_ : list of float
    density_curve_ : list of list of float
        Share of non-zero gates in training, for each epoch and layer.
    validation_scores_ : list of float or None
        Accuracy at prediction after each epoch, with ``early_stopping``.
    best_validation_score_ : float or None
    thresholds_ : list of float
        At prediction a gate fires where its score exceeds its layer's threshold.
    density_ : list of float
        Share of non-zero gates of each layer at prediction, on calibration rows.
    firing_rates_ : list of ndarray of shape (n_gates,)
        The same for each gate.
    training_density_, training_firing_rates_
        The same in the last epoch of training.
    coefs_, intercepts_ : list of ndarray
        Weights (fan_in, fan_out) and biases of the experts of each layer and of the
        softmax.

    Notes
    -----
    Thresholds are calibrated on a sample of at most 2048 training rows (fewer where
    rows or layers are wide), which is kept with the estimator and its pickle so that
    `partial_fit` can calibrate again.
    Where a unit has two deterministic counterparts (E[h | a] or max(0, a) for noisy
    rectifiers, p or sqrt(p) for STS, E[h | a] or sigm(a) stretched and clamped for hard
    concrete), the one with the lower cross-entropy on the
    validation data, or on that sample, is used.

    References
    ----------
    .. [1] Y. Bengio, N. Léonard & A. Courville (2013). Estimating or Propagating
       Gradients Through Stochastic Neurons for Conditional Computation.
       arXiv:1308.3432.
    .. [2] C. J. Maddison, A. Mnih & Y. W. Teh (2017). The Concrete Distribution: A
       Continuous Relaxation of Discrete Random Variables. arXiv:1611.00712.
    .. [3] E. Jang, S. Gu & B. Poole (2017). Categorical Reparameterization with
       Gumbel-Softmax. arXiv:1611.01144.
    .. [4] C. Louizos, M. Welling & D. P. Kingma (2018). Learning Sparse Neural Networks
       through L0 Regularization. arXiv:1712.01312.
    .. [5] L. Liu, C. Dong, X. Liu, B. Yu & J. Gao (2023). Bridging Discrete and
       Backpropagation: Straight-Through and Beyond. arXiv:2304.08612.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from stochnet import GatedMLPClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> model = make_pipeline(StandardScaler(), GatedMLPClassifier(random_state=0))
    >>> bool(model.fit(X[:1000], y[:1000]).score(X[1000:], y[1000:]) > 0.9)
    True
    """

    _parameter_constraints = {
        "hidden_layer_sizes": ["array-like", _AT_LEAST_ONE],
        "gater": [StrOptions(set(GATERS))],
        "experts_per_gate": ["array-like", _AT_LEAST_ONE],
        "estimator": [StrOptions({"auto", *ESTIMATORS})],
        "gater_hidden_size": ["array-like", _AT_LEAST_ONE, _AUTO],
        "density": [Interval(Real, 0, 1, closed="right")],
        "noise": [StrOptions({"auto", *NOISES}), None],
        "noise_scale": [_POSITIVE],
        "noise_beta": [Interval(Real, 1, None, closed="neither")],
        "noise_on": [StrOptions({"gate", "draw"})],
        "temperature": [_POSITIVE, _AUTO],
        "credit": [StrOptions({"auto", "all", "active", "probe"})],
        "probe_rate": [Interval(Real, 0, 1, closed="right")],
        "sigmoid_derivative": ["boolean"],
        "baseline": [StrOptions({"unit", "mean"}), None],
        "penalty": [StrOptions({"auto", *PENALTIES}), None],
        "penalty_weight": [_NOT_NEGATIVE, _AUTO],
        "adaptive_penalty": ["boolean"],
        "firing_rate_step": [_NOT_NEGATIVE],
        "input_dropout": [Interval(Real, 0, 1, closed="left")],
        "averaging": [Interval(Real, 0, None, closed="left"), None],
        "max_norm": [_POSITIVE, None],
        "initialization": [StrOptions(set(INITIALIZATIONS))],
        "solver": [StrOptions({"sgd", "adam"})],
        "alpha": [_NOT_NEGATIVE],
        "batch_size": [_AT_LEAST_ONE, _AUTO],
        "learning_rate_init": [_POSITIVE],
        "gater_learning_rate_init": [_NOT_NEGATIVE, _AUTO],
        "learning_rate_decay": [Interval(Real, 0, 1, closed="right")],
        "learning_rate_min": [_NOT_NEGATIVE],
        "momentum": [_MOMENTUM],
        "gater_momentum": [_MOMENTUM, None],
        "nesterovs_momentum": ["boolean"],
        "beta_1": [_MOMENTUM],
        "beta_2": [_MOMENTUM],
        "epsilon": [_POSITIVE],
        "max_iter": [_AT_LEAST_ONE],
        "shuffle": ["boolean"],
        "tol": [_NOT_NEGATIVE],
        "n_iter_no_change": [_AT_LEAST_ONE, Options(Real, {np.inf})],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "random_state": ["random_state"],
        "n_jobs": [Integral, None],
    }

    def __init__(
        self,
        hidden_layer_sizes=(500,),
        gater="st",
        *,
        experts_per_gate=1,
        estimator="auto",
        gater_hidden_size="auto",
        density=0.1,
        noise="auto",
        noise_scale=1.0,
        noise_beta=40.1,
        noise_on="gate",
        temperature="auto",
        credit="auto",
        probe_rate=0.1,
        sigmoid_derivative=False,
        baseline="unit",
        penalty="auto",
        penalty_weight="auto",
        adaptive_penalty=False,
        firing_rate_step=0.02,
        input_dropout=0.0,
        averaging=None,
        max_norm=2.0,
        initialization="sparse",
        solver="sgd",
        alpha=0.0001,
        batch_size="auto",
        learning_rate_init=0.1,
        gater_learning_rate_init="auto",
        learning_rate_decay=1.0,
        learning_rate_min=0.0,
        momentum=0.0,
        gater_momentum=None,
        nesterovs_momentum=True,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        max_iter=200,
        shuffle=True,
        tol=1e-4,
        n_iter_no_change=10,
        early_stopping=False,
        validation_fraction=0.1,
        warm_start=False,
        verbose=False,
        random_state=None,
        n_jobs=None,
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.gater = gater
        self.experts_per_gate = experts_per_gate
        self.estimator = estimator
        self.gater_hidden_size = gater_hidden_size
        self.density = density
        self.noise = noise
        self.noise_scale = noise_scale
        self.noise_beta = noise_beta
        self.noise_on = noise_on
        self.temperature = temperature
        self.credit = credit
        self.probe_rate = probe_rate
        self.sigmoid_derivative = sigmoid_derivative
        self.baseline = baseline
        self.penalty = penalty
        self.penalty_weight = penalty_weight
        self.adaptive_penalty = adaptive_penalty
        self.firing_rate_step = firing_rate_step
        self.input_dropout = input_dropout
        self.averaging = averaging
        self.max_norm = max_norm
        self.initialization = initialization
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.gater_learning_rate_init = gater_learning_rate_init
        self.learning_rate_decay = learning_rate_decay
        self.learning_rate_min = learning_rate_min
        self.momentum = momentum
        self.gater_momentum = gater_momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.warm_start = warm_start
        self.verbose = verbose
        self.random_state = random_state
        self.n_jobs = n_jobs

    # ---- fitting -----------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, *, X_val=None, y_val=None):
        """Train on (X, y).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Finite numbers; computed with as float32.
        y : array-like of shape (n_samples,)
            Class labels, at least two different ones.
        X_val : array-like of shape (n_validation, n_features), optional
        y_val : array-like of shape (n_validation,), optional
            Validation data for early stopping, in place of a part of the training
            data. Used only when ``early_stopping=True``.

        Returns
        -------
        self : GatedMLPClassifier
            With the best validation score's weights if ``early_stopping``.

        Raises
        ------
        ValueError
            If a parameter or the data is invalid, or if weights become non-finite: the
            message names epoch and layer.
        """
        warm = self.warm_start and self.__sklearn_is_fitted__()
        X, y = training_data(self, X, y, reset=not warm)
        check_classification_targets(y)
        classes = np.unique(y)
        if warm and not np.array_equal(classes, self.classes_):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the "
                f"previous call to fit. Previously got {self.classes_}, `y` has "
                f"{classes}"
            )
        _check_classes(classes)
        codes = np.searchsorted(classes, y).astype(np.int32)
        validation = self._validation_data(X_val, y_val, classes)
        if self.early_stopping and validation is None:
            X, X_held, codes, codes_held = self._split(X, codes)
            validation = X_held, codes_held

        network = self._network if warm else self._new_network(X, len(classes))
        calibration = CalibrationRows(network)
        calibration.add(X, codes)
        n_threads = effective_n_threads(self.n_jobs)
        trainer = Trainer(network, self._schedule(len(X)), n_threads)
        trainer.run(X, codes, validation, calibration)
        if validation is None:  # else the best epoch's were restored
            calibrate(network.predictor, calibration, n_threads)

        self.classes_ = classes
        self._network, self._calibration = network, calibration
        self._stale = False
        history = trainer.history
        self.n_iter_ = len(history.loss) + (self.n_iter_ if warm else 0)
        self.t_ = len(X) * len(history.loss) + (self.t_ if warm else 0)
        self.loss_ = history.loss[-1]
        self.loss_curve_ = (self.loss_curve_ if warm else []) + history.loss
        self.density_curve_ = (self.density_curve_ if warm else []) + history.density
        self._record_training(len(X))
        self.validation_scores_ = history.validation if self.early_stopping else None
        self.best_validation_score_ = (
            max(history.validation) if self.early_stopping else None
        )
        self.best_loss_ = None if self.early_stopping else min(self.loss_curve_)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, classes=None):
        """Update the network by one pass over the rows of X as they lie.

        Calls over successive mini-batches of ``batch_size`` rows give the same bits as
        one epoch of `fit` over all of them with ``shuffle=False``.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
        classes : array-like of shape (n_classes,), optional
            All labels that will ever occur; needed in the first call.

        Returns
        -------
        self : GatedMLPClassifier

        Raises
        ------
        ValueError
            As in `fit`; or if `classes` is missing in the first call or differs later,
            or `y` has other labels.
        """
        first = not self.__sklearn_is_fitted__()
        X, y = training_data(self, X, y, reset=first)
        if first:
            check_classification_targets(y)
        if classes is not None:
            _check_classes(np.unique(classes))
        _check_partial_fit_first_call(self, classes)
        codes = np.searchsorted(self.classes_, y).astype(np.int32)
        np.minimum(codes, len(self.classes_) - 1, out=codes)
        if (self.classes_[codes] != y).any():
            check_classification_targets(y)  # what is wrong may be more than a label
            raise ValueError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has "
                f"{self.classes_}. 'y' has {np.unique(y)}."
            )
        if first:
            self._network = self._new_network(X, len(self.classes_))
            self._calibration = CalibrationRows(self._network)
            self.n_iter_, self.t_ = 0, 0
            self.loss_curve_, self.density_curve_ = [], []
            self.validation_scores_ = self.best_validation_score_ = None
            self.best_loss_ = None
        trainer = Trainer(
            self._network, self._schedule(len(X)), effective_n_threads(self.n_jobs)
        )
        self.loss_ = trainer.run_epoch(X, codes, 0)
        self._calibration.add(X, codes)
        self._stale = True
        self.n_iter_ += 1
        self.t_ += len(X)
        self.loss_curve_.append(self.loss_)
        self.density_curve_ += trainer.history.density
        # the curve is as long as there were calls
        known = self.loss_curve_ if self.best_loss_ is None else [self.best_loss_]
        self.best_loss_ = min(self.loss_, *known)
        self._record_training(len(X))
        return self

    def _validation_data(self, X_val, y_val, classes):
        """Checked X_val and codes of y_val, or None."""
        if (X_val is None) != (y_val is None):
            raise ValueError("X_val and y_val must be given together.")
        if X_val is None:
            return None
        if not self.early_stopping:
            raise ValueError("X_val and y_val need early_stopping=True.")
        X_val, y_val = training_data(self, X_val, y_val, reset=False)
        unknown = np.setdiff1d(y_val, classes)
        if len(unknown):
            raise ValueError(f"y_val has classes that y does not have: {unknown}.")
        return X_val, np.searchsorted(classes, y_val).astype(np.int32)

    def _split(self, X, codes):
        """Training and validation part, stratified."""
        X, X_held, codes, codes_held = train_test_split(
            X,
            codes,
            test_size=self.validation_fraction,
            random_state=check_random_state(self.random_state),
            stratify=codes,
        )
        return X, X_held, codes, codes_held

    def _sizes(self):
        """Checked lists: experts of each layer, experts per gate, tanh units."""
        sizes = _sizes("hidden_layer_sizes", self.hidden_layer_sizes)
        per_gate = _sizes("experts_per_gate", self.experts_per_gate, len(sizes))
        for n, size in zip(sizes, per_gate, strict=True):
            if n % size:
                raise ValueError(
                    "experts_per_gate must divide the experts of its layer, got "
                    f"{size} for a layer of {n}."
                )
        if isinstance(self.gater_hidden_size, str):
            gates = [n // size for n, size in zip(sizes, per_gate, strict=True)]
            return sizes, per_gate, [_auto_gater_hidden_size(n) for n in gates]
        return (
            sizes,
            per_gate,
            _sizes("gater_hidden_size", self.gater_hidden_size, len(sizes)),
        )

    def _new_network(self, X, n_classes):
        """The network before the first step, which sees the first mini-batch."""
        sizes, per_gate, gater_sizes = self._sizes()
        if self.estimator == "local_expectation" and len(sizes) > 1:
            raise ValueError(
                'estimator="local_expectation" needs a network with one hidden layer, '
                f"got {len(sizes)}."
            )
        main = Optimizer(
            solver=self.solver,
            learning_rate=self.learning_rate_init,
            momentum=self.momentum,
            nesterovs_momentum=bool(self.nesterovs_momentum),
            beta_1=self.beta_1,
            beta_2=self.beta_2,
            epsilon=self.epsilon,
            alpha=self.alpha,
            max_norm=self.max_norm,
        )
        gater_momentum = self.momentum
        if self.gater_momentum is not None:
            gater_momentum = self.gater_momentum
        gater_rate = self._gater_learning_rate()
        return Network(
            X.shape[1],
            n_classes,
            sizes,
            gater_sizes,
            self._make_gater(),
            main,
            Optimizer(
                **{
                    **main.__dict__,
                    "learning_rate": gater_rate,
                    "momentum": gater_momentum,
                }
            ),
            experts_per_gate=per_gate,
            input_dropout=self.input_dropout,
            averaging=self.averaging,
            initialization=self.initialization,
            seed=_seed(self.random_state),
            rows=X[: self._schedule(len(X)).batch_size],
            n_threads=effective_n_threads(self.n_jobs),
        )

    def _gater_learning_rate(self):
        if self.gater_learning_rate_init != "auto":
            return self.gater_learning_rate_init
        row = GATERS[self.gater]
        factor = row.estimators.get(self.estimator, row.learning_rate_factor)
        return self.learning_rate_init * factor

    def _make_gater(self):
        return make_gater(
            self.gater,
            estimator=self.estimator,
            density=self.density,
            noise=self.noise,
            noise_scale=self.noise_scale,
            noise_beta=self.noise_beta,
            noise_on=self.noise_on,
            temperature=self.temperature,
            credit=self.credit,
            probe_rate=self.probe_rate,
            sigmoid_derivative=self.sigmoid_derivative,
            baseline=self.baseline,
            penalty=self.penalty,
            penalty_weight=self.penalty_weight,
            adaptive_penalty=self.adaptive_penalty,
            firing_rate_step=self.firing_rate_step,
        )

    def _schedule(self, n_rows):
        batch_size = 32 if self.batch_size == "auto" else self.batch_size
        return Schedule(
            batch_size=min(batch_size, n_rows),
            max_iter=self.max_iter,
            learning_rate=self.learning_rate_init,
            gater_learning_rate=self._gater_learning_rate(),
            learning_rate_decay=self.learning_rate_decay,
            learning_rate_min=self.learning_rate_min,
            shuffle=self.shuffle,
            tol=self.tol,
            n_iter_no_change=self.n_iter_no_change,
            verbose=bool(self.verbose),
        )

    def _record_training(self, n_rows):
        """How often gates fired: a copy, as a later call that fails has counted."""
        self._fired = [layer.fired.copy() for layer in self._network.layers]
        self._n_trained = n_rows

    # ---- prediction ----------------------------------------------------------------

    def _ready(self):
        """The network with thresholds that belong to its present weights."""
        check_fitted(self)
        with _calibrating:
            if self._stale:
                n_threads = effective_n_threads(self.n_jobs)
                calibrate(self._network.predictor, self._calibration, n_threads)
                self._stale = False
        return self._network.predictor

    def __sklearn_is_fitted__(self):
        """Whether a call has trained a network to its end."""
        return hasattr(self, "_stale")

    def predict_proba(self, X):
        """Class probabilities of the deterministic network (Appendix A.3).

        Noise is replaced by its mean and a gate fires where its score exceeds its
        layer's threshold; only experts whose gate fires are computed. A row's result is
        the same bits whatever other rows are in X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float32
            Columns in the order of ``classes_``.
        """
        X = prediction_data(self, X)
        n_threads = effective_n_threads(self.n_jobs)
        return self._ready().predict_proba(X, n_threads=n_threads)

    def predict_log_proba(self, X):
        """Logarithm of `predict_proba`."""
        return np.log(self.predict_proba(X))

    def predict(self, X):
        """Most probable class of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        X = prediction_data(self, X)
        n_threads = effective_n_threads(self.n_jobs)
        return self.classes_[self._ready().predict(X, n_threads=n_threads)]

    def sample_proba(self, X, n_draws=10, random_state=None):
        """Class probabilities averaged over draws of the stochastic gates.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        n_draws : int, default=10
            Forward passes with independent gates, at least 1.
        random_state : int, RandomState instance or None, default=None
            Two draws of a row are independent; a row's draws depend on its index in X
            and on this alone.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float32
        """
        X = prediction_data(self, X)
        n_draws = check_scalar(n_draws, "n_draws", Integral, min_val=1)
        network = self._ready().with_seed(_seed(random_state))
        n_threads = effective_n_threads(self.n_jobs)
        total = np.zeros((len(X), len(self.classes_)))
        for draw in range(n_draws):
            total += network.predict_proba(X, draw=draw, n_threads=n_threads)
        return (total / n_draws).astype(np.float32)

    def gates(self, X):
        """Gate values at prediction; the experts that are computed are its non-zeros.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        csr_matrix of shape (n_samples, n_gates), float32, or a list of them
            One matrix a layer, a list for several layers.
        """
        X = prediction_data(self, X)
        chunks = [
            [csr_matrix(h) for h in layers]
            for layers in self._ready().gates(
                X, n_threads=effective_n_threads(self.n_jobs)
            )
        ]
        matrices = [vstack(parts, format="csr") for parts in zip(*chunks, strict=True)]
        return matrices[0] if len(matrices) == 1 else matrices

    @property
    def thresholds_(self):
        """Threshold of each layer at prediction, a list of float."""
        return [layer.threshold for layer in self._ready().layers]

    @property
    def firing_rates_(self):
        """Share of the calibration rows on which each gate fires at prediction.

        A list of ndarray of shape (n_gates,), one for each layer.
        """
        network, rows = self._ready(), self._calibration.X
        fired = [np.zeros(layer.n_gates) for layer in network.layers]
        n_threads = effective_n_threads(self.n_jobs)
        for gates in network.gates(rows, n_threads=n_threads):
            for total, h in zip(fired, gates, strict=True):
                total += np.count_nonzero(h, axis=0)
        return [total / len(rows) for total in fired]

    @property
    def density_(self):
        """Share of non-zero gates of each layer at prediction, on calibration rows."""
        return [float(rates.mean()) for rates in self.firing_rates_]

    @property
    def training_firing_rates_(self):
        """Share of the rows of the last epoch on which each gate fired in training.

        Of the last call's rows after `partial_fit`. A list of ndarray of shape
        (n_gates,), one for each layer.
        """
        check_fitted(self)
        return [fired / self._n_trained for fired in self._fired]

    @property
    def training_density_(self):
        """Share of non-zero gates of each layer in the last epoch of training."""
        return [float(rates.mean()) for rates in self.training_firing_rates_]

    @property
    def coefs_(self):
        """Experts' weights of each layer, then the readout's, (fan_in, fan_out)."""
        check_fitted(self)
        network = self._network.predictor
        experts = (layer.expert.values.T for layer in network.layers)
        return [*experts, network.readout.values]

    @property
    def intercepts_(self):
        """Experts' biases of each layer, then the readout's."""
        check_fitted(self)
        network = self._network.predictor
        experts = (layer.expert.bias_values for layer in network.layers)
        return [*experts, network.readout_bias.values[0]]


def _seed(random_state):
    """A 62-bit key from whatever scikit-learn takes as a random_state."""
    high, low = check_random_state(random_state).randint(2**31 - 1, size=2)
    return int(high) << 31 | int(low)


def _sizes(name, value, n_layers=None):
    """A list of positive ints from a number or a sequence, one for each layer."""
    sizes = list(np.atleast_1d(value))
    if not sizes or not all(isinstance(n, Integral) and n > 0 for n in sizes):
        raise ValueError(f"{name} must be > 0, got {value}.")
    if n_layers is not None and len(sizes) not in (1, n_layers):
        raise ValueError(
            f"{name} must be one number or one for each of the {n_layers} layers, got "
            f"{len(sizes)}."
        )
    repeats = n_layers if n_layers is not None and len(sizes) == 1 else 1
    return [int(n) for n in sizes] * repeats


def _check_classes(classes):
    if len(classes) < 2:
        raise ValueError(
            "This solver needs samples of at least 2 classes in the data, but the data "
            f"contains only one class: {classes[0]}"
        )


def _auto_gater_hidden_size(n_gates):
    """A fifth of the gates, as in the paper (400 for 2000), at least 16."""
    return max(16, n_gates // 5)
