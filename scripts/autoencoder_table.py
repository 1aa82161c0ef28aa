"""The table of scripts/autoencoder.sh: the lowest training loss of each run, K-FAC at 300 steps and Adam at 1,000."""

import pandas as pd
import yaml

from suite.paths import results


def rows(optimizer: str, steps: int) -> pd.DataFrame:
    """One row a run of this length: its lowest training loss, its last validation error, its cost."""
    found = []
    for folder in sorted((results() / "runs" / "autoencoder" / optimizer).iterdir()):
        config = yaml.safe_load((folder / "config.yaml").read_text())
        if config["steps"] != steps or config["scale"] != "small" or not (folder / "summary.json").exists():
            continue
        history = pd.read_csv(folder / "history.csv")
        last = history.iloc[-1]
        costs = {"gradient-equivalents": last["grad_equivalents"], "seconds": last["seconds"]}
        found.append({"loss": history["loss"].min(), "squared error": last["val/squared_error"], **costs})
    return pd.DataFrame(found)


def main() -> None:
    """Print the table in Markdown."""
    print("| optimizer | steps | lowest training loss | squared error (validation) | gradient-equivalents | seconds |")
    print("|---|---|---|---|---|---|")
    for optimizer, steps in (("kfac", 300), ("adam", 1000)):
        frame = rows(optimizer, steps)
        cells = [f"{frame[name].mean():.2f} ± {frame[name].std():.2f} ({len(frame)})" for name in frame.columns]
        print(f"| {optimizer} | {steps} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
