from __future__ import annotations

import math
import struct

import pytest
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from rechub_ray.tracking import TensorBoardXTracker


def masked(data):
    checksum = crc32c(data)
    return (((checksum >> 15) | (checksum << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def read(directory):
    """The events of each file in the order of writing: the TFRecord framing taken apart by hand."""
    files = []
    for path in sorted((directory / "tensorboard").iterdir(), key=lambda path: path.name.rsplit(".", 1)[1]):
        data, events = path.read_bytes(), []
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            body = data[12 : 12 + length]
            assert struct.unpack("<I", data[8:12])[0] == masked(data[:8])
            assert struct.unpack("<I", data[12 + length : 16 + length])[0] == masked(body)
            events.append(Event.FromString(body))
            data = data[16 + length :]
        files.append(events)
    return files


def scalars(events):
    return [
        (event.step, value.tag, value.simple_value)
        for event in events
        for value in event.summary.value
        if not value.HasField("metadata") or value.metadata.plugin_data.plugin_name != "hparams"
    ]


def plugin(events):
    return {
        value.tag: HParamsPluginData.FromString(value.metadata.plugin_data.content)
        for event in events
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "hparams"
    }


def test_scalars_read_back(run):
    tracker = TensorBoardXTracker(run())
    tracker.log({"train/loss": 0.5, "train/loss/bce": 0.25, "learning_rate": 0.125}, step=10)
    tracker.log({"val/auc": math.nan}, step=20)
    tracker.close()
    (events,) = read(run().directory)
    found = scalars(events)
    assert found[:3] == [(10, "train/loss", 0.5), (10, "train/loss/bce", 0.25), (10, "learning_rate", 0.125)]
    assert found[3][:2] == (20, "val/auc")
    assert math.isnan(found[3][2])
    assert not any(event.HasField("session_log") for event in events)


def test_resume_hides_the_steps_that_are_trained_again(run):
    tracker = TensorBoardXTracker(run())
    for step in (10, 20, 30):
        tracker.log({"train/loss": 1.0}, step=step)
    tracker.close()
    tracker = TensorBoardXTracker(run(resumed=True, start_step=20))  # within the same second
    tracker.log({"train/loss": 2.0}, step=30)
    tracker.close()
    first, second = read(run().directory)
    assert [step for step, *_ in scalars(first)] == [10, 20, 30]
    purges = [event.step for event in second if event.session_log.status == SessionLog.START]
    assert purges == [21]  # TensorBoard forgets steps >= 21 of the first file: 20 stays
    assert scalars(second) == [(30, "train/loss", 2.0)]


def test_hyperparameters_tab(run):
    tracker = TensorBoardXTracker(run())
    tracker.log({"val/auc": 0.5}, step=70)
    config = {"model.name": "deepfm", "model.dropout": 0.5, "train.steps": 7, "amp": True, "data.test": None}
    tracker.hyperparameters(config, {})
    tracker._writer.flush()
    (events,) = read(run().directory)
    assert "_hparams_/session_end_info" not in plugin(events)
    tracker.hyperparameters(config, {"val/auc": 0.75})
    tracker.close()
    (events,) = read(run().directory)  # one file: the tab's row is this run, not a second one
    assert (70, "best/val/auc", 0.75) in scalars(events)
    tags = plugin(events)
    start = tags["_hparams_/session_start_info"].session_start_info.hparams
    assert start["model.name"].string_value == "deepfm"
    assert start["model.dropout"].number_value == pytest.approx(0.5)
    assert start["train.steps"].number_value == 7
    assert start["amp"].bool_value is True
    assert start["data.test"].string_value == "None"
    assert set(start) == set(config)
    assert set(tags) == {"_hparams_/session_start_info", "_hparams_/session_end_info"}


def test_the_tab_has_the_columns_of_all_runs(run, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard import context
    from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams import api_pb2, list_session_groups
    from tensorboard.plugins.hparams.backend_context import Context

    for name, config in (("a", {"model.name": "lr"}), ("b", {"model.name": "deepfm", "model.dropout": 0.5})):
        tracker = TensorBoardXTracker(run(directory=tmp_path / "trials" / name))
        tracker.hyperparameters(config, {})
        tracker.log({"val/auc": 0.5}, step=1)
        if name == "b":  # the other one still runs
            tracker.hyperparameters(config, {"val/auc": 0.75})
        tracker.close()
    multiplexer = plugin_event_multiplexer.EventMultiplexer().AddRunsFromDirectory(str(tmp_path / "trials"))
    multiplexer.Reload()
    logdir, request = str(tmp_path / "trials"), context.RequestContext()
    provider = data_provider.MultiplexerDataProvider(multiplexer, logdir)
    backend = Context(TBContext(data_provider=provider, logdir=logdir, multiplexer=multiplexer))
    tab = backend.experiment_from_metadata(
        request, "", True, backend.hparams_metadata(request, ""), backend.hparams_from_data_provider(request, "", None)
    )
    assert {column.name: column.differs for column in tab.hparam_infos} == {"model.name": True, "model.dropout": False}
    assert {metric.name.tag for metric in tab.metric_infos} == {"val/auc", "best/val/auc"}
    wanted = api_pb2.ListSessionGroupsRequest(
        slice_size=10,
        allowed_statuses=[api_pb2.STATUS_RUNNING, api_pb2.STATUS_SUCCESS, api_pb2.STATUS_UNKNOWN],
        col_params=[
            *(api_pb2.ColParams(hparam=column.name, include_in_result=True) for column in tab.hparam_infos),
            *(api_pb2.ColParams(metric=metric.name, include_in_result=True) for metric in tab.metric_infos),
        ],
        include_metrics=True,
    )
    rows = list_session_groups.Handler(request, backend, "", wanted).run().session_groups
    found = {
        row.sessions[0].name: (
            row.hparams["model.name"].string_value,
            {metric.name.tag: metric.value for metric in row.metric_values},
        )
        for row in rows
    }
    assert found == {
        "a/tensorboard": ("lr", {"val/auc": 0.5}),
        "b/tensorboard": ("deepfm", {"val/auc": 0.5, "best/val/auc": 0.75}),
    }
