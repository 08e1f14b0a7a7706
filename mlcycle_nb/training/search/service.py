"""The searches of a workspace: begin or go on with one, list, stop and resume them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcycle_nb.context import Context
from mlcycle_nb.errors import Conflict, InvalidInput, NotFound, Refused, did_you_mean
from mlcycle_nb.training import carry
from mlcycle_nb.training.cell import Cell, read_cell, resolve
from mlcycle_nb.training.job_folder import JobFolder
from mlcycle_nb.training.launch import threads_for
from mlcycle_nb.training.search.means import choose_concurrent
from mlcycle_nb.training.search.params_read import refuse_unread
from mlcycle_nb.training.search.records import SearchTrial, TrainingSearch
from mlcycle_nb.training.search.request import SearchRequest, read_request
from mlcycle_nb.training.search.trial_jobs import search_folder
from mlcycle_nb.training.submission import check_model
from mlcycle_nb.training.trouble import check_policies

if TYPE_CHECKING:
    from mlcycle_nb.training.search.handle import SearchHandle
    from mlcycle_nb.training.service import TrainingManager

_TRIES = 20


class Searches:
    """Searches over the hyperparameters of training cells.

    Parameters
    ----------
    context : Context
        The workspace.
    training : TrainingManager
        Submits and stops the jobs of trials.
    """

    def __init__(self, context: Context, training: TrainingManager) -> None:
        self._context = context
        self._training = training

    # -- begin -----------------------------------------------------------------------------------------------

    def begin(
        self,
        model: str,
        source: str,
        namespace: Mapping[str, Any],
        *,
        space: Mapping[str, Any] | Sequence[str],
        cell_number: int | None = None,
        **options: Any,
    ) -> SearchHandle:
        """Begin a search, or go on with the one of the same cell, data, space and seed.

        Parameters
        ----------
        model : str
            Name of the model that is trained.
        source : str
            The cell; it reads its hyperparameters from ``params``.
        namespace : mapping
            Where the cell's free names are looked up.
        space : mapping or sequence
            See `mlcycle_nb.training.search.space.read_space`.
        trials : int
            How many results there are in the end, over all restarts; 20 by default, or the whole grid.
        sampler : str
            ``tpe``, ``random``, ``grid``, ``qmc``, ``cmaes`` or one of another package.
        pruner : str
            ``none``, ``median``, ``asha``, ``hyperband``, ``percentile`` or one of another package.
        concurrent : int
            Trials that run at once; as many as the cores and the memory allow by default.
        metric : str
            What the cell reports, ``val_loss`` by default; the last report of a trial is its value.
        direction : {"auto", "minimize", "maximize"}
            Told from the metric's name by default.
        max_failures : int
            Failed trials in a row that end the search.
        register : bool
            Register the best trial's model and give it the alias ``candidate``.
        **options
            Of `TrainingManager.train_model`, such as ``epochs``, ``params`` and ``seed``.

        Raises
        ------
        InvalidInput
            When the cell, the space or an option is wrong, or the cell never reads a name of the space.
        """
        check_model(model)
        request = read_request(space, **options)
        cell = read_cell(source)
        names = resolve(cell, namespace)
        refuse_unread(source, [entry.name for entry in request.space], names)
        payload = carry.pack(names)
        data_digest = carry.digest(names)
        key = request.key(model, cell.digest, data_digest)
        known = self._same(model, key)
        if known is not None:
            return self._go_on(known, request)
        size = len(payload[0]) + sum(buffer.nbytes for buffer in payload[1])
        concurrent = choose_concurrent(
            request.concurrent, processes=request.training.processes, payload_bytes=size, device=request.training.device
        )
        search = self._new(model, key, cell, data_digest, request, concurrent)
        submitted, attached = self._submit(search, cell, payload, request, cell_number)
        self._context.ensure_supervisor()
        return self._handle(submitted.id, attached=attached)

    # -- read ------------------------------------------------------------------------------------------------

    def get(self, search: str) -> TrainingSearch:
        """Return a search by its id, or the newest of a model by the model's name."""
        found = self._context.store.maybe(TrainingSearch, search)
        if found is not None:
            return found
        newest = self._context.store.find(TrainingSearch, name=search, limit=1)
        if newest:
            return newest[0]
        known = [record.id for record in self._context.store.find(TrainingSearch, limit=50)]
        listed = f"known: {', '.join(known[:10])}" if known else "there is none yet; %%train MODEL --search makes one"
        raise NotFound("there is no such search", value=search, remedy=did_you_mean(search, known) + listed)

    def all(self, model: str | None = None) -> list[TrainingSearch]:
        """Return searches, newest first."""
        return self._context.store.find(TrainingSearch, name=model)

    def trials(self, search: str) -> list[SearchTrial]:
        """Return the trials of a search by their numbers."""
        found = self._context.store.find(SearchTrial, name=self.get(search).id)
        return sorted(found, key=lambda trial: trial.number)

    def reports(self, trial: SearchTrial) -> tuple[float | None, ...]:
        """Return what a trial has reported so far."""
        if trial.reports or trial.ended_at is not None:
            return trial.reports
        return tuple(self._context.store.observed(SearchTrial, trial.id).get("reports", ()))

    def attach(self, search: str) -> SearchHandle:
        """Return the handle of a search, from any kernel."""
        return self._handle(self.get(search).id, attached=True)

    def tend(self, search: str) -> None:
        """Bring back the supervisor of a search that is not over, should it have been killed."""
        if self.get(search).active:
            self._context.revive_supervisor()

    # -- act -------------------------------------------------------------------------------------------------

    def stop(self, search: str, *, reason: str = "") -> TrainingSearch:
        """Ask a search to end; its running trials take a checkpoint and wait until it is resumed."""

        def asked(record: TrainingSearch) -> TrainingSearch:
            if not record.active:
                raise Refused(f"search {record.id} has {record.phase} already")
            return replace(record, stop_requested_at=record.stop_requested_at or self._context.clock.now())

        stopped = self._change(self.get(search), asked, "search.stop_requested", reason=reason)
        self._context.ensure_supervisor()
        return stopped

    def resume(self, search: str, *, trials: int | None = None, reason: str = "") -> SearchHandle:
        """Go on with a search that was stopped or has failed, or with a finished one for more `trials` in all.

        Raises
        ------
        Refused
            When there is nothing left to do.
        """
        record = self.get(search)
        if record.active and record.stop_requested_at is not None:
            raise Refused(f"search {record.id} is about to stop", remedy="resume it once it has")
        wanted = record.trials if trials is None else trials
        if not record.active and record.ended >= wanted:
            problem = f"search {record.id} has its {record.ended} trials"
            raise Refused(problem, remedy="ask for more with --trials N, or for another search with --seed N")
        return self._raise(record, wanted, reason=reason)

    # -- parts -----------------------------------------------------------------------------------------------

    def _same(self, model: str, key: str) -> TrainingSearch | None:
        known = self._context.store.find(TrainingSearch, name=model)
        return next((search for search in known if search.key == key), None)

    def _go_on(self, search: TrainingSearch, request: SearchRequest) -> SearchHandle:
        if search.active and search.stop_requested_at is not None:
            raise Refused(f"search {search.id} is about to stop", remedy="run the cell again once it has")
        wanted = max(search.trials, request.trials or 0)
        if search.active and wanted == search.trials:
            self._context.ensure_supervisor()  # it may have died, or never have started, since the search was made
        elif search.active or search.ended < wanted:
            register = search.register or request.register
            return self._raise(search, wanted, concurrent=request.concurrent, register=register)
        return self._handle(search.id, attached=True)

    def _raise(
        self,
        search: TrainingSearch,
        trials: int,
        *,
        concurrent: int | None = None,
        register: bool | None = None,
        reason: str = "",
    ) -> SearchHandle:
        if concurrent is not None:
            choose_concurrent(concurrent, processes=search.processes, payload_bytes=0, device="cpu")

        def going_on(record: TrainingSearch) -> TrainingSearch:
            changed = replace(
                record,
                trials=max(trials, record.trials),
                concurrent=concurrent or record.concurrent,
                register=record.register if register is None else register,
            )
            if record.active:
                return changed
            return replace(
                changed,
                phase="running",
                stop_requested_at=None,
                ended_at=None,
                failure=None,
                failures_in_a_row=0,
                registered=None,
                registration_error="",
            )

        event = "search.extended" if search.active else "search.resumed"
        raised = self._change(search, going_on, event, reason=reason)
        self._set_threads(raised)
        self._context.ensure_supervisor()
        return self._handle(raised.id, attached=True)

    def _change(self, search: TrainingSearch, change: Any, event: str, *, reason: str = "") -> TrainingSearch:
        for _ in range(_TRIES):
            try:
                with self._context.store.transaction(actor=self._context.actor) as transaction:
                    current = transaction.get(TrainingSearch, search.id)
                    changed = change(current)
                    detail = {"trials": changed.trials, "concurrent": changed.concurrent}
                    return transaction.update(changed, event=event, detail=detail, reason=reason)
            except Conflict:  # the supervisor wrote meanwhile
                continue
        raise Conflict(f"search {search.id} changes too fast", remedy="try again")

    def _new(
        self, model: str, key: str, cell: Cell, data_digest: str, request: SearchRequest, concurrent: int
    ) -> TrainingSearch:
        training = request.training
        return TrainingSearch(
            id="",
            phase="running",
            created_at=self._context.clock.now(),
            model=model,
            key=key,
            cell_digest=cell.digest,
            data_digest=data_digest,
            space=request.space,
            sampler=request.sampler,
            pruner=request.pruner,
            metric=request.metric,
            direction=request.direction,
            trials=request.first_trials,
            concurrent=concurrent,
            max_failures=request.max_failures,
            seed=training.seed,
            processes=training.processes,
            epochs=training.epochs,
            params=dict(training.params),
            max_restarts=training.max_restarts,
            max_rollbacks=training.max_rollbacks,
            on_trouble=check_policies(training.on_trouble),
            grace_seconds=training.grace_seconds(),
            stall_seconds=training.stall_seconds(),
            resume=training.resume,
            register=request.register,
            experiment=self._training.experiment(model),
        )

    def _submit(
        self,
        search: TrainingSearch,
        cell: Cell,
        payload: tuple[bytes, list[memoryview]],
        request: SearchRequest,
        cell_number: int | None,
    ) -> tuple[TrainingSearch, bool]:
        """Write the search's folder, then its record; see `TrainingManager._submit`."""
        folders = self._context.folder("training", "searches")
        for _ in range(_TRIES):
            named = replace(search, id=_free_id(folders, search.model))
            folder = JobFolder(folders / named.id)
            try:
                folder.path.mkdir(mode=0o700)
            except FileExistsError:  # another client took this number
                continue
            try:
                self._training.write_template(folder, named, cell, payload, request.training, cell_number)
                with self._context.store.transaction(actor=self._context.actor) as transaction:
                    space = [str(entry) for entry in named.space]
                    detail = {"model": named.model, "cell": named.cell_digest, "space": space, "trials": named.trials}
                    return transaction.insert(named, event="search.submitted", detail=detail), False
            except BaseException as failure:
                shutil.rmtree(folder.path, ignore_errors=True)
                same = self._same(search.model, search.key) if isinstance(failure, Conflict) else None
                if same is None:
                    raise
                return same, True
        raise Conflict("many searches of this model begin at once", value=search.model, remedy="run the cell again")

    def _set_threads(self, search: TrainingSearch) -> None:
        folder = search_folder(self._context, search.id)
        spec = folder.read_spec()
        threads = threads_for(search.processes * search.concurrent)
        if spec.threads != threads:
            folder.write_spec(replace(spec, threads=threads))

    def _handle(self, search: str, *, attached: bool) -> SearchHandle:
        from mlcycle_nb.training.search.handle import SearchHandle

        return SearchHandle(self, search, attached=attached, sustain=self._context.revive_supervisor)


