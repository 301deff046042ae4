from __future__ import annotations

import pytest

from rechub_ray.errors import ConfigError
from rechub_ray.tracking import Trackers, check_trackers


class ForeignLogger:
    """The form of a Torch-RecHub model_logger."""

    def __init__(self):
        self.heard = []

    def log_metrics(self, metrics, step=None):
        self.heard.append((step, metrics))

    def log_hyperparams(self, params):
        self.heard.append(params)

    def finish(self):
        self.heard.append("finish")


@pytest.mark.parametrize("wrap", [lambda logger: logger, lambda logger: [logger]])
def test_a_foreign_logger_hears_everything(run, wrap):
    logger = ForeignLogger()
    with Trackers(wrap(logger), run()) as trackers:
        trackers.log({"train/loss": 0.5}, step=3)
        trackers.hyperparameters({"model.name": "fm"}, {"val/auc": 0.75})
    assert logger.heard == [(3, {"train/loss": 0.5}), {"model.name": "fm", "best/val/auc": 0.75}, "finish"]


@pytest.mark.parametrize("foreign", [object(), 3, ForeignLogger])
def test_other_objects_are_refused(foreign):
    with pytest.raises(ConfigError, match=r"'trackers.0': not a tracker.*log_metrics.*Known: console, csv, jsonl"):
        check_trackers(foreign)
