"""The JSON Schema says of a machine file what pykvm says of it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from pykvm.config import load
from pykvm.config.jsonschema import document, text
from pykvm.errors import InputError

TYPES = {"object": dict, "array": list, "string": str, "integer": int, "null": type(None)}


def accepts(schema: dict[str, Any], value: Any) -> bool:
    """Whether ``value`` is valid: the part of JSON Schema 2020-12 that pykvm's schema uses."""
    known = {
        "$schema", "title", "description", "default", "type", "enum", "anyOf", "not", "items", "pattern",
        "properties", "required", "additionalProperties", "propertyNames", "minProperties", "maxProperties",
        "minimum", "maximum", "minLength", "maxLength",
    }  # fmt: skip
    assert set(schema) <= known, "this checker is too small for the schema"
    if schema.get("not") == {}:
        return False
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else types
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if types and not any(
        isinstance(value, TYPES[name]) and (name != "integer" or is_number) for name in types
    ):
        return False
    if "enum" in schema and not any(type(value) is type(one) and value == one for one in schema["enum"]):
        return False
    if "anyOf" in schema and not any(accepts(one, value) for one in schema["anyOf"]):
        return False
    if is_number and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        return False
    if isinstance(value, str):
        if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
            return False
        return re.search(schema.get("pattern", ""), value) is not None
    if isinstance(value, list):
        return all(accepts(schema.get("items", {}), item) for item in value)
    if isinstance(value, dict):
        properties, others = schema.get("properties", {}), schema.get("additionalProperties", {})
        if not schema.get("minProperties", 0) <= len(value) <= schema.get("maxProperties", len(value)):
            return False
        if any(name not in value for name in schema.get("required", [])):
            return False
        if not all(accepts(schema.get("propertyNames", {}), name) for name in value):
            return False
        for name, inner in value.items():
            if name in properties:
                if not accepts(properties[name], inner):
                    return False
            elif others is False or not accepts(others, inner):
                return False
    return True


def plain(text: str) -> Any:
    """The text as an editor sees it, which goes by YAML 1.2: no boolean ``on``."""
    data = yaml.safe_load(text)
    return (
        {"on" if key is True else key: value for key, value in data.items()}
        if isinstance(data, dict)
        else data
    )


@pytest.mark.parametrize(
    "text",
    [
        "kernel: k",
        "{kernel: {image: k, initrd: i, cmdline: a b, format: elf, entry: long}, name: web}",
        "{kernel: {image: k, initrd: [i, j], cmdline: }}",
        "{kernel: {image: debian:linux-image-cloud-amd64}, cpus: 1, memory: 512M}",
        "{kernel: host, cpus: {count: 1, model: baseline, features: {avx2: off, sse4.1: true}}}",
        "{kernel: k, memory: {size: 1.5G, hugepages: false}, firmware: none, backend: kvm}",
        "{kernel: k, interrupts: kernel, pit: none, transport: pci, devices: []}",
        "{kernel: k, on: {reset: restart, panic: pause}}",
        "{kernel: {image: k, format: flat, load: 0x7c00, start: 0}, memory: '0x100000'}",
        "{kernel: k, memory: 1048576}",
        "{kernel: k, backend: translate, interrupts: user, pit: user}",
        "{kernel: k, devices: [{serial: {port: com2, to: 'unix:s'}}, {debug-exit: {port: 0xf4}}]}",
        "{kernel: k, expect: {output: 'login:', within: 1.5m}}",
    ],
)
def test_a_good_file_is_valid_by_the_schema(tmp_path, text):
    (tmp_path / "machine.yaml").write_text(text)
    load(str(tmp_path / "machine.yaml"))
    assert accepts(document(), plain(text))


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{kernel: k, memroy: 1G}",
        "{kernel: {cmdline: a}}",
        "{kernel: []}",
        "{kernel: {image: k, format: coff}}",
        "{kernel: k, cpus: 65}",
        "{kernel: k, cpus: {max: 65}}",
        "{kernel: k, cpus: {model: 486}}",
        "{kernel: k, cpus: {features: {AVX: on}}}",
        "{kernel: k, cpus: {features: {avx2: maybe}}}",
        "{kernel: k, memory: 512MB}",
        "{kernel: k, memory: 1000}",
        "{kernel: k, memory: {hugepages: true}}",
        "{kernel: k, name: a/b}",
        "{kernel: k, limits: {cpu: 50%}}",
        "{kernel: k, firmware: bios}",
        "{kernel: k, backend: qemu}",
        "{kernel: k, interrupts: both}",
        "{kernel: k, on: {reset: reboot}}",
        "{kernel: k, devices: {serial: {}}}",
        "{kernel: k, devices: [{}]}",
        "{kernel: k, devices: [{serial: {}, debug-exit: {}}]}",
        "{kernel: k, devices: [{disk: {file: a}}]}",
        "{kernel: k, devices: [{serial: {port: com5}}]}",
        "{kernel: k, devices: [{debug-exit: {port: 0xffff}}]}",
        "{kernel: k, expect: {within: 5s}}",
        "{kernel: k, expect: {output: a, within: 60}}",
    ],
)
def test_a_wrong_file_is_invalid_by_the_schema(tmp_path, text):
    (tmp_path / "machine.yaml").write_text(text)
    with pytest.raises(InputError):
        load(str(tmp_path / "machine.yaml"))
    assert not accepts(document(), plain(text))


def keys(schema: dict[str, Any], path: str = "") -> dict[str, dict[str, Any]]:
    """Each property of the schema by its dotted path."""
    found: dict[str, dict[str, Any]] = {}
    for inner in (schema, *schema.get("anyOf", []), schema.get("items", {})):
        for name, below in inner.get("properties", {}).items():
            here = f"{path}.{name}" if path else name
            found[here] = below
            found |= keys(below, here)
    return found


def test_each_key_has_a_description_and_each_default_is_valid():
    for path, schema in keys(document()).items():
        assert schema["description"].endswith((".", ".)")), path
        if "default" in schema:
            assert accepts(schema, schema["default"]), path


def test_a_key_that_comes_later_says_so():
    found = keys(document())
    later = {path for path, schema in found.items() if schema.get("not") == {}}
    lacking = ("disk", "net", "share", "rng", "console", "balloon", "vsock")
    assert later == {"memory.max", "limits", *(f"devices.{name}" for name in lacking)}
    assert (
        found["devices.disk"]["description"]
        == "A disk from an image file. (Later: this pykvm has no disks yet.)"
    )


def test_the_text_is_the_document_as_json():
    assert json.loads(text()) == document()
    assert document()["$schema"] == "https://json-schema.org/draft/2020-12/schema"
