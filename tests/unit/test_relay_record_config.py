"""The configuration of a shape: what contradicts itself is refused with its place in the file."""

import pytest

from outbox_relay.config import ConfigurationError, read

BEGIN = '[[source]]\ndsn = "host=db dbname=shop"\n[[source.outbox]]\n'
PLACED = '[[source.outbox.additional]]\ncolumn = "a"\nplacement = "{}"\n'
RECORD = "[source.outbox.record]\n"


def written(tmp_path, text):
    file = tmp_path / "relay.toml"
    file.write_text(BEGIN + text)
    return file


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (RECORD + 'value = "avro"\n', "source[0].outbox[0].record.value: Input should be 'string', 'json'"),
        (RECORD + "expand_json = true\n", "source[0].outbox[0].record: expand_json needs value = json"),
        (RECORD + 'header = "json"\n', "there is no such key: did you mean headers?"),
        (PLACED.format("envelope"), "additional has a column for the envelope: say in record"),
        (PLACED.format("timestamp"), "additional has a column for the timestamp: say in record"),
        (RECORD + PLACED.format("partition") * 2, "additional has two columns for the partition"),
        ("columns.type = false\n[source.outbox.cloudevents]\nsource = '/a'\n", "a CloudEvent has a type"),
        ("[source.outbox.cloudevents]\n", "source[0].outbox[0].cloudevents.source: is missing"),
        ("route.regex = '[a-z&&[^b]]'\nroute.replacement = 'x'\n", "which Python cannot"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path, text, line):
    with pytest.raises(ConfigurationError) as caught:
        read(written(tmp_path, text))
    assert line in str(caught.value)


def test_an_outbox_without_a_shape_has_none(tmp_path):
    ((outbox,),) = (source.outbox for source in read(written(tmp_path, "")).source)
    assert not outbox.outbox().is_shaped
    ((outbox,),) = (source.outbox for source in read(written(tmp_path, RECORD)).source)
    assert outbox.outbox().is_shaped
