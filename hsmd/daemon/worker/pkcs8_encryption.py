"""Decrypting PKCS#8 (RFC 5958, PBES2 of RFC 8018), so that the algorithm identifier of an encrypted key can be checked.

cryptography reads encrypted keys too, but returns an RSA-PSS key as an RSA key like any other.
"""

from __future__ import annotations

from asn1crypto.keys import EncryptedPrivateKeyInfo
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives import hashes, padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from hsmd.errors import PurposeMismatch
from hsmd.purposes.asn1 import SEQUENCE, DerReader

_HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha1": hashes.SHA1(),
    "sha224": hashes.SHA224(),
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
MAX_ITERATIONS = 10_000_000
MAX_SCRYPT_BYTES = 1 << 28


def decrypt(document: bytes, passphrase: bytes) -> bytes:
    """The DER PrivateKeyInfo in an EncryptedPrivateKeyInfo.

    Raises ValueError if the passphrase is wrong or the document is damaged, and UnsupportedAlgorithm.
    """
    try:
        info = EncryptedPrivateKeyInfo.load(document, strict=True)
        algorithm = info["encryption_algorithm"]
        if algorithm["algorithm"].native != "pbes2":
            raise UnsupportedAlgorithm("not PBES2")
        key = _derive(algorithm, passphrase)
        name = f"{algorithm.encryption_cipher}-{algorithm.encryption_mode}"
        block = {"aes-cbc": algorithms.AES, "tripledes-cbc": TripleDES}.get(name)
        if block is None:
            raise UnsupportedAlgorithm(name)
        cipher = block(key)
        decryptor = Cipher(cipher, modes.CBC(algorithm.encryption_iv)).decryptor()
        padded = decryptor.update(info["encrypted_data"].native) + decryptor.finalize()
        unpadder = padding.PKCS7(cipher.block_size).unpadder()
        return _sequence(unpadder.update(padded) + unpadder.finalize())
    except (KeyError, TypeError) as error:  # how asn1crypto reports what it does not know
        raise UnsupportedAlgorithm(str(error)) from None


def _sequence(decrypted: bytes) -> bytes:
    """What was decrypted, if it is one SEQUENCE: a wrong passphrase leaves padding that looks right once in 256 times."""
    reader = DerReader(decrypted, "a private key")
    try:
        reader.enter(SEQUENCE)
        reader.finish()
    except PurposeMismatch:
        raise ValueError("not a PrivateKeyInfo") from None
    return decrypted


def _derive(algorithm: EncryptedPrivateKeyInfo, passphrase: bytes) -> bytes:
    length = algorithm.key_length
    if algorithm.kdf == "scrypt":
        parameters = algorithm["parameters"]["key_derivation_func"]["parameters"]
        cost, block, parallel = (
            parameters[name].native for name in ("cost_parameter", "block_size", "parallelization_parameter")
        )
        if 128 * cost * block > MAX_SCRYPT_BYTES:
            raise UnsupportedAlgorithm("scrypt with too much memory")
        return Scrypt(salt=algorithm.kdf_salt, length=length, n=cost, r=block, p=parallel).derive(passphrase)
    if algorithm.kdf != "pbkdf2" or algorithm.kdf_iterations > MAX_ITERATIONS:
        raise UnsupportedAlgorithm(str(algorithm.kdf))
    digest = _HASHES[algorithm.kdf_hmac]
    return PBKDF2HMAC(digest, length, algorithm.kdf_salt, algorithm.kdf_iterations).derive(passphrase)
