"""Build protobuf message classes from a listing of their fields, without generated code.

A listing has one message per paragraph: its name, then one field per line as `NUMBER NAME TYPE`. A type is a scalar, another
message of the listing, `repeated T`, `map K V`, or `oneof T` (all of one message belong together). Enumerations travel as
`int32`, whose bytes are the same. The classes are in a pool of their own, because TensorFlow registers the same names in the
default one.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

_SCALARS = {
    name: getattr(FieldDescriptorProto, f"TYPE_{name.upper()}")
    for name in ("bool", "int32", "int64", "uint32", "uint64", "float", "double", "string", "bytes")
}


def message_classes(pool: DescriptorPool, package: str, listing: str, *, imports: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the classes of a listing by name.

    Args:
        pool: where the messages are registered.
        package: protobuf package of the messages.
        listing: see above.
        imports: packages whose messages fields refer to, as `PACKAGE.NAME`.
    """
    file = FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    file.dependency.extend(f"{imported}.proto" for imported in imports)
    names = []
    for paragraph in listing.strip().split("\n\n"):
        name, *lines = paragraph.split("\n")
        _add_fields(file.message_type.add(name=name), package, lines)
        names.append(name)
    pool.Add(file)
    return {name: GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in names}


def _add_fields(message: DescriptorProto, package: str, lines: list[str]) -> None:
    for line in lines:
        number, name, *words = line.split()
        field = message.field.add(name=name, number=int(number), label=FieldDescriptorProto.LABEL_OPTIONAL)
        if words[0] == "map":
            field.label = FieldDescriptorProto.LABEL_REPEATED
            _set_type(field, package, _entry(message, package, name, words[1:]))
            continue
        if words[0] == "repeated":
            field.label = FieldDescriptorProto.LABEL_REPEATED
        elif words[0] == "oneof":
            if not message.oneof_decl:
                message.oneof_decl.add(name="choice")
            field.oneof_index = 0
        _set_type(field, package, words[-1])


def _entry(message: DescriptorProto, package: str, name: str, types: list[str]) -> str:
    """Add the message of a map's entries, whose name the protobuf specification prescribes; return its full name."""
    entry = message.nested_type.add(name="".join(word.capitalize() for word in name.split("_")) + "Entry")
    entry.options.map_entry = True
    for number, (field_name, kind) in enumerate(zip(("key", "value"), types, strict=True), 1):
        field = entry.field.add(name=field_name, number=number, label=FieldDescriptorProto.LABEL_OPTIONAL)
        _set_type(field, package, kind)
    return f"{package}.{message.name}.{entry.name}"


def _set_type(field: FieldDescriptorProto, package: str, kind: str) -> None:
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
        return
    field.type = FieldDescriptorProto.TYPE_MESSAGE
    field.type_name = f".{kind}" if "." in kind else f".{package}.{kind}"
