"""What a proxy needs that a test starts: a certificate of its own, and a port."""

from __future__ import annotations

import contextlib
import datetime as dt
import random
import socket
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

NAME = "api.example.com"


def write_certificate(directory: Path, *names: str) -> None:
    """A certificate of its own, with its key, for these alternative names."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    now = dt.datetime.now(dt.UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(now).not_valid_after(now + dt.timedelta(days=1))
    if names:
        alternatives = x509.SubjectAlternativeName([x509.DNSName(each) for each in names])
        made = made.add_extension(alternatives, critical=False)
    (directory / "cert.pem").write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (directory / "cert.key").write_bytes(private)
    (directory / "both.pem").write_bytes(
        made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM) + private
    )


def free_port() -> int:
    """A port of all addresses that is free, and stays so: outgoing connections use higher ones."""
    while True:
        port = random.randrange(10_000, 30_000)
        with socket.socket() as made, contextlib.suppress(OSError):
            made.bind(("", port))
            return port
