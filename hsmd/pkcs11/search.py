"""Searching a token so that a caller can do other things in between.

A search is one call for which some tokens take long: SoftHSM opens two files for each object it holds. What comes after it, an
object of python-pkcs11 for each handle and its attributes, is done a few objects at a time, and without an open search, during
which the session can do nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, TypeVar

import pkcs11
from pkcs11 import Attribute
from pkcs11._pkcs11 import SearchIter  # type: ignore[attr-defined]

from hsmd.pkcs11.templates import Template, checked

HANDLES_A_CALL = 500
OBJECTS_A_SLICE = 32
"""Objects that are read without a break: about a millisecond with SoftHSM."""

R = TypeVar("R")
Slices = Generator[None, None, R]
"""Work in slices: it pauses at each `yield`, and returns its result."""


def find(session: Any, template: Template) -> Iterator[Any]:
    """The objects that match: the search is over when this returns, the objects are made one by one. Raises PKCS11Error.

    Attributes that are cheap to compare, such as CKA_CLASS, come first in a template: SoftHSM decrypts others.
    """
    with SearchIter(session, checked(template), HANDLES_A_CALL) as search:
        batches = list(search)
    return chain.from_iterable(batches)


def in_slices(objects: Iterable[Any], use: Any) -> Slices[None]:
    """Call `use` with each of the objects; pauses before the first one and after some."""
    yield
    for number, found in enumerate(objects, start=1):
        use(found)
        if number % OBJECTS_A_SLICE == 0:
            yield


def finish(work: Slices[R]) -> R:
    """Do all slices, and return the result."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: R = end.value
            return result


def underlying(found: Any) -> Any:
    """The object itself, whose attributes are read from the token."""
    return found._found if isinstance(found, Prefetched) else found


class Prefetched:
    """An object of the token, some of whose attributes were read in one call.

    Reading one of them again raises AttributeTypeInvalid if the token did not give it. Everything else is the object's.
    """

    __slots__ = ("_attributes", "_found", "_values")

    def __init__(self, found: Any, attributes: Collection[Attribute]) -> None:
        """Raises PKCS11Error if the object cannot be read at all."""
        self._found = found
        self._attributes = attributes
        self._values: Mapping[Attribute, Any] = found.get_attributes(attributes)

    def __getitem__(self, attribute: Attribute) -> Any:
        if attribute not in self._attributes:
            return self._found[attribute]
        try:
            return self._values[attribute]
        except KeyError:
            raise pkcs11.AttributeTypeInvalid from None

    def __setitem__(self, attribute: Attribute, value: Any) -> None:
        self._found[attribute] = value

    def __getattr__(self, name: str) -> Any:
        return getattr(self._found, name)
