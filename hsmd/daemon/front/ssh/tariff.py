"""What a client may cost the front process, and what it pays for."""

from hsmd.system.accounts import SECOND, Tariff

TARIFF = Tariff(
    share=0.2 * SECOND,
    burst=0.05 * SECOND,
    byte=0.005,
    frame=3.0,
    refusal=70.0,
    control_request=400.0,
    key_operation=1.0,
    packet=40.0,
)
"""Key operations have limits of their own (`client_rate`), so they cost next to nothing here: `client_rate` may be raised."""

LONG_BYTES = 4_096
"""Key operations beyond this, such as the longest transcripts of TLS 1.2 clients, are long..."""
LONG_TIMES = 7
"""... and each of their bytes costs so many bytes more: it is also hashed, copied to a worker, checked and hashed again."""

LOGIN = 3_000.0
"""Price of a login: a key agreement, two signatures, and the objects of a connection."""
KEY_EXCHANGE = 2_500.0
"""Price of a further key exchange of a connection."""
