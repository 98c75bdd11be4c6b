"""Near misses of the four TLS forms, made from real ones: each is refused under every TLS purpose.

Each function yields (name, bytes).
"""

from __future__ import annotations

from collections.abc import Iterator

from hostile_formats import SPACES, Payload, noise

TLS13_PREFIX = 98
CURVES = {
    "p-256": (
        23, 32, 2**256 - 2**224 + 2**192 + 2**96 - 1,
        0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
    ),
    "p-384": (
        24, 48, 2**384 - 2**128 - 2**96 + 2**32 - 1,
        0xB3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875AC656398D8A2ED19D2A85C8EDD3EC2AEF,
    ),
    "p-521": (
        25, 66, 2**521 - 1,
        0x51953EB9618E1C9A1F929A21A0B68540EEA2DA725B99B315F3B8B489918EF109E156193951EC7E937B1652C0BD3BB1BF073573DF883D2C34F1EF451FD46B503F00,
    ),
}  # fmt: skip
"""named curve, bytes of a coordinate, prime, b"""
X25519_SMALL = (
    "00" * 32,
    "01" + "00" * 31,
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ec" + "ff" * 30 + "7f",
    "ed" + "ff" * 30 + "7f",
    "ee" + "ff" * 30 + "7f",
    "00" * 31 + "80",
    "ec" + "ff" * 31,
)
X448_SMALL = (
    "00" * 56,
    "01" + "00" * 55,
    "fe" + "ff" * 27 + "fe" + "ff" * 27,
    "ff" * 28 + "fe" + "ff" * 27,
    "00" * 28 + "ff" * 28,
)


def tls13(server: bytes, client: bytes) -> Iterator[Payload]:
    """From a server's and a client's CertificateVerify content with a SHA-256 transcript hash."""
    for at in range(TLS13_PREFIX):
        yield (
            f"tls13 server, byte {at} changed",
            server[:at] + bytes([server[at] ^ (1 << at % 8)]) + server[at + 1 :],
        )
    for at in range(0, TLS13_PREFIX, 4):
        yield (
            f"tls13 client, byte {at} zero",
            client[:at] + bytes([0xFF if not client[at] else 0]) + client[at + 1 :],
        )
    for name, form in (("server", server), ("client", client)):
        for size in (0, 1, 20, 28, 31, 33, 47, 49, 64):
            yield f"tls13 {name}, {size} byte hash", form[:TLS13_PREFIX] + noise("hash", size)
        yield f"tls13 {name}, one space less", form[1:]
        yield f"tls13 {name}, one space more", b" " + form
        yield f"tls13 {name}, no separator", form[: TLS13_PREFIX - 1] + form[TLS13_PREFIX:]
        yield f"tls13 {name}, two separators", form[:TLS13_PREFIX] + b"\0" + form[TLS13_PREFIX:]
        yield f"tls13 {name}, NUL inside the context", form[:71] + b"\0" + form[71:]
        yield f"tls13 {name}, tabs for spaces", b"\t" * 64 + form[64:]
        yield f"tls13 {name}, twice", form + form


def tls12_server(forms: dict[str, bytes]) -> Iterator[Payload]:
    """From one real form per group; `forms` maps names as in CURVES, `x25519` and `x448`."""
    for group, form in forms.items():
        for name, data in _any_group(form):
            yield f"tls12 server {group}, {name}", data
    randoms = forms["x25519"][:64]
    for group, (code, size, prime, b) in CURVES.items():
        for name, point in _bad_points(forms[group][68:], size, prime, b):
            prefix = b"\3" + code.to_bytes(2) + bytes([len(point)])
            yield f"tls12 server {group}, {name}", randoms + prefix + point
    for group, code, small in (("x25519", 29, X25519_SMALL), ("x448", 30, X448_SMALL)):
        for point in map(bytes.fromhex, small):
            form = randoms + b"\3" + code.to_bytes(2) + bytes([len(point)]) + point
            yield f"tls12 server {group}, small order {point[:2].hex()}..{point[-1:].hex()}", form
    explicit = (
        bytes([32])
        + noise("prime", 32)
        + bytes([1, 1, 32])
        + noise("b", 32)
        + bytes([65, 4])
        + noise("base", 64)
    )
    yield "tls12 server, explicit prime", randoms + b"\1" + explicit + bytes([65]) + forms["p-256"][68:]
    yield "tls12 server, explicit characteristic 2", randoms + b"\2\0\xa3\1" + explicit
    for code in (0, 1, 19, 22, 26, 31, 41, 256, 0x2A2A, 0x11EC, 0xFF01, 0xFF02):
        form = forms["x25519"]
        yield f"tls12 server, named curve {code}", form[:65] + code.to_bytes(2) + form[67:]


