"""The server's pages: one to drop an image on, and one that describes its addresses."""

import json
from collections.abc import Mapping
from typing import Any

from bottleneck.templates import policy, rendered, script

__all__ = ["docs_page", "drop_page"]

_ASKS_ITS_SERVER = "; connect-src 'self'"


def drop_page() -> str:
    """Return the page on which one drops an image.

    Returns
    -------
    str
    """
    code = script("serve/drop.js")
    return rendered("serve/drop.html", script=code, policy=policy(code) + _ASKS_ITS_SERVER)


def docs_page(description: Mapping[str, Any]) -> str:
    """Return the page that describes the server's addresses.

    Parameters
    ----------
    description : mapping of str to Any
        As OpenAPI has it.

    Returns
    -------
    str
    """
    operations = [
        (method.upper(), path, operation)
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    ]
    schemas = {
        name: json.dumps(schema, indent=2)
        for name, schema in description["components"]["schemas"].items()
    }
    facts = {"operations": operations, "schemas": schemas, "policy": policy()}
    return rendered("serve/docs.html", **facts)
