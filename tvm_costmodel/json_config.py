"""Configs as JSON values: one way to write them, and to read them back with their errors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from tvm_costmodel.errors import require_known

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclasses.dataclass(frozen=True)
class JsonConfig:
    """Base of frozen dataclasses whose fields are stored as JSON values.

    Attributes:
        title: What messages call it.
        stored_names: JSON key of a field, where it is not the field's name.
    """

    title: ClassVar[str]
    stored_names: ClassVar[Mapping[str, str]] = {}

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        values = dataclasses.asdict(self).items()
        return {self.stored_names.get(name, name): value for name, value in values}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The config that `to_dict` wrote; absent fields take their defaults.

        Raises:
            ConfigError: A key is unknown or a field is out of range.
        """
        return cls(**cls._values(fields))

    @classmethod
    def _values(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of the constructor."""
        known = {cls.stored_names.get(f.name, f.name): f.name for f in dataclasses.fields(cls)}
        require_known(fields, list(known), cls.title)
        return {known[name]: value for name, value in fields.items()}
