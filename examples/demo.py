"""The main job on an embedded data set: shards -> DeepFM on 2 Ray Train workers -> metrics -> checked ONNX.

Usage: python examples/demo.py [path=value ...]
"""

import json
import shutil
import sys
import time
from pathlib import Path

from rechub_ray import config
from rechub_ray.data.synthetic import write_click_logs
from rechub_ray.errors import RechubError
from rechub_ray.runtime.launch import train
from rechub_ray.runtime.summary import print_result

HERE = Path(__file__).resolve().parent.parent


def main(overrides: list[str]) -> int:
    started = time.perf_counter()
    data = Path("demo/data")
    if not (data / "truth.json").exists():
        shutil.rmtree(data, ignore_errors=True)
        print("Writing 200,000 synthetic click-log rows to demo/data ...", file=sys.stderr)
        write_click_logs(data)
    run = config.load(HERE / "configs/demo.yaml", ["model_dir=demo/run", *overrides])
    print(
        f"Training {run.model['name']} with {run.scaling.num_workers} workers (starting them takes some seconds) ...",
        file=sys.stderr,
    )
    result = train(run, resume="never")
    print_result(result)
    best = json.loads((data / "truth.json").read_text())["best_auc"]
    print(f"\nThe best AUC that any model can reach on this test split is {best:.4f}: it was generated that way.")
    print(f"All of it took {time.perf_counter() - started:.0f} s.\n")
    print("Try next (the commands live in .venv/bin):")
    print("  rechub-ray evaluate demo/run --split valid")
    print("  rechub-ray predict demo/run --out demo/predictions")
    print("  rechub-ray train configs/demo.yaml scaling.num_workers=0 model.name=dcn_v2 --model-dir demo/run-dcn")
    print("  rechub-ray list models")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except RechubError as error:
        sys.exit(f"demo: {error}")
