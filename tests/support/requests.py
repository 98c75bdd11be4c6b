"""Control requests of every type, for tests of rules that apply to all of them."""

from __future__ import annotations

from typing import Any

from msgspec import inspect as shapes

from hsmd.protocol.messages import Request


def minimal(request_type: type[Request]) -> Request:
    """A request with only the required members; texts in it are `aaaa`, digests 64 times `a`."""
    shape = shapes.type_info(request_type)
    assert isinstance(shape, shapes.StructType)
    return request_type(**{field.name: _value(field.type) for field in shape.fields if field.required})


def _value(shape: shapes.Type) -> Any:
    match shape:
        case shapes.Metadata(type=inner):
            return _value(inner)
        case shapes.StrType(pattern=pattern) if pattern and "{64}" in pattern:
            return "a" * 64
        case shapes.StrType():
            return "aaaa"
        case shapes.IntType():
            return 1
        case shapes.BoolType():
            return False
        case shapes.BytesType(min_length=least):
            return b"a" * max(4, least or 0)
        case shapes.ListType(item_type=item):
            return [_value(item)]
        case shapes.StructType(cls=struct, fields=fields):
            return struct(**{field.name: _value(field.type) for field in fields if field.required})
    raise TypeError(f"no value for {shape}")
