"""Fills the tables of docs/results.md from what the studies wrote, so that its numbers are theirs.

python scripts/results_page.py bench_credit.json runs/paper/results.json
"""

import argparse
import json
import re
import shutil
from pathlib import Path

from stepcredit.viewer.benchmarks import (
    against,
    draw_curves,
    draw_oracle,
    gains_table,
    kernel_table,
    null_table,
    oracle_table,
    proxy_table,
)

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results.md"
IMAGES = ROOT / "docs" / "images"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("oracle", type=Path, help="the JSON file of `stepcredit bench credit`")
    parser.add_argument("paper", type=Path, nargs="?", help="results.json of `stepcredit bench paper`")
    parser.add_argument("--maps", type=Path, help="the picture of `stepcredit compare --dump`")
    chosen = parser.parse_args()
    oracle = json.loads(chosen.oracle.read_text(encoding="utf-8"))
    tables = {f"oracle {name}": oracle_table(oracle["rows"], name) for name in ("quadratic", "linear", "three rewards")}
    tables |= {"kernels": kernel_table(oracle["kernels"]), "null": null_table(oracle["similarity"])}
    draw_oracle(oracle["rows"], IMAGES / "oracle.png")
    if chosen.paper is not None:
        paper = json.loads(chosen.paper.read_text(encoding="utf-8"))
        tables |= {"gains": gains_table(paper), "proxy": proxy_table(paper["proxy"])}
        tables |= {f"against {name}": against(paper, name) for name in ("dance_grpo", "otca")}
        draw_curves(paper, IMAGES / "curves.png")
    if chosen.maps is not None:
        shutil.copy(chosen.maps, IMAGES / "credit_maps.png")
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), tables), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}: {', '.join(tables)}")


def filled(page: str, tables: dict[str, str]) -> str:
    """The page with every `<!-- table: NAME -->` ... `<!-- end -->` holding that table."""
    for name, table in tables.items():
        pattern = re.compile(rf"(<!-- table: {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
        page, count = pattern.subn(lambda match, table=table: f"{match[1]}{table}\n{match[2]}", page)
        if count != 1:
            raise SystemExit(f'{PAGE} has {count} places for the table "{name}", wanted 1')
    return page


if __name__ == "__main__":
    main()
