"""Put the address of the repository wherever it is needed: ``make address``.

The address stands in _config.yml, under ``repository``. While it is empty, all that
needs one is left out: buttons on the pages, the link to Colab, the clone command.
"""

import json
import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
ADDRESS = re.compile(r"https://github\.com/([A-Za-z0-9-]+)/(?!\.+$)([A-Za-z0-9._-]+)")
URL = re.compile(
    r"^(repository:\n(?: .*\n)*? +url:)(?: +[^\s#]\S*)? *(#.*)?$", re.MULTILINE
)
EMPTY = 'REPOSITORY = ""  # set by make address'
FILLED = 'REPOSITORY = "{url}@{branch}"  # set by make address # fmt: skip'
ASSIGNMENT = re.compile(
    r'^REPOSITORY = ".*"  # set by make address(?: # fmt: skip)?$', re.MULTILINE
)
BLOCK = re.compile(
    r"^( *(?:#|<!--) address\b.*\n)(?:.*\n)*?( *(?:#|<!--) /address\b)", re.MULTILINE
)
# What stands in a file between the comments "address" and "/address"
BLOCKS = {
    "_config.yml": """\
    html_theme_options:
      use_repository_button: true
      use_source_button: true
      use_issues_button: true
      launch_buttons:
        colab_url: https://colab.research.google.com
""",
    "README.md": """\
```
git clone {url}
cd {name}
```

Or the chapter Training in the browser:
[Open in Colab](https://colab.research.google.com/github/{owner}/{name}/blob/{branch}/book/training.ipynb).
""",
    "pyproject.toml": """\
[project.urls]
Repository = "{url}"
""",
}


def read_address(config):
    """Return what _config.yml says: url (empty if none), owner, name and branch."""
    given = (yaml.safe_load(config) or {}).get("repository") or {}
    url = (given.get("url") or "").removesuffix("/").removesuffix(".git")
    branch = given.get("branch") or ""
    found = ADDRESS.fullmatch(url)
    if (url and not found) or not re.fullmatch(r"[\w./-]+", branch):
        raise ValueError(
            f"repository.url is {given.get('url')!r} and repository.branch {branch!r}, "
            "expected are https://github.com/OWNER/NAME (Colab opens nothing else) and "
            "the name of a branch: correct them and run 'make address' again."
        )
    owner, name = found.groups() if found else ("", "")
    return {"url": url, "owner": owner, "name": name, "branch": branch}


def set_url(text, url):
    """Write the url as it was understood: without a slash or .git at its end."""
    text, count = URL.subn(
        lambda found: f'{found[1]} "{url}" {found[2] or ""}'.rstrip(), text
    )
    if count != 1:
        raise ValueError("'url:' must have a line of its own under 'repository:'.")
    return text


def fill_block(text, block):
    """Write the block between the two comments."""
    text, count = BLOCK.subn(lambda found: found[1] + block + found[2], text)
    if count != 1:
        raise ValueError(
            f"one pair of comments 'address' and '/address' is expected and {count} "
            "found: restore them ('git diff' shows what was changed)."
        )
    return text


def set_line(text, line):
    """Write one line in the text of a notebook; every other byte stays."""
    cells = json.loads(text)["cells"]
    first = next((cell for cell in cells if cell["cell_type"] == "code"), {})
    tagged = "setup" in first.get("metadata", {}).get("tags", [])
    lines = ASSIGNMENT.findall("".join(first["source"])) if tagged else []
    stored = [json.dumps(line)[1:-1] for line in lines]  # as it stands in the file
    if len(stored) != 1 or text.count(stored[0]) != 1:
        raise ValueError(
            f"the first code cell must have the tag 'setup' and one line '{EMPTY}': "
            "copy that cell from another chapter."
        )
    return text.replace(stored[0], json.dumps(line)[1:-1])


def main(root=ROOT):
    chapters = [f"book/{path.name}" for path in sorted(root.glob("book/*.ipynb"))]
    old = {f: (root / f).read_bytes().decode() for f in [*BLOCKS, *chapters]}
    new, file = {}, "_config.yml"
    try:
        address = read_address(old[file])
        url = address["url"]
        for file, text in old.items():
            if file in chapters:
                new[file] = set_line(text, (FILLED if url else EMPTY).format(**address))
            else:
                text = set_url(text, url) if file == "_config.yml" else text
                block = BLOCKS[file].format(**address) if url else ""
                new[file] = fill_block(text, block)
    except (ValueError, yaml.YAMLError) as error:
        return f"address: nothing was changed. {file}: {error}"
    changed = [file for file in old if new[file] != old[file]]
    for file in changed:
        (root / file).write_bytes(new[file].encode())
    where = ", ".join(changed) or "nothing, all was so already"
    print(f"address: {url or 'none'}; changed: {where}")
    return None


if __name__ == "__main__":
    sys.exit(main())
