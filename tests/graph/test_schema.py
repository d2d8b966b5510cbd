from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from graphql import GraphQLInputObjectType, GraphQLInterfaceType, GraphQLObjectType, Undefined, get_named_type
from graphql.type import is_nullable_type

import cli
import cli_reference
from graph.events import RunEvent
from graph.node_type import Node
from graph.schema import core_schema, print_schema


def test_the_stored_schema_is_what_the_code_says() -> None:
    """Clients generate code from schema.graphql; it is a contract, so a change of it has to be seen in review.

    The test never writes the file: a snapshot that heals itself tests nothing.
    """
    stored = cli_reference.SCHEMA_FILE.read_text(encoding="utf-8")
    assert stored == print_schema(), "schema.graphql differs from the code: run `make schema` and commit it"


def test_drift_is_named_with_what_breaks_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stored schema with a field that the code has lost: whoever asks for it would fail."""
    doctored = tmp_path / "schema.graphql"
    doctored.write_text(print_schema().replace("  me: User\n", "  me: User!\n  weather: String\n"), encoding="utf-8")
    before = doctored.read_bytes()
    monkeypatch.setattr(cli_reference, "SCHEMA_FILE", doctored)

    assert cli.main(["schema", "--check"]) == 1

    said = capsys.readouterr().err.splitlines()
    assert "BREAKING: Field Query.weather was removed." in said
    assert any(line.startswith("BREAKING: Field Query.me changed type") for line in said)
    assert "make schema" in said[-1]
    assert doctored.read_bytes() == before


def test_an_addition_is_drift_that_breaks_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    doctored = tmp_path / "schema.graphql"
    doctored.write_text(print_schema().replace("  stats: Stats!\n", ""), encoding="utf-8")
    monkeypatch.setattr(cli_reference, "SCHEMA_FILE", doctored)
    assert cli.main(["schema", "--check"]) == 1
    assert "BREAKING" not in capsys.readouterr().err


def test_the_printed_schema_passes_its_own_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schema"]) == 0
    assert capsys.readouterr().out == print_schema()
    assert cli.main(["schema", "--check"]) == 0


@pytest.mark.parametrize("interface", [Node, RunEvent])
def test_every_implementation_of_an_interface_is_in_the_schema(interface: type) -> None:
    """Strawberry finds types by walking from the roots: one that is met only behind an interface is silently missing,
    and the first object of it fails at run time."""
    declared = core_schema().type_map[interface.__name__]
    assert isinstance(declared, GraphQLInterfaceType)
    known = {kind.name for kind in core_schema().get_possible_types(declared)}
    assert known == {kind.__name__ for kind in _below(interface)}


def _below(kind: type) -> Iterator[type]:
    child: type
    for child in kind.__subclasses__():
        yield child
        yield from _below(child)


def test_no_int_carries_milliseconds() -> None:
    """GraphQL's Int has 32 bits: milliseconds since the epoch overflow it, and a duration does after 25 days."""
    for name, kind in core_schema().type_map.items():
        if not isinstance(kind, GraphQLObjectType | GraphQLInterfaceType | GraphQLInputObjectType):
            continue
        for field_name, field in kind.fields.items():
            if field_name.endswith(("At", "Ms", "Millis")) or field_name in {"at", "timestamp"}:
                assert get_named_type(field.type).name in {"DateTime", "Float"}, f"{name}.{field_name}"


def test_what_has_a_default_may_also_be_null() -> None:
    """Clients send null for a variable that was not given: an argument `n: Int! = 30` would refuse them."""
    for name, kind in core_schema().type_map.items():
        if isinstance(kind, GraphQLInputObjectType):
            inputs = [(f"{name}.{key}", field.type, field.default_value) for key, field in kind.fields.items()]
        elif isinstance(kind, GraphQLObjectType) and not name.startswith("__"):
            inputs = [
                (f"{name}.{key}({argument_name})", argument.type, argument.default_value)
                for key, field in kind.fields.items()
                for argument_name, argument in field.args.items()
            ]
        else:
            continue
        for place, type_, default in inputs:
            assert default is Undefined or is_nullable_type(type_), place
