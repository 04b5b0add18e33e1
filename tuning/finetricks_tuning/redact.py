"""Secrets stay out of records. An error may quote its environment, an address its password."""

from __future__ import annotations

import json
import os
import re

SECRET = re.compile(
    r"(TOKEN|KEY|SECRET|PASS|PASSWORD|PASSWD|PASSPHRASE|PWD|CREDENTIAL|AUTH|AUTHORIZATION|COOKIE|PRIVATE)S?(_|$)",
    re.IGNORECASE,
)
"""In the name of an environment variable: the end of one of its words (`GIT_AUTHOR_NAME` is none)."""

SHORTEST = 8  # characters; shorter values would be found in words
_IN_ADDRESS = re.compile(r"(?<=://)[^\s/@:]*:[^\s/@]+(?=@)")


def redacted(text: str) -> str:
    """`text` with `<NAME>` for the value of each environment variable that is named like a secret.

    Where one lies (`SSH_KEY_DIR`) is no secret. User names and passwords in addresses (`https://user:password@host`)
    go, too.
    """
    secrets = {
        value: name
        for name, value in os.environ.items()
        if SECRET.search(name) and len(value) >= SHORTEST and not os.path.exists(value)
    }
    for value in sorted(secrets, key=len, reverse=True):
        for form in (value, repr(value)[1:-1], json.dumps(value)[1:-1]):
            text = text.replace(form, f"<{secrets[value]}>")
    return _IN_ADDRESS.sub("<credentials>", text)
