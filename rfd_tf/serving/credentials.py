"""What a client shows a server, and how it knows the server."""

import dataclasses
import os
from pathlib import Path

from rfd_tf.serving.address import Address
from rfd_tf.serving.errors import BadInputError


@dataclasses.dataclass(frozen=True)
class Credentials:
    """Secrets and certificates; PEM files.

    Attributes:
        token: sent as `authorization: Bearer TOKEN` with every request.
        certificate: of the authority that signed the server's; by default those that the system trusts.
        client_certificate: the client's own, where the server asks for one (mutual TLS).
        client_key: its private key.
        allow_plaintext_token: whether the token may go over an unencrypted connection.
    """

    token: str | None = dataclasses.field(default=None, repr=False)
    certificate: str | os.PathLike | None = None
    client_certificate: str | os.PathLike | None = None
    client_key: str | os.PathLike | None = None
    allow_plaintext_token: bool = False

    def check(self, address: Address) -> None:
        """Raises BadInputError if these do not fit `address` or each other, or a file is not there."""
        files = {
            "certificate": self.certificate,
            "client_certificate": self.client_certificate,
            "client_key": self.client_key,
        }
        for argument, path in files.items():
            if path is None:
                continue
            if not address.is_encrypted:
                raise BadInputError(f"`{argument}` needs an encrypted address. Received: {address.text}")
            if not Path(path).is_file():
                raise BadInputError(f"`{argument}`: no file at {path}")
        if (self.client_certificate is None) != (self.client_key is None):
            raise BadInputError("`client_certificate` and `client_key` belong together: one is missing")
        if self.token is None:
            return
        if not self.token or not self.token.isascii() or not self.token.isprintable() or " " in self.token:
            raise BadInputError("`token` must be of printable ASCII characters without spaces")
        if not address.is_encrypted and not self.allow_plaintext_token:
            raise BadInputError(
                f"`token` is not sent unencrypted to {address.text}: use {address.scheme}s://, or say "
                "allow_plaintext_token=True where nobody listens"
            )
