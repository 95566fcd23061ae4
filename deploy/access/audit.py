"""The key that signs checkpoints, as a stack is given one: `daybook audit keygen` makes the same for anybody."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat


def new_key() -> tuple[str, str]:
    """A new pair of keys, the private one and the public one, as PEM."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return private.decode(), public.decode()


def kept_key(folder: Path) -> tuple[Path, Path]:
    """The files of the pair that a folder has, the private one and the public one; made if neither is there.

    Only their owner may read them: who else is to have the public one is given a copy.

    Raises: `FileExistsError`, when one is there without the other: nothing is overwritten.
    """
    files = folder / "audit.pem", folder / "audit.pem.pub"
    if not all(file.exists() for file in files):
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in zip(files, new_key(), strict=True):
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as out:
                out.write(content)
    return files
