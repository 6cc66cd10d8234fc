"""Put the repository's address, from _config.yml, wherever it is needed: make address.

Without an address, what needs one is left out. The chapters' first two code cells are
written anew either way.
"""

import json
import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
ADDRESS = r"(?a)(https://github\.com/([\w-]+)/([\w.-]+)(?<!\.git))@([\w./-]+)"
# what stands in a file between the comments "address" and "/address"
MARKS = re.compile(r"(?ms)(^ *(?:#|<!--) address\b.*?\n).*?(^ *(?:#|<!--) /address\b)")
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
git clone {0}
cd {2}
```

Or the chapter Training in the browser: [Open in Colab][colab].

[colab]: https://colab.research.google.com/github/{1}/{2}/blob/{3}/book/training.ipynb
""",
    "pyproject.toml": '[project.urls]\nRepository = "{0}"\n',
}
FIRST = """\
_env = %env
if {"COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"} & {*_env}:
"""
NONE = '    raise RuntimeError("no address in _config.yml: set one, run make address")'
INSTALL = """\
    %pip install --quiet --no-deps git+{}
    !python -m selfatt_lib.machinery.install{}"""
# what a chapter imports that leads to MXNet
MXNET = re.compile(
    r"(?m)^ *(from|import) [^#\n]*\b(mxnet|gluonnlp|model|penalty|machinery\.runtime)\b"
)
SECOND = '%config InlineBackend.figure_formats = ["retina"]'


def engine_of(notebook):
    """Return "mxnet" where a chapter imports what needs it, else "pytorch"."""
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    needs_mxnet = any(MXNET.search("".join(cell["source"])) for cell in code)
    return "mxnet" if needs_mxnet else "pytorch"


def set_up(notebook, source="", engine="mxnet"):
    """Write a chapter's first two code cells, which follow its title.

    `source` is where the first cell has pip fetch this repository, by git.
    """
    title, *rest = notebook["cells"]
    rest = [cell for cell in rest if "setup" not in cell["metadata"].get("tags", [])]
    argument = "" if engine == "mxnet" else f" {engine}"
    first = FIRST + (INSTALL.format(source, argument) if source else NONE)
    cell = {"cell_type": "code", "metadata": {"tags": ["setup", "remove-cell"]}}
    new = [
        cell | {"execution_count": i, "id": f"setup-{i}", "outputs": [], "source": text}
        for i, text in ((1, first.splitlines(keepends=True)), (2, [SECOND]))
    ]
    notebook["cells"] = [title, *new, *rest]


def main(root=ROOT):
    repository = yaml.safe_load((root / "_config.yml").read_text())["repository"]
    found = re.fullmatch(ADDRESS, f"{repository['url']}@{repository['branch'] or ''}")
    if repository["url"] and not found:
        sys.exit(
            f"address: nothing was changed. _config.yml has {repository}; expected are "
            "url: https://github.com/OWNER/NAME, with nothing behind it (Colab opens "
            "nothing else), and branch: the name of a branch."
        )
    for file, block in BLOCKS.items():
        block = block.format(*found.groups()) if found else ""
        text = (root / file).read_text(encoding="utf-8")
        (root / file).write_text(MARKS.sub(rf"\1{block}\2", text), encoding="utf-8")
    for path in root.glob("book/*.ipynb"):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        set_up(notebook, found and found[0], engine_of(notebook))
        text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True)
        path.write_text(text + "\n", encoding="utf-8")
    print(f"address: {found[0] if found else 'none'}")


if __name__ == "__main__":
    main()