def _any_group(form: bytes) -> Iterator[Payload]:
    yield "one byte short", form[:-1]
    yield "one byte more", form + b"\0"
    yield "signature algorithm behind", form + b"\4\3"
    yield "client random missing", form[32:]
    yield "one random byte missing", form[1:]
    yield "one random byte more", b"\0" + form
    yield "parameters alone", form[64:]
    yield "randoms of spaces", SPACES + form[64:]
    for curve_type in (0, 1, 2, 4, 255):
        yield f"curve type {curve_type}", form[:64] + bytes([curve_type]) + form[65:]
    for change in (-1, 1):
        yield f"point length {change:+d}", form[:67] + bytes([form[67] + change]) + form[68:]
    yield "point length and point +1", form[:67] + bytes([form[67] + 1]) + form[68:] + b"\0"
    yield "no point", form[:67] + b"\0"


def _bad_points(point: bytes, size: int, prime: int, b: int) -> Iterator[Payload]:
    x, y = point[1 : 1 + size], point[1 + size :]
    yield "last bit of y", point[:-1] + bytes([point[-1] ^ 1])
    yield "last bit of x", b"\4" + x[:-1] + bytes([x[-1] ^ 1]) + y
    yield "x and y exchanged", b"\4" + y + x
    yield "compressed", bytes([2 + (y[-1] & 1)]) + x
    yield "compressed, zero filled", bytes([2 + (y[-1] & 1)]) + x + bytes(size)
    yield "hybrid", bytes([6 + (y[-1] & 1)]) + x + y
    yield "infinity", b"\0"
    yield "infinity, zero filled", bytes(1 + 2 * size)
    yield "zero", b"\4" + bytes(2 * size)
    small_x, small_y = _small_point(prime, b)
    yield "x too large", b"\4" + (small_x + prime).to_bytes(size) + small_y.to_bytes(size)
    yield "y too large", b"\4" + prime.to_bytes(size) + (prime + 1).to_bytes(size)
    yield "all ones", b"\4" + b"\xff" * (2 * size)


