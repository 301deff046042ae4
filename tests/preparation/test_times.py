"""Times of every unit and form, against Python's own calendar."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rechub_ray.errors import ConfigError, DataError
from rechub_ray.preparation import prepare
from rechub_ray.preparation.times import moments, to_time
from rechub_ray.preparation.values import Flaws

NOON = datetime.datetime(2024, 1, 31, 12, 30, tzinfo=datetime.UTC).timestamp()
DAY = datetime.datetime(2024, 1, 31, tzinfo=datetime.UTC).timestamp()


def read(values: pa.Array, formats: tuple[str, ...] = ()) -> list[tuple[int, float] | None]:
    flaws = Flaws(len(values))
    whole, fraction = moments(values, "t", flaws, formats)
    return [None if row in flaws.reasons else (int(whole[row]), float(fraction[row])) for row in range(len(values))]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Tokyo"])
def test_timestamps(unit: str, zone: str | None) -> None:
    per = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    ticks = [int(NOON) * per, int(NOON) * per + 1, -per, -1, None]
    expected = [(int(NOON), 0.0), (int(NOON) + (per == 1), (per > 1) / per), (-1, 0.0), (-1, (per - 1) / per), None]
    assert read(pa.array(ticks, pa.int64()).cast(pa.timestamp(unit, zone))) == expected


def test_dates_and_far_years() -> None:
    days = [datetime.date(2024, 1, 31), datetime.date(1, 1, 1), datetime.date(9999, 12, 31)]
    expected = [(int(DAY), 0.0), (-62135596800, 0.0), (253402214400, 0.0)]
    assert read(pa.array(days, pa.date32())) == expected
    assert read(pa.array(days, pa.date64())) == expected
    assert read(pa.array([str(day) for day in days])) == expected
    assert read(pa.array([str(days[0]), "9999-12-31 00:00:00.5"])) == [expected[0], (253402214400, 0.5)]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2024-01-31", DAY), ("2024-01-31 12:30", NOON), ("2024-01-31T12:30:00", NOON), ("2024-01-31T12:30:00Z", NOON),
        ("2024-01-31T13:30:00+01:00", NOON), ("2024-01-31 12:30:00.25", NOON + 0.25), ("20240131T123000", NOON),
        ("2024/01/31", DAY), ("2024/01/31 12:30", NOON), ("2024/1/31 12:30:00", NOON), (" 2024-01-31 ", DAY),
        ("1706704200", NOON), ("1706704200.5", NOON + 0.5), ("1.7067042e9", NOON),
        ("2024-01-31 12:30:00.123456789", NOON + 0.123456789), ("2024-01-31T12:30:00,5+00:00", NOON + 0.5),
    ],
)  # fmt: skip
def test_well_known_forms(text: str, seconds: float) -> None:
    for others in ([], ["2024-01-31"], ["1"], ["2024/2/3 00:00:00.5+02:00"]):  # whichever way the rest is read
        (whole, fraction), *_ = read(pa.array([text, *others])) or [None]
        assert whole + fraction == pytest.approx(seconds, abs=1e-6)
        assert (whole, fraction) == read(pa.array([text]))[0]


@pytest.mark.parametrize("text", ["31/01/2024", "Jan 31 2024", "noon", "2024-13-01", "12:30", "2024/01/31/5"])
def test_an_unknown_form_is_told_with_those_that_are_known(text: str) -> None:
    flaws = Flaws(2)
    moments(pa.array([text, "2024-01-31"]), "t", flaws)
    assert list(flaws.reasons) == [0]
    assert text in flaws.reasons[0]
    assert "ISO 8601" in flaws.reasons[0]
    assert "time_format" in flaws.reasons[0]


def test_formats() -> None:
    values = pa.array(["31/01/2024 12:30", "Jan 31, 2024", "20240131", None])
    formats = ("%d/%m/%Y %H:%M", "%b %d, %Y", "%Y%m%d")
    assert read(values, formats) == [(int(NOON), 0.0), (int(DAY), 0.0), (int(DAY), 0.0), None]
    flaws = Flaws(1)
    moments(pa.array(["2024-01-31"]), "t", flaws, formats)
    assert "not a time of the form %d/%m/%Y %H:%M or %b" in flaws.reasons[0]
    assert read(pa.array(["31/01/2024 13:30 +0100"]), ("%d/%m/%Y %H:%M %z",)) == [(int(NOON), 0.0)]


def test_what_floats_would_merge_keeps_its_order() -> None:
    big = 1_706_704_200_000_000_000
    for values in (
        pa.array([big + k for k in range(300)]),
        pa.array([big + k for k in range(300)]).cast(pa.timestamp("ns")),
        pa.array([str(big + k) for k in range(300)]),
        pa.array([str(big + k) for k in range(300)] + ["0.5"]),
        pa.array([f"2024-01-31 12:30:00.{k:09}" for k in range(300)]),
        pa.array([f"2024-01-31 12:30:00.{k:09}" for k in range(300)] + ["2024-1-31"]),
        pa.array([k * 1e-16 for k in range(300)]),
    ):
        pairs = [pair for pair in read(values)[:300] if pair is not None]
        assert len(set(pairs)) == 300
        assert pairs == sorted(pairs)


def test_rounding_never_turns_two_moments_around() -> None:
    draw = np.random.default_rng(0)
    ticks = np.sort(draw.integers(-(2**62), 2**62, 1000))
    ticks = np.sort(np.concatenate([ticks, ticks + 1, ticks + 100]))
    for values in (pa.array(ticks), pa.array(ticks).cast(pa.timestamp("ns"))):
        assert (np.diff(to_time(values, "t", Flaws(len(ticks)))) >= 0).all()


@pytest.mark.parametrize("factor", [1, 10**3, 10**6, 10**9])
def test_numbers_beside_dates_are_seconds_to_nanoseconds(factor: int) -> None:
    values = pa.array([int(NOON) * factor, 0])
    assert to_time(values, "t", Flaws(2), dated=True).tolist() == pytest.approx([NOON, 0.0])
    assert to_time(values, "t", Flaws(2))[0] == NOON * factor
    late = pa.array([datetime.date(9999, 1, 1)])
    assert to_time(late, "t", Flaws(1), dated=True) == to_time(late, "t", Flaws(1))


def by_time(lab: Any, times: list[Any], **changes: Any) -> dict[str, Any]:
    lines = [f"{chr(97 + k)},{time},1" for k, time in enumerate(times)]
    lab.write(train__csv="\n".join(["v,t,y", *lines]) + "\n")
    split = {"by": "time", "column": "t", "fractions": {"train": 0.5, "test": 0.5}}
    recipe: dict[str, Any] = lab.single(
        **{"split": split, "features": [{"kind": "categorical", "name": "v"}], **changes}
    )
    return recipe


def test_split_by_times_in_slashes_and_in_a_form_of_ones_own(lab: Any) -> None:
    prepare(by_time(lab, ["2024/01/02 10:00", "2024/01/01 09:00"]))
    assert pq.read_table(lab.out / "vocab" / "v.parquet")["value"].to_pylist() == ["b"]
    prepare(by_time(lab, ["02.01.2024", "01.02.2024"], time_format="%d.%m.%Y", overwrite=True))
    assert pq.read_table(lab.out / "vocab" / "v.parquet")["value"].to_pylist() == ["a"]


def test_the_form_that_is_not_known_stops_with_its_row(lab: Any) -> None:
    with pytest.raises(DataError, match=r"train\.csv, row 3: column 't': '13/01/2024'.*ISO 8601.*time_format"):
        prepare(by_time(lab, ["2024/01/02", "13/01/2024"]))
    with pytest.raises(DataError, match=r"no time in any row.*ISO 8601.*time_format"):
        prepare(by_time(lab, ["13/01/2024"], on_bad_rows="quarantine"))
    for wrong in ("tomorrow", ["%Y", "noon"]):
        with pytest.raises(ConfigError, match="no format of times"):
            prepare(by_time(lab, ["13/01/2024"], time_format=wrong))


@pytest.mark.parametrize("factor", [1, 1000, 10**6])
def test_starts_as_dates_and_times_in_milliseconds(lab: Any, factor: int) -> None:
    split = {"by": "time", "column": "t", "starts": {"test": "2024-01-31"}}
    result = prepare(by_time(lab, [int(DAY - 1) * factor, int(DAY) * factor, int(NOON) * factor], split=split))
    assert [result.stats["splits"][name]["rows"] for name in ("train", "test")] == [1, 2]


def test_nanoseconds_decide_who_is_last(lab: Any) -> None:
    ticks = [1_706_704_200_000_000_000 + k for k in (2, 1, 0, 3)]  # all the same in float64
    columns = {"u": ["a"] * 4, "v": ["x", "y", "z", "w"], "y": [1] * 4}
    for kind in (pa.timestamp("ns"), pa.int64(), pa.string()):
        pq.write_table(pa.table({**columns, "t": pa.array(ticks).cast(kind)}), lab.raw / "a.parquet")
        recipe = lab.single(
            files="a.parquet",
            format={"type": "parquet"},
            features=[{"kind": "categorical", "name": "v", "hash_buckets": 1000}, {"kind": "sequence", "name": "h"}],
            history={"user": "u", "item": "v", "order": "t", "name": "h"},
            split={"by": "leave_last_out", "user": "u", "order": "t"},
            overwrite=True,
        )
        prepare(recipe, use_ray=False)
        assert pq.read_table(lab.out / "vocab" / "h.parquet")["value"].to_pylist() == ["z"]
        assert len(lab.split(name="test")["h"][0]) == 3
