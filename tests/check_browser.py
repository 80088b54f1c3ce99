"""Runs examples/browser in headless Chromium, and compares what it says with onnxruntime here.

    python -m tests.check_browser MODEL.onnx PHOTOS NEW RUNTIME [SCREENSHOTS]

MODEL adapts. PHOTOS holds a folder of photos for each class, NEW is a folder of photos. RUNTIME is
the folder `dist` of onnxruntime-web, as `npm install onnxruntime-web` brings it. It needs Chromium
with its driver (Debian: chromium, chromium-driver) and the extra `onnx`. It is no test of pytest,
as most machines that run those have none of the three.
"""
import base64
import contextlib
import functools
import http.server
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import numpy as np
from PIL import Image

import mtl_jax
from mtl_jax.data import image_files

PAGE = pathlib.Path(__file__).parents[1] / 'examples' / 'browser' / 'index.html'
EVIL = '<img src=x onerror="document.title=1">'
FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
         '--disable-background-networking', '--disable-component-update', '--disable-sync']
DROP = """const [label, names, done] = arguments;
Promise.all(names.map(async (name) => new File([await (await fetch(name)).blob()], name))).then(
  (files) => { const data = new DataTransfer(); files.forEach((file) => data.items.add(file));
    document.querySelectorAll('label.drop')[label].dispatchEvent(
      new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true})); done(); });"""


class Browser:
  """A session of chromedriver, by its protocol."""

  def __init__(self, port: int, profile: str):
    self.url = f'http://127.0.0.1:{port}'
    options = {'args': [*FLAGS, f'--user-data-dir={profile}']}
    found = self._post('/session', {'capabilities': {'alwaysMatch': {
        'goog:chromeOptions': options, 'goog:loggingPrefs': {'browser': 'ALL'}}}})
    self.url += f'/session/{found["sessionId"]}'

  def _post(self, path, content):
    request = urllib.request.Request(self.url + path, json.dumps(content).encode(),
                                     {'Content-Type': 'application/json'})
    with urllib.request.urlopen(request, timeout=300) as answer:
      return json.load(answer)['value']

  def open(self, url):
    self._post('/url', {'url': url})

  def script(self, text, *arguments, wait=False):
    return self._post(f'/execute/{"async" if wait else "sync"}',
                      {'script': text, 'args': list(arguments)})

  def devtools(self, command, **parameters):
    return self._post('/goog/cdp/execute', {'cmd': command, 'params': parameters})

  def console(self):
    return self._post('/se/log', {'type': 'browser'})

  def until(self, text, seconds=300):
    """Waits until a script returns something; shows the page's line where it does not."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
      if found := self.script(f'return {text}'):
        return found
      time.sleep(0.2)
    raise SystemExit(f'{text}: never; the page says: '
                     + self.script('return document.getElementById("state").textContent'))


def main(model: str, photos: str, new: str, runtime: str, screenshots: str | None = None) -> None:
  """Runs the page, and prints the largest difference and the times."""
  exported = mtl_jax.load_export(model)
  size = exported.about['image_shape'][0]
  with contextlib.ExitStack() as stack:
    folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
    shutil.copy(PAGE, folder)
    shutil.copy(model, folder / 'model.onnx')
    (folder / 'dist').symlink_to(pathlib.Path(runtime).resolve())
    classes = [_decoded(path, folder, size) for path in sorted(pathlib.Path(photos).iterdir())]
    queries = _decoded(pathlib.Path(new), folder, size)
    browser = stack.enter_context(started(folder / 'profile'))
    site = stack.enter_context(_served(folder))
    browser.open(f'{site}/index.html?model=model.onnx&runtime=dist/ort.wasm.bundle.min.mjs')
    browser.until('document.getElementById("state").textContent.startsWith("Ready")')
    found, seconds = _through_the_page(browser, classes, queries)
    _compare(exported, classes, queries, found)
    print(browser.script('return document.getElementById("state").textContent'))
    print(f'one photo: {min(seconds):.3f} s at best, {np.median(seconds):.3f} s in the middle')
    if screenshots:
      take_screenshots(browser, pathlib.Path(screenshots))
    wrong = [entry for entry in browser.console() if entry['level'] == 'SEVERE']
    if wrong or browser.script('return document.title') == '1':
      raise SystemExit(f'errors in the console, or a name that ran as HTML: {wrong}')
    print('no error in the console; a class name with HTML in it stayed text')


def _through_the_page(browser, classes, queries):
  """Drops all photos; returns (probabilities [m, N], seconds of each prediction)."""
  for _ in classes[2:]:
    browser.script('document.getElementById("add").click()')
  for place, (names, _) in enumerate(classes):
    browser.script('const [place, name] = arguments; document.querySelectorAll('
                   '"input[type=text]")[place].value = name', place,
                   EVIL if place == 0 else pathlib.PurePath(names[0]).name.rsplit('-', 1)[0])
    browser.script(DROP, place, names, wait=True)
  total = sum(len(names) for names, _ in classes)
  browser.until(f'document.body.dataset.adapted == {total}')
  browser.script(DROP, len(classes), queries[0], wait=True)
  said = 'document.querySelectorAll("[data-shares]")'
  browser.until(f'{said}.length == {len(queries[0])}')
  rows = browser.script(f'return [...{said}].map((e) => [e.dataset.shares, e.dataset.seconds])')
  # The page shows the last photo first.
  return (np.array([json.loads(shares) for shares, _ in rows[::-1]]),
          [float(seconds) for _, seconds in rows])


def _compare(exported, classes, queries, found):
  labels = np.repeat(np.arange(len(classes)), [len(names) for names, _ in classes])
  began = time.monotonic()
  classifier = exported.adapt(np.concatenate([images for _, images in classes]), labels)
  adapted = time.monotonic()
  expected = exported.predict_proba(queries[1], classifier)
  print(f'{len(labels)} photos of {len(classes)} classes; by onnxruntime here {adapted - began:.2f}'
        f' s, {(time.monotonic() - adapted) / len(expected):.3f} s a photo')
  difference = float(np.abs(found - expected).max())
  print(f'largest difference of {found.size} probabilities: {difference:.1e}')
  if not difference < 1e-4:
    raise SystemExit('the page says something else than onnxruntime here')


def _decoded(source, folder, size):
  """(names, uint8 images) of a folder's photos, written in the size of the network as PNG."""
  names, images = [], []
  for path in sorted(source.iterdir()):
    images.append(image_files.read_image(path, size))
    names.append(f'{source.name}-{len(names)}.png')
    Image.fromarray(images[-1]).save(folder / names[-1])
  return names, np.stack(images)


