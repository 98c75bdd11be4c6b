"""Trust anchors and chains in their standard forms, and when a node takes the next anchor. Pure.

docs/rollover.md, "Files of a node". PEM bundles, certs-only CMS (RFC 7030, section 4.1.3), and CMP's RootCaKeyUpdateContent
(RFC 9810, section 5.3.19.15). Every reader bounds sizes before it works, and raises one declared error.
"""
