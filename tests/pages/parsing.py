"""Reads a page as a browser does, and refuses what no page needs."""
import html.parser
import re

# That no page needs: anything from elsewhere, and scripts.
FOREIGN = re.compile(r'<script|<link|<iframe|src="(?!data:)|href="(?!#)|url\(|@import', re.I)


class Parser(html.parser.HTMLParser):
  """Collects elements and texts, and whether each element is closed."""

  def __init__(self, content):
    super().__init__()
    self.tags, self.open, self.text = [], [], []
    self.feed(content)

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in ('img', 'meta'):
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text.append(data)


def parsed(path):
  content = path.read_text()
  assert not FOREIGN.search(content)
  found = Parser(content)
  assert not found.open
  ids = [attrs['id'] for _, attrs in found.tags if 'id' in attrs]
  assert len(ids) == len(set(ids))
  assert {attrs['href'][1:] for _, attrs in found.tags if attrs.get('href')} <= set(ids)
  return found


def count(found, tag, class_=None):
  return sum(1 for name, attrs in found.tags
             if name == tag and (class_ is None or class_ in attrs.get('class', '').split()))
