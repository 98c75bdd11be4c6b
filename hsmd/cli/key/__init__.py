"""`hsmd key`: importing a file of the group registers its command, in the order of `hsmd key --help`."""

# isort: off
from hsmd.cli.key.options import app
from hsmd.cli.key import generate, candidates, adopt, import_, csr
from hsmd.cli.key import list as list_, show, reader, owner, rename, replace, destroy
# isort: on

__all__ = [
    "adopt",
    "app",
    "candidates",
    "csr",
    "destroy",
    "generate",
    "import_",
    "list_",
    "owner",
    "reader",
    "rename",
    "replace",
    "show",
]
