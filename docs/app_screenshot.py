"""Takes docs/figures/app.png: the page of `adem-vl app` in Chromium, with an answer of the shipped checkpoint.

make screenshot    (installs what it needs, and calls this file)
"""

import argparse
import io
import os
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from adem_vl_hf.app.answers import Answers
from adem_vl_hf.app.page import EXAMPLES, serve
from adem_vl_hf.loading import load_checkpoint

FILE = Path(__file__).parent / "figures" / "app.png"
WORD = "turtle"  # of the answer to the first example image
COLOURS = 256  # of the palette, which makes the file a third as large


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=7865)
    port = parser.parse_args().port
    checkpoint = load_checkpoint(dtype="float32")  # as in README's ten lines, so that any processor takes the same one
    page = serve(Answers(*checkpoint, 20), "adem-vl app", "127.0.0.1", port, wait=False)
    with sync_playwright() as driver:
        program = shutil.which(os.environ.get("CHROMIUM", "chromium"))
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1100, "height": 830})
        tab.goto(f"http://127.0.0.1:{port}")
        tab.set_input_files("#box input[type=file]", str(min(EXAMPLES.glob("*.png"))))
        tab.wait_for_selector("#box .thumbnail-item, #box img", timeout=60_000)
        tab.press("#box textarea", "Enter")
        tab.wait_for_function("document.querySelector('#chat')?.innerText.includes('green')", timeout=120_000)
        tab.click("#ask-where")
        frame = tab.frame_locator("#where iframe")
        frame.locator("label", has_text=WORD).click(timeout=120_000)
        tab.mouse.move(5, 5)
        tab.wait_for_timeout(1000)  # animations of the page
        shot = Image.open(io.BytesIO(tab.screenshot()))
        browser.close()
    page.close()
    shot.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(FILE, optimize=True)
    print(f"{FILE}: {shot.size[0]} x {shot.size[1]} pixels, {FILE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
