"""The Optuna study of a search: kept in a database of its own, touched only by the supervisor.

Optuna's tables stand apart from ours: in ``search.db`` beside the workspace's SQLite database, whose migrations
use a table of the same name, or in the schema ``mlcycle_search`` of the workspace's PostgreSQL database.

Every step can be done twice. A trial is drawn in a copy of the study in memory, by a sampler that is seeded with the
trial's number, and is then stored as a whole; so a supervisor that was killed in between draws the same trial again.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from mlcycle_nb.errors import Conflict, StoreError
from mlcycle_nb.supervisor.crash import crash_point
from mlcycle_nb.training.search.pruners import PRUNERS
from mlcycle_nb.training.search.records import TrainingSearch
from mlcycle_nb.training.search.samplers import SAMPLERS
from mlcycle_nb.training.search.samplers._contract import Draw
from mlcycle_nb.training.search.space import SpaceEntry
from mlcycle_nb.training.submission import Param

SCHEMA = "mlcycle_search"
_STUDY_STATE = "mlcycle:study"
_VERDICT = "mlcycle:verdict"
_BUSY_SECONDS = 30
_SEEDS = 2**32


class Studies:
    """The studies of one workspace.

    Parameters
    ----------
    home : Path
        The workspace folder.
    database_url : str
        Of the workspace; empty for SQLite in `home`.
    """

    def __init__(self, home: Path, database_url: str = "") -> None:
        self._home = home
        self._url = database_url
        self._opened: Any = None
        self._lock = threading.Lock()

    def draw(self, search: TrainingSearch, number: int) -> dict[str, Param]:
        """Return the hyperparameters of trial `number`, drawn and stored unless that was done before.

        Raises
        ------
        Conflict
            When another supervisor drew a trial meanwhile.
        """
        import optuna

        with self._study(search) as study:
            trials = study.get_trials(deepcopy=False)
            if len(trials) > number:
                return _params(search, trials[number].params)
            drawn, state = _draw(search, trials, number)
            template = optuna.trial.create_trial(
                state=optuna.trial.TrialState.RUNNING,
                params=drawn.params,
                distributions=drawn.distributions,
                system_attrs={**drawn.system_attrs, _STUDY_STATE: state},
            )
            study.add_trial(template)
            added = study.get_trials(deepcopy=False)
            if len(added) != number + 1:
                raise Conflict(f"another supervisor works on search {search.id}")
            return _params(search, drawn.params)

    def judge(self, search: TrainingSearch, number: int, report: int, value: float) -> bool:
        """Store that trial `number` reported `value` as its `report`-th, from 1; return whether it is to be pruned."""
        import optuna

        with self._study(search) as study:
            storage, trial = study._storage, study.get_trials(deepcopy=False)[number]
            if trial.state.is_finished():
                return bool(trial.state == optuna.trial.TrialState.PRUNED)
            storage.set_trial_intermediate_value(trial._trial_id, report, value)
            crash_point("search.after_report")
            verdict = trial.user_attrs.get(_VERDICT, {})
            if verdict.get("report") != report:
                notes = study._storage = _Notes(storage)
                prune = bool(study.pruner.prune(study, storage.get_trial(trial._trial_id)))
                verdict = {"report": report, "prune": prune, "notes": notes.taken}
                storage.set_trial_user_attr(trial._trial_id, _VERDICT, verdict)
                crash_point("search.after_verdict")
            for key, note in verdict["notes"].items():
                storage.set_trial_system_attr(trial._trial_id, key, note)
            return bool(verdict["prune"])

    def tell(self, search: TrainingSearch, number: int, phase: str, value: float | None) -> None:
        """Store how trial `number` ended: ``complete`` with its value, ``pruned``, or anything else as failed."""
        import optuna

        states = optuna.trial.TrialState
        state = {"complete": states.COMPLETE, "pruned": states.PRUNED}.get(phase, states.FAIL)
        with self._study(search) as study:
            study.tell(number, value if state == states.COMPLETE else None, state=state, skip_if_finished=True)

    # -- parts -----------------------------------------------------------------------------------------------

    @contextmanager
    def _study(self, search: TrainingSearch) -> Iterator[Any]:
        import optuna

        _hush()
        with _our_errors():
            yield optuna.create_study(
                storage=self._storage(),
                study_name=study_name(search),
                direction=search.direction,
                sampler=optuna.samplers.RandomSampler(seed=0),  # draws nothing here: see `_draw`
                pruner=PRUNERS.load(search.pruner)(search.epochs),
                load_if_exists=True,
            )

    def _storage(self) -> Any:
        with self._lock:
            if self._opened is None:
                with FileLock(self._home / "search.lock", mode=0o600):
                    self._opened = self._open()
            return self._opened

    def _open(self) -> Any:
        import optuna
        from sqlalchemy.engine import make_url

        url = make_url(self._url) if self._url else None
        if url is None or url.get_backend_name() == "sqlite":
            file = self._home / "search.db"
            file.touch(mode=0o600)
            options: dict[str, Any] = {"connect_args": {"timeout": _BUSY_SECONDS}}
            return optuna.storages.RDBStorage(f"sqlite:///{file}", engine_kwargs=options)
        if url.drivername == "postgresql":
            url = url.set(drivername="postgresql+psycopg")
        _make_schema(url)
        options = {"connect_args": {"options": f"-csearch_path={SCHEMA}"}, "pool_pre_ping": True}
        return optuna.storages.RDBStorage(url.render_as_string(hide_password=False), engine_kwargs=options)


class _Notes:
    """A storage that keeps what a pruner notes down, until the verdict is stored with it.

    Successive halving notes which trials it has let go on, and judges one that it finds noted by the next rule: asked
    again after a crash it would give another answer.
    """

    def __init__(self, storage: Any) -> None:
        self._storage = storage
        self.taken: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Keep a note."""
        self.taken[key] = value


