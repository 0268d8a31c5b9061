"""The result of fine-tuning beside the head's, from its record. About 1 s."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from test_records import make_model

from bottleneck.experiments import FineTuned, fine_tuned
from bottleneck.records import ModelRecord, read_record, write_record


def judged(*pairs: str) -> list[dict]:
    """Results of images: ``"01"`` is wrong before and right after."""
    return [
        {
            "image": hashlib.sha256(str(number).encode()).hexdigest(),
            "before": pair[0] == "1",
            "after": pair[1] == "1",
        }
        for number, pair in enumerate(pairs)
    ]


def record_with(*pairs: str, **changes) -> Path:
    file = make_model()
    record = read_record(file, ModelRecord)
    settings = {"unfreeze": "features.3"}
    write_record(file, replace(record, judged=judged(*pairs), settings=settings, **changes))
    return file


def test_the_gain_is_paired_over_the_images():
    """With Student's t on the changes; by an independent sum, 60 images and 18 changes."""
    pairs = ["00"] * 12 + ["11"] * 30 + ["01"] * 14 + ["10"] * 4
    record_with(*pairs)
    (found,) = fine_tuned("heads")
    assert (found.model, found.unfreeze, found.images) == ("heads/tuned", "features.3", 60)
    assert (found.before, found.after) == (34 / 60, 44 / 60)
    mean = 10 / 60
    half = 2.0009954 * ((18 - 60 * mean**2) / 59 / 60) ** 0.5
    assert found.gain == pytest.approx(mean)
    assert found.interval == pytest.approx((mean - half, mean + half), rel=1e-6)
    assert found.shown_gain == "+0.167 (+0.031 to +0.303)"


def test_images_of_a_group_count_as_one():
    """By an independent sum, over two groups of two and three images alone."""
    pairs, groups = ["01", "01", "11", "10", "01", "11", "00"], [0, 0, 1, 1, None, None, None]
    record = read_record(record_with(*pairs), ModelRecord)
    rows = zip(record.judged, groups, strict=True)
    named = [each if group is None else {**each, "group": group} for each, group in rows]
    file = Path("heads/tuned/model.json")
    write_record(file, replace(record, judged=named))
    found = FineTuned.of("x", read_record(file, ModelRecord))
    mean = 2 / 7
    sums = [2 - 2 * mean, -1 - 2 * mean, 1 - mean, -mean, -mean]
    error = (5 / 4 * sum(each**2 for each in sums)) ** 0.5 / 7
    half = 2.7764451 * error
    assert found.interval == pytest.approx((mean - half, mean + half), rel=1e-6)
    one = [{**each, "group": 3} for each in record.judged]
    assert FineTuned.of("x", replace(record, judged=one)).interval == (mean - 3, mean + 3)


def test_no_change_leaves_the_rule_of_three():
    record = read_record(record_with(*["11"] * 100), ModelRecord)
    assert FineTuned.of("x", record).interval == (-0.03, 0.03)
    copies = replace(record, judged=record.judged * 2)
    assert FineTuned.of("x", copies) == FineTuned.of("x", record)


def test_only_models_that_recorded_their_result_are_listed():
    """Not those of earlier versions, damaged ones, and those from other features or images."""
    assert fine_tuned("nowhere") == []
    source = read_record(record_with("01", "11"), ModelRecord).started_from
    assert [each.images for each in fine_tuned("heads", source)] == [2]
    assert len(fine_tuned("heads", replace(source, views=0, policy=None))) == 1
    assert fine_tuned("heads", replace(source, layer="other")) == []
    for known in ({"train": "0" * 64}, {"train": "1" * 64}):
        record_with("01", "11", started_from=replace(source, split_digests=known))
        others = replace(source, split_digests={"train": "0" * 64, "test": "2" * 64})
        assert len(fine_tuned("heads", others)) == (known["train"] == "0" * 64)
    for pairs in ([], ["11"]):
        file = record_with(*pairs)
        assert fine_tuned("heads") == []
    file.write_text(file.read_text().replace("features", "feature"))
    assert fine_tuned("heads") == []
