"""What the names in a file stand for, and names that Keras 3 takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._adaptations import Adaptations


class Names:
    """The caller's objects first, then what is registered with Keras.

    Args:
        custom_objects: The caller's objects, by `Name` or `package>Name`.
        adaptations: Takes notes of names that change.

    Attributes:
        custom_objects: The caller's objects, those with a package also under the name without
            it, which is how configs may have them.
    """

    def __init__(self, custom_objects: Mapping[str, Any], adaptations: Adaptations) -> None:
        short = {name.rpartition(">")[2]: value for name, value in custom_objects.items()}
        self.custom_objects: dict[str, Any] = {**short, **custom_objects}
        self._adaptations = adaptations
        self._taken: set[str] = set()
        self._clean: dict[str, str] = {}

    def find(self, name: str) -> Any:
        """The object for `Name`, `Custom>Name` or `package>Name`; None if nobody gave one."""
        own = self.custom_objects
        found = own.get(name, own.get(name.rpartition(">")[2]))
        if found is None:
            found = keras.saving.get_registered_object(name, custom_objects=own)
        return found

    def find_class(self, entry: Mapping[str, Any]) -> Any:
        """The object for the class that an entry `{"class_name": ...}` names; None if not given."""
        registered, name = entry.get("registered_name"), str(entry["class_name"])
        found = self.find(registered) if isinstance(registered, str) else None
        return self.find(name) if found is None else found

    def reserve(self, config: Any) -> None:
        """Keep the names in a config from being given to anything else."""
        if isinstance(config, dict):
            if isinstance(config.get("name"), str):
                self._taken.add(config["name"])
            for value in config.values():
                self.reserve(value)
        elif isinstance(config, list):
            for value in config:
                self.reserve(value)

    def clean(self, name: str) -> str:
        """A name that Keras 3 takes: it refuses slashes."""
        if "/" not in name:
            return name
        if name not in self._clean:
            self._adaptations.add("a slash in a name became an underscore", name)
            clean = name.replace("/", "_")
            while clean in self._taken:
                clean += "_"
            self._taken.add(clean)
            self._clean[name] = clean
        return self._clean[name]
