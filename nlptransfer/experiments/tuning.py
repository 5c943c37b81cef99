"""Which settings the trials of a candidate try: learning rates first, then further settings beside them."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, cast

import scipy

from nlptransfer.data import Data
from nlptransfer.routes import Route
from nlptransfer.training import TrainingSettings

FIRST_RATES = (1.0, 1 / 3, 3.0)
"""Learning rates to try first, as multiples of the default."""
WIDEST = 10.0
"""Later ones are at most this many times higher or lower."""
RATE = "learning_rate"
Tried = Sequence[tuple[Mapping[str, Any], float | None]]
"""Settings of trials with their scores, higher is better; None for one that failed."""


@dataclass(frozen=True)
class Space:
    """What trials choose from."""

    rate: float
    """the default learning rate"""
    choices: Mapping[str, Sequence[Any]]
    """values of the other settings, the default first"""

    @classmethod
    def of(cls, route: Route, training: TrainingSettings, data: Data) -> "Space":
        """Return what may be tried of a route; a setting that was named stays as it is."""
        defaults = training.with_defaults(route.defaults(data))
        choices: dict[str, Sequence[Any]] = {}
        for name in ("num_train_epochs", "per_device_train_batch_size"):
            if getattr(training, name) is None:
                number = cast(int, getattr(defaults, name))
                choices[name] = tuple(dict.fromkeys((number, max(1, number // 2), 2 * number)))
        fields = {field.name: field.default for field in dataclasses.fields(route)}
        for name, others in {"dropout": (0.0, 0.2), "rank": (8, 64)}.items():
            if name in fields and getattr(route, name) == fields[name]:
                choices[name] = tuple(dict.fromkeys((fields[name], *others)))
        return cls(cast(float, defaults.learning_rate), choices)

    def next(self, tried: Tried, trials: int) -> dict[str, Any]:
        """Propose rates near the default, then all by Optuna (Akiba et al. 2019) if it is installed, or Halton (1960).

        A comparison that is resumed proposes the same.
        """
        number = len(tried)
        if number < len(FIRST_RATES):
            return {RATE: self.rate * FIRST_RATES[number]}
        if trials > len(FIRST_RATES) and find_spec("optuna"):
            return self._suggested(tried)
        # The second dimension, of base 3, leaves out the middle, which is the default.
        sequence = scipy.stats.qmc.Halton(2 + len(self.choices), scramble=False).random(number - len(FIRST_RATES) + 2)
        _, rate, *places = sequence[-1]
        others = zip(self.choices.items(), places, strict=True)
        picked = {name: values[int(place * len(values))] for (name, values), place in others}
        return {RATE: float(self.rate * WIDEST ** (2 * rate - 1)), **picked}

    def length(self, settings: Mapping[str, Any]) -> float:
        """Return how long a training with these settings takes, in times of the default."""
        epochs = self.choices.get("num_train_epochs", (1,))
        return float(settings.get("num_train_epochs", epochs[0]) / epochs[0])

    def _suggested(self, tried: Tried) -> dict[str, Any]:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        within: dict[str, optuna.distributions.BaseDistribution] = {
            RATE: optuna.distributions.FloatDistribution(self.rate / WIDEST, self.rate * WIDEST, log=True),
            **{name: optuna.distributions.CategoricalDistribution(values) for name, values in self.choices.items()},
        }
        # Made anew each time, out of what is on record.
        sampler = optuna.samplers.TPESampler(seed=len(tried), n_startup_trials=len(FIRST_RATES))
        study = optuna.create_study(direction="maximize", sampler=sampler)
        defaults = {name: values[0] for name, values in self.choices.items()}
        for settings, score in tried:
            state = optuna.trial.TrialState.FAIL if score is None else optuna.trial.TrialState.COMPLETE
            params = {**defaults, **settings}
            study.add_trial(optuna.create_trial(params=params, distributions=within, value=score, state=state))
        return dict(study.ask(within).params)