def _free_id(folders: Path, model: str) -> str:
    taken = [path.name.rpartition("-")[2] for path in folders.glob(f"{model}-search-*")]
    return f"{model}-search-{1 + max((int(number) for number in taken if number.isdigit()), default=0)}"


def space_of(texts: Sequence[str], namespace: Mapping[str, Any]) -> Mapping[str, Any] | Sequence[str]:
    """Return the space that a magic's line gives: its entries, or the dict that it names."""
    if len(texts) != 1 or "=" in texts[0]:
        return texts
    name = texts[0]
    if not name.isidentifier():
        raise InvalidInput("an entry of the search space has no '='", value=name, where="--search")
    if name not in namespace:
        dicts = [known for known, value in namespace.items() if isinstance(value, Mapping) and known[0] != "_"]
        raise InvalidInput(
            "the notebook has no search space of this name",
            value=name,
            where="--search",
            remedy=f"{did_you_mean(name, dicts)}define a dict in a cell above, or write {name}=LOW..HIGH",
        )
    found = namespace[name]
    if not isinstance(found, Mapping):
        problem = f"{name} is no dict but a {type(found).__name__}"
        raise InvalidInput(problem, value=found, where="--search", remedy="give {'lr': 'log:1e-4..1e-1', ...}")
    return found
