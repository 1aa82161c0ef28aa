"""Screenshots of a report for docs/guide/report.md: the overall page, a problem's, a phone's.

    python scripts/screenshots.py [REPORT] [PROBLEM]

REPORT is the folder of `python -m suite.report`, PROBLEM the file name of one of its problems
(default: mlp).
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from suite.paths import ROOT, results

PICTURES = ROOT / "docs" / "pictures"
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
]
DESKTOP, TALL, PHONE = (1200, 860), (1200, 1000), (360, 640)
COLOURS = 192
LARGEST = 400_000  # bytes


def main() -> None:
    """Take the five pictures."""
    arguments = sys.argv[1:]
    report = Path(arguments[0]) if arguments else results() / "report"
    problem = arguments[1] if len(arguments) > 1 else "mlp"
    index, page = report / "index.html", report / "tasks" / f"{problem}.html"
    for needed in (index, page):
        if not needed.exists():
            raise SystemExit(f"{needed} is missing; make it with: python -m suite.report")
    chromium = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if chromium is None:
        raise SystemExit("no Chromium here; install one with: apt-get install chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=QUIET)
        save("overview", [shot(browser, index, DESKTOP)])
        save("verdicts", [shot(browser, index, DESKTOP, "#verdicts")])
        save("problem", [shot(browser, page, DESKTOP)])
        save("curves", [shot(browser, page, TALL, "#curves")])
        phone = [shot(browser, page, PHONE, place) for place in ("", "#results", "#runs")]
        save("phone", phone)
        browser.close()


def shot(browser: Browser, file: Path, size: tuple[int, int], anchor: str = "") -> Image.Image:
    """A picture of a page in a window of this size, from an anchor on; errors end the script."""
    tab: Page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    errors: list[str] = []
    tab.on("console", lambda message: errors.append(message.text))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(file.resolve().as_uri() + anchor)
    picture = Image.open(io.BytesIO(tab.screenshot())).convert("RGB")
    tab.close()
    if errors:
        raise SystemExit(f"{file}: {errors[0]}")
    return picture


def save(name: str, parts: list[Image.Image]) -> None:
    """Write the parts side by side, with a palette small enough for a repository."""
    gap = 24
    width = sum(part.width for part in parts) + gap * (len(parts) - 1)
    whole = Image.new("RGB", (width, max(part.height for part in parts)), "#c9ced4")
    left = 0
    for part in parts:
        whole.paste(part, (left, 0))
        left += part.width + gap
    file = PICTURES / f"report_{name}.png"
    whole.quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)
    if file.stat().st_size > LARGEST:
        raise SystemExit(f"{file} has {file.stat().st_size} bytes, more than {LARGEST}")
    print(
        f"{file.relative_to(ROOT)}: {whole.width} x {whole.height}, "
        f"{file.stat().st_size / 1000:.0f} kB"
    )


if __name__ == "__main__":
    main()