def _small_point(prime: int, b: int) -> tuple[int, int]:
    """A point whose x still fits its field after adding the prime (each prime is 3 modulo 4)."""
    x = 1
    while True:
        square = (x**3 - 3 * x + b) % prime
        y = pow(square, (prime + 1) // 4, prime)
        if y * y % prime == square:
            return x, y
        x += 1


def cross_dressed(ske: bytes, tls13_server: bytes, transcript: bytes) -> Iterator[Payload]:
    """One version's content in the other's clothes."""
    yield "TLS 1.2 parameters behind the TLS 1.3 prefix", tls13_server[:TLS13_PREFIX] + ske[64:]
    yield "TLS 1.2 content behind the TLS 1.3 prefix", tls13_server[:TLS13_PREFIX] + ske
    yield "TLS 1.3 content as randoms", tls13_server[:64] + ske[64:]
    yield "TLS 1.3 content behind randoms", ske[:64] + tls13_server
    yield (
        "X25519 parameters at their place in TLS 1.3 content",
        tls13_server[:64] + ske[64:68] + tls13_server[68:],
    )
    yield "cut to the TLS 1.2 length", tls13_server[:100]
    yield "filled to the TLS 1.3 length", ske + bytes(30)
    yield "transcript behind the TLS 1.3 prefix", tls13_server[:TLS13_PREFIX] + transcript
    yield "transcript behind randoms", ske[:64] + transcript
    yield "transcript with ServerKeyExchange content behind", transcript + ske
    for size in (100, 124, 130, 133, 146, 165, 201):
        yield f"transcript cut to {size}", transcript[:size]
        yield f"noise of {size}", noise("length", size)
        yield f"spaces of {size}", b" " * size


def messages(transcript: bytes) -> list[bytes]:
    """The handshake messages of a transcript, with their headers."""
    found, at = [], 0
    while at < len(transcript):
        end = at + 4 + int.from_bytes(transcript[at + 1 : at + 4])
        found.append(transcript[at:end])
        at = end
    return found


def message(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + len(body).to_bytes(3) + body


def tls12_client(transcript: bytes) -> Iterator[Payload]:
    """From one real transcript with ServerKeyExchange (eight messages)."""
    parts = messages(transcript)
    hello, server_hello, _, exchange, _, done, certificate, key_exchange = parts
    for at, part in enumerate(parts):
        rest = [*parts[:at], *parts[at + 1 :]]
        if part is not exchange:
            yield f"tls12 client, without message type {part[0]} at {at}", b"".join(rest)
        yield f"tls12 client, message {at} twice", b"".join([*parts[: at + 1], part, *parts[at + 1 :]])
        yield (
            f"tls12 client, message {at} of another type",
            b"".join([*parts[:at], b"\x63" + part[1:], *parts[at + 1 :]]),
        )
        longer = part[:1] + (int.from_bytes(part[1:4]) + 1).to_bytes(3) + part[4:]
        yield f"tls12 client, message {at} length +1", b"".join([*parts[:at], longer, *parts[at + 1 :]])
        grown = message(part[0], part[4:] + b"\0")
        if part not in (exchange, key_exchange):
            yield (
                f"tls12 client, message {at} with a byte more",
                b"".join([*parts[:at], grown, *parts[at + 1 :]]),
            )
    for at in range(len(parts) - 1):
        swapped = [*parts[:at], parts[at + 1], parts[at], *parts[at + 2 :]]
        yield f"tls12 client, messages {at} and {at + 1} exchanged", b"".join(swapped)

    def built(**changed: bytes) -> bytes:
        names = (
            "hello",
            "server_hello",
            "server_certificate",
            "exchange",
            "request",
            "done",
            "certificate",
            "key_exchange",
        )
        return b"".join(changed.get(name, part) for name, part in zip(names, parts, strict=True))

    yield "tls12 client, a byte behind", transcript + b"\0"
    yield "tls12 client, a NUL before", b"\0" + transcript
    yield "tls12 client, CertificateVerify behind", transcript + message(15, b"\4\3\0\4abcd")
    yield "tls12 client, Finished behind", transcript + message(20, noise("finished", 12))
    yield "tls12 client, cut by one byte", transcript[:-1]
    yield "tls12 client, cut in the certificate", transcript[: transcript.rindex(certificate) + 50]
    yield "tls12 client, HelloRequest before", message(0, b"") + transcript
    yield "tls12 client, HelloVerifyRequest", built(server_hello=message(3, b"\xfe\xfd\0") + server_hello)
    yield "tls12 client, NewSessionTicket", built(done=done + message(4, bytes(6)))
    yield "tls12 client, client speaks TLS 1.1", built(hello=hello[:5] + b"\2" + hello[6:])
    yield "tls12 client, client speaks DTLS", built(hello=hello[:4] + b"\xfe\xfd" + hello[6:])
    yield (
        "tls12 client, server speaks TLS 1.0",
        built(server_hello=server_hello[:5] + b"\1" + server_hello[6:]),
    )
    chosen = server_hello[4:38] + bytes([0]) + b"\xc0\x2b\0" + b"\0\6\0\x2b\0\2\3\4"
    yield "tls12 client, server chose TLS 1.3", built(server_hello=message(2, chosen))
    yield (
        "tls12 client, session id of 33 bytes",
        built(hello=message(1, hello[4:38] + bytes([33]) + bytes(33) + hello[71:])),
    )
    yield "tls12 client, no cipher suites", built(hello=message(1, hello[4:38] + b"\0" + b"\0\0" + b"\1\0"))
    yield (
        "tls12 client, odd cipher suites",
        built(hello=message(1, hello[4:38] + b"\0" + b"\0\3abc" + b"\1\0")),
    )
    yield (
        "tls12 client, no compression methods",
        built(hello=message(1, hello[4:38] + b"\0" + b"\0\2\xc0\x2b" + b"\0")),
    )
    broken = hello[4:38] + b"\0" + b"\0\2\xc0\x2b" + b"\1\0" + b"\0\5\0\1\0\2a"
    yield "tls12 client, extension longer than its block", built(hello=message(1, broken))
    yield "tls12 client, no client certificate", built(certificate=message(11, bytes(3)))
    yield "tls12 client, empty certificate entry", built(certificate=message(11, b"\0\0\3\0\0\0"))
    yield "tls12 client, no server certificate", built(server_certificate=message(11, bytes(3)))
    yield (
        "tls12 client, certificate is not DER",
        built(certificate=message(11, _entry(noise("not DER", 300)))),
    )
    yield "tls12 client, certificate is empty SEQUENCE", built(certificate=message(11, _entry(b"\x30\0")))
    leaf = certificate[10:]
    for name, bad in _bad_certificates(leaf):
        yield f"tls12 client, certificate {name}", built(certificate=message(11, _entry(bad)))
    yield "tls12 client, request without schemes", built(request=message(13, b"\1\x40\0\0\0\0"))
    yield "tls12 client, request for SHA-1 only", built(request=message(13, b"\1\x40\0\2\2\3\0\0"))
    yield "tls12 client, TLS 1.1 request", built(request=message(13, b"\1\x40\0\0"))
    yield "tls12 client, empty ClientKeyExchange", built(key_exchange=message(16, b""))
    yield "tls12 client, ServerHelloDone with content", built(done=message(14, b"\0"))
    yield "tls12 client, supplemental data", built(certificate=message(23, b"\0\0\3abc") + certificate)


def _entry(certificate: bytes) -> bytes:
    inner = len(certificate).to_bytes(3) + certificate
    return len(inner).to_bytes(3) + inner


def _bad_certificates(leaf: bytes) -> Iterator[Payload]:
    yield "with a byte behind", leaf + b"\0"
    yield "cut", leaf[:-1]
    yield "as a SET", b"\x31" + leaf[1:]
    yield "with a high tag", b"\x3f" + leaf[1:]
    yield "of indefinite length", b"\x30\x80" + leaf[4:] + b"\0\0"
    yield "with an overlong length", b"\x30\x83\0" + leaf[2:]
    yield "with a length beyond the end", leaf[:2] + b"\xff\xff" + leaf[4:]
    yield "with five length bytes", b"\x30\x85\0\0\0" + leaf[2:]


def foreign_certificate(transcript: bytes, other: bytes) -> bytes:
    """`transcript` with the client's certificate exchanged for the one that the client shows in `other`."""
    parts, others = messages(transcript), messages(other)
    return b"".join([*parts[:-2], others[-2], parts[-1]])
