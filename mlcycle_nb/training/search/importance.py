"""How much each hyperparameter mattered: fANOVA over the trials that came to their end."""

from __future__ import annotations

from collections.abc import Sequence

from mlcycle_nb.training.search.records import SearchTrial, TrainingSearch

ENOUGH = 8
"""Completed trials from which importance is told; twice the number of parameters where that is more."""
MOST = 500


def importance(search: TrainingSearch, trials: Sequence[SearchTrial]) -> dict[str, float]:
    """Return parameter -> share of the variance of the metric that it explains; empty while it cannot be told.

    The newest 500 trials count. Which ones these are decides the answer: it is the same in every kernel.
    """
    done = [trial for trial in trials if trial.phase == "complete" and trial.value is not None][-MOST:]
    varied = {entry.name for entry in search.space if len({trial.params[entry.name] for trial in done}) > 1}
    if len(done) < max(ENOUGH, 2 * len(search.space)) or len({trial.value for trial in done}) < 2 or not varied:
        return {}
    import optuna

    from mlcycle_nb.training.search.study import distributions

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction=search.direction)
    kinds = distributions(search.space)
    for trial in done:
        study.add_trial(optuna.trial.create_trial(params=dict(trial.params), distributions=kinds, value=trial.value))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    if len(varied) == 1:
        return {entry.name: float(entry.name in varied) for entry in search.space}
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in found.items()}
