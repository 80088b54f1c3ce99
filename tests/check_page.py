"""Opens pages of `mtl page` in headless Chromium, from disk, and looks at what is there.

    python -m tests.check_page PAGE.html [SCREENSHOTS]

No error in the console, nothing fetched from elsewhere, under 5 MB, no wider than a phone, every
link of the page leads to something, every chart and every photo has a size, and no text of a run
has become an element. It needs Chromium with its driver (Debian: chromium, chromium-driver); it is
no test of pytest, as most machines that run those have neither.
"""
import pathlib
import sys
import tempfile

from tests import check_browser

MOST_BYTES = 5_000_000
PORT = 9561  # of the driver
SECTIONS = 'return [...document.querySelectorAll("section")].map((e) => e.id)'
LINKS = ('return [...document.querySelectorAll("a[href]")].map((e) => e.getAttribute("href"))'
         '.filter((at) => !at.startsWith("#") || !document.getElementById(at.slice(1)))')
OPEN = 'document.querySelectorAll("details").forEach((e) => { e.open = true; })'
FLAT = """const seen = (e) => e.closest('.cells .asked:not(:target)') === null;
return [...document.querySelectorAll('svg, img, table')].filter(seen)
  .filter((e) => e.getBoundingClientRect().width < 10 || e.getBoundingClientRect().height < 10 ||
          (e.tagName === 'IMG' && !e.naturalWidth)).map((e) => e.outerHTML.slice(0, 200))"""
COUNT = """return Object.fromEntries(['svg', 'img', 'table', 'details'].map(
  (tag) => [tag, document.querySelectorAll(tag).length]))"""
FOREIGN = """return [...document.querySelectorAll('script, iframe, link, object, b > *, td > img')]
  .map((e) => e.outerHTML.slice(0, 200)).concat(performance.getEntriesByType('resource')
  .map((e) => e.name).filter((name) => !name.startsWith('data:')))"""


def main(page: str, folder: str | None = None) -> None:
  """Checks a page; ends with an error where something is wrong.

  Args:
    page: the file.
    folder: where screenshots go, if anywhere.
  """
  path = pathlib.Path(page).resolve()
  if path.stat().st_size > MOST_BYTES:
    raise SystemExit(f'{path}: {path.stat().st_size} bytes')
  with (tempfile.TemporaryDirectory() as profile,
        check_browser.started(profile, PORT) as browser):
    browser.open(path.as_uri())
    browser.until('document.readyState === "complete"', 60)
    print(', '.join(browser.script(SECTIONS)))
    if folder is not None:
      check_browser.take_screenshots(browser, pathlib.Path(folder))
    browser.script(OPEN)
    for what, script in (('links to nothing', LINKS), ('without a size', FLAT),
                         ('elements that should not be', FOREIGN)):
      if found := browser.script(script):
        raise SystemExit(f'{what}: {found}')
    if folder is not None:
      check_browser.take_screenshots(browser, pathlib.Path(folder) / 'open')
    if wrong := browser.console():
      raise SystemExit(f'errors in the console: {wrong}')
    print('no error in the console;', browser.script(COUNT), f'{path.stat().st_size / 1e6:.2f} MB')


if __name__ == '__main__':
  main(*sys.argv[1:])
