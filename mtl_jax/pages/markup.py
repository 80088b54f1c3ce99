"""Elements of HTML and SVG whose text is escaped unless it was made here."""
import html
from collections.abc import Sequence
from typing import NamedTuple


class Html(str):
  """Text that is HTML already; only the functions of this folder make it."""


_VOID = ('img', 'meta')
_SURROGATE = ('utf-8', 'surrogatepass')  # of file names that are not UTF-8


def escaped(content: object) -> Html:
  """Returns a text as HTML; HTML stays as it is.

  Args:
    content: anything that has a text.

  >>> escaped('<b>'), escaped(Html('<b>'))
  ('&lt;b&gt;', '<b>')
  """
  if isinstance(content, Html):
    return content
  known = str(content).encode(*_SURROGATE).decode('utf-8', 'replace')
  return Html(html.escape(known))


def element(tag: str, *content: object, **attributes: object) -> Html:
  """Makes an element.

  Args:
    tag: its name.
    *content: what stands in it, one after the other.
    **attributes: `class_` for class, `_` for `-`; None leaves one out.

  >>> element('p', 'a < b', class_='note')
  '<p class="note">a &lt; b</p>'
  """
  shown = ''.join(f' {name.rstrip("_").replace("_", "-")}="{escaped(value)}"'
                  for name, value in attributes.items() if value is not None)
  if tag in _VOID:
    return Html(f'<{tag}{shown}>')
  return Html(f'<{tag}{shown}>{join(content)}</{tag}>')


def join(parts: Sequence[object]) -> Html:
  """Joins texts and elements.

  Args:
    parts: one after the other.
  """
  return Html(''.join(map(escaped, parts)))


def table(header: Sequence[object], rows: Sequence[Sequence[object]], class_: str | None = None
          ) -> Html:
  """Makes a table, which scrolls by itself where it is wider than the page.

  Args:
    header: names of the columns.
    rows: cells, as many in each row as the header has.
    class_: of the table.
  """
  head = element('thead', element('tr', *(element('th', cell) for cell in header)))
  body = element('tbody', *(element('tr', *(element('td', cell) for cell in row))
                            for row in rows))
  return element('div', element('table', head, body, class_=class_), class_='scroll')


class Section(NamedTuple):
  """A section of the page."""
  name: str   # its id, by which the page's first line refers to it
  title: str
  html: Html


def section(name: str, title: str, *content: object) -> Section:
  """Makes a section of the page.

  Args:
    name: its id.
    title: of the section.
    *content: what stands in it.
  """
  return Section(name, title, element('section', element('h2', title), *content, id=name))


def note(*content: object) -> Html:
  """Makes a paragraph that explains.

  Args:
    *content: what stands in it.
  """
  return element('p', *content, class_='note')


def folded(title: object, *content: object) -> Html:
  """Makes a part that opens when its title is clicked.

  Args:
    title: always seen.
    *content: seen when it is open.
  """
  return element('details', element('summary', title), *content)


def percent(accuracy: float, interval: float | None = None) -> str:
  """Writes an accuracy in percent.

  Args:
    accuracy: in [0, 1].
    interval: half-width of its 95% interval, if it is known.

  >>> percent(0.5, 0.01), percent(0.5)
  ('50.00 ± 1.00', '50.00')
  """
  shown = f'{100 * accuracy:.2f}'
  return shown if interval is None else f'{shown} ± {100 * interval:.2f}'
