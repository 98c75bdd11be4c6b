"""The configuration file of SoftHSM."""

from __future__ import annotations

from pathlib import Path

from hsmd.pkcs11.softhsm import CONFIGURATION


def test_the_template_of_the_script_is_the_configuration_in_use() -> None:
    template = Path(__file__).resolve().parents[3] / "softhsm" / "softhsm2.conf.template"
    assert template.read_text() == CONFIGURATION
