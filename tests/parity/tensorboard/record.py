"""Writes events.tfevents with TensorBoard's own writer: what dapt's writer must give byte for byte (tests/report/tensorboard_test.cpp).

usage: record.py OUT_FOLDER          (pip install tensorboard==2.21.0)
"""
import pathlib
import sys

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

STEPS = [  # wall_time, step, values
    (1700000000.25, 0, [("train/loss", 3.25)]),
    (1700000001.5, 1, [("train/loss", 2.71828), ("train/lr", 1e-4)]),
    (1700000002.0, 300, [("eval/qa_exact", 0.1), ("日本語", -0.0), ("nan", float("nan"))]),
    (1700000003.0, 5_000_000_000, [("memory/peak_bytes", 3.4e10)]),
]

with open(pathlib.Path(sys.argv[1]) / "events.tfevents", "wb") as file:
    writer = RecordWriter(file)
    writer.write(Event(wall_time=1700000000.0, file_version="brain.Event:2").SerializeToString())
    for wall_time, step, values in STEPS:
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values])
        writer.write(Event(wall_time=wall_time, step=step, summary=summary).SerializeToString())
