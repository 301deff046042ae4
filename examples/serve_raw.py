"""Predictions for raw rows with onnxruntime alone: python serve_raw.py model_raw.onnx rows.csv > predictions.csv

The model is one that `rechub-ray export RUN --inputs raw` has made; rows.csv has a header, and text lists are cut here.
"""

import csv
import itertools
import json
import sys

import numpy as np
import onnxruntime


def values(port, texts):
    """Return a column as the input takes it: texts, numbers with NaN for missing ones, or texts padded with ''."""
    if port["form"] in ("list", "numbers"):
        lists = [text.split(port["features"][0]["separator"]) for text in texts]
        texts = np.array(list(itertools.zip_longest(*lists, fillvalue=""))).T
    if port["form"] in ("number", "numbers"):
        return np.where(np.array(texts) == "", "nan", texts).astype(float)
    return np.array(texts)


if __name__ == "__main__":
    session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
    ports = json.loads(session.get_modelmeta().custom_metadata_map["rechub_ray.inputs"])
    with open(sys.argv[2], newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = {port["name"]: values(port, [row[port["column"]] for row in rows]) for port in ports}
    names = [output.name for output in session.get_outputs()]
    writer = csv.writer(sys.stdout)
    writer.writerow(names)
    writer.writerows(zip(*(output.tolist() for output in session.run(names, columns)), strict=True))
