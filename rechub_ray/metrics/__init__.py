"""Metrics: whole evaluation sets over any number of workers, from logits."""

from rechub_ray.metrics.accuracy import Accuracy
from rechub_ray.metrics.auc import AUC
from rechub_ray.metrics.auc_histogram import AUCHistogram
from rechub_ray.metrics.base import METRICS, Accumulator, Metric
from rechub_ray.metrics.calibration import Calibration
from rechub_ray.metrics.expected_calibration_error import ExpectedCalibrationError
from rechub_ray.metrics.gauc import GAUC
from rechub_ray.metrics.log_loss import LogLoss
from rechub_ray.metrics.metric_set import MetricSet
from rechub_ray.metrics.mse import MSE
from rechub_ray.metrics.rmse import RMSE

__all__ = [
    "METRICS",
    "AUC",
    "GAUC",
    "MSE",
    "RMSE",
    "AUCHistogram",
    "Accumulator",
    "Accuracy",
    "Calibration",
    "ExpectedCalibrationError",
    "LogLoss",
    "Metric",
    "MetricSet",
]
