"""The app bundle that stock Flower nodes ask for: a stub that imports the installed package.

Our own clients never load it. A stock `flower-supernode` installs the bundle of the run and
loads the ClientApp named in it; the stub lets it find the one that is installed at the site, so
that the server ships no learning code.
"""

from __future__ import annotations

import hashlib

from flwr.cli.build import build_fab_from_files
from flwr.common.config import get_fab_config, get_metadata_from_config
from flwr.supercore.fab import Fab

_PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "fedleague-stub"
version = "1.0.0"
description = "Imports the fedleague that is installed at the site"
license = "Apache-2.0"
dependencies = []

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "fedleague"

[tool.flwr.app.components]
serverapp = "stub.server_app:app"
clientapp = "stub.client_app:app"

[tool.flwr.app.config]
"""


def build_stub(
    client_app: str = "fl_client.app:app", server_app: str = "fl_server.app:app"
) -> tuple[Fab, str, str]:
    """Build the stub bundle.

    Parameters
    ----------
    client_app, server_app : str
        Where the installed apps are, `module:attribute`.

    Returns
    -------
    tuple[Fab, str, str]
        The bundle, its app id and its version.
    """
    content, _metadata = build_fab_from_files(
        {
            "pyproject.toml": _PYPROJECT.encode(),
            "stub/__init__.py": b'"""Stub."""\n',
            "stub/client_app.py": _import_line(client_app),
            "stub/server_app.py": _import_line(server_app),
        }
    )
    app_id, version = get_metadata_from_config(get_fab_config(content))
    return Fab(hashlib.sha256(content).hexdigest(), content, {}), app_id, version


def _import_line(reference: str) -> bytes:
    module, _, attribute = reference.partition(":")
    return f"from {module} import {attribute} as app\n".encode()
