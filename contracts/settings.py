"""The base of all settings: environment variables with the prefix ``SETTLE_``, secrets also from files."""

from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from contracts.variables import PREFIX, is_secret, value


class _SecretFiles(PydanticBaseSettingsSource):
    """The contents of the files that ``SETTLE_…_FILE`` name."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        name = f"{PREFIX}{field_name}".upper()
        return (value(name) if is_secret(name) else None), field_name, False

    def __call__(self) -> dict[str, Any]:
        found = {
            name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()
        }
        return {name: text for name, text in found.items() if text is not None}


class Settings(BaseSettings):
    """Settings that read ``SETTLE_…``; a secret's variable may end in ``_FILE`` instead and name a file.

    Raises:
        pydantic.ValidationError: a value is invalid; the error shows none, as it may be a secret.
        EnvironmentRefusedError: a file cannot be read, or a secret is given twice.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", hide_input_in_errors=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then variables and the files that they name, of which only one may be set."""
        return init_settings, _SecretFiles(settings_cls), env_settings
