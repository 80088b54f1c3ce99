"""What the site needs beside its pages: outer links, and examples of docstrings as code."""
import re

import griffe

_OUTSIDE = re.compile(r'\[([^\]]*)\]\((?:\.\./)+([^)]*)\)')
_EXAMPLE = re.compile(r'^>>> .*\Z', re.MULTILINE | re.DOTALL)


def on_page_markdown(markdown, page, config, files):
  """Points links out of docs/ to the repository; they stay text where none is named.

  Args:
    markdown: of the page.
    page, files: of mkdocs.
    config: of mkdocs; `repo_url`, where it is set, is what outer links lead to.

  Returns:
    Markdown whose links mkdocs can check.
  """
  del page, files
  address = config.repo_url
  new = rf'[\1]({address.rstrip("/")}/blob/main/\2)' if address else r'`\2`'
  return _OUTSIDE.sub(new, markdown)


class Examples(griffe.Extension):
  """Makes a section of the examples that stand at the end of a docstring."""

  def on_object(self, *, obj, **_):
    """Called for each object.

    Args:
      obj: whose docstring is read next.
    """
    if obj.docstring is not None:
      obj.docstring.value = _EXAMPLE.sub(
          lambda found: 'Examples:\n' + re.sub('^', '    ', found[0], flags=re.MULTILINE),
          obj.docstring.value)
