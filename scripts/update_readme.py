"""Put the table and the picture of the last `make compare` into README.md, between its markers."""

import re
import shutil

from suite.paths import ROOT, results


def main() -> None:
    """Replace what stands between <!-- table --> and <!-- /table -->, and copy the heat map."""
    report = results() / "report"
    table = "\n".join(line for line in (report / "tables" / "main.md").read_text().splitlines() if line.startswith("|"))
    readme = ROOT / "README.md"
    marked = re.compile(r"<!-- table -->.*<!-- /table -->", re.DOTALL)
    readme.write_text(marked.sub(lambda _: f"<!-- table -->\n{table}\n<!-- /table -->", readme.read_text()))
    shutil.copy(report / "figures" / "heatmap.png", ROOT / "docs" / "pictures" / "heatmap.png")


if __name__ == "__main__":
    main()
