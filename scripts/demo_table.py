"""Prints the table of docs/demo.md from finished runs of one recipe with different seeds.

python scripts/demo_table.py runs/otca-0 runs/otca-1 runs/otca-2
"""

import json
import sys
from pathlib import Path

import numpy as np


def main(folders: list[str]) -> None:
    results = [json.loads((Path(folder) / "result.json").read_text()) for folder in folders]
    seeds = [f"seed {Path(folder).name.rsplit('-', 1)[-1]}" for folder in folders]
    print(
        f"| {results[0]['pictures']} pictures each | base | "
        + " | ".join(seeds)
        + " | mean of seeds | in standard errors |"
    )
    print("|---|---|" + "---|" * (len(seeds) + 2))
    for rows in zip(*(result["rows"] for result in results), strict=True):
        if any(row["difference"] is None for row in rows):
            print(f"| {rows[0]['name']} | could not be scored in every run |")
            continue
        cells = [f"{row['difference']:+.4f} ± {row['standard_error']:.4f}" for row in rows]
        mean = np.mean([row["difference"] for row in rows])
        error = np.mean([row["standard_error"] for row in rows])  # the captions are the same, so seeds do not shrink it
        print(
            f"| {rows[0]['name']} | {rows[0]['base']:.4f} | "
            + " | ".join(cells)
            + f" | {mean:+.4f} | {mean / error:+.1f} |"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
