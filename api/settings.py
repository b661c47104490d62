"""The API's settings: those of every service, where it listens, and what it allows. From the environment."""

import ssl
from pathlib import Path
from typing import Self

from pydantic import AnyHttpUrl, Field, TypeAdapter, ValidationError, field_validator, model_validator

from contracts.production import is_local
from processors.runtime.settings import ServiceSettings

RATE_MAX = 1_000_000.0

_URL = TypeAdapter(AnyHttpUrl)


class ApiSettings(ServiceSettings):
    """The settings of the API; each is an environment variable with the prefix ``SETTLE_``."""

    api_listen: str = Field("127.0.0.1:8000", description="where it takes requests, host:port")
    api_tls_certificate: Path | None = Field(None, description="certificate chain, a PEM file; with it, only TLS")
    api_tls_key: Path | None = Field(None, description="its private key, a PEM file")
    api_rate: float = Field(
        1_000.0, gt=0, le=RATE_MAX, description="requests a second of one caller and instance at the most"
    )
    api_streams: int = Field(
        100, ge=1, le=10_000, description="open streams and pages of one caller and instance at the most"
    )
    api_oidc_issuer: str | None = Field(
        None, description="OpenID provider whose tokens are taken, exactly as it calls itself, a URL"
    )
    api_oidc_audience: str = Field("settle", min_length=1, description="whom its tokens are for (aud)")
    api_oidc_role_claim: str = Field("settle_role", min_length=1, description="the claim that names the role")

    @field_validator("api_oidc_issuer")
    @classmethod
    def _is_a_url_that_can_be_trusted(cls, issuer: str | None) -> str | None:
        if issuer is not None:
            _URL.validate_python(issuer)
            if not can_be_trusted(issuer):
                raise ValueError("not an https:// URL: others could answer with keys of their own")
        return issuer

    @field_validator("api_listen")
    @classmethod
    def _is_an_address(cls, listen: str) -> str:
        host, _, port = listen.rpartition(":")
        if not host or not (port.isascii() and port.isdigit() and int(port) < 65536):
            raise ValueError("not an address such as 127.0.0.1:8000")
        return listen

    @field_validator("api_tls_certificate", "api_tls_key")
    @classmethod
    def _is_a_pem_file(cls, path: Path | None) -> Path | None:
        if path is not None:
            try:
                text = path.read_text(errors="replace")
            except OSError as error:
                raise ValueError(str(error.strerror or error)) from None
            if "-----BEGIN " not in text:
                raise ValueError("not a PEM file")
            if "ENCRYPTED" in text:
                raise ValueError("its private key is encrypted; the API takes one that is not")
        return path

    @model_validator(mode="after")
    def _has_a_certificate_with_its_key(self) -> Self:
        certificate, key = self.api_tls_certificate, self.api_tls_key
        if (certificate is None) != (key is None):
            raise ValueError("SETTLE_API_TLS_CERTIFICATE and SETTLE_API_TLS_KEY belong together")
        if certificate is not None and key is not None:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
            except (OSError, ValueError) as error:
                raise ValueError(
                    f"SETTLE_API_TLS_KEY={key} is not the key of SETTLE_API_TLS_CERTIFICATE={certificate}: "
                    f"{getattr(error, 'reason', None) or error}"
                ) from None
        return self

    @property
    def api_host(self) -> str:
        """Where it listens; of an IPv6 address without brackets."""
        return self.api_listen.rpartition(":")[0].strip("[]")

    @property
    def api_port(self) -> int:
        """Its port."""
        return int(self.api_listen.rpartition(":")[2])


def can_be_trusted(url: object) -> bool:
    """Whether nobody else can answer at a URL: it is ``https://``, or of this machine."""
    try:
        found = _URL.validate_python(url)
    except ValidationError:
        return False
    return found.scheme == "https" or is_local(found.host or "")
