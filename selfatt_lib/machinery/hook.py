"""Let a plain ``import mxnet`` work, and so GluonNLP: `compat` is imported before.

`install.write_hook` writes a line of Python that imports this module whenever Python
starts. So this module imports nothing itself.
"""

import sys

# The line. Whatever is wrong with this library, Python starts without a word.
PTH = (
    'import sys; exec("try: import selfatt_lib.machinery.hook'
    '\\nexcept Exception: pass")\n'
)


class CompatFirst:
    """An import finder that finds nothing: asked first, it lets the import go on."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "mxnet":
            import selfatt_lib.machinery.compat  # noqa: F401


sys.meta_path.insert(0, CompatFirst)