def study_name(search: TrainingSearch) -> str:
    """Return the study's name: of the search's content, not its number, because Hyperband draws lots by it."""
    return f"{search.model}-{search.key}"


def distributions(space: tuple[SpaceEntry, ...]) -> dict[str, Any]:
    """Return a space as Optuna's distributions."""
    import optuna

    kinds = optuna.distributions
    found: dict[str, Any] = {}
    for entry in space:
        if entry.kind == "choice":
            found[entry.name] = kinds.CategoricalDistribution(entry.choices)
        elif entry.kind == "int":
            low, high, step = int(entry.low), int(entry.high), int(entry.step or 1)
            found[entry.name] = kinds.IntDistribution(low, high, log=entry.log, step=step)
        else:
            found[entry.name] = kinds.FloatDistribution(entry.low, entry.high, log=entry.log, step=entry.step)
    return found


def _draw(search: TrainingSearch, trials: list[Any], number: int) -> tuple[Any, dict[str, Any]]:
    """Draw a trial in a copy of the study; return it, and what the sampler keeps with the study."""
    import optuna

    trial_seed = (search.seed * 1_000_003 + number) % _SEEDS
    draw = Draw(space=search.space, seed=search.seed % _SEEDS, trial_seed=trial_seed)
    copy = optuna.create_study(
        study_name=study_name(search),
        direction=search.direction,
        sampler=SAMPLERS.load(search.sampler)(draw),
        pruner=PRUNERS.load(search.pruner)(search.epochs),
    )
    for trial in trials:
        copy.add_trial(trial)
    before: Mapping[str, Any] = trials[-1].system_attrs.get(_STUDY_STATE, {}) if trials else {}
    for key, value in before.items():
        copy._storage.set_study_system_attr(copy._study_id, key, value)
    asked = copy.ask(distributions(search.space))
    state = dict(copy._storage.get_study_system_attrs(copy._study_id))
    return copy._storage.get_trial(asked._trial_id), state


def _params(search: TrainingSearch, found: Mapping[str, Any]) -> dict[str, Param]:
    """Return drawn values in the order of the space."""
    return {entry.name: found[entry.name] for entry in search.space}


def _make_schema(url: Any) -> None:
    from sqlalchemy import create_engine, text

    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
    finally:
        engine.dispose()


def _hush() -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


@contextmanager
def _our_errors() -> Iterator[None]:
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError, OSError) as failure:
        said = next(iter(str(failure.__cause__ or failure).splitlines()), type(failure).__name__)
        raise StoreError(
            f"the database of searches cannot be used: {said}",
            remedy="check the disk, its permissions and MLCYCLE_DATABASE_URL",
        ) from failure