def take_screenshots(browser, folder):
  """Writes the page at two widths, light and dark; refuses one that is wider."""
  folder.mkdir(parents=True, exist_ok=True)
  for width in (1280, 390):
    for scheme in ('light', 'dark'):
      browser.devtools('Emulation.setEmulatedMedia',
                       features=[{'name': 'prefers-color-scheme', 'value': scheme}])
      browser.devtools('Emulation.setDeviceMetricsOverride', width=width, height=800,
                       deviceScaleFactor=1, mobile=width < 500)
      if browser.script('return document.documentElement.scrollWidth > innerWidth'):
        raise SystemExit(f'the page is wider than {width} pixels')
      shot = browser.devtools('Page.captureScreenshot', captureBeyondViewport=True)
      (folder / f'{width}_{scheme}.png').write_bytes(base64.b64decode(shot['data']))


@contextlib.contextmanager
def _served(folder):
  handler = functools.partial(_Handler, directory=str(folder))
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
      yield f'http://127.0.0.1:{server.server_port}'
    finally:
      server.shutdown()


class _Handler(http.server.SimpleHTTPRequestHandler):
  extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map,
                    '.mjs': 'text/javascript', '.wasm': 'application/wasm'}

  def log_message(self, *_):
    pass


@contextlib.contextmanager
def started(profile, port=9517):
  """Starts Chromium with an empty profile, and ends it."""
  driver = subprocess.Popen(['chromedriver', f'--port={port}'], stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL)
  try:
    for _ in range(100):
      with contextlib.suppress(OSError):
        urllib.request.urlopen(f'http://127.0.0.1:{port}/status', timeout=5).close()
        break
      time.sleep(0.1)
    browser = Browser(port, str(profile))
    try:
      yield browser
    finally:
      request = urllib.request.Request(browser.url, method='DELETE')
      urllib.request.urlopen(request, timeout=60).close()
  finally:
    driver.terminate()
    driver.wait()


if __name__ == '__main__':
  main(*sys.argv[1:])
