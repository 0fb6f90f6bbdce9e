"""MLflow: the server of MLFLOW_TRACKING_URI, or else the database RUNS/mlflow.db.

MLflow has no histograms: each layer's values are metrics, in place of their distribution.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from launch.config.machine import Machine
from launch.config.run import Run
from launch.trackers.tracking import Numbers, settings_of

EXPERIMENT = "signbench"
MISSING = "RESOURCE_DOES_NOT_EXIST"
MOST_PARAMETERS = 100  # of one request


class MLflow:
    """A run in MLflow, with the epoch as its step."""

    def __init__(self, run: Run, machine: Machine, known: str, epoch: int) -> None:
        root = machine.runs.resolve()
        root.mkdir(parents=True, exist_ok=True)
        uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
        self._client, self._last = MlflowClient(uri), epoch
        self.id = known if known and self._has(known) else self._create(run, root)
        self._client.update_run(self.id, status="RUNNING")

    def _has(self, known: str) -> bool:
        """Return whether a run is at this address; it may be at the address of an earlier start."""
        try:
            self._client.get_run(known)
        except MlflowException as error:
            if error.error_code != MISSING:
                raise
            return False
        return True

    def _create(self, run: Run, root: Path) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        artifacts = None if "MLFLOW_TRACKING_URI" in os.environ else (root / "mlflow").as_uri()
        experiment = self._find_experiment(name, artifacts)
        made = self._client.create_run(experiment, run_name=run.name)
        params = [Param(key, str(value)[:500]) for key, value in settings_of(run).items()]
        for i in range(0, len(params), MOST_PARAMETERS):
            part = params[i : i + MOST_PARAMETERS]
            self._client.log_batch(made.info.run_id, params=part, tags=[RunTag("label", run.label)])
        return str(made.info.run_id)

    def _find_experiment(self, name: str, artifacts: str | None) -> str:
        """Return the id of an experiment, which is made if there is none."""
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name, artifacts))
            except MlflowException:  # another run may have made it meanwhile
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def log(self, epoch: int, scalars: Numbers, histograms: Mapping[str, Numbers]) -> None:
        layers = {
            f"{name}/{layer}": value
            for name, values in histograms.items()
            for layer, value in values.items()
        }
        self._metrics({**scalars, **layers}, epoch)
        self._last = epoch

    def add_picture(self, name: str, path: Path) -> None:
        self._client.log_artifact(self.id, str(path), "figures")

    def close(self, result: Mapping[str, float] | None) -> None:
        if result:
            self._metrics({f"result/{name}": value for name, value in result.items()}, self._last)
        self._client.set_terminated(self.id, "FINISHED" if result else "FAILED")

    def _metrics(self, values: Mapping[str, float], epoch: int) -> None:
        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, epoch) for name, value in values.items()]
        for i in range(0, len(metrics), 500):
            self._client.log_batch(self.id, metrics=metrics[i : i + 500])
