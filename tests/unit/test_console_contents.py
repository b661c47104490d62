"""Contents of messages as they are shown: JSON as it was written, other bytes as hex, bounded."""

import pytest

from api.console.contents import HEX_BYTES_MAX, TEXT_MAX, body, field


def test_json_has_a_line_for_each_member_and_its_values_as_they_were_written():
    found = body(b'{"amount_minor":1.10,"text":"\\u0041"}')
    assert (found.kind, found.size, found.left_out) == ("JSON", 37, 0)
    assert found.text == '{\n  "amount_minor": 1.10,\n  "text": "\\u0041"\n}'


@pytest.mark.parametrize("value", [b"nothing", b"\xff\x00", b'{"a":', b"[" * 100_000, b'"\xff"'])
def test_what_is_not_json_is_a_hex_dump(value):
    found = body(value)
    assert found.kind == "bytes"
    assert found.text.startswith(f"00000000  {value[:8].hex(' ')}")


def test_a_hex_dump_has_sixteen_bytes_a_line_and_what_can_be_read_of_them():
    assert body(b"0123456789abcdef\xffA").text.splitlines() == [
        "00000000  30 31 32 33 34 35 36 37  38 39 61 62 63 64 65 66  |0123456789abcdef|",
        f"00000010  {'ff 41':<23}  {'':<23}  |.A|",
    ]


def test_what_is_long_is_cut_and_says_how_much():
    assert body(b"\xff" * (HEX_BYTES_MAX + 5)).left_out == 5
    assert len(body(b"\xff" * (HEX_BYTES_MAX + 5)).text.splitlines()) == HEX_BYTES_MAX // 16
    assert body(b'"' + b"x" * TEXT_MAX + b'"').left_out == 2
    assert field(b"x" * (HEX_BYTES_MAX + 7)).left_out == 7


def test_nothing_and_an_empty_body_differ():
    assert [body(value).kind for value in (None, b"")] == ["none", "empty"]
    assert [field(value).kind for value in (None, b"")] == ["none", "empty"]


def test_a_key_is_text_or_hex_digits():
    assert field("acc-é".encode())[:2] == ("text", "acc-é")
    assert field(b"\xff\x01")[:2] == ("bytes", "ff 01")
