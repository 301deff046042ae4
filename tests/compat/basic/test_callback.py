from __future__ import annotations

import torch

from rechub_ray.compat.basic.callback import EarlyStopper


def test_it_keeps_a_copy_of_the_best_weights_and_stops_in_time() -> None:
    stopper, weight = EarlyStopper(patience=2), torch.zeros(1)
    stops = []
    for auc in (0.6, 0.7, 0.69, 0.7):
        weight.fill_(auc)
        stops.append(stopper.stop_training(auc, {"weight": weight}))
    assert stops == [False, False, False, True]
    assert stopper.best_auc == 0.7
    torch.testing.assert_close(stopper.best_weights["weight"], torch.tensor([0.7]))


def test_a_gain_is_more_than_delta() -> None:
    stopper = EarlyStopper(patience=1, delta=0.01)
    assert not stopper.stop_training(0.7, {})
    assert stopper.stop_training(0.705, {})
    assert stopper.best_auc == 0.7


def test_smaller_may_be_better() -> None:
    stopper = EarlyStopper(patience=1, mode="min")
    assert not stopper.stop_training(0.7, "a")
    assert not stopper.stop_training(0.6, "b")
    assert stopper.stop_training(0.65, "c")
    assert stopper.best_weights == "b"
