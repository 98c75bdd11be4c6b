"""The wing next to the HSM: what a front end never installs."""
